//! A native test of a whole plugin.

use super::dispatch::Deliveries;
use super::outcome::{CallError, Callee, Input, Output, Target};
use super::plugin::{Export, Plugin};
use super::{Cost, registry, remote, run};
use crate::dead_letters::DeadLetter;
use crate::http::{Request, Response};
use crate::sys::native::{self, DueSchedule, HostSnapshot, Quota};
use crate::{Caller, Context, Error};
use serde_json::json;
use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

/// Where the clock of a harness begins: 2026-01-01T00:00:00Z.
const START_MS: i64 = 1_767_225_600_000;

thread_local! {
    /// Whether the thread has a harness.
    static IS_USED: Cell<bool> = const { Cell::new(false) };
}

/// A native host that runs the exports of the program under test, as if they were deployed: a test
/// calls functions, sends HTTP requests, and lets changes, schedules and timers be handled.
/// [`#[kvasm_guest::test]`](macro@crate::test) passes one to a test.
///
/// It controls the host of its thread. [`kv`](crate::kv) and the functions of
/// [`testing`](crate::testing) use the same store, in the test too; what the test writes also
/// triggers handlers. There is one harness per thread, which begins with an empty store.
///
/// - **The clock stands still** until the test moves it. It begins at 2026-01-01T00:00:00Z.
/// - **Handlers run only when asked**: [`settle`](Harness::settle),
///   [`advance`](Harness::advance) or [`run_due`](Harness::run_due). They run in order for each
///   handler and key, are retried, and become [dead letters](Harness::dead_letters), as on a host.
/// - **A panic is a failure of the call or the delivery**, and not of the test.
/// - **Faults** come when asked: [`fail_next`](Harness::fail_next),
///   [`conflict_next`](Harness::conflict_next), [`crash_after`](Harness::crash_after),
///   [`set_quota`](Harness::set_quota).
/// - What [`needs!`](crate::needs) does not declare is denied; what it declares is granted.
///
/// Unlike a host it never pauses triggers and adds no jitter to retries.
///
/// ```standalone_crate
/// use kvasm_guest::testing::Harness;
/// use kvasm_guest::{Change, Error, Json, kv};
///
/// #[kvasm_guest::function]
/// fn place(Json((id, cents)): Json<(String, i64)>) -> Result<(), Error> {
///     kv::collection("orders").set(&id, &cents)?;
///     Ok(())
/// }
///
/// #[kvasm_guest::on_change(collection = "orders", on = "set")]
/// fn add_up(change: Change<i64>) -> Result<(), Error> {
///     kv::collection("sums").increment("all", change.value.unwrap_or(0))?;
///     Ok(())
/// }
///
/// let mut h = Harness::new();
/// h.call(place, r#"["o1", 500]"#)?;
/// // By the exported name, too.
/// h.call("place", Json(("o2", 300)))?;
/// h.settle().assert_ok();
/// assert_eq!(kv::collection("sums").get("all"), Ok(Some(800)));
/// # Ok::<(), kvasm_guest::testing::CallError>(())
/// ```
pub struct Harness {
    pub(super) plugin: Plugin,
    calls: u64,
    last_cost: Cost,
    /// The host is that of a thread.
    _thread: PhantomData<*const ()>,
}

/// The store and the clock at one moment. Two are equal if they have the same entries, timers and
/// outstanding deliveries; versions are not compared.
#[derive(Clone, PartialEq)]
pub struct Snapshot(HostSnapshot);

