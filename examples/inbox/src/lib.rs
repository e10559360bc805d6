//! A webhook inbox: it queues events of payments, and processes each of them once.
//!
//! - `POST /events` with the header `webhook-id` queues an event. A repetition changes nothing.
//! - `GET /events/{id}` returns its state: queued, done, or failed.
//!
//! An event is `{"type":"paid","account":"ada","cents":500}`, or one of the type `refunded`. What
//! cannot be processed becomes a dead letter, which an operator can replay. Anyone can send
//! events: in production, check their signature with a secret.

use kvasm_guest::http::{HttpError, Problem, Request, Response, Router};
use kvasm_guest::kv::SetOptions;
use kvasm_guest::typed::Map;
use kvasm_guest::{Change, HandlerError, Json, dead_letters, now_ms};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long a repetition of a processed event is recognised.
const KNOWN_FOR: Duration = Duration::from_secs(30 * 24 * 3600);

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Event {
    Paid { account: String, cents: u32 },
    Refunded { account: String, cents: u32 },
}

#[derive(Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
enum State {
    Queued,
    Done { at_ms: i64 },
    Failed { reason: String, attempts: u32 },
}

kvasm_guest::collections! {
    /// Events by id, until they are processed.
    QUEUE: Map<String, serde_json::Value> = "queue";
    /// When an event was processed.
    DONE: Map<String, i64> = "done";
    /// Cents by account.
    BALANCES: Map<String, i64> = "balances";
}

/// It is a transaction, so that of two equal requests at one time only one queues the event.
#[kvasm_guest::http(transaction)]
fn handle(request: Request) -> Result<Response, HttpError> {
    Router::new()
        .post("/events", receive)
        .get("/events/{id}", state)
        .handle(request)
}

fn receive(request: Request) -> Result<Response, HttpError> {
    let missing = || Problem::new(400).detail("The header `webhook-id` is missing.");
    let id = request.header("webhook-id").ok_or_else(missing)?;
    if QUEUE.has(id)? || DONE.has(id)? {
        return Ok(Response::new(200));
    }
    QUEUE.set(id, &request.json()?)?;
    Ok(Response::new(202))
}

fn state(request: Request) -> Result<Option<Json<State>>, HttpError> {
    let id: String = request.param("id")?;
    if let Some(at_ms) = DONE.get(&id)? {
        return Ok(Some(Json(State::Done { at_ms })));
    }
    if !QUEUE.has(&id)? {
        return Ok(None);
    }
    for letter in dead_letters::list() {
        let letter = letter?;
        if letter.function == "process" && letter.key.as_ref() == Some(&id) {
            let (reason, attempts) = (letter.reason, letter.attempts);
            return Ok(Some(Json(State::Failed { reason, attempts })));
        }
    }
    Ok(Some(Json(State::Queued)))
}

