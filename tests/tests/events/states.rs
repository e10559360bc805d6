//! The diagram in the docs is the code's.

use kvasm::model::{DeliveryState, DeliveryStep};
use std::collections::BTreeSet;

/// The arrows of the Mermaid diagram: from, to, step.
fn drawn() -> BTreeSet<(String, String, String)> {
    let docs = include_str!("../../../docs/events.md");
    let (_, rest) = docs.split_once("stateDiagram-v2\n").expect("a diagram");
    let (diagram, _) = rest.split_once("```").expect("the end of the diagram");
    let arrow = |line: &str| {
        let (from, rest) = line.trim().split_once(" --> ")?;
        let (to, step) = rest.split_once(": ").unwrap_or((rest, ""));
        Some((from.to_owned(), to.to_owned(), step.to_owned()))
    };
    diagram.lines().filter_map(arrow).collect()
}

#[test]
fn the_diagram_has_the_arrows_of_the_code_and_no_others() {
    let drawn = drawn();
    let of_code = DeliveryState::ALL.into_iter().flat_map(|from| {
        DeliveryStep::ALL.into_iter().filter_map(move |step| {
            let to = from.after(step)?;
            let word = |state: DeliveryState| state.as_str().to_owned();
            Some((word(from), word(to), step.as_str().to_owned()))
        })
    });
    let of_code: BTreeSet<_> = of_code.collect();
    let inner = drawn
        .iter()
        .filter(|(from, to, _)| from != "[*]" && to != "[*]");
    assert_eq!(inner.cloned().collect::<BTreeSet<_>>(), of_code);
    // Where it begins and ends.
    let ends: BTreeSet<_> = drawn
        .iter()
        .filter(|(_, to, _)| to == "[*]")
        .map(|(from, ..)| from.as_str())
        .collect();
    let last = DeliveryState::ALL.into_iter().filter(|state| {
        DeliveryStep::ALL
            .into_iter()
            .all(|step| state.after(step).is_none())
    });
    assert_eq!(ends, last.map(DeliveryState::as_str).collect());
    let begins: BTreeSet<_> = drawn
        .iter()
        .filter(|(from, ..)| from == "[*]")
        .map(|(_, to, _)| to.as_str())
        .collect();
    assert_eq!(begins, BTreeSet::from(["pending", "waiting"]));
}
