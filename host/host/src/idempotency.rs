//! Idempotent calls: the answer of a call with an idempotency key is kept, and its repeats get it.

use super::{Call, Host, InvokeError};
use kvasm_abi::http::split;
use kvasm_core::{
    ANSWER_OUTPUT_BYTES_MAX, AnswerId, AnswerScope, App, AppId, Batch, Commit, Cost, KeptAnswer,
    Level, Pieces, Principal, RequestHash, RequestHasher, Timestamp,
};
use kvasm_runtime::{CallError, CallFailure, GuestLog, InvocationTarget, Response};
use kvasm_service::{CallContext, LogRecord, LogSource, ServiceError, Stage, Timeout};
use parking_lot::Mutex;
use serde::Deserialize;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::OwnedMutexGuard;
use uuid::Uuid;

/// The bytes of a body that are hashed at once. Other tasks of the thread run in between.
const HASHED_AT_ONCE: usize = 64 * 1024;

/// The statuses below 500 that ask for another attempt: request timeout, too early, too many
/// requests.
const RETRIED_STATUSES: [u16; 3] = [408, 425, 429];

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
        // The map's and this one: nobody else waits, and others join only under the lock.
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
pub(super) enum KeyState {
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
    ) -> Result<Option<KeyState>, ClaimError> {
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
            Some(output) => KeyState::Answered(replay(output, context.request_id)),
            None => KeyState::Unanswered(claim),
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

#[derive(Deserialize)]
struct RequestHead<'h> {
    #[serde(borrow)]
    method: std::borrow::Cow<'h, str>,
    #[serde(borrow)]
    path: std::borrow::Cow<'h, str>,
    #[serde(borrow, default)]
    query: std::borrow::Cow<'h, str>,
}

#[derive(Deserialize)]
struct ResponseHead {
    status: u16,
}

