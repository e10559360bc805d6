//! A plugin whose tests use all that a harness offers.

use kvasm_guest::http::{self, Request, Response};
use kvasm_guest::{
    Bytes, Change, Error, FunctionError, Json, Refused, Timer, config, kv, needs, secret,
    timer,
};
use std::time::Duration;

needs! {
    timers;
    required secret "key", "Its length is shown";
    config greeting: String = "hello", "What comes before it";
    http "https://api.example.com";
}

#[kvasm_guest::function]
fn echo(Bytes(input): Bytes) -> Result<Bytes, FunctionError> {
    match input.as_slice() {
        b"refuse" => Err(Refused("not this").into()),
        b"fail" => Err("it failed".into()),
        b"panic" => panic!("it panicked"),
        _ => Ok(Bytes(input)),
    }
}

#[kvasm_guest::function]
fn settings() -> Result<String, Error> {
    let key = secret("key")?;
    let greeting = config::get::<String>("greeting")?.unwrap_or_default();
    Ok(format!("{greeting} {}", key.map_or(0, |key| key.as_bytes().len())))
}

#[kvasm_guest::function]
fn who() -> Result<String, Error> {
    Ok(format!("{:?} {}", kvasm_guest::context()?.caller, kvasm_guest::now_ms()))
}

#[kvasm_guest::function]
fn remind(Json(ms): Json<u64>) -> Result<(), Error> {
    timer::set_after("t", Duration::from_millis(ms), "soon")
}

#[kvasm_guest::on_timer]
fn due(timer: Timer<String>) -> Result<(), Error> {
    log(&format!("timer {}", timer.payload))
}

#[kvasm_guest::cron("0 * * * *")]
fn hourly() -> Result<(), Error> {
    log("hour")
}

#[kvasm_guest::function(transaction)]
fn transfer(Json((from, to)): Json<(String, String)>) -> Result<(), FunctionError> {
    let accounts = kv::collection("accounts");
    let left: i64 = accounts.get(&from)?.unwrap_or(0);
    accounts.set(&from, &(left - 1))?;
    let there: i64 = accounts.get(&to)?.unwrap_or(0);
    accounts.set(&to, &(there + 1))?;
    if left < 1 {
        return Err(Refused("nothing is left").into());
    }
    Ok(())
}

#[kvasm_guest::on_change(collection = "inbox", attempts = 3)]
fn handle(change: Change<String>) -> Result<(), Error> {
    match change.value.as_deref() {
        Some("panic") => panic!("a bad letter"),
        Some("fail") => Err(Error::Invalid("not now".to_owned())),
        Some(value) => log(&format!("{} {value}", change.key)),
        None => log(&format!("{} gone", change.key)),
    }
}

#[kvasm_guest::http]
fn serve(request: Request) -> Result<Response, Error> {
    let url = format!("https://api.example.com{}", request.path());
    let answer = http::fetch(Request::get(&url).build());
    kv::collection("fetches").increment("n", 1)?;
    Ok(match answer {
        Ok(answer) => Response::new(answer.status).body(answer.body),
        Err(error) => Response::text(error.to_string()).status(502),
    })
}

