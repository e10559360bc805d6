//! The harness under `kvasm test --wasm`: what it runs, it runs in the built module, on a real host
//! in a process of its own. The store of the thread is then a copy of the host's: it is read from there
//! before the test reads, and what the test writes is written there before the plugin runs.

mod messages;
mod process;

pub(crate) use messages::{State, hex, kind};

use super::outcome::CallError;
use super::{Cost, Deliveries};
use crate::http::Request;
use crate::sys::native::{self, HostSnapshot};
use crate::{Caller, Context};
use messages::Called;
use process::{Ended, HostProcess};
use serde_json::{Value, json};
use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;

thread_local! {
    /// The host of this thread's harness.
    static HOST: RefCell<Option<Rc<RemoteHost>>> = const { RefCell::new(None) };
}

/// The host of a harness.
pub(super) struct RemoteHost {
    process: HostProcess,
    /// Whether entries of the copy may differ from the host's.
    is_stale: Cell<bool>,
    /// Whether deliveries and timers may.
    is_queue_stale: Cell<bool>,
}

/// Starts the host of this thread's harness, if `kvasm test --wasm` runs the test.
pub(super) fn start() {
    if let Some(process) = HostProcess::of_environment() {
        let remote = Rc::new(RemoteHost {
            process,
            is_stale: Cell::new(true),
            is_queue_stale: Cell::new(true),
        });
        native::begin_copy();
        HOST.set(Some(Rc::clone(&remote)));
        remote.process.open();
    }
}

/// Ends the host of this thread's harness, if there is one.
pub(super) fn end() {
    drop(HOST.take());
}

/// Returns the host of this thread's harness, if it is another process.
pub(super) fn current() -> Option<Rc<RemoteHost>> {
    HOST.with_borrow(Option::clone)
}

/// Whether this thread's harness has a host of its own.
pub(crate) fn is_used() -> bool {
    HOST.with_borrow(Option::is_some)
}

/// Fails the test, if the harness runs the module: a real host does not have what it asks for.
#[track_caller]
pub(super) fn refuse(what: &str, why: &str) {
    assert!(
        !is_used(),
        "{what} is not possible under `kvasm test --wasm`: {why}"
    );
}

/// Exchanges what has changed with the host, before the test reads or writes the store. Does nothing
/// without one, and within a transaction of the test.
#[track_caller]
pub(crate) fn sync() {
    if let Some(remote) = current()
        && !native::is_in_transaction()
    {
        remote.flush();
        if remote.is_stale.get() {
            remote.refresh();
        }
    }
}

/// Like [`sync`], before the test looks at deliveries, timers or dead letters too.
#[track_caller]
pub(crate) fn sync_all() {
    sync();
    if let Some(remote) = current()
        && remote.is_queue_stale.get()
        && !native::is_in_transaction()
    {
        remote.refresh();
    }
}

impl RemoteHost {
    /// Writes what the test has written.
    #[track_caller]
    fn flush(&self) {
        let batches = native::take_written();
        if !batches.is_empty() {
            self.is_queue_stale.set(true);
            let arguments = json!({ "batches": batches.to_json() });
            if let Some(answer) = self.expect("write", arguments) {
                native::set_versions(&batches, &answer.versions);
            }
        }
    }

    /// Reads the store of the host.
    #[track_caller]
    fn refresh(&self) {
        self.is_stale.set(false);
        self.is_queue_stale.set(false);
        if let Some(state) = self.expect("state", json!({})).and_then(|done| done.state) {
            native::load(state);
        }
    }

    /// Does what runs no operation of the plugin, so that no crash is planned for it.
    #[track_caller]
    fn expect(&self, action: &str, arguments: Value) -> Option<messages::Answer> {
        match self.process.request(action, arguments, false) {
            Ended::Done(answer) => Some(*answer),
            Ended::Crashed => None,
        }
    }

    /// Tells the host of a setting.
    #[track_caller]
    pub(super) fn set(&self, action: &str, arguments: Value) {
        self.expect(action, arguments);
    }

