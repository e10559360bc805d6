//! The faults that a test plans, in front of the services that a plugin reaches. An operation is what
//! reaches the store, or another server: what a transaction keeps back is none, and its commit is one.

use super::link::HarnessLink;
use super::messages::{FaultPlan, FetchAnswer, HarnessLine, PlannedError};
use async_trait::async_trait;
use bytes::Bytes;
use kvasm::model::{Applied, Batch, Collection, Entry, Key, Resource, TimerName, Value};
use kvasm::service::{
    Caller, Kv, List, Listing, Outbound, OutboundCaller, OutboundError, OutboundRequest,
    OutboundResponse, ServiceError,
};
use kvasm::store::StoreError;
use parking_lot::Mutex;
use std::sync::Arc;
use uuid::Uuid;

type Address = (Collection, Key);

/// The operations of the current action.
#[derive(Default)]
pub(super) struct PlannedFaults {
    state: Mutex<CountedFaults>,
}

#[derive(Default)]
struct CountedFaults {
    plan: FaultPlan,
    operations: u64,
    /// How many conflicts there were.
    conflicts: u32,
    /// The first fault that no store has.
    impossible: Option<String>,
}

impl PlannedFaults {
    /// Begins an action.
    pub(super) fn begin(&self, plan: FaultPlan) {
        *self.state.lock() = CountedFaults {
            plan,
            ..CountedFaults::default()
        };
    }

    /// Ends an action. Returns the numbers of operations and of conflicts.
    ///
    /// # Errors
    /// The fault that could not be brought about.
    pub(super) fn end(&self) -> Result<(u64, u32), String> {
        let counted = std::mem::take(&mut *self.state.lock());
        match counted.impossible {
            Some(why) => Err(why),
            None => Ok((counted.operations, counted.conflicts)),
        }
    }

    /// Counts an operation. Returns the error that takes its place.
    fn next(&self) -> Option<PlannedError> {
        let mut state = self.state.lock();
        state.operations += 1;
        let at = state.operations;
        state.plan.failures.remove(&at)
    }

    /// Whether an operation that checks versions is in conflict.
    fn conflicts(&self) -> bool {
        let mut state = self.state.lock();
        let is_planned = state.conflicts < state.plan.conflicts;
        state.conflicts += u32::from(is_planned);
        is_planned
    }

    fn crashes_now(&self) -> bool {
        let state = self.state.lock();
        state.plan.crash_after == Some(state.operations)
    }

    fn is_impossible(&self, error: &PlannedError, place: &str) {
        let why = format!(
            "no real host fails {place} with Error::{}: plan Unavailable, Internal, Conflict or Quota \
             for the store, and Remote, RateLimited or Unavailable for requests",
            error.kind
        );
        self.state.lock().impossible.get_or_insert(why);
    }

    fn of_store(&self, error: &PlannedError) -> ServiceError {
        let cause = || error.message.clone().into();
        match error.kind.as_str() {
            "Unavailable" => ServiceError::Unavailable(StoreError::Unavailable(cause())),
            "Internal" => ServiceError::Internal(StoreError::Failed(cause())),
            "Conflict" => ServiceError::Conflict { failed: Vec::new() },
            "Quota" => ServiceError::Quota {
                resource: Resource::Bytes,
                limit: 0,
            },
            _ => {
                self.is_impossible(error, "an operation of the store");
                ServiceError::Unavailable(StoreError::Unavailable(cause()))
            }
        }
    }
}

/// The key-value service that a plugin reaches.
pub(super) struct FaultyKv {
    pub(super) inner: Arc<dyn Kv>,
    pub(super) faults: Arc<PlannedFaults>,
    pub(super) link: Arc<HarnessLink>,
}

impl FaultyKv {
    async fn run<T>(
        &self,
        operation: impl Future<Output = Result<T, ServiceError>> + Send,
    ) -> Result<T, ServiceError> {
        if let Some(error) = self.faults.next() {
            return Err(self.faults.of_store(&error));
        }
        let result = operation.await;
        if self.faults.crashes_now() {
            self.link.crash();
        }
        result
    }
}

