//! The native harness of the SDK answers as a real host: the same plugin runs natively, and as a
//! module over each store.

#[path = "../../../guests/conformance/src/lib.rs"]
mod plugin;
mod random;
mod replays;
mod scenarios;
mod web_calls;

use super::event_host::EventHost;
use kvasm::{CallError, InvokeError};
use kvasm_guest::testing::{self, Harness};
use kvasm_tests::guests::wasm;
use kvasm_tests::remote::grant_origin;
use plugin::{Expected, Range, Step};
use scenarios::{add, events, get, left, list, replays, scenarios, text};

/// The origin that the plugin declares.
const ORIGIN: &str = "http://127.0.0.1:65530";

/// Deploys the plugin, with what it needs.
async fn deploy(host: &EventHost, module: Vec<u8>, origin: &str) {
    grant_origin(&host.host, &host.app().await, origin).await;
    host.deploy_with_timers(module).await;
}

/// The name of a function, and its steps.
type StepCall = (&'static str, Vec<Step>);

fn input(steps: &[Step]) -> String {
    serde_json::to_string(steps).unwrap()
}

/// What a call returned, or how it failed.
fn on_harness(harness: &mut Harness, (function, steps): &StepCall) -> Vec<String> {
    match harness.call(*function, input(steps)) {
        Ok(output) => output.json(),
        Err(testing::CallError::Refused(why)) => vec!["refused".to_owned(), why],
        Err(testing::CallError::Panicked(_)) => vec!["panicked".to_owned()],
        Err(error) => vec!["failed".to_owned(), error.to_string()],
    }
}

async fn on_host(host: &EventHost, (function, steps): &StepCall) -> Vec<String> {
    match host.try_call(function, input(steps).into_bytes()).await {
        Ok(response) => serde_json::from_slice(&response.output).unwrap(),
        Err(InvokeError::Call(failure)) => match failure.error {
            CallError::Failed { code: 3, message } => vec!["refused".to_owned(), message],
            CallError::Trap { .. } => vec!["panicked".to_owned()],
            error => vec!["failed".to_owned(), error.to_string()],
        },
        Err(error) => panic!("{error}"),
    }
}

/// A dead letter without ids and times; the text of a panic without its path.
fn letter(parts: (&str, Option<&str>, &str, u32, &str)) -> String {
    let (function, key, reason, attempts, error) = parts;
    // How often it was tried in that time depends on the clock.
    let attempts = if reason == "age" { 0 } else { attempts };
    let place = error
        .find("panicked at ")
        .map(|at| at + "panicked at ".len());
    let end = error.find("lib.rs");
    let error = match (place, end) {
        (Some(place), Some(end)) => format!("{}{}", &error[..place], &error[end..]),
        _ => error.to_owned(),
    };
    format!("{function} {key:?} {reason} {attempts} {error}")
}

/// Runs the scenarios and the events on the harness.
fn native() -> Vec<Vec<String>> {
    let mut harness = Harness::new();
    let calls = scenarios().into_iter().chain(events());
    let mut reports: Vec<_> = calls.map(|call| on_harness(&mut harness, &call)).collect();
    harness.settle();
    reports.push(on_harness(&mut harness, &left()));
    reports.push(letters_of_harness(&harness));
    for call in replays() {
        reports.push(on_harness(&mut harness, &call));
        harness.settle();
        reports.push(letters_of_harness(&harness));
    }
    reports
}

fn letters_of_harness(harness: &Harness) -> Vec<String> {
    let letters = harness.dead_letters();
    let mut letters: Vec<_> = letters
        .iter()
        .map(|found| {
            let key = found.key.as_deref();
            letter((
                &found.function,
                key,
                &found.reason,
                found.attempts,
                &found.error,
            ))
        })
        .collect();
    letters.sort();
    letters
}

/// The same on a real host with a dispatcher.
async fn hosted(host: &EventHost) -> Vec<Vec<String>> {
    deploy(host, wasm("conformance"), ORIGIN).await;
    let mut reports = Vec::new();
    for call in scenarios().into_iter().chain(events()) {
        reports.push(on_host(host, &call).await);
    }
    host.wait_until_idle().await;
    reports.push(on_host(host, &left()).await);
    reports.push(letters_of_host(host).await);
    for call in replays() {
        reports.push(on_host(host, &call).await);
        host.wait_until_idle().await;
        reports.push(letters_of_host(host).await);
    }
    reports
}

async fn letters_of_host(host: &EventHost) -> Vec<String> {
    let letters = host.dead_letters().await;
    let mut letters: Vec<_> = letters
        .iter()
        .map(|found| {
            let function = match &found.target {
                kvasm::model::DeliveryTarget::Function(name) => name.to_string(),
                kvasm::model::DeliveryTarget::Webhook => String::new(),
            };
            let key = found.event.kind.entry().map(|(_, key)| key.as_str());
            let reason = found.reason.as_str();
            letter((&function, key, reason, found.attempts, &found.error))
        })
        .collect();
    letters.sort();
    letters
}

/// Asserts that the reports are the same, and lists all lines that are not.
fn assert_same(native: &[Vec<String>], hosted: &[Vec<String>]) {
    let mut different = Vec::new();
    for (at, (native, hosted)) in native.iter().zip(hosted).enumerate() {
        let lines = native.iter().zip(hosted).enumerate();
        let lines = lines.filter(|(_, (native, hosted))| native != hosted);
        different.extend(lines.map(|(line, (native, hosted))| {
            format!("call {at}, line {line}:\n  harness {native}\n  host    {hosted}")
        }));
        if native.len() != hosted.len() {
            different.push(format!(
                "call {at}:\n  harness {native:#?}\n  host    {hosted:#?}"
            ));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
    assert_eq!(native.len(), hosted.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn harness_answers_as_a_host_over_sqlite() {
    let native = native();
    assert_same(&native, &hosted(&EventHost::sqlite().await).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn harness_answers_as_a_host_over_postgres() {
    let native = native();
    let [mut host, _other] = EventHost::two_on_postgres().await;
    host.start();
    assert_same(&native, &hosted(&host).await);
}

/// An entry that has expired is as if it had been deleted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_entries_are_absent_on_both() {
    let write = (
        "steps",
        vec![
            Step::SetTtl("c".into(), "k".into(), 20),
            add("c", "keep", 3),
        ],
    );
    let read = ("steps", vec![get("c", "k"), list("c", Range::default())]);
    let after = (
        "steps",
        vec![
            Step::SetIf("c".into(), "k".into(), text("x"), Expected::Absent),
            get("c", "k"),
            Step::Delete("c".into(), "k".into()),
        ],
    );
    let native = {
        let mut harness = Harness::new();
        let written = on_harness(&mut harness, &write);
        harness.advance(std::time::Duration::from_millis(20));
        [
            written,
            on_harness(&mut harness, &read),
            on_harness(&mut harness, &after),
        ]
    };
    let host = EventHost::sqlite().await;
    deploy(&host, wasm("conformance"), ORIGIN).await;
    let written = on_host(&host, &write).await;
    super::event_host::until("it has expired", async || {
        host.get("c", "k").await.is_none()
    })
    .await;
    let hosted = [
        written,
        on_host(&host, &read).await,
        on_host(&host, &after).await,
    ];
    assert_eq!(native, hosted);
}
