//! `kvasm kv commit`, `get-many` and `increment`; triggers, deliveries and dead
//! letters.

use super::User;
use kvasm::model::{AppName, DeadReason, Timestamp, Verdict};
use kvasm::store::{SqliteOptions, SqliteStore, Store};
use kvasm_store_testing::conformance::kit::Tenant;
use serde_json::{Value, json};
use std::sync::Arc;

impl User {
    /// Moves the due deliveries of a trigger of `demo` to the dead letters, as a server would.
    fn dead_letter(&self, trigger: &str, reason: DeadReason) {
        let path = self.home.path().join(".local/share/kvasm/kvasm.db");
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let store = SqliteStore::open(SqliteOptions::new(path)).await.unwrap();
            let app = store.app(&AppName::parse("demo").unwrap()).await;
            let app = app.unwrap().unwrap();
            let tenant = Tenant {
                store: Arc::new(store),
                id: app.id,
                name: app.name,
                now: Timestamp::now(),
            };
            for (_, receipt) in tenant.claim(trigger, 100).await {
                assert!(
                    tenant
                        .fail(&receipt, Verdict::DeadLetter(reason), false)
                        .await
                );
            }
        });
    }

    pub fn json(&self, arguments: &[&str]) -> Value {
        let mut arguments = arguments.to_vec();
        arguments.push("--json");
        self.run(&arguments).json()
    }

    /// The ids of the dead letters of `demo`, newest first.
    fn dead_letter_ids(&self) -> Vec<String> {
        let page = self.json(&["dead-letter", "list", "demo"]);
        let letters = page["dead_letters"].as_array().unwrap().iter();
        letters
            .map(|letter| letter["id"].as_str().unwrap().to_owned())
            .collect()
    }
}

#[test]
fn batches_are_read_from_a_file_or_stdin() {
    let user = User::with_app();
    let batch = json!({
        "checks": [{ "collection": "notes", "key": "a", "version": 0 }],
        "operations": [
            { "set": { "collection": "notes", "key": "a", "json": 1.5 } },
            { "delete": { "collection": "notes", "key": "b" } },
            { "increment": { "collection": "notes", "key": "n", "by": 7 } },
        ],
    });
    let batch = batch.to_string();
    let done = user.run_with(&["kv", "commit", "demo"], batch.as_bytes());
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(done.stdout.contains("no such entry"), "{}", done.stdout);
    assert!(done.stdout.contains("now 7, version"), "{}", done.stdout);

    let file = user.home.path().join("batch.json");
    std::fs::write(&file, &batch).unwrap();
    let file = file.to_str().unwrap();
    let words = "failed checks: \"a\" of \"notes\"";
    user.fails(&["kv", "commit", "demo", "--file", file], 2, words);
    assert_eq!(user.ok(&["kv", "get", "demo", "notes", "n"]), "7\n");

    let delete = r#"{"operations":[{"delete":{"collection":"notes","key":"a"}}]}"#;
    let done = user.run_with(&["kv", "commit", "demo", "--json"], delete.as_bytes());
    assert_eq!(done.json(), json!({ "results": [{ "existed": true }] }));
    for (bad, words) in [
        ("", "JSON object"),
        ("{\"operation\":[]}", "unknown field"),
        ("{}", "neither checks nor operations"),
        (
            r#"{"operations":[{"delete":{"collection":"","key":"k"}}]}"#,
            "operations[0]: the collection is empty",
        ),
    ] {
        let answer = user.run_with(&["kv", "commit", "demo"], bad.as_bytes());
        assert_eq!(answer.code, 2, "{}", answer.stderr);
        assert!(answer.stderr.contains(words), "{}", answer.stderr);
    }
    user.fails(
        &["kv", "commit", "nope", "--file", file],
        2,
        "there is no app nope",
    );
    user.fails(
        &["kv", "commit", "demo", "--file", "/nonexistent"],
        2,
        "/nonexistent",
    );
}

