//! Idempotent calls: the answer of a call with an idempotency key is kept, and its repeats get it.

use super::request_hash::{is_final, request_hash};
use super::{Call, Host, InvokeError};
use kvasm_core::{
    ANSWER_OUTPUT_BYTES_MAX, AnswerId, AnswerScope, App, AppId, Batch, Commit, Cost, KeptAnswer,
    Level, Principal, RequestHash, Timestamp,
};
use kvasm_runtime::{CallError, CallFailure, GuestLog, InvocationTarget, Response};
use kvasm_service::{CallContext, LogRecord, LogSource, ServiceError, Stage, Timeout};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::OwnedMutexGuard;
use uuid::Uuid;

/// The turns of calls with idempotency keys. Those of one key run one after another.
#[derive(Default)]
pub(super) struct KeyTurns(Mutex<HashMap<AnswerId, Arc<tokio::sync::Mutex<()>>>>);

/// A place in the queue of one key, or the turn itself. It ends when this is dropped.
struct KeyTurn {
    turns: Arc<KeyTurns>,
    id: AnswerId,
    queue: Arc<tokio::sync::Mutex<()>>,
    held: Option<OwnedMutexGuard<()>>,
}

impl KeyTurn {
    fn queued(turns: &Arc<KeyTurns>, id: AnswerId) -> KeyTurn {
        let queue = Arc::clone(turns.0.lock().entry(id).or_default());
        KeyTurn {
            turns: Arc::clone(turns),
            id,
            queue,
            held: None,
        }
    }

    async fn hold(&mut self) {
        self.held = Some(Arc::clone(&self.queue).lock_owned().await);
    }
}

impl Drop for KeyTurn {
    fn drop(&mut self) {
        self.held = None;
        let mut turns = self.turns.0.lock();
        // The map's and this one: no other call waits, and others join only under the lock.
        if Arc::strong_count(&self.queue) == 2 {
            turns.remove(&self.id);
        }
    }
}

/// A call with an idempotency key that has not been answered. While it exists, other calls with the
/// key wait on this host.
pub(super) struct AnswerClaim {
    app: AppId,
    id: AnswerId,
    request: RequestHash,
    kept_ms: u64,
    _turn: KeyTurn,
}

impl AnswerClaim {
    /// Returns the answer to keep after a successful run.
    pub(super) fn answer(&self, output: &[u8]) -> KeptAnswer {
        let fits = output.len() <= ANSWER_OUTPUT_BYTES_MAX;
        KeptAnswer {
            id: self.id,
            request: self.request,
            output: fits.then(|| output.to_vec().into()),
            expires_at: Timestamp::now().plus_ms(self.kept_ms),
        }
    }
}

/// The state of a call with an idempotency key.
pub(super) enum KeyedCall {
    /// It has to run.
    Unanswered(AnswerClaim),
    /// Another call has been answered, and so is this one.
    Answered(Response),
}

/// Why a call with an idempotency key was neither answered nor claimed.
#[derive(Debug)]
pub(super) enum ClaimError {
    Service(ServiceError),
    Timeout(Timeout),
}

impl From<ServiceError> for ClaimError {
    fn from(error: ServiceError) -> ClaimError {
        ClaimError::Service(error)
    }
}

impl From<Timeout> for ClaimError {
    fn from(timeout: Timeout) -> ClaimError {
        ClaimError::Timeout(timeout)
    }
}

impl From<ClaimError> for InvokeError {
    fn from(error: ClaimError) -> InvokeError {
        match error {
            ClaimError::Service(error) => error.into(),
            ClaimError::Timeout(timeout) => timeout.into(),
        }
    }
}

impl From<ClaimError> for CallError {
    fn from(error: ClaimError) -> CallError {
        match error {
            ClaimError::Service(error) => CallError::Commit(error),
            ClaimError::Timeout(timeout) => timeout.into(),
        }
    }
}