/// Books an event. All writes take effect together; after an error, none.
#[kvasm_guest::on_change(collection = "queue", on = "set", attempts = 5)]
fn process(change: Change<Event>) -> Result<(), HandlerError> {
    let (account, cents) = match change.value {
        Some(Event::Paid { account, cents }) => (account, i64::from(cents)),
        Some(Event::Refunded { account, cents }) => (account, -i64::from(cents)),
        None => return Ok(()),
    };
    let balance = BALANCES.get(&account)?.unwrap_or(0) + cents;
    if balance < 0 {
        // The payment may arrive after its refund, so a retry may succeed.
        return Err("the refund exceeds the balance".into());
    }
    BALANCES.set(&account, &balance)?;
    let options = SetOptions::new().ttl(KNOWN_FOR);
    DONE.set_with(&change.key, &now_ms(), options)?;
    QUEUE.delete(&change.key)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvasm_guest::Error;
    use kvasm_guest::testing::{CallError, Harness};

    type Tested = Result<(), CallError>;

    const PAID: &str = r#"{"type":"paid","account":"ada","cents":500}"#;
    const REFUNDED: &str = r#"{"type":"refunded","account":"ada","cents":200}"#;

    fn post(h: &mut Harness, id: &str, event: &str) -> Result<u16, CallError> {
        let request = Request::post("/events").header("webhook-id", id);
        Ok(h.http(request.body(event).build())?.status)
    }

    fn state_of(h: &mut Harness, id: &str) -> Result<String, CallError> {
        let response = h.http(Request::get(&format!("/events/{id}")).build())?;
        Ok(response.body_text().into_owned())
    }

    #[kvasm_guest::test]
    fn event_is_processed_once(h: &mut Harness) -> Tested {
        let done = format!(r#"{{"state":"done","at_ms":{}}}"#, h.now_ms());
        assert_eq!(post(h, "1", PAID)?, 202);
        assert_eq!(post(h, "1", PAID)?, 200);
        assert_eq!(state_of(h, "1")?, r#"{"state":"queued"}"#);
        assert_eq!(h.settle().assert_ok(), 1);
        assert_eq!(state_of(h, "1")?, done);
        assert_eq!(post(h, "1", PAID)?, 200);
        assert_eq!(h.settle().assert_ok(), 0);
        assert_eq!(BALANCES.get("ada")?, Some(500));
        Ok(())
    }

    #[kvasm_guest::test]
    fn refund_waits_for_its_payment(h: &mut Harness) -> Tested {
        post(h, "2", REFUNDED)?;
        assert_eq!(h.run_due().failures.len(), 1);
        post(h, "1", PAID)?;
        assert_eq!(h.settle().assert_ok(), 2);
        assert_eq!(BALANCES.get("ada")?, Some(300));
        Ok(())
    }

    #[kvasm_guest::test]
    fn event_that_never_succeeds_is_a_dead_letter(h: &mut Harness) -> Tested {
        post(h, "1", REFUNDED)?;
        post(h, "2", r#"{"type":"unknown"}"#)?;
        assert_eq!(h.settle().dead.len(), 2);
        let failed = r#"{"state":"failed","reason":"attempts","attempts":5}"#;
        assert_eq!(state_of(h, "1")?, failed);
        let failed = r#"{"state":"failed","reason":"deterministic","attempts":1}"#;
        assert_eq!(state_of(h, "2")?, failed);
        // The payment was late. The operator replays the refund.
        post(h, "3", PAID)?;
        h.replay_dead_letters();
        assert_eq!(h.settle().succeeded, 2);
        assert_eq!(BALANCES.get("ada")?, Some(300));
        assert!(state_of(h, "1")?.contains("done"));
        Ok(())
    }

    #[kvasm_guest::test]
    fn request_without_an_event_is_refused(h: &mut Harness) -> Tested {
        let unnamed = Request::post("/events").body(PAID).build();
        assert_eq!(h.http(unnamed)?.status, 400);
        assert_eq!(post(h, "1", "{")?, 400);
        assert!(state_of(h, "1")?.contains("Not Found"));
        Ok(())
    }

    /// Whichever operation fails or ends the host, the event is booked once.
    #[kvasm_guest::test]
    fn faults_neither_lose_nor_repeat_an_event(h: &mut Harness) -> Tested {
        let empty = h.snapshot();
        post(h, "1", PAID)?;
        h.settle().assert_ok();
        for n in 1..=h.operations() {
            for crash in [false, true] {
                h.restore(&empty);
                match crash {
                    true => h.crash_after(n),
                    false => h.fail_nth(n, Error::Unavailable("down".to_owned())),
                }
                // The sender repeats what was not accepted.
                while !post(h, "1", PAID).is_ok_and(|status| status < 300) {}
                h.settle();
                h.clear_faults();
                assert_eq!(BALANCES.get("ada")?, Some(500), "{n} {crash}");
                assert!(h.outstanding().is_empty() && h.dead_letters().is_empty());
            }
        }
        Ok(())
    }
}