#[test]
fn increment_and_get_many_commands_work() {
    let user = User::with_app();
    let add = ["kv", "increment", "demo", "n", "visits"];
    assert!(user.ok(&add).starts_with("Now 1, version "));
    let down = [&add[..], &["--by", "-3"]].concat();
    assert_eq!(user.json(&down)["value"], -2);
    user.ok(&["kv", "set", "demo", "n", "text", "\"x\\u001b[2J\""]);
    user.fails(
        &["kv", "increment", "demo", "n", "text"],
        2,
        "not a JSON integer",
    );
    user.fails(
        &["kv", "increment", "demo", "n", "visits", "--by", "x"],
        2,
        "--by",
    );
    user.fails(&["kv", "increment", "demo", "", "visits"], 2, "empty");

    let keys = json!({ "keys": [
        { "collection": "n", "key": "visits" },
        { "collection": "n", "key": "text" },
        { "collection": "n", "key": "absent" },
    ] });
    let keys = keys.to_string();
    let table = user.run_with(&["kv", "get-many", "demo"], keys.as_bytes());
    assert_eq!(table.code, 0, "{}", table.stderr);
    assert!(table.stdout.contains("visits") && !table.stdout.contains('\u{1b}'));
    assert_eq!(table.stderr, "1 of 3 not found.\n");
    let found = user.run_with(&["kv", "get-many", "demo", "--json"], keys.as_bytes());
    let found = found.json();
    assert_eq!(
        (&found["entries"][0]["json"], &found["entries"][2]),
        (&json!(-2), &Value::Null)
    );
    let bad = user.run_with(&["kv", "get-many", "demo"], b"[]");
    assert_eq!(bad.code, 2, "{}", bad.stderr);
}

#[test]
fn triggers_can_be_created_changed_and_deleted() {
    let user = User::with_app();
    let set = user.run(&[
        "trigger",
        "set",
        "demo",
        "index",
        "--collection",
        "orders",
        "--prefix",
        "eu/",
        "--on",
        "set",
    ]);
    assert_eq!(set.code, 0, "{}", set.stderr);
    assert_eq!(
        set.stdout,
        "Trigger index of demo calls index: set of orders, keys eu/*.\n"
    );
    assert!(set.stderr.contains("a running server"), "{}", set.stderr);
    let nightly = [
        "trigger",
        "set",
        "demo",
        "nightly",
        "--function",
        "tidy",
        "--schedule",
        "0 3 * * *",
        "--attempts",
        "3",
        "--max-age",
        "1h",
    ];
    let nightly = user.json(&nightly);
    assert_eq!(
        (&nightly["function"], &nightly["age_max_ms"]),
        (&json!("tidy"), &json!(3_600_000))
    );
    assert!(
        user.ok(&["trigger", "pause", "demo", "index"])
            .contains("trigger resume demo index")
    );
    let list = user.ok(&["trigger", "list", "demo"]);
    assert!(
        list.contains("paused") && list.contains("0 3 * * *"),
        "{list}"
    );
    assert_eq!(
        user.json(&["trigger", "list", "demo"])[0]["paused"],
        "operator"
    );
    user.ok(&["trigger", "resume", "demo", "index"]);
    assert_eq!(
        user.json(&["trigger", "list", "demo"])[0]["paused"],
        Value::Null
    );
    user.ok(&["trigger", "delete", "demo", "index"]);
    for verb in ["delete", "pause", "resume"] {
        user.fails(
            &["trigger", verb, "demo", "index"],
            2,
            "kvasm trigger list demo",
        );
    }
    let bad = |rest: &[&str], words| {
        user.fails(&[&["trigger", "set", "demo", "t"], rest].concat(), 2, words);
    };
    bad(&[], "--collection");
    bad(
        &["--collection", "c", "--schedule", "* * * * *"],
        "cannot be used with",
    );
    bad(
        &["--schedule", "* * * * *", "--on", "set"],
        "cannot be used with",
    );
    bad(&["--schedule", "61 * * * *"], "is not a schedule");
    bad(&["--collection", "c", "--on", "read"], "read");
    bad(&["--collection", "c", "--attempts", "101"], "from 1 to 100");
    bad(
        &["--collection", "c", "--max-age", "31d"],
        "from 1000 to 2592000000",
    );
    user.fails(
        &["trigger", "set", "demo", "a b", "--collection", "c"],
        2,
        "trigger name",
    );
    user.fails(&["trigger", "list", "nope"], 2, "there is no app nope");
}

