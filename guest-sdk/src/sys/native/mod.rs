//! An in-process host for native builds: one per thread, so that concurrent tests do not share
//! entries.

mod additions;
mod batch;
mod clock;
mod copy;
mod cost;
mod declared;
mod faults;
mod fetch;
mod letters;
mod outbox;
mod quota;
mod settings;
mod snapshot;
mod store;
mod timers;
mod transaction;
mod urls;
mod validate;
mod view;

pub(crate) use clock::{advance, now_ms, set_now_ms};
pub(crate) use copy::{
    answer_fetch, begin_copy, count_crash, count_faults, first_context, is_in_transaction, load,
    planned_faults, set_versions, take_written, time_ms,
};
pub use cost::Cost;
pub(crate) use cost::cost;
pub(crate) use declared::{DeclaredNeeds, declare};
pub(crate) use faults::{
    Crash, clear_faults, conflict, crash_after, fail, operations, set_running,
};
pub(crate) use fetch::{Responder, begin_fetches, http_fetch, on_fetch, requests};
pub(crate) use letters::{
    add_dead_letter, all_dead_letters, dead_letter_replay, dead_letters, take_dead,
};
pub(crate) use outbox::{Delivery, DueSchedule, Event, EventKind, Outbox, Watch};
pub(crate) use quota::Quota;
pub(crate) use settings::{config_get, secret_get, set_config, set_secret};
pub(crate) use snapshot::HostSnapshot;
pub(crate) use timers::{
    SetTimer, restore_timer, take_due_timer, take_timer, timer_cancel, timer_set, timers,
    update_timer,
};
pub(crate) use transaction::{
    begin_run, transaction, transaction_begin, transaction_commit, transaction_drop,
};

use super::{CommitFailure, Query};
use crate::dead_letters::DeadLetter;
use crate::testing::remote;
use crate::{Caller, Context, Error};
use faults::{Check, Faults, operate};
use kvasm_abi::SetOptions;
use settings::Settings;
use std::cell::RefCell;
use std::hash::{BuildHasher, Hasher, RandomState};
use store::Store;

/// The trace of calls in tests.
const TRACEPARENT: &str = "00-00000000000000000000000000000001-0000000000000001-00";

struct Host {
    store: Store,
    settings: Settings,
    responder: Option<Responder>,
    /// The requests that were sent, and how many of them the current run has sent.
    requests: (Vec<crate::http::Request>, u32),
    context: Context,
    dead_letters: Vec<DeadLetter>,
    clock: clock::Clock,
    faults: Faults,
    quota: Quota,
    needs: Option<DeclaredNeeds>,
    input: Vec<u8>,
    output: Vec<u8>,
    cost: Cost,
    /// The number of open transactions.
    transactions: usize,
    /// Those that the plugin has begun and not ended.
    begun: Vec<transaction::TransactionGuard>,
    /// What the test has written and the host of its harness, if it has one of its own, has not.
    batches: copy::WrittenBatches,
}

impl Host {
    fn new() -> Host {
        Host {
            store: Store::default(),
            settings: Settings::default(),
            responder: None,
            requests: (Vec::new(), 0),
            context: Context {
                app: "test".to_owned(),
                function: "test".to_owned(),
                request_id: "test".to_owned(),
                caller: Caller::Public,
                trigger: None,
                transaction: false,
                traceparent: Some(TRACEPARENT.to_owned()),
                tracestate: None,
            },
            dead_letters: Vec::new(),
            clock: clock::Clock::default(),
            faults: Faults::default(),
            quota: Quota::default(),
            needs: None,
            input: Vec::new(),
            output: Vec::new(),
            cost: Cost::default(),
            transactions: 0,
            begun: Vec::new(),
            batches: copy::WrittenBatches::default(),
        }
    }

    fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }
}

thread_local! {
    static HOST: RefCell<Host> = RefCell::new(Host::new());
}

