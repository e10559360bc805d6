//! The guests features-*, one in each language, do the same on a real host: timers, schedules, settings,
//! requests to other servers, transactions, and statuses.

use super::event_host::{EventHost, until};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use kvasm::model::{
    ConfigValue, DeadReason, Grant, OriginPattern, Queue, ScheduleTick, SettingName, Timestamp,
    Watch,
};
use kvasm::service::Keyring;
use kvasm::store::{SqliteOptions, SqliteStore};
use kvasm::{CallError, Host, InvokeError};
use kvasm_tests::guests::wasm;
use kvasm_tests::receiver::{Received, Receiver};
use kvasm_tests::remote::with_egress;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

const LANGUAGES: [&str; 4] = ["c", "go", "assemblyscript", "zig"];
/// The origin that the guests declare. A module's own server takes its place.
const ORIGIN: &[u8] = b"http://127.0.0.1:65530";

/// A guest that declares another origin of the same length.
fn guest(language: &str, origin: &str) -> Vec<u8> {
    let mut module = wasm(&format!("features-{language}"));
    assert_eq!(origin.len(), ORIGIN.len(), "{origin}");
    let places = module.windows(ORIGIN.len());
    let places: Vec<_> = places.enumerate().filter(|(_, at)| *at == ORIGIN).collect();
    let [(at, _)] = places[..] else {
        panic!("{} origins in {language}", places.len())
    };
    module[at..][..ORIGIN.len()].copy_from_slice(origin.as_bytes());
    module
}

/// What the other server answers: the body of the request, or half an answer.
fn answer(request: &Received) -> axum::response::Response {
    if request.target == "/broken" {
        let broken = Err::<Vec<u8>, _>(std::io::Error::other("broken"));
        let body = axum::body::Body::from_stream(futures_util::stream::iter([broken]));
        return body.into_response();
    }
    let body = [b"got ", request.body.as_ref()].concat();
    (StatusCode::IM_A_TEAPOT, [("x-a", "q\"")], body).into_response()
}

/// One test, because each host compiles the modules again, and that of Go takes seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packages_of_all_languages_do_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteOptions::new(folder.path().join("kvasm.db"));
    let store = Arc::new(SqliteStore::open(options).await.unwrap());
    let builder = with_egress(Host::builder())
        .secrets(Keyring::ephemeral().unwrap())
        .compile_time(Duration::from_secs(600));
    let mut stage = EventHost::with_builder(builder, store, Box::new(folder)).await;
    stage.start();
    let mut server = Receiver::start(async |_, request| answer(&request)).await;
    for language in LANGUAGES {
        let module = guest(language, &server.origin);
        let app = async |subject: &str| {
            println!("{language}: {subject}");
            let app = stage.neighbour(&format!("{language}-{subject}")).await;
            grant(&app, &server.origin).await;
            app.deploy(module.clone()).await;
            app
        };
        settings_are_read(&app("settings").await).await;
        timers_fire_and_are_cancelled(&app("timers").await).await;
        schedule_runs(&app("schedule").await).await;
        changes_are_handled(&app("changes").await).await;
        payments_are_transactions(&app("payments").await).await;
        additions_do_not_conflict(&app("additions").await).await;
        batches_set_timers(&app("batches").await).await;
        statuses_are_those_of_the_host(&app("statuses").await).await;
        requests_are_transactions(&app("requests").await).await;
        let fetching = app("fetch").await;
        other_servers_are_asked(&fetching, &mut server).await;
    }
}

async fn grant(stage: &EventHost, origin: &str) {
    let origin = OriginPattern::parse(origin).unwrap();
    let name = SettingName::parse("token").unwrap();
    let grants = vec![
        Grant::HttpOrigin { origin },
        Grant::Secret { name },
        Grant::Timers,
    ];
    let (app, operator) = (stage.app().await, stage.host.operator("a test"));
    let added = stage.host.admin().add_grants(&operator, &app, grants).await;
    assert_eq!(added.unwrap(), 3);
}

async fn text(stage: &EventHost, function: &str, input: &str) -> String {
    String::from_utf8(stage.call(function, input.to_owned()).await).unwrap()
}

/// The code and the message of a call that fails.
async fn failure(stage: &EventHost, function: &str, input: &str) -> (i32, String) {
    match stage.try_call(function, input.to_owned()).await {
        Err(InvokeError::Call(failure)) => match failure.error {
            CallError::Failed { code, message } => (code, message),
            other => panic!("{function} {input:?}: {other}"),
        },
        other => panic!("{function} {input:?}: {other:?}"),
    }
}

