//! A plugin that runs the steps it is given, and reports what each returned. The native harness and
//! a real host have to report the same (`tests/tests/events/conformance.rs`, which compiles this file
//! too).

pub mod web;

use kvasm_guest::dead_letters::{self, DeadLetter};
use kvasm_guest::kv::{self, Batch, Collection, Cursor, SetOptions};
use kvasm_guest::{
    Bytes, Change, ChangeKind, Error, HandlerError, Json, Permanent, Refused, Timer, config, timer,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

kvasm_guest::needs! {
    config greeting: String = "hello";
    http "http://127.0.0.1:65530";
    timers;
}

/// One operation. Addresses are a collection and a key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Step {
    Get(String, String),
    GetBytes(String, String),
    Has(String, String),
    Set(String, String, Text),
    SetBytes(String, String, Text),
    /// With the version 0 (absent), the current one, or a wrong one.
    SetIf(String, String, Text, Expected),
    SetTtl(String, String, u64),
    Delete(String, String),
    DeleteIf(String, String, Expected),
    Increment(String, String, i64),
    Add(String, String, i64),
    Update(String, String),
    GetMany(String, Vec<String>),
    List(String, Range),
    /// Uses the cursor of the first list for the second.
    OtherList(String, Range, String, Range),
    Batch(Vec<(String, String, Expected)>, Vec<Step>),
    /// Runs steps in a transaction, and fails it if so.
    Transaction(Vec<Step>, bool),
    Timer(String, i64),
    TimerAfter(String, u64),
    CancelTimer(String),
    Config(String),
    Letters(usize),
    /// Replays the dead letter with this id.
    Replay(String),
    /// Replays each of up to so many dead letters twice.
    ReplayAll(usize),
    Fetch(web::Outbound),
}

/// A text, repeated.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Text(pub String, pub usize);

impl Text {
    fn build(&self) -> String {
        self.0.repeat(self.1)
    }
}

/// The version that a write expects.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum Expected {
    Absent,
    Current,
    Wrong,
}

/// The options of a list, of which two pages are read.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Range {
    pub prefix: Option<String>,
    pub start: Option<String>,
    pub end: Option<String>,
    pub limit: Option<usize>,
    pub reverse: bool,
}

impl Range {
    fn of(&self, collection: &str) -> kv::List {
        let mut list = kv::collection(collection).list();
        if let Some(prefix) = &self.prefix {
            list = list.prefix(prefix);
        }
        if let Some(start) = &self.start {
            list = list.start(start);
        }
        if let Some(end) = &self.end {
            list = list.end(end);
        }
        if let Some(limit) = self.limit {
            list = list.limit(limit);
        }
        if self.reverse {
            list = list.reverse();
        }
        list
    }
}

/// What the steps returned, with versions named in the order in which they appear: their numbers
/// differ between hosts.
#[derive(Default)]
struct Report {
    lines: Vec<String>,
    versions: BTreeMap<u64, usize>,
}

impl Report {
    fn version(&mut self, version: u64) -> String {
        let next = self.versions.len();
        format!("v{}", self.versions.entry(version).or_insert(next))
    }

    fn add(&mut self, result: Result<impl Debug, Error>) {
        // Long values are recognisable by their lengths.
        let text = match result {
            Ok(value) => format!("{value:?}"),
            Err(error) => format!("{error:?}"),
        };
        let short: String = text.chars().take(300).collect();
        self.lines.push(format!("{}: {short}", text.len()));
    }

