//! Triggers that send events to a URL.

use super::event_host::{EventHost, collection, until};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use kvasm::egress::{Egress, EgressConfig};
use kvasm::metrics::Metrics;
use kvasm::model::{
    Changes, DeadReason, HttpUrl, NewTrigger, Pause, Policy, SettingKind, SettingName, Target,
    TriggerName, Watch, Webhook,
};
use kvasm::service::{Keyring, OnTriggerDelete};
use kvasm::store::{MemoryStore, Store};
use kvasm::{Host, HostBuilder};
use kvasm_tests::receiver::{Received, Receiver};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// 32 bytes of 0 in base64.
const KEY: &str = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
const OTHER_KEY: &str = "whsec_AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

fn egress() -> EgressConfig {
    EgressConfig {
        allow_networks: vec!["127.0.0.0/8".parse().unwrap()],
        connect_timeout: Duration::from_secs(60),
        timeout: Duration::from_secs(60),
        per_second: 1_000_000,
        ..EgressConfig::default()
    }
}

fn with(config: EgressConfig) -> HostBuilder {
    let metrics = Metrics::default();
    let client = Egress::new(config, metrics.clone()).unwrap();
    let builder = Host::builder().metrics(metrics).outbound(client);
    builder.secrets(Keyring::ephemeral().unwrap())
}

/// A host with a dispatcher, whose app has no plugin, and the secret `key`.
async fn stage_with(builder: HostBuilder, store: Arc<dyn Store>) -> EventHost {
    let mut stage = EventHost::with_builder(builder, store, Box::new(())).await;
    stage.start();
    stage.set_secret("key", KEY).await;
    stage
}

async fn stage() -> EventHost {
    stage_with(with(egress()), Arc::new(MemoryStore::new())).await
}

fn webhook(url: &str) -> NewTrigger {
    NewTrigger {
        name: TriggerName::parse("hook").unwrap(),
        watch: Watch::Changes(Changes {
            collection: collection("orders"),
            prefix: String::new(),
            set: true,
            delete: true,
        }),
        target: Target::Webhook(Webhook {
            url: HttpUrl::parse(url).unwrap(),
            secret: SettingName::parse("key").unwrap(),
        }),
        policy: Policy::default(),
    }
}

impl EventHost {
    async fn set_secret(&self, name: &str, value: &str) {
        let (app, operator) = (self.app().await, self.host.operator("a test"));
        let name = SettingName::parse(name).unwrap();
        let admin = self.host.admin();
        let set = admin.set_secret(&operator, &app, name, value.as_bytes());
        set.await.unwrap();
    }

    async fn set_trigger(&self, trigger: NewTrigger) {
        let (app, operator) = (self.app().await, self.host.operator("a test"));
        let set = self.host.admin().set_trigger(&operator, &app, trigger);
        set.await.unwrap();
    }

    async fn hook(&self, url: &str) {
        self.set_trigger(webhook(url)).await;
    }

    async fn wait_for_letter(&self) -> kvasm::model::DeadLetter {
        until("a dead letter", async || {
            !self.dead_letters().await.is_empty()
        })
        .await;
        self.dead_letters().await.remove(0)
    }
}

fn key_bytes(key: &str) -> [u8; 32] {
    [u8::from(key == OTHER_KEY); 32]
}