async fn settings_are_read(stage: &EventHost) {
    assert_eq!(text(stage, "settings", "").await, "unset unset");
    let (app, operator) = (stage.app().await, stage.host.operator("a test"));
    let admin = stage.host.admin();
    let name = |name| SettingName::parse(name).unwrap();
    let greeting = ConfigValue::parse("grüß \"dich\"".as_bytes()).unwrap();
    let set = admin.set_config(&operator, &app, name("greeting"), greeting);
    set.await.unwrap();
    // Longer than a first buffer would be.
    let token = "t".repeat(5_000);
    let set = admin.set_secret(&operator, &app, name("token"), token.as_bytes());
    set.await.unwrap();
    let expected = format!("grüß \"dich\" {token}");
    assert_eq!(text(stage, "settings", "").await, expected);
}

async fn timers_fire_and_are_cancelled(stage: &EventHost) {
    text(stage, "remind", "soon=1").await;
    text(stage, "remind", "ä 🦀=0").await;
    // The second one replaces the first.
    text(stage, "remind", "twice=3600000").await;
    text(stage, "remind", "twice=0").await;
    text(stage, "remind", "gone=3600000").await;
    assert_eq!(text(stage, "forget", "gone").await, "1");
    assert_eq!(text(stage, "forget", "gone").await, "0");
    // The handler asks for a second more, which is no failure; what it wrote until then is discarded.
    text(stage, "remind", "later=0").await;
    stage.wait_until_idle().await;
    assert!(stage.dead_letters().await.is_empty());
    let fired: Vec<_> = stage.all("fired").await;
    let once = |name: &str| (name.to_owned(), "1".to_owned());
    assert_eq!(fired, ["later", "soon", "twice", "ä 🦀"].map(once));
    let payload = stage.get("payloads", "ä 🦀").await;
    assert_eq!(payload.as_deref(), Some("ä 🦀"));
    assert_eq!(failure(stage, "remind", "x=y").await.0, 3);
    assert!(failure(stage, "remind", "=1").await.1.contains("timer"));
}

/// Lets the schedule of the app's plugin be due.
async fn schedule_runs(stage: &EventHost) {
    let planned = async || {
        let triggers = stage.triggers().await;
        let nightly = triggers
            .into_iter()
            .find(|trigger| trigger.name.as_str() == "nightly");
        nightly.unwrap()
    };
    until("it is planned", async || planned().await.next_at.is_some()).await;
    let trigger = planned().await;
    let Watch::Schedule(schedule) = &trigger.watch else {
        panic!("no schedule")
    };
    assert_eq!(schedule.as_str(), "0 3 * * *");
    let now = Timestamp::now();
    let tick = ScheduleTick {
        queue: Queue {
            app: stage.app().await.id,
            trigger: trigger.name,
        },
        planned: trigger.next_at,
        next: Some(Timestamp(now.0 - 1)),
        run: None,
        now,
    };
    stage.host.store().tick(&tick).await.unwrap();
    stage.host.notifier().wake();
    until("it has run", async || {
        stage.get("ticks", "schedule").await.is_some()
    })
    .await;
    stage.wait_until_idle().await;
    assert_eq!(stage.get("ticks", "schedule").await.as_deref(), Some("1"));
}

async fn changes_are_handled(stage: &EventHost) {
    stage.set("orders", "eu/1", "1").await;
    stage.set("orders", "us/1", "1").await;
    stage.set("orders", "eu/2", "\"poison\"").await;
    stage.set("orders", "eu/1", "2").await;
    stage.wait_until_idle().await;
    // What a failed run wrote is discarded.
    let seen = stage.all("seen").await;
    assert_eq!(seen, [("eu/1".to_owned(), "2".to_owned())]);
    let [letter] = stage.dead_letters().await.try_into().unwrap();
    assert_eq!(letter.reason, DeadReason::Deterministic);
    assert!(letter.error.contains("poisoned"), "{}", letter.error);
    assert_eq!(letter.attempts, 1);
}