impl Host {
    /// Returns the kept answer of a call, or claims the call once no other one with its key runs on
    /// this host. `None` without a key.
    ///
    /// # Errors
    /// [`ServiceError::KeyReused`], [`ServiceError::KeyInUse`], [`ServiceError::OutputNotKept`], a
    /// store error, or a timeout.
    pub(super) async fn claim_answer(
        &self,
        app: &App,
        call: &Call,
        context: &CallContext,
    ) -> Result<Option<KeyedCall>, ClaimError> {
        let Some(key) = &call.idempotency_key else {
            return Ok(None);
        };
        let id = AnswerId::new(app, &scope_of(call), key);
        let request = request_hash(&call.target, &call.input).await;
        let mut turn = KeyTurn::queued(&self.0.key_turns, id);
        let turns = context.deadline.within(Stage::Queue, turn.hold()).await;
        turns.map_err(|_| ServiceError::KeyInUse)?;
        let claim = AnswerClaim {
            app: app.id,
            id,
            request,
            kept_ms: u64::try_from(self.0.limits.idempotency.as_millis()).unwrap_or(u64::MAX),
            _turn: turn,
        };
        let kept = self.kept_output(&claim);
        let kept = context.deadline.within(Stage::Other, kept).await??;
        Ok(Some(match kept {
            Some(output) => KeyedCall::Answered(replay(output, context.request_id)),
            None => KeyedCall::Unanswered(claim),
        }))
    }

    /// Returns the output of the kept answer, if there is one.
    async fn kept_output(&self, claim: &AnswerClaim) -> Result<Option<Vec<u8>>, ServiceError> {
        let answer = self.0.store.answer(claim.app, claim.id, Timestamp::now());
        match answer.await? {
            None => Ok(None),
            Some(answer) if answer.request != claim.request => Err(ServiceError::KeyReused),
            Some(KeptAnswer { output: None, .. }) => Err(ServiceError::OutputNotKept {
                limit: ANSWER_OUTPUT_BYTES_MAX,
            }),
            Some(KeptAnswer {
                output: Some(output),
                ..
            }) => Ok(Some(output.into())),
        }
    }

    /// Replaces a run that another host's has preceded with that one's answer.
    pub(super) async fn preceding_answer(
        &self,
        claim: &AnswerClaim,
        mut failure: CallFailure,
    ) -> Result<Response, CallFailure> {
        match self.kept_output(claim).await {
            Ok(Some(output)) => {
                failure.discarded.push(failure.log);
                Ok(Response {
                    cost: failure.cost,
                    discarded: failure.discarded,
                    ..replay(output, failure.request_id)
                })
            }
            // It has expired just now.
            Ok(None) => Err(CallFailure {
                error: CallError::Commit(ServiceError::KeyInUse),
                ..failure
            }),
            Err(error) => Err(CallFailure {
                error: CallError::Commit(error),
                ..failure
            }),
        }
    }

    /// Keeps the answer of a run that was not a transaction, whose effects exist. Returns the
    /// answer to give. If it cannot be kept, the call still succeeds, and its log says so.
    pub(super) async fn keep_after_run(
        &self,
        claim: &AnswerClaim,
        target: &InvocationTarget,
        context: &CallContext,
        response: Response,
    ) -> Result<Response, CallFailure> {
        if !is_final(target, &response.output) {
            return Ok(response);
        }
        let batch = Batch {
            keep: Some(Box::new(claim.answer(&response.output))),
            ..Batch::default()
        };
        let commit = Commit::new(claim.app, Timestamp::now(), batch);
        let kept = self.0.store.commit(commit);
        let why = match context.deadline.within(Stage::Commit, kept).await {
            Ok(Ok(_)) => return Ok(response),
            Ok(Err(error)) => match ServiceError::from(error) {
                ServiceError::AlreadyAnswered => {
                    let failure = CallFailure {
                        error: CallError::Commit(ServiceError::AlreadyAnswered),
                        request_id: response.request_id,
                        cost: response.cost,
                        log: response.log,
                        discarded: response.discarded,
                    };
                    return self.preceding_answer(claim, failure).await;
                }
                error => error.to_string(),
            },
            Err(timeout) => timeout.to_string(),
        };
        let function: Arc<str> = match target {
            InvocationTarget::Function(name) | InvocationTarget::Handler(name) => Arc::clone(name),
            InvocationTarget::Http => "http".into(),
        };
        let line = LogRecord {
            seq: 0,
            at: Timestamp::now(),
            level: Level::Warn,
            source: LogSource::Host,
            function,
            request_id: context.request_id,
            trace_id: context.caller.trace().map(|trace| trace.trace_id()),
            message: format!(
                "the answer was not kept for the call's idempotency key, so a repeat runs again: {why}"
            ),
            discarded: false,
            cost: None,
        };
        self.logs().push(claim.app, vec![line]);
        Ok(response)
    }
}