/// Checks the signature as a receiver does.
#[track_caller]
fn assert_signed(request: &Received, keys: &[&str]) {
    use base64::Engine as _;
    use hmac::{Hmac, KeyInit, Mac};
    let (id, at) = (
        request.header("webhook-id"),
        request.header("webhook-timestamp"),
    );
    let expected = keys.iter().map(|key| {
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&key_bytes(key)).unwrap();
        mac.update(format!("{id}.{at}.").as_bytes());
        mac.update(&request.body);
        let mac = base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes());
        format!("v1,{mac}")
    });
    let expected: Vec<_> = expected.collect();
    assert_eq!(request.header("webhook-signature"), expected.join(" "));
    let now = kvasm::model::Timestamp::now().0 / 1_000;
    let at: i64 = at.parse().unwrap();
    assert!((now - 300..=now).contains(&at), "{at} at {now}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn change_is_sent_as_a_signed_cloud_event() {
    let mut receiver = Receiver::accepting().await;
    let stage = stage().await;
    stage
        .hook(&format!("{}/in?from=kvasm", receiver.origin))
        .await;
    stage.set("orders", "eu/1", r#"{"cents":5}"#).await;
    stage.set("other", "eu/1", "1").await;
    let request = receiver.next().await;
    assert_eq!(request.target, "/in?from=kvasm");
    assert_eq!(
        request.header("content-type"),
        "application/cloudevents+json"
    );
    assert_signed(&request, &[KEY]);
    let event = request.event();
    assert_eq!(event["id"], request.header("webhook-id"));
    assert_eq!(event["traceparent"], request.header("traceparent"));
    assert_eq!(
        (&event["specversion"], &event["type"], &event["source"]),
        (
            &json!("1.0"),
            &json!("kvasm.entry.set"),
            &json!("/apps/app")
        )
    );
    assert_eq!(
        (&event["subject"], &event["collection"], &event["data"]),
        (&json!("eu/1"), &json!("orders"), &json!({ "cents": 5 }))
    );
    stage.wait_until_idle().await;
    assert_eq!(receiver.others(), 0);
    assert!(stage.dead_letters().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_request_is_repeated_with_the_same_id() {
    let answers = [
        StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        (StatusCode::FOUND, [("location", "/elsewhere")]).into_response(),
        StatusCode::OK.into_response(),
    ];
    let answers = Arc::new(parking_lot::Mutex::new(Vec::from(answers)));
    let mut receiver = Receiver::start(move |_, _| {
        let answer = answers.lock().remove(0);
        async move { answer }
    })
    .await;
    let stage = stage().await;
    stage.host.call_keeper().attach();
    stage.hook(&receiver.origin).await;
    stage.set("orders", "k", "1").await;
    let first = receiver.next().await;
    for _ in 0..2 {
        let again = receiver.next().await;
        assert_eq!(again.header("webhook-id"), first.header("webhook-id"));
        assert_eq!(again.target, "/");
        assert_signed(&again, &[KEY]);
        // A new span of the same trace.
        assert_ne!(again.header("traceparent"), first.header("traceparent"));
        let trace = |request: &Received| request.header("traceparent")[3..35].to_owned();
        assert_eq!(trace(&again), trace(&first));
    }
    stage.wait_until_idle().await;
    assert_eq!(receiver.others(), 0);
    let log = stage.host.logs();
    let log = log.read(stage.app().await.id, 0, 100);
    let log: Vec<_> = log.iter().map(|line| line.message.as_str()).collect();
    let calls = stage.recorded().await;
    let attempts: Vec<_> = calls
        .iter()
        .map(|call| {
            let delivery = call.delivery.as_ref().unwrap();
            assert!(delivery.webhook && call.version.is_none() && call.cost.is_none());
            (delivery.attempt, &*call.outcome, call.blame.as_deref())
        })
        .collect();
    assert_eq!(
        attempts,
        [
            (1, "failed", Some("receiver")),
            (2, "failed", Some("receiver")),
            (3, "ok", None),
        ]
    );
    for status in ["status 500", "status 302"] {
        assert!(log.iter().any(|line| line.contains(status)), "{log:?}");
        let is_of = |call: &&kvasm::service::CallRecord| {
            call.error
                .as_ref()
                .is_some_and(|error| error.contains(status))
        };
        assert_eq!(calls.iter().filter(is_of).count(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn next_attempt_waits_as_long_as_the_receiver_asks() {
    let mut receiver =
        Receiver::start(async |_, _| (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "1800")]))
            .await;
    let stage = stage().await;
    stage.hook(&receiver.origin).await;
    stage.set("orders", "k", "1").await;
    receiver.next().await;
    until("it waits", async || {
        stage.outstanding().await[0].error.is_some()
    })
    .await;
    let [delivery] = stage.outstanding().await.try_into().unwrap();
    let wait = delivery.due_at.unwrap().0 - kvasm::model::Timestamp::now().0;
    assert!((1_500_000..=1_800_000).contains(&wait), "{wait}");
    assert_eq!((delivery.attempts, receiver.others()), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receiver_that_is_gone_gets_one_request() {
    let mut old = Receiver::start(async |_, _| StatusCode::GONE).await;
    let stage = stage().await;
    stage.hook(&old.origin).await;
    stage.set("orders", "k", "1").await;
    let letter = stage.wait_for_letter().await;
    assert_eq!(letter.reason, DeadReason::Deterministic);
    assert!(letter.error.contains("status 410"), "{}", letter.error);
    assert_eq!((letter.attempts, letter.target.function()), (1, None));
    let request = old.next().await;
    // The replay goes to the URL that the trigger has by then.
    let mut new = Receiver::accepting().await;
    stage.hook(&new.origin).await;
    stage.replay().await;
    let again = new.next().await;
    assert_eq!(again.header("webhook-id"), request.header("webhook-id"));
    stage.wait_until_idle().await;
    assert_eq!((old.others(), new.others()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delivery_outlives_its_trigger_as_a_dead_letter() {
    let mut receiver = Receiver::accepting().await;
    let mut stage = stage().await;
    stage.hook(&receiver.origin).await;
    stage.stop().await;
    stage.set("orders", "k", "1").await;
    let (app, operator) = (stage.app().await, stage.host.operator("a test"));
    let name = TriggerName::parse("hook").unwrap();
    let admin = stage.host.admin();
    let deleted = admin.delete_trigger(&operator, &app, name, OnTriggerDelete::Keep);
    deleted.await.unwrap();
    stage.start();
    let letter = stage.wait_for_letter().await;
    assert!(
        letter.error.contains("no longer exists"),
        "{}",
        letter.error
    );
    stage.hook(&receiver.origin).await;
    stage.replay().await;
    assert_eq!(receiver.next().await.event()["data"], json!(1));
    stage.wait_until_idle().await;
}

/// A trigger that calls a function by now does not get what was meant for the URL.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trigger_without_a_url_by_now_leaves_a_dead_letter() {
    let mut receiver = Receiver::accepting().await;
    let mut stage = stage().await;
    stage.hook(&receiver.origin).await;
    stage.stop().await;
    stage.set("orders", "k", "1").await;
    stage
        .set_trigger(NewTrigger {
            target: Target::function("run"),
            ..webhook(&receiver.origin)
        })
        .await;
    stage.start();
    let letter = stage.wait_for_letter().await;
    assert!(letter.error.contains("has no URL"), "{}", letter.error);
    assert_eq!(receiver.others(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn host_without_permission_to_connect_pauses_the_trigger() {
    let closed = EgressConfig {
        allow_networks: Vec::new(),
        ..egress()
    };
    let builders = [
        (with(closed), "not allowed by the operator"),
        (
            Host::builder().secrets(Keyring::ephemeral().unwrap()),
            "egress.enabled",
        ),
    ];
    for (builder, words) in builders {
        let mut receiver = Receiver::accepting().await;
        let stage = stage_with(builder, Arc::new(MemoryStore::new())).await;
        let mut trigger = webhook(&receiver.origin.replace("127.0.0.1", "localhost"));
        trigger.policy.attempts_max = 1;
        stage.set_trigger(trigger).await;
        for key in 0..12 {
            stage.set("orders", &key.to_string(), "1").await;
        }
        until("it is paused", async || {
            stage.triggers().await[0].standing.paused == Some(Pause::Failures)
        })
        .await;
        let letter = stage.wait_for_letter().await;
        assert!(letter.error.contains(words), "{}", letter.error);
        // The address of a name is nothing that an app may learn.
        assert!(!letter.error.contains("127.0.0.1"), "{}", letter.error);
        assert_eq!(receiver.others(), 0);
        // What follows waits.
        stage.set("orders", "later", "1").await;
        assert!(!stage.outstanding().await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_line_of_the_secret_signs() {
    let mut receiver = Receiver::accepting().await;
    let stage = stage().await;
    stage.hook(&receiver.origin).await;
    stage
        .set_secret("key", &format!("{OTHER_KEY}\n{KEY}\n"))
        .await;
    stage.set("orders", "k", "1").await;
    assert_signed(&receiver.next().await, &[OTHER_KEY, KEY]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_sent_unsigned() {
    let mut receiver = Receiver::accepting().await;
    let stage = stage().await;
    let mut trigger = webhook(&receiver.origin);
    trigger.policy.attempts_max = 1;
    stage.set_trigger(trigger).await;
    stage.set_secret("key", "hunter2").await;
    stage.set("orders", "a", "1").await;
    let letter = stage.wait_for_letter().await;
    assert!(letter.error.contains("line 1 does not begin with whsec_"));
    assert!(!letter.error.contains("hunter2"));
    let (app, operator) = (stage.app().await, stage.host.operator("a test"));
    let admin = stage.host.admin();
    let name = SettingName::parse("key").unwrap();
    let unset = admin.unset_setting(&operator, &app, SettingKind::Secret, name);
    unset.await.unwrap();
    stage.set("orders", "b", "1").await;
    until("both are dead", async || {
        stage.dead_letters().await.len() == 2
    })
    .await;
    let letters = stage.dead_letters().await;
    assert!(letters.iter().any(|l| l.error.contains("it is not set")));
    assert_eq!(receiver.others(), 0);
    // Set again, both are delivered.
    stage.set_secret("key", KEY).await;
    stage.replay().await;
    for _ in 0..2 {
        assert_signed(&receiver.next().await, &[KEY]);
    }
}

/// The app's rate limit delays webhooks, and uses up no attempts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn burst_beyond_the_rate_limit_is_delivered_later() {
    const BURST: usize = 40;
    let slow = EgressConfig {
        per_second: 10,
        ..egress()
    };
    let mut receiver = Receiver::accepting().await;
    let stage = stage_with(with(slow), Arc::new(MemoryStore::new())).await;
    let mut trigger = webhook(&receiver.origin);
    trigger.policy.attempts_max = 1;
    stage.set_trigger(trigger).await;
    for key in 0..BURST {
        stage.set("orders", &key.to_string(), "1").await;
    }
    let mut ids = BTreeSet::new();
    for _ in 0..BURST {
        ids.insert(receiver.next().await.header("webhook-id").to_owned());
    }
    assert_eq!(ids.len(), BURST);
    stage.wait_until_idle().await;
    assert!(stage.dead_letters().await.is_empty());
    assert_eq!(receiver.others(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_one_key_arrive_in_order() {
    const CHANGES: usize = 20;
    // The first attempt at each third change of a key fails. That depends on the event and not on the
    // number of the request, as those of the two keys overtake each other.
    fn is_refused(tried: &mut BTreeSet<String>, event: &Value) -> bool {
        let is_first = tried.insert(event["id"].to_string());
        is_first && event["data"].as_u64().unwrap() % 3 == 1
    }
    let tried = std::sync::Mutex::new(BTreeSet::new());
    let mut receiver = Receiver::start(move |_, received: Received| {
        let refused = is_refused(&mut tried.lock().unwrap(), &received.event());
        async move {
            match refused {
                true => StatusCode::BAD_GATEWAY,
                false => StatusCode::OK,
            }
        }
    })
    .await;
    let stage = stage().await;
    stage.hook(&receiver.origin).await;
    for n in 0..CHANGES / 2 {
        stage.set("orders", "a", &n.to_string()).await;
        stage.set("orders", "b", &n.to_string()).await;
    }
    let mut seen: [Vec<u64>; 2] = Default::default();
    let mut tried = BTreeSet::new();
    while seen.iter().map(Vec::len).sum::<usize>() < CHANGES {
        let event: Value = receiver.next().await.event();
        if !is_refused(&mut tried, &event) {
            let key = usize::from(event["subject"] == "b");
            seen[key].push(event["data"].as_u64().unwrap());
        }
    }
    let expected: Vec<u64> = (0..CHANGES as u64 / 2).collect();
    assert_eq!(seen, [expected.clone(), expected]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn receiver_that_never_answers_does_not_delay_other_apps() {
    let silent = Receiver::start(async |_, _| {
        std::future::pending::<()>().await;
        StatusCode::OK
    })
    .await;
    let mut receiver = Receiver::accepting().await;
    let stage = stage().await;
    stage.hook(&silent.origin).await;
    let other = stage.neighbour("other").await;
    other.set_secret("key", KEY).await;
    other.hook(&receiver.origin).await;
    for key in 0..200 {
        stage.set("orders", &key.to_string(), "1").await;
    }
    other.set("orders", "k", "1").await;
    assert_eq!(receiver.next().await.event()["source"], "/apps/other");
    other.wait_until_idle().await;
    assert!(stage.outstanding().await.len() > 100);
}

/// Two hosts share the deliveries of an app: each is accepted once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hosts_send_each_event_once() {
    let mut receiver = Receiver::accepting().await;
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    kvasm::service::create_key_file(&file).unwrap();
    let keyring = || Keyring::file(&file);
    let one = stage_with(with(egress()).secrets(keyring()), Arc::clone(&store)).await;
    let mut two =
        EventHost::with_builder(with(egress()).secrets(keyring()), store, Box::new(())).await;
    two.start();
    one.hook(&receiver.origin).await;
    for key in 0..100 {
        one.set("orders", &key.to_string(), "1").await;
    }
    one.wait_until_idle().await;
    let mut ids = BTreeSet::new();
    while let Ok(request) = receiver.requests.try_recv() {
        assert!(ids.insert(request.header("webhook-id").to_owned()));
    }
    assert_eq!(ids.len(), 100);
}