#[async_trait]
impl Kv for FaultyKv {
    async fn get_many(
        &self,
        caller: &Caller,
        keys: &[Address],
    ) -> Result<Vec<Option<Entry>>, ServiceError> {
        self.run(self.inner.get_many(caller, keys)).await
    }

    async fn list(&self, caller: &Caller, list: List) -> Result<Listing, ServiceError> {
        self.run(self.inner.list(caller, list)).await
    }

    async fn collections(
        &self,
        caller: &Caller,
        after: Option<&Collection>,
        limit: u32,
    ) -> Result<Vec<Collection>, ServiceError> {
        self.run(self.inner.collections(caller, after, limit)).await
    }

    async fn timer(&self, caller: &Caller, name: &TimerName) -> Result<Option<Uuid>, ServiceError> {
        self.run(self.inner.timer(caller, name)).await
    }

    async fn has_dead_letter(&self, caller: &Caller, letter: Uuid) -> Result<bool, ServiceError> {
        self.run(self.inner.has_dead_letter(caller, letter)).await
    }

    async fn commit(&self, caller: &Caller, batch: Batch) -> Result<Vec<Applied>, ServiceError> {
        let checks = batch.checks.len();
        if (checks > 0 || batch.acknowledge.is_some()) && self.faults.conflicts() {
            let failed = (0..checks).collect();
            let conflict = async { Err(ServiceError::Conflict { failed }) };
            return self.run(conflict).await;
        }
        self.run(self.inner.commit(caller, batch)).await
    }

    async fn get(
        &self,
        caller: &Caller,
        collection: &Collection,
        key: &Key,
    ) -> Result<Option<Entry>, ServiceError> {
        self.run(self.inner.get(caller, collection, key)).await
    }

    async fn get_value(
        &self,
        caller: &Caller,
        collection: &Collection,
        key: &Key,
    ) -> Result<Option<Value>, ServiceError> {
        self.run(self.inner.get_value(caller, collection, key))
            .await
    }

    async fn has(
        &self,
        caller: &Caller,
        collection: &Collection,
        key: &Key,
    ) -> Result<bool, ServiceError> {
        self.run(self.inner.has(caller, collection, key)).await
    }
}

/// The other servers that a plugin reaches: the test.
pub(super) struct TestServers {
    pub(super) faults: Arc<PlannedFaults>,
    pub(super) link: Arc<HarnessLink>,
}

#[async_trait]
impl Outbound for TestServers {
    async fn fetch(
        &self,
        caller: OutboundCaller<'_>,
        request: OutboundRequest,
    ) -> Result<OutboundResponse, OutboundError> {
        caller.permissions.allows_http(request.url.origin()).await?;
        let origin = request.url.origin().clone();
        let answer = match self.faults.next() {
            Some(error) => FetchAnswer::Error(error),
            None => {
                let sent = HarnessLine::Fetch {
                    method: request.method,
                    url: request.url.to_string(),
                    headers: request.headers,
                    body: request.body.to_vec(),
                    timeout_ms: request
                        .timeout
                        .map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
                };
                let answer = self.link.ask(sent).await;
                if self.faults.crashes_now() {
                    self.link.crash();
                }
                answer
            }
        };
        match answer {
            FetchAnswer::Response {
                status,
                headers,
                body,
            } => Ok(OutboundResponse {
                status,
                headers,
                body: Bytes::from(body),
            }),
            FetchAnswer::Error(error) => Err(match error.kind.as_str() {
                "Remote" => OutboundError::Connect {
                    origin,
                    why: error.message,
                },
                "RateLimited" => OutboundError::Busy,
                "Invalid" => OutboundError::Invalid(error.message),
                "Denied" => OutboundError::Off,
                "Unavailable" | "Internal" => {
                    OutboundError::Permissions(self.faults.of_store(&error))
                }
                _ => {
                    self.faults
                        .is_impossible(&error, "a request to another server");
                    OutboundError::Off
                }
            }),
        }
    }
}