async fn payments_are_transactions(stage: &EventHost) {
    let coins = async || -> i64 {
        let all = stage.all("accounts").await.into_iter();
        all.map(|(_, coins)| coins.parse::<i64>().unwrap()).sum()
    };
    for function in ["pay", "pay_part"] {
        for account in ["a", "b", "c"] {
            stage.set("accounts", account, "10").await;
        }
        let inputs: Vec<_> = (0..24)
            .map(|n| ["a=b", "b=c", "c=a"][n % 3].to_owned())
            .collect();
        let calls = inputs
            .iter()
            .map(|input| stage.call(function, input.clone()));
        futures_util::future::join_all(calls).await;
        assert_eq!(coins().await, 30, "{function}");
        assert_eq!(stage.get("accounts", "a").await.as_deref(), Some("10"));
        // The write before the failure has no effect.
        stage.set("accounts", "empty", "0").await;
        if function == "pay" {
            let refused = failure(stage, "pay", "empty=a").await;
            assert_eq!(refused, (3, "no coins".to_owned()));
        } else {
            assert_eq!(text(stage, "pay_part", "empty=a").await, "no coins");
            // What was written before the part stays.
            let attempts = stage.get("attempts", "empty").await;
            assert_eq!(attempts.as_deref(), Some("1"));
        }
        assert_eq!(stage.get("accounts", "empty").await.as_deref(), Some("0"));
        assert_eq!(coins().await, 30, "{function}");
    }
    assert_eq!(stage.get("attempts", "a").await.as_deref(), Some("8"));
}

async fn additions_do_not_conflict(stage: &EventHost) {
    let calls = (0..30).map(|_| stage.call("bump", ""));
    futures_util::future::join_all(calls).await;
    assert_eq!(stage.get("sum", "n").await.as_deref(), Some("60"));
    stage.set("sum", "n", "\"text\"").await;
    let failed = stage.try_call("bump", "").await.unwrap_err().to_string();
    assert!(failed.contains("integer"), "{failed}");
}

async fn batches_set_timers(stage: &EventHost) {
    assert_eq!(text(stage, "order", "us/1").await, "4");
    let refused = failure(stage, "order", "us/1").await;
    assert_eq!(refused, (3, "a conflict".to_owned()));
    stage.wait_until_idle().await;
    assert_eq!(stage.get("orders", "us/1").await.as_deref(), Some("1"));
    assert_eq!(stage.get("sum", "orders").await.as_deref(), Some("1"));
    let payload = stage.get("payloads", "us/1").await;
    assert_eq!(payload.as_deref(), Some("ordered"));
}

async fn statuses_are_those_of_the_host(stage: &EventHost) {
    let found = text(stage, "statuses", "").await;
    assert_eq!(found, "-1 -2 -3 -3 -4 -5 -8 -4 ");
}

async fn requests_are_transactions(stage: &EventHost) {
    let path = "/q\"\u{e9}";
    let headers = [("x-other", ""), ("x-quoted", "a\"b\\c")];
    let (head, body) = stage.http("POST", path, &headers, "kept").await;
    assert_eq!((&head["status"], body.as_str()), (&json!(201), "a\"b\\c"));
    assert_eq!(head["headers"], json!([["location", path]]));
    let kept = stage.get("requests", path).await;
    assert_eq!(kept.as_deref(), Some("kept"));
    let failed = stage.try_http("POST", "/failed", &[], "fail").await;
    let message = failed.unwrap_err().to_string();
    assert!(
        message
            .to_lowercase()
            .replace(' ', "")
            .contains("onpurpose"),
        "{message}"
    );
    assert_eq!(stage.get("requests", "/failed").await, None);
}

async fn other_servers_are_asked(stage: &EventHost, server: &mut Receiver) {
    let origin = server.origin.clone();
    let answer = text(stage, "fetch", &format!("PUT {origin}/p?q=1\nb\u{e9}\n2")).await;
    assert_eq!(answer, "418|q\"|got b\u{e9}\n2");
    let seen = server.next().await;
    assert_eq!(seen.target, "/p?q=1");
    assert_eq!(seen.header("x-quoted"), "a\"b");
    assert_eq!(seen.header("x-other"), "c");
    // No answer is a result, not the end of the call.
    let denied = text(stage, "fetch", "GET http://undeclared.example/").await;
    assert!(denied.starts_with("no answer: "), "{denied}");
    assert!(denied.contains("undeclared.example"), "{denied}");
    assert_eq!(server.others(), 0);
    // A GET would be sent again.
    let broken = text(stage, "fetch", &format!("POST {origin}/broken\n")).await;
    assert!(broken.starts_with("no answer: "), "{broken}");
    assert_eq!(server.next().await.target, "/broken");
    // A revoked origin: from the next request on.
    let pattern = OriginPattern::parse(&origin).unwrap();
    let grants = vec![Grant::HttpOrigin { origin: pattern }];
    let (app, operator) = (stage.app().await, stage.host.operator("a test"));
    let revoked = stage.host.admin().revoke_grants(&operator, &app, grants);
    assert_eq!(revoked.await.unwrap(), 1);
    let denied = text(stage, "fetch", &format!("GET {origin}/")).await;
    assert!(denied.starts_with("no answer: "), "{denied}");
    assert_eq!(server.others(), 0);
}