impl Snapshot {
    /// Returns collection, key and value of each entry, in order. Values of JSON are its text.
    pub fn entries(&self) -> Vec<(String, String, Vec<u8>)> {
        let entries = self.0.entries();
        entries
            .map(|(collection, key, value)| (collection.into(), key.into(), value.into()))
            .collect()
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Default for Harness {
    fn default() -> Harness {
        Harness::new()
    }
}

impl Harness {
    /// Starts with an empty store and all exports of the program.
    ///
    /// # Panics
    /// If the thread has a harness already, or two exports have the same name.
    pub fn new() -> Harness {
        assert!(!IS_USED.replace(true), "there is one harness per thread");
        let plugin = Plugin::new(&registry::declared());
        let mut plugin = plugin.unwrap_or_else(|why| {
            IS_USED.set(false);
            panic!("{why}")
        });
        native::reset();
        native::set_now_ms(START_MS);
        native::declare(std::mem::take(&mut plugin.needs));
        let schedules = plugin
            .schedules
            .iter()
            .map(|(handler, calendar)| DueSchedule {
                handler: handler.clone(),
                next_ms: calendar.next_after(START_MS),
            });
        let schedules = schedules.collect();
        let watches = std::mem::take(&mut plugin.watches);
        native::outbox(|outbox| {
            outbox.watches = watches.into();
            outbox.schedules = schedules;
        });
        remote::start();
        Harness {
            plugin,
            calls: 0,
            last_cost: Cost::default(),
            _thread: PhantomData,
        }
    }

    /// Calls a function: an export, by its name or by its item, or any other function or closure
    /// of the same form. The input is text, bytes, [`Json`](crate::Json), or `()` for none.
    ///
    /// # Errors
    /// [`CallError`].
    ///
    /// # Panics
    /// If no function is exported under the name.
    #[track_caller]
    pub fn call<M>(
        &mut self,
        callee: impl Callee<M>,
        input: impl Input,
    ) -> Result<Output, CallError> {
        let input = input.into_input();
        let output = match callee.target() {
            Target::Name(name) => {
                let export = self.export(&name).clone();
                self.run_export(&export, Some(&name), &input)
            }
            Target::Function(type_id, run) => match self.plugin.of_type(type_id).cloned() {
                Some(export) => self.run_export(&export, Some(&export.name), &input),
                None => self.run("test", false, &input, run),
            },
        };
        output.map(Output)
    }

    /// Sends a request to the plugin's HTTP handler, encoded and decoded as on a host.
    ///
    /// # Errors
    /// [`CallError`]: a client of a host gets status 500 without the message.
    ///
    /// # Panics
    /// If the program has no HTTP handler.
    #[track_caller]
    pub fn http(&mut self, request: Request) -> Result<Response, CallError> {
        let handler = self.plugin.http().cloned();
        let handler = handler.unwrap_or_else(|| panic!("the plugin has no HTTP handler"));
        let frame = request.encode().map_err(CallError::Failed)?;
        let output = self.run_export(&handler, None, &frame)?;
        Response::decode(output).map_err(CallError::Failed)
    }

    fn export(&self, name: &str) -> &Export {
        let exports = &self.plugin.exports;
        let export = exports.get(name).filter(|export| export.kind == "function");
        export.unwrap_or_else(|| {
            let names: Vec<_> = exports.keys().collect();
            panic!(
                "no function is exported as {name:?}, only {names:?}; if the plugin is another \
                 crate, the test has to use it"
            )
        })
    }

    /// Runs an export, natively or in the module. `function` is its name, unless it is the HTTP
    /// handler.
    #[track_caller]
    fn run_export(
        &mut self,
        export: &Export,
        function: Option<&str>,
        input: &[u8],
    ) -> Result<Vec<u8>, CallError> {
        let Some(remote) = remote::current() else {
            return self.run(&export.name, export.is_transaction, input, export.run);
        };
        self.calls += 1;
        let (output, cost) = match remote.call(function, input) {
            Ok((output, cost)) => (Ok(output), cost),
            Err((error, cost)) => (Err(error), cost),
        };
        self.last_cost = cost;
        output
    }

    fn run(
        &mut self,
        name: &str,
        is_transaction: bool,
        input: &[u8],
        export: impl Fn() -> i32,
    ) -> Result<Vec<u8>, CallError> {
        self.calls += 1;
        let context = Context {
            function: name.to_owned(),
            request_id: format!("test-{}", self.calls),
            ..native::current_context()
        };
        let before = native::cost();
        let ended = run::run(context, input, is_transaction, || (), export);
        self.last_cost = native::cost() - before;
        run::output(ended)
    }

    /// Returns what the last call or request used.
    pub fn last_cost(&self) -> Cost {
        self.last_cost
    }

    /// Returns the time of the clock, in milliseconds since the Unix epoch.
    pub fn now_ms(&self) -> i64 {
        crate::now_ms()
    }

    /// Sets the clock, also back, without running what becomes due. A schedule then runs once for
    /// all times that it has missed.
    pub fn set_now_ms(&mut self, at_ms: i64) {
        native::set_now_ms(at_ms);
    }

    /// Moves the clock on, and runs what becomes due meanwhile, each at its time: deliveries,
    /// their retries, schedules and timers.
    ///
    /// # Panics
    /// If that does not end after 10,000 runs at one time of the clock, or 100,000 in all.
    #[track_caller]
    pub fn advance(&mut self, duration: Duration) -> Deliveries {
        let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        self.run_until(self.now_ms().saturating_add(millis))
    }

    /// Returns the dead letters, oldest first.
    pub fn dead_letters(&self) -> Vec<DeadLetter> {
        remote::sync_all();
        native::all_dead_letters()
    }

    /// Queues the deliveries of all dead letters again, as an operator can.
    #[track_caller]
    pub fn replay_dead_letters(&mut self) {
        if let Some(remote) = remote::current() {
            return remote.replay_dead_letters();
        }
        let now_ms = self.now_ms();
        for delivery in native::take_dead() {
            native::outbox(|outbox| outbox.enqueue(&delivery.handler, &delivery.event, now_ms));
        }
    }

    /// Returns the handler and the key of each delivery that is not done, in order. The key of a
    /// schedule is empty.
    pub fn outstanding(&self) -> Vec<(String, String)> {
        remote::sync_all();
        native::outbox(|outbox| {
            let queue = outbox.queue.values();
            let named = queue.map(|delivery| {
                let key = delivery.event.changed().map(|changed| changed.key.clone());
                (delivery.handler.clone(), key.unwrap_or_default())
            });
            named.collect()
        })
    }

    /// Returns the names of the timers that are set, in the order in which they become due.
    pub fn timers(&self) -> Vec<String> {
        super::timers()
    }

    /// Makes the next operation of a call or handler fail with this error: a read, a write, a commit
    /// of a transaction, or a request to another server. Nothing is written. What the test itself
    /// reads and writes does not count as an operation.
    pub fn fail_next(&mut self, error: Error) {
        native::fail(1, error);
    }

    /// Makes the `n`th operation from now fail, counted from 1.
    pub fn fail_nth(&mut self, n: u64, error: Error) {
        native::fail(n, error);
    }

    /// Makes the next operation of a call or handler that checks versions fail, as if another call had changed an entry:
    /// a write that expects a version, a batch with checks, or the commit of a transaction, which is
    /// then run again.
    pub fn conflict_next(&mut self) {
        native::conflict(1);
    }

    /// Ends the host after the `n`th operation from now of a call or handler, counted from 1: what
    /// was committed stays, and the rest is gone. The call fails with [`CallError::Crashed`]; a
    /// delivery is pending again after 30 seconds.
    pub fn crash_after(&mut self, n: u64) {
        native::crash_after(n);
    }

    /// Forgets faults that have not occurred.
    pub fn clear_faults(&mut self) {
        native::clear_faults();
    }

    /// Returns how many operations of calls and handlers there were, to find out where to place faults.
    pub fn operations(&self) -> u64 {
        native::operations()
    }

    /// Sets the app's quota: the maximum number of entries, and of bytes as a host counts them.
    /// `None` is no limit.
    #[track_caller]
    pub fn set_quota(&mut self, entries: Option<u64>, bytes: Option<u64>) {
        native::set_quota(Quota { entries, bytes });
        if let Some(remote) = remote::current() {
            remote.set("quota", json!({ "entries": entries, "bytes": bytes }));
        }
    }

    /// Sets the answers of the next [requests](crate::http::fetch()) to other servers, in order.
    /// Further ones are refused. They replace those of [`on_fetch`](Harness::on_fetch).
    pub fn answer_fetches(&mut self, answers: impl IntoIterator<Item = Result<Response, Error>>) {
        let mut answers: VecDeque<_> = answers.into_iter().collect();
        self.on_fetch(move |request| {
            answers.pop_front().unwrap_or_else(|| {
                let url = request.url().unwrap_or_default();
                Err(Error::Remote(format!("the test has no answer for {url}")))
            })
        });
    }

    /// Sets the function that answers requests to other servers.
    pub fn on_fetch(
        &mut self,
        responder: impl FnMut(&Request) -> Result<Response, Error> + 'static,
    ) {
        super::on_fetch(responder);
    }

    /// Returns the requests that were sent to other servers, the earliest first.
    pub fn fetched(&self) -> Vec<Request> {
        native::requests()
    }

    /// Sets the caller of the following calls; at first [`Caller::Public`].
    pub fn set_caller(&mut self, caller: Caller) {
        let context = native::current_context();
        native::set_context(Context { caller, ..context });
    }

    /// Returns a copy of the store, with its deliveries and dead letters, and of the clock.
    pub fn snapshot(&self) -> Snapshot {
        let host = match remote::current() {
            Some(remote) => remote.snapshot(),
            None => HostSnapshot::take(),
        };
        Snapshot(host)
    }

    /// Restores a snapshot of this harness.
    pub fn restore(&mut self, snapshot: &Snapshot) {
        if let (Some(remote), Some(copy)) = (remote::current(), &snapshot.0.copy) {
            remote.restore(copy);
        }
        snapshot.0.restore();
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        remote::end();
        native::reset();
        IS_USED.set(false);
    }
}