/// Hashes what makes a request the same as another.
async fn request_hash(target: &InvocationTarget, input: &Pieces) -> RequestHash {
    let frame = match target {
        InvocationTarget::Http => head_of(input),
        InvocationTarget::Function(_) | InvocationTarget::Handler(_) => None,
    };
    let head = frame.as_deref();
    let head = head.and_then(|head| serde_json::from_slice::<RequestHead<'_>>(head).ok());
    let (mut hasher, body_at) = match (target, &head) {
        (InvocationTarget::Function(name) | InvocationTarget::Handler(name), _) => {
            (RequestHasher::new(&[name]), 0)
        }
        (InvocationTarget::Http, Some(head)) => (
            RequestHasher::new(&[&head.method, &head.path, &head.query]),
            4 + frame.as_ref().map_or(0, Vec::len),
        ),
        // The plugin decides what it makes of a malformed frame.
        (InvocationTarget::Http, None) => (RequestHasher::new(&[]), 0),
    };
    let mut skip = body_at;
    for piece in input.iter() {
        let body = piece.get(skip..).unwrap_or_default();
        skip = skip.saturating_sub(piece.len());
        for part in body.chunks(HASHED_AT_ONCE) {
            hasher.update(part);
            if part.len() == HASHED_AT_ONCE {
                tokio::task::yield_now().await;
            }
        }
    }
    hasher.finish()
}

/// Returns the head of a framed request.
fn head_of(input: &Pieces) -> Option<Vec<u8>> {
    let mut prefix = [0; 4];
    if input.copy_to(0, &mut prefix) < prefix.len() {
        return None;
    }
    let len = usize::try_from(u32::from_le_bytes(prefix)).ok()?;
    if len > input.len().checked_sub(prefix.len())? {
        return None;
    }
    let mut head = vec![0; len];
    input.copy_to(prefix.len(), &mut head);
    Some(head)
}

/// Whether an output is the final answer of its request, rather than a failure after which the
/// request should run again.
fn is_final(target: &InvocationTarget, output: &[u8]) -> bool {
    match target {
        InvocationTarget::Function(_) | InvocationTarget::Handler(_) => true,
        InvocationTarget::Http => {
            let head = split(output).ok();
            let head = head.and_then(|(head, _)| serde_json::from_slice::<ResponseHead>(head).ok());
            head.is_some_and(|head| {
                (200..500).contains(&head.status) && !RETRIED_STATUSES.contains(&head.status)
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvasm_abi::http::prefix;
    use kvasm_core::{AppName, IdempotencyKey};

    fn framed(head: &str, body: &[u8]) -> Pieces {
        let mut pieces = Pieces::default();
        pieces.push(prefix(head.len()).unwrap().to_vec());
        let (first, rest) = head.as_bytes().split_at(head.len() / 2);
        pieces.push(first.to_vec());
        pieces.push(rest.to_vec());
        for part in body.chunks(3) {
            pieces.push(part.to_vec());
        }
        pieces
    }

    #[tokio::test]
    async fn request_of_a_handler_is_its_method_path_query_and_body() {
        let http = InvocationTarget::Http;
        let hash = async |head: &str, body: &[u8]| request_hash(&http, &framed(head, body)).await;
        let head = r#"{"method":"POST","path":"/a","query":"q=1","headers":[["x","1"]]}"#;
        let first = hash(head, b"the body").await;
        // Other headers, and other pieces.
        let other = r#"{"method":"POST","path":"/a","query":"q=1","headers":[]}"#;
        assert_eq!(first, hash(other, b"the body").await);
        let mut whole = Vec::new();
        framed(head, b"the body")
            .iter()
            .for_each(|p| whole.extend_from_slice(p));
        assert_eq!(first, request_hash(&http, &whole.into()).await);
        for (head, body) in [
            (head, "the bodies"),
            (&other.replace("POST", "PUT"), "the body"),
            (&other.replace("/a", "/b"), "the body"),
            (&other.replace("q=1", "q=2"), "the body"),
            ("{}", "the body"),
        ] {
            assert_ne!(first, hash(head, body.as_bytes()).await, "{head} {body}");
        }
        // A frame that ends within its head is hashed as a whole.
        let cut = Pieces::from(vec![9, 0, 0, 0, b'x']);
        let other = Pieces::from(vec![9, 0, 0, 0, b'y']);
        assert_ne!(
            request_hash(&http, &cut).await,
            request_hash(&http, &other).await
        );
    }

    #[tokio::test]
    async fn large_input_is_hashed_like_its_parts() {
        let target = InvocationTarget::Function("f".into());
        let bytes: Vec<u8> = (0..3 * HASHED_AT_ONCE + 7)
            .map(|at| (at % 251) as u8)
            .collect();
        let mut parts = Pieces::default();
        bytes
            .chunks(1_000)
            .for_each(|part| parts.push(part.to_vec()));
        let whole = request_hash(&target, &bytes.into()).await;
        assert_eq!(whole, request_hash(&target, &parts).await);
    }

    #[test]
    fn only_final_responses_of_handlers_are_kept() {
        let is_kept = |status: u16| {
            let head = format!(r#"{{"status":{status},"headers":[]}}"#);
            let output = [&prefix(head.len()).unwrap(), head.as_bytes(), b"body"].concat();
            is_final(&InvocationTarget::Http, &output)
        };
        let kept: Vec<_> = [
            200, 204, 303, 400, 404, 408, 409, 422, 425, 429, 499, 500, 503,
        ]
        .into_iter()
        .filter(|status| is_kept(*status))
        .collect();
        assert_eq!(kept, [200, 204, 303, 400, 404, 409, 422, 499]);
        assert!(!is_final(&InvocationTarget::Http, b"not a frame"));
        assert!(is_final(
            &InvocationTarget::Function("f".into()),
            b"anything"
        ));
    }

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
        assert!(matches!(first, Some(KeyState::Unanswered(_))));
        let second = claim().await;
        assert!(matches!(
            second,
            Err(ClaimError::Service(ServiceError::KeyInUse))
        ));
        drop(first);
        assert!(matches!(claim().await, Ok(Some(KeyState::Unanswered(_)))));
    }
}