/// Whether a failed run had been preceded by another with the same idempotency key.
pub(super) fn is_preceded(failure: &CallFailure) -> bool {
    matches!(
        failure.error,
        CallError::Commit(ServiceError::AlreadyAnswered)
    )
}

/// The response of a repeat.
fn replay(output: Vec<u8>, request_id: Uuid) -> Response {
    Response {
        output,
        request_id,
        cost: Cost::default(),
        log: GuestLog::new(0, 0),
        discarded: Vec::new(),
        replayed: true,
    }
}

/// Returns whose call it is. Principals with the same permissions count as one caller, unless the
/// call names it.
fn scope_of(call: &Call) -> AnswerScope {
    match (&call.answer_scope, &call.principal) {
        (Some(scope), _) => scope.clone(),
        (None, None) => AnswerScope::Public,
        (None, Some(principal)) => AnswerScope::Named(permissions(principal).into()),
    }
}

fn permissions(principal: &Principal) -> String {
    let mut scopes: Vec<_> = principal.scopes().iter().map(|s| s.as_str()).collect();
    scopes.sort_unstable();
    scopes.dedup();
    let app = principal.app().map(|app| app.uuid());
    format!("principal of {app:?} with {}", scopes.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvasm_core::{AppName, IdempotencyKey};

    #[tokio::test]
    async fn turns_of_a_key_leave_nothing_behind() {
        let turns = Arc::new(KeyTurns::default());
        let id = AnswerId([1; 32]);
        let mut first = KeyTurn::queued(&turns, id);
        first.hold().await;
        let mut second = KeyTurn::queued(&turns, id);
        let mut other = KeyTurn::queued(&turns, AnswerId([2; 32]));
        other.hold().await;
        let waits = tokio::time::timeout(std::time::Duration::from_millis(10), second.hold()).await;
        assert!(waits.is_err());
        drop(first);
        second.hold().await;
        assert_eq!(turns.0.lock().len(), 2);
        drop((second, other));
        assert!(turns.0.lock().is_empty());
    }

    #[tokio::test]
    async fn repeat_that_waits_until_its_deadline_is_told_that_the_key_is_in_use() {
        let limits = kvasm_core::Limits {
            wall_time: std::time::Duration::from_millis(20),
            ..kvasm_core::Limits::default()
        };
        let host = Host::builder().unpooled().limits(limits).build().unwrap();
        let app = host
            .create_app(AppName::parse("app").unwrap())
            .await
            .unwrap();
        let call = Call::function("f").idempotency_key(IdempotencyKey::parse("k").unwrap());
        let claim = || async {
            let context = host.context(&app, &call);
            host.claim_answer(&app, &call, &context).await
        };
        let first = claim().await.unwrap();
        assert!(matches!(first, Some(KeyedCall::Unanswered(_))));
        let second = claim().await;
        assert!(matches!(
            second,
            Err(ClaimError::Service(ServiceError::KeyInUse))
        ));
        drop(first);
        assert!(matches!(claim().await, Ok(Some(KeyedCall::Unanswered(_)))));
    }
}