#[test]
fn dead_letters_are_shown_and_replayed() {
    let user = User::with_app();
    user.ok(&["trigger", "set", "demo", "index", "--collection", "orders"]);
    user.ok(&[
        "kv",
        "set",
        "demo",
        "orders",
        "1",
        "{\"total\": 12345678901234567890123}",
    ]);
    let list = user.ok(&["delivery", "list", "demo"]);
    assert!(
        list.contains("set orders 1") && list.contains("pending"),
        "{list}"
    );
    let outstanding = || user.json(&["delivery", "list", "demo", "--trigger", "index"]);
    assert_eq!(outstanding()["deliveries"][0]["attempts"], 0);

    user.dead_letter("index", DeadReason::Attempts);
    assert_eq!(outstanding()["deliveries"], json!([]));
    let table = user.ok(&["dead-letter", "list", "demo", "--from", "1h"]);
    assert!(
        table.contains("it failed") && table.contains("attempts"),
        "{table}"
    );
    assert!(
        !user
            .ok(&["dead-letter", "list", "demo", "--until", "1h"])
            .contains("it failed")
    );
    let id = user.dead_letter_ids().remove(0);
    let shown = user.ok(&["dead-letter", "show", "demo", &id]);
    assert!(shown.contains("12345678901234567890123"), "{shown}");
    assert!(
        shown.contains("at here") && shown.contains("version 7"),
        "{shown}"
    );
    assert!(shown.contains("trace id"), "{shown}");
    let raw = user.ok(&["dead-letter", "show", "demo", &id, "--json"]);
    assert!(raw.contains("12345678901234567890123"), "{raw}");
    let absent = "00000000-0000-0000-0000-000000000099";
    let answer = user.run(&["dead-letter", "show", "demo", absent]);
    assert_eq!(answer.code, 1);
    assert!(answer.stderr.contains("kvasm dead-letter list demo"));

    let replay = ["dead-letter", "replay", "demo", "--id", &id];
    let dry = user.ok(&[&replay[..], &["--dry-run"]].concat());
    assert_eq!(dry, "1 dead letter would be replayed.\n");
    let replayed = user.run(&replay);
    assert_eq!(replayed.code, 0, "{}", replayed.stderr);
    assert!(
        replayed
            .stdout
            .starts_with("Replayed 1 dead letter. `kvasm delivery list demo`")
    );
    assert!(
        replayed.stderr.contains("a running server"),
        "{}",
        replayed.stderr
    );
    assert_eq!(outstanding()["deliveries"][0]["replays"], 1);
    let again = user.run(&replay);
    assert_eq!(again.code, 1, "{}", again.stderr);
    assert!(
        again.stdout.contains("kvasm dead-letter list demo"),
        "{}",
        again.stdout
    );
    let audit = user.ok(&["audit", "demo"]);
    assert!(
        audit.contains("deadletter.replay") && audit.contains(&id),
        "{audit}"
    );
}

