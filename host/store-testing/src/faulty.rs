//! A store that fails on command.
//!
//! [`FaultyStore`] passes each call to another store, except those for which its [`Faults`] have a
//! rule: these fail, hang, or take effect and lose their answer.
//!
//! ```ignore
//! let (store, faults) = FaultyStore::over(Arc::new(MemoryStore::new()));
//! faults.on(Operation::Claim).of(app.id).times(3).fail(unavailable);
//! faults.on(Operation::Commit).times(1).lose_the_answer();
//! let _ = store.claim(&claim).await; // fails if the claim is for that app
//! assert_eq!(faults.calls(Operation::Claim), 1);
//! faults.clear();
//! ```

mod operations;

pub use operations::Operation;

use kvasm_core::AppId;
use kvasm_core::store::{Store, StoreError};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long [`Faults::until`] waits.
const PATIENCE: Duration = Duration::from_secs(60);

/// Returns the error of a store that cannot be reached.
pub fn unavailable() -> StoreError {
    StoreError::Unavailable("the test made the store unavailable".into())
}

/// Returns the error of a store without space.
pub fn full() -> StoreError {
    StoreError::Full("the test filled the store".into())
}

/// Returns the error of a store that is damaged.
pub fn failed() -> StoreError {
    StoreError::Failed("the test damaged the store".into())
}

/// A store that passes calls to another one, unless its [`Faults`] say otherwise.
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    faults: Faults,
}

impl FaultyStore {
    /// Wraps a store. It behaves like that one until a rule is added to the faults.
    pub fn over(inner: Arc<dyn Store>) -> (Arc<FaultyStore>, Faults) {
        let faults = Faults(Arc::new(Shared {
            state: Mutex::default(),
            changed: watch::Sender::new(()),
        }));
        let store = FaultyStore {
            inner,
            faults: faults.clone(),
        };
        (Arc::new(store), faults)
    }

    /// Makes a call as the rules say. `call` does nothing until it is polled.
    async fn make<T>(
        &self,
        operation: Operation,
        app: Option<AppId>,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        match self.faults.meet(operation, app) {
            None => call.await,
            Some(Fault::Fail(error)) => Err(error()),
            Some(Fault::Hang(released)) => {
                wait_for_release(released).await;
                call.await
            }
            Some(Fault::LoseAnswer) => {
                drop(call.await);
                let cause = format!("the test lost the answer of `{}`", operation.method());
                Err(StoreError::Unavailable(cause.into()))
            }
        }
    }
}

/// Waits until the rule of a call that hangs is dropped.
async fn wait_for_release(mut released: watch::Receiver<()>) {
    while released.changed().await.is_ok() {}
}

/// The rules of a [`FaultyStore`], and the number of its calls. Clones share both.
#[derive(Clone)]
pub struct Faults(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Notified of each call.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    /// The first one that applies decides.
    rules: Vec<Rule>,
    counts: HashMap<(Operation, Option<AppId>), Count>,
}

#[derive(Default, Clone, Copy)]
struct Count {
    calls: u64,
    /// Those to which a rule applied.
    faults: u64,
}

struct Rule {
    operations: Vec<Operation>,
    /// Of any app if `None`.
    app: Option<AppId>,
    /// The number of calls to which it still applies; any number if `None`.
    left: Option<u64>,
    effect: Effect,
}

type MakeError = Arc<dyn Fn() -> StoreError + Send + Sync>;

enum Effect {
    Fail(MakeError),
    /// Calls hang until the sender is dropped.
    Hang(watch::Sender<()>),
    LoseAnswer,
}

/// What happens to one call.
enum Fault {
    Fail(MakeError),
    Hang(watch::Receiver<()>),
    LoseAnswer,
}

impl Rule {
    fn applies(&self, operation: Operation, app: Option<AppId>) -> bool {
        self.left != Some(0)
            && self.operations.contains(&operation)
            && self.app.is_none_or(|of| app == Some(of))
    }

    /// Applies the rule to a call.
    fn apply(&mut self) -> Fault {
        self.left = self.left.map(|left| left.saturating_sub(1));
        match &self.effect {
            Effect::Fail(error) => Fault::Fail(Arc::clone(error)),
            Effect::Hang(release) => Fault::Hang(release.subscribe()),
            Effect::LoseAnswer => Fault::LoseAnswer,
        }
    }
}

