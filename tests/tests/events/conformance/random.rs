//! Random sequences of calls on the harness and on a host.

use super::plugin::{Expected, Range, Step, Text};
use super::{ORIGIN, StepCall, deploy, on_harness, on_host};
use crate::event_host::EventHost;
use kvasm::store::MemoryStore;
use kvasm_guest::testing::Harness;
use kvasm_tests::guests::wasm;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::cell::Cell;
use std::sync::Arc;

fn address() -> impl Strategy<Value = (String, String)> {
    let c = prop_oneof![9 => "[ab]", 1 => Just(String::new())];
    let k = prop_oneof![12 => "[klm]", 1 => Just("k\0".to_owned()), 1 => Just("k/é".to_owned())];
    (c, k)
}

fn value() -> impl Strategy<Value = Text> {
    prop_oneof!["-?[1-9]", Just(i64::MAX.to_string()), "[a-z]{0,3}"].prop_map(|v| Text(v, 1))
}

fn expected() -> impl Strategy<Value = Expected> {
    prop_oneof![
        Just(Expected::Absent),
        Just(Expected::Current),
        Just(Expected::Wrong)
    ]
}

fn range() -> impl Strategy<Value = Range> {
    let text = || proptest::option::weighted(0.3, "[k-m/]{0,2}");
    let limit = proptest::option::weighted(0.5, 0..4_usize);
    (text(), text(), text(), limit, any::<bool>()).prop_map(
        |(prefix, start, end, limit, reverse)| Range {
            prefix,
            start,
            end,
            limit,
            reverse,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let at = address;
    let single = prop_oneof![
        at().prop_map(|(c, k)| Step::Get(c, k)),
        at().prop_map(|(c, k)| Step::GetBytes(c, k)),
        at().prop_map(|(c, k)| Step::Has(c, k)),
        (at(), value()).prop_map(|((c, k), v)| Step::Set(c, k, v)),
        (at(), value()).prop_map(|((c, k), v)| Step::SetBytes(c, k, v)),
        (at(), value(), expected()).prop_map(|((c, k), v, e)| Step::SetIf(c, k, v, e)),
        at().prop_map(|(c, k)| Step::Delete(c, k)),
        (at(), expected()).prop_map(|((c, k), e)| Step::DeleteIf(c, k, e)),
        (at(), -3..4_i64).prop_map(|((c, k), by)| Step::Increment(c, k, by)),
        (at(), -3..4_i64).prop_map(|((c, k), by)| Step::Add(c, k, by)),
        at().prop_map(|(c, k)| Step::Update(c, k)),
        proptest::collection::vec("[klm]", 0..4).prop_map(|keys| Step::GetMany("a".into(), keys)),
        ("[ab]", range()).prop_map(|(c, range)| Step::List(c, range)),
        (range(), range())
            .prop_map(|(one, other)| { Step::OtherList("a".into(), one, "a".into(), other) }),
    ];
    single.prop_recursive(3, 24, 5, |inner| {
        let steps = || proptest::collection::vec(inner.clone(), 0..5);
        let check = (address(), expected()).prop_map(|((c, k), e)| (c, k, e));
        let checks = proptest::collection::vec(check, 0..3);
        prop_oneof![
            (steps(), any::<bool>()).prop_map(|(steps, fails)| Step::Transaction(steps, fails)),
            (checks, steps()).prop_map(|(checks, steps)| Step::Batch(checks, steps)),
        ]
    })
}

fn calls() -> impl Strategy<Value = Vec<StepCall>> {
    let function = prop_oneof![
        4 => Just("steps"),
        2 => Just("transaction"),
        1 => Just("failing"),
        1 => Just("panicking")
    ];
    let call = (function, proptest::collection::vec(step(), 1..8));
    proptest::collection::vec(call, 1..6)
}

/// Random sequences of calls. The smallest failing one is printed; `PROPTEST_CASES` sets how many.
#[test]
fn harness_answers_as_a_host_to_random_calls() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let host = runtime
        .block_on(async { EventHost::over(Arc::new(MemoryStore::new()), Box::new(())).await });
    let apps = Cell::new(0);
    let cases = std::env::var("PROPTEST_CASES").ok();
    let config = Config {
        cases: cases.and_then(|cases| cases.parse().ok()).unwrap_or(150),
        failure_persistence: None,
        ..Config::default()
    };
    let result = TestRunner::new(config).run(&calls(), |calls| {
        let mut harness = Harness::new();
        let native: Vec<_> = calls
            .iter()
            .map(|call| on_harness(&mut harness, call))
            .collect();
        let hosted = runtime.block_on(async {
            apps.set(apps.get() + 1);
            let name = format!("app{}", apps.get());
            let host = host.neighbour(&name).await;
            deploy(&host, wasm("conformance"), ORIGIN).await;
            let mut reports = Vec::new();
            for call in &calls {
                reports.push(on_host(&host, call).await);
            }
            reports
        });
        prop_assert_eq!(native, hosted);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}
