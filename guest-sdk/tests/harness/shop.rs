//! The plugin under test: a small shop.

use kvasm_guest::http::{self, Request, Response};
use kvasm_guest::{
    Change, Error, HandlerError, Json, Permanent, Refused, Retry, ScheduledRun, Timer, config, kv,
    timer,
};
use std::time::Duration;

pub const HOUR: Duration = Duration::from_secs(3600);

kvasm_guest::needs! {
    http "https://pay.test";
    config currency: String = "EUR";
    timers;
}

#[kvasm_guest::function]
pub fn place(Json((id, cents)): Json<(String, i64)>) -> Result<Json<i64>, Error> {
    kv::collection("orders").set(&id, &cents)?;
    kv::collection("stats").increment("placed", 1).map(Json)
}

#[kvasm_guest::function]
pub fn refuse() -> Result<(), Refused<&'static str>> {
    Err(Refused("never"))
}

#[kvasm_guest::function(name = "explode")]
pub fn panics() {
    panic!("boom");
}

/// Moves cents from one account to another.
#[kvasm_guest::function(transaction)]
pub fn transfer(Json((from, to, cents)): Json<(String, String, i64)>) -> Result<(), String> {
    let accounts = kv::collection("accounts");
    let text = |error: Error| error.to_string();
    if accounts.increment(&from, -cents).map_err(text)? < 0 {
        return Err("not enough".to_owned());
    }
    accounts.increment(&to, cents).map_err(text)?;
    Ok(())
}

/// The same as a part of the call.
#[kvasm_guest::function]
pub fn transfer_in_part(Json((from, to, cents)): Json<(String, String, i64)>) -> Result<(), Error> {
    let accounts = kv::collection("accounts");
    accounts.set("log", "begun")?;
    kv::transaction(|| {
        accounts.increment(&from, -cents)?;
        accounts.increment(&to, cents)?;
        Ok(())
    })
}

#[kvasm_guest::http]
pub fn handle(request: Request) -> Result<Response, Error> {
    match request.path() {
        "/pay" => http::fetch(Request::post("https://pay.test/charge").body("5").build()),
        "/other" => http::fetch(Request::get("https://other.test").build()),
        "/currency" => Ok(Response::text(
            config::get::<String>("currency")?.unwrap_or_default(),
        )),
        _ => Ok(Response::new(404)),
    }
}

/// Adds up the orders; those of 0 cents are a bug, those below never succeed.
#[kvasm_guest::on_change(collection = "orders")]
pub fn add_up(change: Change<i64>) -> Result<(), HandlerError> {
    let Some(cents) = change.value else {
        kv::collection("sums").increment("deleted", 1)?;
        return Ok(());
    };
    kv::collection("sums").increment("all", cents)?;
    kv::collection("attempts").increment(&change.key, 1)?;
    match cents {
        i64::MIN..0 => Err(Permanent("below zero").into()),
        0 => panic!("an order of nothing"),
        13 if change.attempt < 3 => Err("bad luck".into()),
        99 if !kv::collection("ready").has("now")? => {
            Err(Retry::after(Duration::from_secs(600)).into())
        }
        _ => Ok(()),
    }
}

#[kvasm_guest::on_change(collection = "queue", prefix = "eu/", on = "set")]
pub fn in_order(change: Change<u32>) -> Result<(), Error> {
    let log = kv::collection("log");
    let mut seen: Vec<(String, Option<u32>)> = log.get("seen")?.unwrap_or_default();
    if change.value == Some(1) && change.attempt == 1 {
        return Err(Error::Unavailable("first".to_owned()));
    }
    seen.push((change.key, change.value));
    log.set("seen", &seen)?;
    Ok(())
}

/// Fails, or panics at 0.
fn fail(change: &Change<u32>) -> Result<(), String> {
    assert_ne!(change.value, Some(0), "nothing");
    Err("bad luck".to_owned())
}

#[kvasm_guest::on_change(collection = "twice", attempts = 2)]
pub fn twice(change: Change<u32>) -> Result<(), String> {
    fail(&change)
}

#[kvasm_guest::on_change(collection = "briefly", max_age = "10s")]
pub fn briefly(change: Change<u32>) -> Result<(), String> {
    fail(&change)
}

#[kvasm_guest::on_change(collection = "ping")]
pub fn ping(change: Change<u32>) -> Result<(), Error> {
    kv::collection("pong").set(&change.key, &change.value.unwrap_or(0))?;
    Ok(())
}

#[kvasm_guest::on_change(collection = "pong")]
pub fn pong(change: Change<u32>) -> Result<(), Error> {
    kv::collection("ping").set(&change.key, &(change.value.unwrap_or(0) + 1))?;
    Ok(())
}

#[kvasm_guest::cron("30 2 * * *")]
pub fn nightly(run: ScheduledRun) -> Result<(), Error> {
    kv::collection("nights").set(&run.at_ms.to_string(), &kvasm_guest::now_ms())?;
    Ok(())
}

#[kvasm_guest::on_timer]
pub fn due(timer: Timer<u32>) -> Result<(), Error> {
    kv::collection("timers").increment(&timer.name, 1)?;
    match timer.payload {
        0 => timer::set_at(&timer.name, 0, &0_u32),
        1 if timer.attempt == 1 => Err(Error::Unavailable("again".to_owned())),
        2 => timer::set_after("two", HOUR, &2_u32),
        _ => Ok(()),
    }
}