    /// Calls a function of the module, or without a name its HTTP handler.
    #[track_caller]
    pub(super) fn call(
        &self,
        function: Option<&str>,
        input: &[u8],
    ) -> Result<(Vec<u8>, Cost), (CallError, Cost)> {
        let arguments = json!({
            "function": function,
            "input": hex(input),
            "is_principal": is_principal(),
        });
        let Ended::Done(answer) = self.run("call", arguments) else {
            return Err((CallError::Crashed, Cost::default()));
        };
        let Some(called) = answer.call else {
            panic!("the host of the test has not said how the call ended");
        };
        let Called {
            how,
            output,
            message,
            error,
            cost,
        } = called;
        let cost = cost.to_cost();
        let failure = match how.as_str() {
            "returned" => return Ok((output, cost)),
            "refused" => CallError::Refused(message),
            "trapped" => CallError::Panicked(message),
            "not_committed" => CallError::NotCommitted(messages::error(&error, message)),
            _ => CallError::Failed(message),
        };
        Err((failure, cost))
    }

    /// Runs handlers until a time, or until nothing is outstanding. After a planned crash, the host
    /// starts again and continues.
    #[track_caller]
    pub(super) fn deliver(&self, until_ms: Option<i64>) -> Deliveries {
        sync_all();
        let known: Vec<String> = native::all_dead_letters()
            .into_iter()
            .map(|letter| letter.id)
            .collect();
        loop {
            let ended = match until_ms {
                Some(until_ms) => self.run("run_until", json!({ "until_ms": until_ms })),
                None => self.run("settle", json!({})),
            };
            if let Ended::Done(answer) = ended {
                native::set_now_ms(answer.now_ms);
                break;
            }
        }
        sync_all();
        let mut done = self.process.take_deliveries();
        done.dead = native::all_dead_letters();
        done.dead.retain(|letter| !known.contains(&letter.id));
        done
    }

    /// Does what runs the plugin.
    #[track_caller]
    fn run(&self, action: &str, arguments: Value) -> Ended {
        self.flush();
        self.is_stale.set(true);
        let ended = self.process.request(action, arguments, true);
        // Also if the test has read it meanwhile, to answer a request of the plugin.
        self.is_stale.set(true);
        ended
    }

    #[track_caller]
    pub(super) fn replay_dead_letters(&self) {
        self.flush();
        self.is_stale.set(true);
        self.expect("replay", json!({}));
    }

    /// Copies the store of the host. The host ends meanwhile.
    pub(super) fn snapshot(&self) -> HostSnapshot {
        sync_all();
        let mut snapshot = HostSnapshot::take();
        snapshot.copy = Some(self.process.save());
        snapshot
    }

    /// Puts a copy in the place of the store.
    pub(super) fn restore(&self, copy: &Path) {
        let _ = native::take_written();
        self.process.restore(copy);
        self.is_stale.set(true);
    }
}

/// Whether the caller of the next call has a token.
///
/// # Panics
/// If the test has changed more of the context, which a real host sets itself.
#[track_caller]
fn is_principal() -> bool {
    let context = native::current_context();
    let caller = context.caller;
    let usual = Context {
        caller,
        ..native::first_context()
    };
    assert!(
        context == usual && matches!(caller, Caller::Public | Caller::Principal),
        "under `kvasm test --wasm` a real host sets the context of a call; a test only chooses \
         Caller::Public or Caller::Principal"
    );
    caller == Caller::Principal
}

/// The test's answer to a request of the plugin.
fn answer_fetch(fetch: messages::Fetch) -> Value {
    let mut request = Request::builder(&fetch.method, &fetch.url).body(fetch.body);
    for (name, value) in fetch.headers {
        request = request.header(&name, value);
    }
    if let Some(ms) = fetch.timeout_ms {
        request = request.timeout(std::time::Duration::from_millis(ms));
    }
    match native::answer_fetch(request.build()) {
        Ok(response) => json!({ "response": {
            "status": response.status,
            "headers": response.headers,
            "body": hex(&response.body),
        } }),
        Err(error) => json!({ "error": { "kind": kind(&error), "message": error.message() } }),
    }
}