impl Faults {
    /// Begins a rule for the calls of an operation. It has no effect until one of
    /// [`fail`](NewRule::fail), [`hang`](NewRule::hang) and
    /// [`lose_the_answer`](NewRule::lose_the_answer) ends it.
    pub fn on(&self, operation: Operation) -> NewRule<'_> {
        self.on_any([operation])
    }

    /// Begins a rule for the calls of several operations, which share its number of calls.
    pub fn on_any(&self, operations: impl IntoIterator<Item = Operation>) -> NewRule<'_> {
        NewRule {
            faults: self,
            operations: operations.into_iter().collect(),
            app: None,
            left: None,
        }
    }

    /// Removes all rules, and releases the calls that hang: they are made now.
    pub fn clear(&self) {
        self.0.state.lock().rules.clear();
    }

    /// Returns the number of calls of an operation, with or without a fault.
    pub fn calls(&self, operation: Operation) -> u64 {
        self.sum(|of, _| of == operation).calls
    }

    /// Returns the number of calls of an operation for an app.
    pub fn calls_of(&self, operation: Operation, app: AppId) -> u64 {
        self.sum(|of, for_app| of == operation && for_app == Some(app))
            .calls
    }

    /// Returns the number of calls of an operation to which a rule applied. Calls that hang are
    /// included.
    pub fn met(&self, operation: Operation) -> u64 {
        self.sum(|of, _| of == operation).faults
    }

    /// Returns the operations that have been called, in the order of [`Operation::ALL`].
    pub fn called(&self) -> Vec<Operation> {
        let is_called = |of: &Operation| self.calls(*of) > 0;
        Operation::ALL.iter().copied().filter(is_called).collect()
    }

    /// Resets the numbers of calls.
    pub fn reset_counts(&self) {
        self.0.state.lock().counts.clear();
    }

    /// Waits until a condition on the numbers of calls holds.
    ///
    /// # Panics
    /// After 60 s.
    pub async fn until(&self, what: &str, holds: impl Fn(&Faults) -> bool) {
        let mut changed = self.0.changed.subscribe();
        let wait = async {
            while !holds(self) {
                // The sender is in `self`.
                let _ = changed.changed().await;
            }
        };
        let done = tokio::time::timeout(PATIENCE, wait).await;
        assert!(done.is_ok(), "timed out waiting until {what}");
    }

    fn sum(&self, which: impl Fn(Operation, Option<AppId>) -> bool) -> Count {
        let mut sum = Count::default();
        for ((operation, app), count) in &self.0.state.lock().counts {
            if which(*operation, *app) {
                sum.calls += count.calls;
                sum.faults += count.faults;
            }
        }
        sum
    }

    /// Counts a call, and returns what happens to it.
    fn meet(&self, operation: Operation, app: Option<AppId>) -> Option<Fault> {
        let mut state = self.0.state.lock();
        let mut rules = state.rules.iter_mut();
        let rule = rules.find(|rule| rule.applies(operation, app));
        let fault = rule.map(Rule::apply);
        let count = state.counts.entry((operation, app)).or_default();
        count.calls += 1;
        count.faults += u64::from(fault.is_some());
        drop(state);
        self.0.changed.send_replace(());
        fault
    }
}

/// A rule that is not in effect yet. Rules that were added earlier come first.
#[must_use = "a rule has no effect before it is completed by `fail`, `hang` or `lose_the_answer`"]
pub struct NewRule<'f> {
    faults: &'f Faults,
    operations: Vec<Operation>,
    app: Option<AppId>,
    left: Option<u64>,
}

impl NewRule<'_> {
    /// Restricts the rule to calls for one app. Calls that name no app, such as a read of the
    /// generation, and those whose app only the store knows are not among them.
    pub fn of(self, app: AppId) -> Self {
        NewRule {
            app: Some(app),
            ..self
        }
    }

    /// Restricts the rule to the next `calls` calls.
    pub fn times(self, calls: u64) -> Self {
        NewRule {
            left: Some(calls),
            ..self
        }
    }

    /// Makes the calls fail, without an effect on the store.
    pub fn fail(self, error: impl Fn() -> StoreError + Send + Sync + 'static) {
        self.add(Effect::Fail(Arc::new(error)));
    }

    /// Makes the calls hang until [`Faults::clear`]. They are made then, unless their callers have
    /// dropped them.
    pub fn hang(self) {
        self.add(Effect::Hang(watch::Sender::new(())));
    }

    /// Makes the calls take effect, but return [`StoreError::Unavailable`] whatever their result,
    /// as if the connection was lost in between.
    pub fn lose_the_answer(self) {
        self.add(Effect::LoseAnswer);
    }

    fn add(self, effect: Effect) {
        let rule = Rule {
            operations: self.operations,
            app: self.app,
            left: self.left,
            effect,
        };
        self.faults.0.state.lock().rules.push(rule);
    }
}
