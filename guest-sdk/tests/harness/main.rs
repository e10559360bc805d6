//! The native harness, with a small shop as the plugin.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod shop;

use kvasm_guest::dead_letters::DeadLetter;
use kvasm_guest::http::{self, Problem, Request, Response};
use kvasm_guest::testing::{CallError, Harness};
use kvasm_guest::{Error, Json, kv, timer};
use shop::{HOUR, place, refuse, transfer, transfer_in_part};
use std::time::Duration;

fn sum(name: &str) -> Option<i64> {
    kv::collection("sums").get(name).unwrap()
}

fn balance(name: &str) -> Option<i64> {
    kv::collection("accounts").get(name).unwrap()
}

#[kvasm_guest::test]
fn calls_are_made_by_name_by_item_and_by_closure(h: &mut Harness) {
    assert_eq!(h.call(place, Json(("a", 5))).unwrap(), "1");
    assert_eq!(h.call("place", r#"["b",5]"#).unwrap().json::<i64>(), 2);
    let answer = h.call(|Json(n): Json<u32>| Json(n + 1), "1");
    assert_eq!(answer.unwrap(), "2");
    assert_eq!(h.call(refuse, ()), Err(CallError::Refused("never".into())));
    let Err(CallError::Refused(why)) = h.call(place, "{}") else {
        panic!("accepted");
    };
    assert!(why.starts_with("the input is not the JSON"), "{why}");
    let Err(CallError::Panicked(why)) = h.call("explode", ()) else {
        panic!("it returned");
    };
    assert!(
        why.starts_with("panicked at guest-sdk/tests/harness/shop.rs:"),
        "{why}"
    );
    assert!(why.ends_with(": boom"), "{why}");
}

#[kvasm_guest::test]
fn error_of_the_store_ends_a_test_as_it_ends_a_call(h: &mut Harness) -> Result<(), CallError> {
    let read = || kv::collection("").get::<u32>("k").map(Json);
    let why: CallError = read().unwrap_err().into();
    assert_eq!(h.call(read, ()), Err(why));
    assert_eq!(kv::collection("c").get::<u32>("k")?, None);
    Ok(())
}

#[kvasm_guest::test]
#[should_panic = "no function is exported as \"pace\""]
fn unknown_function_fails_the_test(h: &mut Harness) {
    let _ = h.call("pace", ());
}

#[kvasm_guest::test]
fn context_has_the_function_and_the_caller(h: &mut Harness) {
    let read = || Json(kvasm_guest::context().unwrap());
    h.set_caller(kvasm_guest::Caller::Principal);
    let context: kvasm_guest::Context = h.call(read, ()).unwrap().json();
    assert_eq!(context.caller, kvasm_guest::Caller::Principal);
    assert_eq!(
        (context.request_id.as_str(), context.transaction),
        ("test-1", false)
    );
}

#[kvasm_guest::test]
fn http_requests_and_scripted_fetches(h: &mut Harness) -> Result<(), CallError> {
    h.answer_fetches([
        Ok(Response::text("paid")),
        Err(Error::Remote("connection refused".to_owned())),
    ]);
    let get = |path: &str| Request::get(path).build();
    assert_eq!(h.http(get("/pay"))?, Response::text("paid"));
    // The scripted error, and the one of a request without an answer: the client gets a status.
    for _ in 0..2 {
        assert_eq!(h.http(get("/pay"))?, Problem::new(502).into());
    }
    assert_eq!(h.fetched().len(), 3);
    assert_eq!(h.fetched()[0].body(), b"5");
    // Declared needs hold: another origin, and the default of a value.
    assert_eq!(h.http(get("/other"))?, Problem::new(403).into());
    let denied = h.call(
        || http::fetch(Request::get("https://other.test").build()).map(drop),
        (),
    );
    let denied = denied.unwrap_err();
    assert!(
        denied
            .message()
            .contains("HTTP requests to https://other.test"),
        "{denied}"
    );
    assert_eq!(h.http(get("/currency"))?, Response::text("EUR"));
    kvasm_guest::testing::set_config("currency", "USD");
    assert_eq!(h.http(get("/currency"))?, Response::text("USD"));
    assert_eq!(h.http(get("/x"))?.status, 404);
    Ok(())
}

#[kvasm_guest::test]
fn a_run_sends_at_most_32_requests(h: &mut Harness) {
    h.on_fetch(|_| Ok(Response::new(200)));
    let many = || -> Result<Json<u32>, Error> {
        for sent in 0.. {
            match http::fetch(Request::get("https://pay.test/").build()) {
                Err(Error::RateLimited(_)) => return Ok(Json(sent)),
                other => drop(other?),
            }
        }
        unreachable!()
    };
    // Each run may send as many.
    for _ in 0..2 {
        assert_eq!(h.call(many, ()).unwrap(), "32");
        assert_eq!(h.last_cost().fetches, 32);
    }
}

#[kvasm_guest::test]
fn clock_stands_still_until_it_is_moved(h: &mut Harness) {
    let start = h.now_ms();
    assert_eq!(kvasm_guest::now_ms(), start);
    let ttl = kv::SetOptions::new().ttl(HOUR);
    kv::collection("c").set_with("k", &1, ttl).unwrap();
    h.advance(HOUR - Duration::from_millis(1));
    assert_eq!(kv::collection("c").get("k"), Ok(Some(1)));
    h.advance(Duration::from_millis(1));
    assert_eq!(kv::collection("c").get::<i32>("k"), Ok(None));
    assert_eq!(h.now_ms(), start + 3_600_000);
}

#[kvasm_guest::test]
fn changes_are_handled_when_asked(h: &mut Harness) {
    h.call(place, Json(("a", 5))).unwrap();
    kv::collection("orders").set("b", &7).unwrap();
    assert_eq!(sum("all"), None);
    assert_eq!(h.outstanding().len(), 2);
    assert_eq!(h.settle().assert_ok(), 2);
    assert_eq!(sum("all"), Some(12));
    kv::collection("orders").delete("a").unwrap();
    kv::collection("orders").delete("a").unwrap();
    assert_eq!(h.run_due().assert_ok(), 1);
    assert_eq!(sum("deleted"), Some(1));
}

#[kvasm_guest::test]
fn failed_delivery_is_retried_and_leaves_nothing(h: &mut Harness) {
    let start = h.now_ms();
    kv::collection("orders").set("a", &13).unwrap();
    let first = h.run_due();
    assert_eq!(
        first.failures,
        ["add_up: the function failed with code 1: bad luck"]
    );
    assert_eq!((sum("all"), h.now_ms()), (None, start));
    let rest = h.settle();
    assert_eq!(
        (rest.succeeded, rest.failures.len(), rest.dead.len()),
        (1, 1, 0)
    );
    // After 1 s and 3 s.
    assert_eq!((sum("all"), h.now_ms()), (Some(13), start + 4_000));
}

#[kvasm_guest::test]
fn panic_and_permanent_failure_become_dead_letters(h: &mut Harness) {
    kv::collection("orders").set("none", &0).unwrap();
    kv::collection("orders").set("below", &-1).unwrap();
    let done = h.settle();
    assert_eq!((done.succeeded, done.dead.len()), (0, 2));
    let [below, none] = &h.dead_letters()[..] else {
        panic!("{:?}", h.dead_letters());
    };
    assert_eq!(
        (below.reason.as_str(), below.attempts),
        ("deterministic", 1)
    );
    assert_eq!(below.error, "the function failed with code 2: below zero");
    assert_eq!((none.reason.as_str(), none.attempts), ("deterministic", 3));
    assert!(
        none.error.starts_with("the plugin panicked at "),
        "{}",
        none.error
    );
    assert!(
        none.error.ends_with("an order of nothing"),
        "{}",
        none.error
    );
    assert_eq!(
        (none.function.as_str(), none.key.as_deref()),
        ("add_up", Some("none"))
    );
    // The plugin sees them too.
    let seen = kvasm_guest::dead_letters::list().count();
    assert_eq!((seen, sum("all")), (2, None));
    h.replay_dead_letters();
    assert_eq!((h.dead_letters().len(), h.settle().dead.len()), (0, 2));
}

#[kvasm_guest::test]
fn declared_attempts_and_age_limit_the_retries(h: &mut Harness) {
    kv::collection("twice").set("a", &1).unwrap();
    kv::collection("twice").set("panics", &0).unwrap();
    kv::collection("briefly").set("b", &1).unwrap();
    h.settle();
    let ends = |letter: &DeadLetter| (letter.key.clone(), letter.reason.clone(), letter.attempts);
    let mut ends: Vec<_> = h.dead_letters().iter().map(ends).collect();
    ends.sort();
    let expected = [
        ("a", "attempts", 2),
        // Attempts after 0, 1 and 4 s; the next would be after 13 s.
        ("b", "age", 3),
        ("panics", "deterministic", 2),
    ];
    let expected = expected.map(|(key, reason, n)| (Some(key.to_owned()), reason.to_owned(), n));
    assert_eq!(ends, expected);
}

#[kvasm_guest::test]
fn handler_that_asks_for_later_is_run_later(h: &mut Harness) {
    kv::collection("orders").set("a", &99).unwrap();
    for _ in 0..20 {
        h.advance(Duration::from_secs(600)).assert_ok();
    }
    assert_eq!(h.outstanding(), [("add_up".to_owned(), "a".to_owned())]);
    kv::collection("ready").set("now", &()).unwrap();
    assert_eq!(h.settle().assert_ok(), 1);
    assert_eq!(sum("all"), Some(99));
}

#[kvasm_guest::test]
fn deliveries_of_a_key_run_in_order_and_keys_do_not_wait(h: &mut Harness) {
    let queue = kv::collection("queue");
    for (key, value) in [
        ("eu/a", 1),
        ("eu/a", 2),
        ("us/a", 3),
        ("eu/b", 4),
        ("eu/a", 5),
    ] {
        queue.set(key, &value).unwrap();
    }
    queue.delete("eu/b").unwrap();
    let done = h.settle();
    assert_eq!((done.succeeded, done.failures.len()), (4, 1));
    let seen: Vec<(String, u32)> = kv::collection("log").get("seen").unwrap().unwrap();
    let seen: Vec<_> = seen.iter().map(|(key, n)| (key.as_str(), *n)).collect();
    assert_eq!(seen, [("eu/b", 4), ("eu/a", 1), ("eu/a", 2), ("eu/a", 5)]);
}

#[kvasm_guest::test]
fn cycle_ends_with_a_dead_letter(h: &mut Harness) {
    kv::collection("ping").set("k", &0).unwrap();
    let done = h.settle();
    let [letter] = &done.dead[..] else {
        panic!("{done:?}");
    };
    assert_eq!((letter.reason.as_str(), done.succeeded), ("depth", 8));
    assert_eq!(
        letter.error,
        "trigger recursion limit exceeded (depth 9, limit 8): handlers change what they watch"
    );
    assert!(h.outstanding().is_empty());
}

#[kvasm_guest::test]
#[should_panic = "the handlers do not come to an end after 10000 runs, 10000 of them at 1767225600000 ms; \
                  the last is \"on_timer\""]
fn endless_timer_fails_the_test(h: &mut Harness) {
    timer::set_at("forever", 0, &0_u32).unwrap();
    h.run_due();
}

#[kvasm_guest::test]
fn schedules_and_timers_run_at_their_times(h: &mut Harness) {
    let start = h.now_ms();
    let day = 24 * HOUR;
    timer::set_after("once", 5 * HOUR, &1_u32).unwrap();
    timer::set_after("two", HOUR, &2_u32).unwrap();
    assert_eq!(h.timers(), ["two", "once"]);
    assert_eq!(h.settle().succeeded, 0);
    let done = h.advance(3 * HOUR);
    // At 1, 2 and 3 o'clock; and the schedule at half past 2.
    assert_eq!(done.assert_ok(), 4);
    let night = start + 9_000_000;
    let nights = || {
        kv::collection("nights")
            .list()
            .keys()
            .collect::<Result<Vec<_>, _>>()
    };
    assert_eq!(nights(), Ok(vec![night.to_string()]));
    assert_eq!(
        kv::collection("nights").get(&night.to_string()),
        Ok(Some(night))
    );
    assert!(timer::cancel("two").unwrap());
    // The other timer fails once, and is retried a second later.
    let done = h.advance(2 * HOUR);
    assert_eq!((done.succeeded, done.failures.len()), (0, 1));
    assert_eq!(h.timers(), ["once"]);
    assert_eq!(h.settle().assert_ok(), 1);
    assert_eq!(h.timers(), [""; 0]);
    // A clock that jumps over several nights runs the schedule once, for the last.
    h.set_now_ms(start + 3 * i64::try_from(day.as_millis()).unwrap());
    assert_eq!(h.run_due().assert_ok(), 1);
    let last = night + 2 * i64::try_from(day.as_millis()).unwrap();
    assert_eq!(nights(), Ok(vec![night.to_string(), last.to_string()]));
}

#[kvasm_guest::test]
fn operation_fails_on_demand_and_writes_nothing(h: &mut Harness) {
    let down = || Error::Unavailable("down".to_owned());
    h.fail_next(down());
    let failed = h.call(place, Json(("a", 5))).unwrap_err();
    assert_eq!(failed, CallError::Failed("down".to_owned()));
    assert_eq!(kv::collection("orders").has("a"), Ok(false));
    h.fail_nth(2, down());
    h.call(place, Json(("a", 5))).unwrap_err();
    assert_eq!(kv::collection("orders").has("a"), Ok(true));
    // In a handler it is a failed attempt.
    h.fail_next(down());
    let done = h.settle();
    assert_eq!((done.failures.len(), done.succeeded), (1, 1));
}

#[kvasm_guest::test]
fn conflicts_are_repeated_by_the_plugin_or_the_host(h: &mut Harness) {
    kv::collection("accounts").set("a", &10).unwrap();
    let transfer_one = Json(("a", "b", 1));
    for n in 1..=3 {
        h.conflict_next();
        h.call(transfer, transfer_one).unwrap();
        assert_eq!((balance("a"), balance("b")), (Some(10 - n), Some(n)));
    }
    h.conflict_next();
    h.call(transfer_in_part, transfer_one).unwrap();
    assert_eq!(balance("b"), Some(4));
    // Without a repetition, the plugin sees it.
    h.conflict_next();
    let set = |Json(n): Json<u32>| {
        kv::collection("c")
            .set_with("k", &n, kv::SetOptions::new().if_absent())
            .map(drop)
    };
    let failed = h.call(set, "1").unwrap_err();
    assert!(failed.message().starts_with("version conflict"), "{failed}");
    h.call(set, "1").unwrap();
    h.conflict_next();
    kv::collection("orders").set("a", &5).unwrap();
    assert_eq!(h.settle().assert_ok(), 1);
    assert_eq!(kv::collection("attempts").get("a"), Ok(Some(1)));
}

#[kvasm_guest::test]
fn transaction_is_all_or_nothing_whichever_operation_fails(h: &mut Harness) {
    kv::collection("accounts").set("a", &10).unwrap();
    let before = h.snapshot();
    for n in 1.. {
        h.restore(&before);
        h.fail_nth(n, Error::Unavailable("down".to_owned()));
        if h.call(transfer, Json(("a", "b", 1))).is_ok() {
            assert!(n > 3);
            break;
        }
        assert_eq!(h.snapshot(), before, "operation {n}");
    }
    h.clear_faults();
    h.restore(&before);
    h.call(transfer, Json(("a", "b", 11))).unwrap_err();
    assert_eq!(h.snapshot(), before);
    assert_eq!(
        before.entries(),
        [("accounts".to_owned(), "a".to_owned(), b"10".to_vec())]
    );
    let text = format!("{before:?}");
    assert!(text.contains("\"accounts/a\": \"10\""), "{text}");
}

#[kvasm_guest::test]
fn crash_keeps_what_was_committed(h: &mut Harness) {
    h.crash_after(1);
    assert_eq!(h.call(place, Json(("a", 5))), Err(CallError::Crashed));
    assert_eq!(kv::collection("orders").has("a"), Ok(true));
    assert_eq!(kv::collection("stats").get::<i64>("placed"), Ok(None));
    // The delivery of the committed write is there, and survives a crash of its handler.
    h.crash_after(2);
    let done = h.run_due();
    assert_eq!(
        (done.failures.len(), done.succeeded, sum("all")),
        (1, 0, None)
    );
    let start = h.now_ms();
    assert_eq!(h.settle().assert_ok(), 1);
    assert_eq!((h.now_ms() - start, sum("all")), (30_000, Some(5)));
    // After the commit, nothing is done twice.
    kv::collection("orders").set("a", &6).unwrap();
    h.crash_after(3);
    h.run_due();
    assert_eq!((sum("all"), h.outstanding().len()), (Some(11), 0));
    // In a part of a call.
    kv::collection("accounts").set("a", &10).unwrap();
    h.crash_after(2);
    h.call(transfer_in_part, Json(("a", "b", 1))).unwrap_err();
    assert_eq!((balance("a"), balance("b")), (Some(10), None));
    let log = kv::collection("accounts").get::<String>("log");
    assert_eq!(log.unwrap().as_deref(), Some("begun"));
}

#[kvasm_guest::test]
fn quota_refuses_what_adds(h: &mut Harness) {
    kv::collection("accounts").set("a", &10).unwrap();
    h.set_quota(Some(1), None);
    let failed = h.call(transfer, Json(("a", "b", 1))).unwrap_err();
    assert!(
        matches!(&failed, CallError::NotCommitted(Error::Quota(_))),
        "{failed}"
    );
    let error = kv::collection("x").set("y", &1).unwrap_err();
    assert_eq!(
        error.message(),
        "this write would exceed the app's quota of 1 entries; delete entries, or ask the operator \
         to raise the quota"
    );
    kv::collection("accounts").set("a", "longer").unwrap();
    h.set_quota(None, Some(192 + 9 + 8));
    kv::collection("accounts").set("a", "shrunk").unwrap();
    kv::collection("accounts").set("a", "longer").unwrap();
    kv::collection("accounts").set("a", "longest").unwrap_err();
}

#[kvasm_guest::test]
fn transaction_limits_are_those_of_a_host(h: &mut Harness) {
    let many = |Json(n): Json<u32>| -> Result<(), Error> {
        kv::transaction(|| {
            for key in 0..n {
                kv::collection("many").set(&key.to_string(), &key)?;
            }
            Ok(())
        })
    };
    h.call(many, "1000").unwrap();
    let failed = h.call(many, "1001").unwrap_err();
    assert_eq!(
        failed.message(),
        "the transaction has 1001 parts; the limit is 1000"
    );
}

#[kvasm_guest::test]
fn cost_of_the_last_call(h: &mut Harness) {
    h.call(place, Json(("a", 5))).unwrap();
    let cost = h.last_cost();
    assert_eq!(
        (cost.entries_written, cost.entries_read, cost.bytes_written),
        (2, 0, 1)
    );
}