/// Runs `call` with this thread's host. No call runs plugin code, so the host is never borrowed
/// twice.
fn with<R>(call: impl FnOnce(&mut Host) -> R) -> R {
    HOST.with_borrow_mut(call)
}

fn with_store<R>(call: impl FnOnce(&mut Store, i64) -> R) -> R {
    remote::sync();
    with(|host| {
        let now_ms = host.now_ms();
        call(&mut host.store, now_ms)
    })
}

/// Like [`with_store`], for a write: outside of transactions, it is undone if it exceeds the quota.
fn write_store<T, E: From<Error>>(
    write: impl FnOnce(&mut Store, i64) -> Result<T, E>,
) -> Result<T, E> {
    remote::sync();
    with(|host| {
        let now_ms = host.now_ms();
        if !host.quota.is_set() || host.store.view.is_some() {
            let result = write(&mut host.store, now_ms);
            copy::end_write(host);
            return result;
        }
        let before = host.store.clone();
        let result = write(&mut host.store, now_ms);
        if result.is_ok()
            && let Err(error) = host.quota.check(&before, &host.store)
        {
            host.store = before;
            return Err(error.into());
        }
        copy::end_write(host);
        result
    })
}

/// Does nothing: tests install their own logger, if any.
pub(crate) fn start() {}

pub(crate) fn kv_get(
    collection: &str,
    key: &str,
    format: i32,
    flags: i32,
) -> Result<Vec<u8>, Error> {
    let mut bytes = 0;
    let result = operate(Check::Nothing, || {
        with_store(|store, now_ms| {
            let row = store.live(collection, key, now_ms);
            bytes = row.map_or(0, |row| row.value.len());
            store.get(collection, key, format, flags, now_ms)
        })
    });
    cost::count_lookup(&result, bytes);
    result
}

pub(crate) fn kv_set(
    collection: &str,
    key: &str,
    value: &[u8],
    format: i32,
    options: &SetOptions,
) -> Result<u64, Error> {
    let result = operate(checks(options.if_version), || {
        write_store(|store, now_ms| store.set(collection, key, value, format, options, now_ms))
    });
    cost::count_write(&result, value.len());
    result.map(|version| version_now(collection, key, version))
}

/// Returns the version of an entry that was written: if this is a copy, that of the host.
fn version_now(collection: &str, key: &str, version: u64) -> u64 {
    if !remote::is_used() || is_in_transaction() {
        return version;
    }
    with_store(|store, now_ms| {
        let row = store.live(collection, key, now_ms);
        row.map_or(version, |row| row.version)
    })
}

pub(crate) fn kv_has(collection: &str, key: &str) -> Result<bool, Error> {
    let result = operate(Check::Nothing, || {
        with_store(|store, now_ms| store.has(collection, key, now_ms))
    });
    cost::count_lookup(&result, 0);
    result
}

pub(crate) fn kv_delete(
    collection: &str,
    key: &str,
    if_version: Option<u64>,
) -> Result<bool, Error> {
    let result = operate(checks(if_version), || {
        write_store(|store, now_ms| store.delete(collection, key, if_version, now_ms))
    });
    cost::count_write(&result, 0);
    result
}

pub(crate) fn kv_list(collection: &str, query: &Query<'_>) -> Result<Vec<u8>, Error> {
    let page = operate(Check::Nothing, || {
        with_store(|store, now_ms| store.list(collection, query, now_ms))
    });
    cost::count_page(&page, query.values);
    page
}

pub(crate) fn kv_increment(collection: &str, key: &str, delta: i64) -> Result<i64, Error> {
    let result = operate(Check::Nothing, || {
        write_store(|store, now_ms| store.increment(collection, key, delta, now_ms))
    });
    cost::count_write(&result, 0);
    result.map(|(_version, value)| value)
}

pub(crate) fn kv_add(collection: &str, key: &str, delta: i64) -> Result<(), Error> {
    let result = operate(Check::Nothing, || {
        write_store(|store, now_ms| store.add(collection, key, delta, now_ms))
    });
    cost::count_write(&result, 0);
    result
}