fn log(line: &str) -> Result<(), Error> {
    let n = kv::collection("log").increment("n", 1)?;
    kv::collection("lines").set(&format!("{n:03}"), line)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvasm_guest::Caller;
    use kvasm_guest::kv::SetOptions;
    use kvasm_guest::testing::{self, CallError, Harness};

    type Tested = Result<(), CallError>;

    fn lines() -> Vec<String> {
        let all = kv::collection("lines");
        all.list().entries::<String>().map(|entry| entry.unwrap().value).collect()
    }

    fn ready() {
        testing::set_secret("key", "four");
    }

    #[kvasm_guest::test]
    fn calls_return_and_fail(h: &mut Harness) -> Tested {
        ready();
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(h.call(echo, all.clone())?.bytes(), all);
        assert_eq!(h.call("echo", "refuse"), Err(CallError::Refused("not this".to_owned())));
        assert_eq!(h.call(echo, "fail"), Err(CallError::Failed("it failed".to_owned())));
        let panicked = h.call(echo, "panic").unwrap_err();
        assert!(matches!(panicked, CallError::Panicked(_)), "{panicked}");
        assert!(panicked.message().contains("src/lib.rs:22:"), "{panicked}");
        assert!(panicked.message().contains("it panicked"), "{panicked}");
        // A function that is no export runs here, on the same store.
        let native = |Json(n): Json<i64>| kv::collection("c").set("k", &n).map(drop);
        h.call(native, "7")?;
        assert_eq!(kv::collection("c").get("k"), Ok(Some(7)));
        Ok(())
    }

    #[kvasm_guest::test]
    fn settings_and_caller_reach_the_plugin(h: &mut Harness) -> Tested {
        ready();
        assert_eq!(h.call(settings, ())?, "hello 4");
        testing::set_config("greeting", "hi");
        testing::set_secret("key", "longer");
        assert_eq!(h.call(settings, ())?, "hi 6");
        assert_eq!(h.call(who, ())?, format!("Public {}", h.now_ms()).as_str());
        h.set_caller(Caller::Principal);
        h.set_now_ms(h.now_ms() + 5);
        assert_eq!(h.call(who, ())?, format!("Principal {}", h.now_ms()).as_str());
        Ok(())
    }

    #[kvasm_guest::test]
    fn test_writes_as_the_plugin_does(h: &mut Harness) -> Tested {
        ready();
        let accounts = kv::collection("accounts");
        let version = accounts.set("ada", &2)?;
        accounts.set_bytes_with("ben", b"x", SetOptions::new().ttl(Duration::from_secs(9)))?;
        h.call(transfer, r#"["ada","carl"]"#)?;
        // The version is the host's: the plugin has changed the entry.
        let stale = accounts.set_with("ada", &9, SetOptions::new().if_version(version));
        assert!(matches!(stale, Err(Error::Conflict(_))), "{stale:?}");
        let now = accounts.get_entry::<i64>("ada")?.unwrap();
        assert_eq!(now.value, 1);
        accounts.set_with("ada", &5, SetOptions::new().if_version(now.version))?;
        kv::transaction(|| {
            accounts.set("x", &1)?;
            accounts.delete("carl")?;
            Ok::<_, Error>(())
        })?;
        assert_eq!(accounts.list().keys().count(), 3);
        h.advance(Duration::from_secs(9)).assert_ok();
        assert_eq!(accounts.list().keys().count(), 2);
        assert_eq!(h.call(transfer, r#"["none","ada"]"#), Err(CallError::Refused("nothing is left".to_owned())));
        assert_eq!(accounts.get("ada"), Ok(Some(5)));
        Ok(())
    }

    #[kvasm_guest::test]
    fn handlers_run_when_asked(h: &mut Harness) -> Tested {
        ready();
        let inbox = kv::collection("inbox");
        inbox.set("a", "1")?;
        inbox.set("a", "2")?;
        inbox.delete("a")?;
        assert_eq!(h.outstanding().len(), 3);
        assert_eq!(h.outstanding()[0], ("handle".to_owned(), "a".to_owned()));
        assert!(lines().is_empty());
        assert_eq!(h.run_due().assert_ok(), 3);
        assert_eq!(lines(), ["a 1", "a 2", "a gone"]);
        inbox.set("b", "fail")?;
        inbox.set("c", "panic")?;
        let start = h.now_ms();
        let done = h.settle();
        assert_eq!((done.succeeded, done.failures.len(), done.dead.len()), (0, 6, 2));
        assert!(done.failures.iter().any(|why| why.contains("handle: ") && why.contains("a bad letter")));
        assert_eq!(h.now_ms() - start, 4_000);
        let reasons: Vec<_> = done.dead.iter().map(|letter| letter.reason.as_str()).collect();
        assert!(reasons.contains(&"attempts") && reasons.contains(&"deterministic"), "{reasons:?}");
        assert!(h.outstanding().is_empty());
        assert_eq!(h.dead_letters().len(), 2);
        h.replay_dead_letters();
        assert_eq!(h.outstanding().len(), 2);
        assert_eq!(h.settle().dead.len(), 2);
        Ok(())
    }

    #[kvasm_guest::test]
    fn clock_runs_timers_and_schedules(h: &mut Harness) -> Tested {
        ready();
        h.call(remind, "90000")?;
        assert_eq!(h.timers(), ["t"]);
        assert_eq!(h.settle().assert_ok(), 0);
        assert_eq!(h.advance(Duration::from_secs(89)).assert_ok(), 0);
        assert_eq!(h.advance(Duration::from_secs(1)).assert_ok(), 1);
        assert!(h.timers().is_empty());
        timer::set_after("test", Duration::from_secs(3600), "test").unwrap();
        assert_eq!(h.advance(Duration::from_secs(2 * 3600)).assert_ok(), 3);
        assert_eq!(lines(), ["timer soon", "hour", "timer test", "hour"]);
        Ok(())
    }

    #[kvasm_guest::test]
    fn other_servers_are_the_test(h: &mut Harness) -> Tested {
        ready();
        let get = |path| Request::get(path).build();
        h.answer_fetches([
            Ok(Response::text("1.17")),
            Err(Error::Remote("it is down".to_owned())),
        ]);
        assert_eq!(h.http(get("/rate"))?.body, b"1.17");
        assert_eq!(h.last_cost().fetches, 1);
        let down = h.http(get("/rate"))?;
        assert_eq!(down.status, 502);
        assert!(down.body_text().contains("it is down"), "{}", down.body_text());
        assert_eq!(h.fetched().len(), 2);
        assert_eq!(h.fetched()[0].url().unwrap(), "https://api.example.com/rate");
        // The test's server may use the store.
        h.on_fetch(|_| {
            let n = kv::collection("served").increment("n", 1)?;
            Ok(Response::text(n.to_string()))
        });
        assert_eq!(h.http(get("/n"))?.body, b"1");
        assert_eq!(h.http(get("/n"))?.body, b"2");
        assert_eq!(kv::collection("served").get("n"), Ok(Some(2)));
        assert_eq!(kv::collection("fetches").get("n"), Ok(Some(4)));
        Ok(())
    }

    #[kvasm_guest::test]
    fn faults_come_when_planned(h: &mut Harness) -> Tested {
        ready();
        let accounts = kv::collection("accounts");
        accounts.set("ada", &3)?;
        let start = h.snapshot();
        h.fail_next(Error::Unavailable("down".to_owned()));
        h.call(transfer, r#"["ada","ben"]"#).unwrap_err();
        assert!(h.snapshot() == start);
        // A conflict is rerun.
        h.conflict_next();
        h.call(transfer, r#"["ada","ben"]"#)?;
        assert!(h.last_cost().entries_read >= 4, "{:?}", h.last_cost());
        assert_eq!(accounts.get("ada"), Ok(Some(2)));
        assert!(h.snapshot() != start);
        h.restore(&start);
        assert!(h.snapshot() == start);
        assert_eq!(accounts.get("ada"), Ok(Some(3)));
        // Whenever the host ends, the transfer took place or not.
        let before = h.operations();
        h.call(transfer, r#"["ada","ben"]"#)?;
        for n in 1..=h.operations() - before {
            h.restore(&start);
            h.crash_after(n);
            assert_eq!(h.call(transfer, r#"["ada","ben"]"#), Err(CallError::Crashed));
            let left: Vec<Option<i64>> = ["ada", "ben"].iter().map(|key| accounts.get(key).unwrap()).collect();
            assert!(left == [Some(3), None] || left == [Some(2), Some(1)], "{left:?}");
        }
        // A delivery is there again after its lease.
        kv::collection("inbox").set("k", "v")?;
        let at = h.now_ms();
        h.crash_after(1);
        let done = h.settle();
        assert_eq!((done.succeeded, done.failures.as_slice()), (1, &["handle: the host crashed".to_owned()][..]));
        assert_eq!(h.now_ms() - at, 30_000);
        assert_eq!(lines(), ["k v"]);
        h.set_quota(Some(3), None);
        let full = h.call(transfer, r#"["ada","new"]"#).unwrap_err();
        assert!(full.message().contains("quota of 3 entries"), "{full}");
        Ok(())
    }
}