    fn run(&mut self, step: &Step) {
        let of = |name: &String| kv::collection(name.as_str());
        match step {
            Step::Get(c, k) => {
                let entry = of(c).get_entry_bytes(k);
                let entry = entry.map(|entry| {
                    entry.map(|entry| (self.version(entry.version), text(&entry.value)))
                });
                self.add(entry);
                self.add(of(c).get::<i64>(k));
            }
            Step::GetBytes(c, k) => self.add(of(c).get_bytes(k).map(|b| b.map(|b| text(&b)))),
            Step::Has(c, k) => self.add(of(c).has(k)),
            Step::Set(c, k, value) => {
                // A number is set as one.
                let value = value.build();
                let set = match value.parse::<i64>() {
                    Ok(number) => of(c).set(k, &number),
                    Err(_) => of(c).set(k, &value),
                };
                let set = set.map(|version| self.version(version));
                self.add(set);
            }
            Step::SetBytes(c, k, value) => {
                let set = of(c).set_bytes(k, value.build());
                let set = set.map(|version| self.version(version));
                self.add(set);
            }
            Step::SetIf(c, k, value, expected) => {
                let set = expected_version(&of(c), k, *expected).and_then(|version| {
                    let options = SetOptions::new().if_version(version);
                    of(c).set_with(k, &value.build(), options)
                });
                let set = set.map(|version| self.version(version));
                self.add(set);
            }
            Step::SetTtl(c, k, ttl_ms) => {
                let options = SetOptions::new().ttl(Duration::from_millis(*ttl_ms));
                self.add(of(c).set_with(k, &1, options).map(|_| ()));
            }
            Step::Delete(c, k) => self.add(of(c).delete(k)),
            Step::DeleteIf(c, k, expected) => {
                let version = expected_version(&of(c), k, *expected);
                self.add(version.and_then(|version| of(c).delete_if_version(k, version)));
            }
            Step::Increment(c, k, by) => self.add(of(c).increment(k, *by)),
            Step::Add(c, k, by) => self.add(of(c).add(k, *by)),
            Step::Update(c, k) => self.add(of(c).update(k, |value: &mut Option<i64>| {
                let value = value.get_or_insert(0);
                *value = value.wrapping_add(7);
                *value
            })),
            Step::GetMany(c, keys) => {
                let found = of(c).get_many::<i64>(keys);
                self.add(found);
            }
            Step::List(c, range) => self.list(c, range),
            Step::OtherList(c, range, other, other_range) => {
                let page = range.of(c).page_keys();
                let cursor = page.map(|page| page.cursor);
                let next = cursor.and_then(|cursor| {
                    let cursor = cursor.unwrap_or_else(|| Cursor::from_bytes(b"none".to_vec()));
                    other_range.of(other).cursor(cursor).page_keys()
                });
                self.add(next.map(|page| page.items));
            }
            Step::Batch(checks, steps) => self.batch(checks, steps),
            Step::Transaction(steps, fails) => self.transaction(steps, *fails),
            Step::Timer(name, at_ms) => self.add(timer::set_at(name, *at_ms, name)),
            Step::TimerAfter(name, ms) => {
                self.add(timer::set_after(name, Duration::from_millis(*ms), name));
            }
            Step::CancelTimer(name) => self.add(timer::cancel(name)),
            Step::Config(name) => self.add(config::get::<String>(name)),
            Step::Letters(limit) => {
                let page = dead_letters::page(None, *limit);
                self.add(page.map(|page| page.letters.len()));
            }
            Step::Replay(id) => self.add(dead_letters::replay(id)),
            Step::ReplayAll(limit) => {
                let replay = |letter: DeadLetter| {
                    let twice = [0; 2].map(|_| dead_letters::replay(&letter.id));
                    let [first, second] = twice;
                    Ok((first?, second?))
                };
                let page = dead_letters::page(None, *limit);
                let replayed = page.and_then(|page| {
                    let letters = page.letters.into_iter().map(replay);
                    letters.collect::<Result<Vec<_>, _>>()
                });
                self.add(replayed);
            }
            Step::Fetch(outbound) => self.add(outbound.send()),
        }
    }

    fn list(&mut self, collection: &str, range: &Range) {
        match range.of(collection).page_bytes() {
            Err(error) => self.add(Err::<(), _>(error)),
            Ok(page) => {
                let mut items = Vec::new();
                for entry in &page.items {
                    items.push((&entry.key, self.version(entry.version), text(&entry.value)));
                }
                self.add(Ok((items, page.cursor.is_some())));
                if let Some(cursor) = page.cursor {
                    let next = range.of(collection).cursor(cursor).page_keys();
                    self.add(next.map(|page| (page.items, page.cursor.is_some())));
                }
            }
        }
    }

    fn batch(&mut self, checks: &[(String, String, Expected)], steps: &[Step]) {
        let mut batch = Batch::new();
        for (c, k, expected) in checks {
            let c = kv::collection(c.as_str());
            batch = match expected_version(&c, k, *expected) {
                Ok(version) => batch.check_version(&c, k, version),
                Err(error) => return self.add(Err::<(), _>(error)),
            };
        }
        for step in steps {
            batch = match step {
                Step::Set(c, k, value) => batch.set(&kv::collection(c.as_str()), k, &value.build()),
                Step::SetBytes(c, k, value) => {
                    batch.set_bytes(&kv::collection(c.as_str()), k, value.build())
                }
                Step::Delete(c, k) => batch.delete(&kv::collection(c.as_str()), k),
                Step::Increment(c, k, by) => batch.increment(&kv::collection(c.as_str()), k, *by),
                Step::Timer(name, at_ms) => batch.timer_at(name, *at_ms, name),
                Step::CancelTimer(name) => batch.timer_cancel(name),
                _ => batch,
            };
        }
        match batch.commit() {
            Ok(outcomes) => self.add(Ok(outcomes.len())),
            Err(kv::CommitError::Conflict(failed)) => {
                let failed: Vec<_> = failed.into_iter().map(|check| check.key).collect();
                self.add(Ok(("conflict", failed)));
            }
            Err(error) => self.lines.push(format!("{error}")),
        }
    }