fn dead_letter_command<'a>(verb: &'a str, rest: &[&'a str]) -> Vec<&'a str> {
    [&["dead-letter", verb, "demo"], rest].concat()
}

#[test]
fn discarding_dead_letters_requires_a_selection() {
    let user = User::with_app();
    user.ok(&["trigger", "set", "demo", "index", "--collection", "orders"]);
    for key in ["1", "2", "3"] {
        user.ok(&["kv", "set", "demo", "orders", key, "1"]);
    }
    user.dead_letter("index", DeadReason::Deterministic);
    let discard = |rest| dead_letter_command("discard", rest);
    for (bad, words) in [
        (&[][..], "--all"),
        (&["--limit", "2"], "--all"),
        (&["--dry-run"], "--all"),
        (&["--all", "--trigger", "index"], "cannot be used with"),
        (&["--id", "x"], "--id"),
        (
            &["--reason", "boredom"],
            "attempts, age, deterministic or depth",
        ),
        (&["--from", "yesterday"], "2h for two hours ago"),
        (&["--from", "1h", "--until", "2h"], "must be less than"),
        (&["--all", "--limit", "1001"], "from 1 to 1000"),
    ] {
        user.fails(&discard(bad), 2, words);
        user.fails(&dead_letter_command("replay", bad), 2, words);
    }
    let all = user.dead_letter_ids();
    assert_eq!(all.len(), 3);
    let two = user.run(&discard(&["--all", "--limit", "2"]));
    assert_eq!(two.stdout, "Discarded 2 dead letters.\n");
    assert!(two.stderr.contains("there may be more"), "{}", two.stderr);
    assert_eq!(user.dead_letter_ids(), all[..1]);
    let none = user.run(&discard(&["--reason", "age", "--json"]));
    assert_eq!(
        (none.code, none.json()),
        (1, json!({ "letters": 0, "dry_run": false }))
    );
    let from = ["--from", "2026-01-31T12:00:00Z", "--json"];
    assert_eq!(user.run(&discard(&from)).json()["letters"], 1);
    assert!(user.dead_letter_ids().is_empty());
    user.fails(
        &["dead-letter", "discard", "nope", "--all"],
        2,
        "there is no app nope",
    );
}

#[test]
fn outstanding_deliveries_are_listed_and_discarded() {
    let user = User::with_app();
    user.ok(&["trigger", "set", "demo", "index", "--collection", "orders"]);
    for key in ["1", "2", "3"] {
        user.ok(&["kv", "set", "demo", "orders", key, "1"]);
    }
    let page = user.json(&["delivery", "list", "demo", "--limit", "2"]);
    let next = page["next"].as_str().unwrap();
    let rest = user.json(&["delivery", "list", "demo", "--after", next]);
    assert_eq!(rest["deliveries"].as_array().unwrap().len(), 1);
    let id = rest["deliveries"][0]["event"]["id"].as_str().unwrap();
    assert!(user.ok(&["delivery", "list", "demo"]).contains(id));

    let refused = ["trigger", "delete", "demo", "index"];
    user.fails(&refused, 2, "--deliveries keep");
    let discard = |rest: &[&str]| {
        let done = user.run(&[&["delivery", "discard", "demo"], rest].concat());
        (done.code, done.stdout)
    };
    let (code, said) = discard(&["--event", id, "--dry-run"]);
    assert_eq!(
        (code, said.as_str()),
        (0, "1 delivery would be discarded.\n")
    );
    let (code, said) = discard(&["--event", id]);
    assert_eq!((code, said.as_str()), (0, "Discarded 1 delivery.\n"));
    let (code, said) = discard(&["--event", id]);
    assert_eq!(code, 1);
    assert!(said.starts_with("No matching deliveries"), "{said}");
    user.fails(&["delivery", "discard", "demo"], 2, "--trigger");
    user.fails(
        &["delivery", "discard", "demo", "--all", "--trigger", "index"],
        2,
        "cannot be used with",
    );
    let deleted = user.ok(&[
        "trigger",
        "delete",
        "demo",
        "index",
        "--deliveries",
        "discard",
    ]);
    assert!(
        deleted.contains("and its outstanding deliveries"),
        "{deleted}"
    );
    let left = user.json(&["delivery", "list", "demo"]);
    assert_eq!(left["deliveries"], json!([]));
}

#[test]
fn webhook_is_created_with_a_url_and_a_secret() {
    let user = User::with_app();
    let url = "https://example.com/hook";
    let webhook = [
        "trigger",
        "set",
        "demo",
        "hook",
        "--collection",
        "orders",
        "--url",
        url,
        "--secret",
        "hook-key",
    ];
    user.fails(&webhook, 2, "kvasm secret set APP hook-key");
    let key = b"whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n";
    let set = user.run_with(&["secret", "set", "demo", "hook-key"], key);
    assert_eq!(set.code, 0, "{}", set.stderr);
    let made = user.run(&webhook);
    assert_eq!(
        made.stdout,
        "Trigger hook of demo calls https://example.com/hook: set, delete of orders.\n",
        "{}",
        made.stderr
    );
    let list = user.ok(&["trigger", "list", "demo"]);
    assert!(list.contains(url), "{list}");
    let shown = &user.json(&["trigger", "list", "demo"])[0];
    assert_eq!(
        (&shown["url"], &shown["secret"], &shown["function"]),
        (&json!(url), &json!("hook-key"), &Value::Null)
    );
    let rest: [&[&str]; 3] = [
        &["--url", url],
        &["--secret", "hook-key"],
        &["--url", url, "--secret", "hook-key", "--function", "f"],
    ];
    for rest in rest {
        let set = ["trigger", "set", "demo", "hook", "--collection", "c"];
        let bad = user.run(&[&set, rest].concat());
        assert_eq!(bad.code, 2, "{}", bad.stdout);
    }
}