pub(crate) fn kv_get_many(keys: &[u8]) -> Result<Vec<u8>, Error> {
    let slots = operate(Check::Nothing, || {
        with_store(|store, now_ms| batch::get_many(store, keys, now_ms))
    });
    cost::count_lookups(keys, &slots);
    slots
}

pub(crate) fn kv_commit(batch: &[u8], count: usize) -> Result<Vec<u8>, CommitFailure> {
    let result = operate(checks((count > 0).then_some(0)), || {
        write_store(|store, now_ms| batch::commit(store, batch, now_ms))
    });
    cost::count_batch(batch, &result);
    let result = match remote::is_used() {
        true => result.map(|applied| batch::with_versions_now(batch, applied)),
        false => result,
    };
    result.map_err(|failure| match failure {
        CommitFailure::Error(error @ Error::Conflict(_)) => batch::conflict(error, batch),
        other => other,
    })
}

/// A write that expects a version can be in conflict. In a transaction only the commit is, as a test
/// asks for it.
fn checks(expected: Option<u64>) -> Check {
    let is_within = with(|host| host.store.view.is_some());
    match expected {
        Some(_) if !is_within => Check::Versions,
        _ => Check::Nothing,
    }
}

pub(crate) fn input() -> Result<Vec<u8>, String> {
    // The SDK asks for its length first.
    cost::count_call();
    cost::count_call();
    Ok(with(|host| host.input.clone()))
}

pub(crate) fn output(bytes: &[u8]) -> Result<(), String> {
    cost::count_call();
    with(|host| {
        let len = host.output.len().saturating_add(bytes.len());
        validate::output(len).map_err(|error| error.to_string())?;
        host.output.extend_from_slice(bytes);
        Ok(())
    })
}

pub(crate) fn context() -> Result<Vec<u8>, Error> {
    cost::count_call();
    with(|host| serde_json::to_vec(&host.context)).map_err(|e| Error::Internal(e.to_string()))
}

pub(crate) fn random_fill(bytes: &mut [u8]) -> Result<(), Error> {
    cost::count_call();
    for chunk in bytes.chunks_mut(8) {
        // Each `RandomState` has different keys, seeded by the system.
        let random = RandomState::new().build_hasher().finish().to_le_bytes();
        chunk
            .iter_mut()
            .zip(random)
            .for_each(|(byte, random)| *byte = random);
    }
    Ok(())
}

pub(crate) fn set_context(context: Context) {
    with(|host| host.context = context);
}

/// Runs `work` with another context, and restores the current one, also after a panic.
pub(crate) fn with_context<R>(context: Context, work: impl FnOnce() -> R) -> R {
    struct RestoreContext(Option<Context>);
    impl Drop for RestoreContext {
        fn drop(&mut self) {
            if let Some(context) = self.0.take() {
                set_context(context);
            }
        }
    }
    let before = with(|host| std::mem::replace(&mut host.context, context));
    let _back = RestoreContext(Some(before));
    work()
}

pub(crate) fn current_context() -> Context {
    with(|host| host.context.clone())
}

/// The cost is kept: it only grows.
pub(crate) fn reset() {
    with(|host| {
        *host = Host {
            cost: host.cost,
            ..Host::new()
        }
    });
}

pub(crate) fn set_input(bytes: &[u8]) {
    with(|host| host.input = bytes.to_vec());
}

pub(crate) fn take_output() -> Vec<u8> {
    with(|host| std::mem::take(&mut host.output))
}

/// Changes the outbox.
pub(crate) fn outbox<R>(change: impl FnOnce(&mut Outbox) -> R) -> R {
    with(|host| change(&mut host.store.outbox))
}

/// Sets the quota.
pub(crate) fn set_quota(quota: Quota) {
    with(|host| host.quota = quota);
}