    fn transaction(&mut self, steps: &[Step], fails: bool) {
        let done = kv::transaction(|| -> Result<(), Error> {
            for step in steps {
                self.run(step);
            }
            match fails {
                true => Err(Error::Invalid("on purpose".to_owned())),
                false => Ok(()),
            }
        });
        self.add(done);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn expected_version(c: &Collection, key: &str, expected: Expected) -> Result<u64, Error> {
    let current = c.get_entry_bytes(key)?.map_or(0, |entry| entry.version);
    Ok(match expected {
        Expected::Absent => 0,
        Expected::Current => current,
        Expected::Wrong => current + 1_000_000,
    })
}

fn report(steps: &[Step]) -> Json<Vec<String>> {
    let mut report = Report::default();
    steps.iter().for_each(|step| report.run(step));
    Json(report.lines)
}

/// Runs steps.
#[kvasm_guest::function]
pub fn steps(Json(steps): Json<Vec<Step>>) -> Json<Vec<String>> {
    report(&steps)
}

/// Runs steps as a transaction.
#[kvasm_guest::function(transaction)]
pub fn transaction(Json(steps): Json<Vec<Step>>) -> Json<Vec<String>> {
    report(&steps)
}

/// Runs steps as a transaction that fails.
#[kvasm_guest::function(transaction)]
pub fn failing(Json(steps): Json<Vec<Step>>) -> Result<(), Refused<String>> {
    Err(Refused(report(&steps).0.join("; ")))
}

/// Runs steps, and then panics.
#[kvasm_guest::function]
pub fn panicking(Json(steps): Json<Vec<Step>>) {
    report(&steps);
    panic!("on purpose");
}

/// Returns the input.
#[kvasm_guest::function]
pub fn echo(Bytes(input): Bytes) -> Bytes {
    Bytes(input)
}

/// Appends what it is called with to the log of the key, or fails as the value says.
#[kvasm_guest::on_change(collection = "watched", prefix = "w")]
pub fn on_watched(change: Change<Bytes>) -> Result<(), HandlerError> {
    let value = change.value.map(|value| text(&value.0));
    let line = format!(
        "{} {value:?} attempt {} depth {}",
        match change.kind {
            ChangeKind::Set => "set",
            ChangeKind::Delete => "delete",
        },
        change.attempt,
        change.depth
    );
    kv::collection("log").update(&change.key, |log: &mut Option<Vec<String>>| {
        log.get_or_insert_default().push(line.clone());
    })?;
    match value.as_deref() {
        Some("\"permanent\"") => Err(Permanent("on purpose").into()),
        Some("\"panic\"") => panic!("on purpose"),
        Some("\"once\"") if change.attempt == 1 => Err("on purpose".into()),
        _ => Ok(()),
    }
}

/// Watches its own collection.
#[kvasm_guest::on_change(collection = "cycle", on = "set")]
pub fn on_cycle(change: Change<i64>) -> Result<(), Error> {
    kv::collection("cycle").increment(&change.key, 1)?;
    Ok(())
}

/// Always fails, twice for each change.
#[kvasm_guest::on_change(collection = "brief", attempts = 2, max_age = "1h")]
pub fn on_brief(change: Change<Bytes>) -> Result<(), HandlerError> {
    kv::collection("log").set(&change.key, &change.attempt)?;
    Err(format!("attempt {}", change.attempt).into())
}

/// Always fails, for a second.
#[kvasm_guest::on_change(collection = "old", max_age = "1s")]
pub fn on_old(_: Change<Bytes>) -> Result<(), HandlerError> {
    Err("on purpose".into())
}

/// Counts the timers.
#[kvasm_guest::on_timer]
pub fn due(timer: Timer<String>) -> Result<(), HandlerError> {
    kv::collection("timers").increment(&timer.name, 1)?;
    if timer.payload == "permanent" {
        return Err(Permanent("on purpose").into());
    }
    Ok(())
}

/// Replays what it can, and changes what it watches.
#[kvasm_guest::on_change(collection = "replaying", on = "set")]
pub fn on_replaying(change: Change<i64>) -> Result<(), Error> {
    for letter in dead_letters::list() {
        dead_letters::replay(&letter?.id)?;
        kv::collection("counts").add("replays", 1)?;
    }
    kv::collection("replaying").increment(&change.key, 1)?;
    Ok(())
}
