//! A call on its way: its turn among those of its key and of its app, and its run.

use super::call::admission_span;
use super::call_recording::CallRecording;
use super::idempotency::KeyedCall;
use super::{Call, Host, InvokeError};
use kvasm_core::{App, Digest, Pieces, TraceContext};
use kvasm_runtime::{CallFailure, Response};
use kvasm_service::{OpenSpan, Refusal, Ticket};
use std::pin::pin;
use std::sync::Arc;
use tracing::Instrument;

/// A call that was admitted by [`Host::admit`]. It counts against the app's limit until it has
/// ended or this is dropped.
pub struct AdmittedCall {
    pub(super) host: Host,
    pub(super) app: Arc<App>,
    pub(super) digest: Digest,
    pub(super) call: Call,
    pub(super) ticket: Ticket,
    /// Why the active plugin cannot answer it. A kept answer still can.
    pub(super) missing: Option<CallFailure>,
}

impl AdmittedCall {
    /// Makes the call, once its input is available. Its time starts here: `limits.wall_time` for
    /// queueing, loading, running and committing together.
    ///
    /// # Errors
    /// [`InvokeError`].
    pub async fn call(self, input: impl Into<Pieces>) -> Result<Response, InvokeError> {
        self.call_unless(input, std::future::pending()).await
    }

    /// Like [`call`](AdmittedCall::call), but a queued call is cancelled when `left` completes, as
    /// its caller has disconnected.
    ///
    /// # Errors
    /// [`InvokeError`].
    pub async fn call_unless(
        mut self,
        input: impl Into<Pieces>,
        left: impl Future<Output = ()> + Send,
    ) -> Result<Response, InvokeError> {
        self.call.input = input.into();
        self.run(left).await
    }

    pub(super) async fn run(
        self,
        left: impl Future<Output = ()> + Send,
    ) -> Result<Response, InvokeError> {
        let AdmittedCall {
            host,
            app,
            digest,
            call,
            ticket,
            missing,
        } = self;
        let context = host.context(&app, &call);
        let mut left = pin!(left);
        // Repeats wait for each other before they count as running.
        let state = tokio::select! {
            biased;
            state = host.claim_answer(&app, &call, &context) => state?,
            () = &mut left => return Err(Refusal::Disconnected.into()),
        };
        let claim = match state {
            None => None,
            Some(KeyedCall::Unanswered(claim)) => Some(claim),
            Some(KeyedCall::Answered(response)) => {
                CallRecording::of_call(&host, &app, &call.target, &context).replayed();
                return Ok(response);
            }
        };
        if let Some(failure) = missing {
            return Err(failure.into());
        }
        let recorder = context.caller.recorder().cloned();
        let waiting = recorder.as_ref().map(admission_span);
        let pass = tokio::select! {
            biased;
            pass = ticket.admit(&context.deadline) => pass,
            () = left => Err(Refusal::Disconnected),
        };
        OpenSpan::finish(waiting, &pass, Refusal::class);
        let pass = pass?;
        let is_keyed = claim.is_some();
        let run = async move {
            let _pass = pass;
            let mut recording = CallRecording::of_call(&host, &app, &call.target, &context);
            let loaded = host.current_plugin(
                Arc::clone(&app),
                digest,
                &context.deadline,
                recorder.as_ref(),
            );
            let result = match loaded.await {
                Err(error) => Err(error),
                Ok(plugin) => {
                    let name: Arc<str> = call.target.name(&plugin.compiled).into();
                    recording.runs(&plugin, &name);
                    let trace_id = context.caller.trace().map(TraceContext::trace_id);
                    let result = host.run(&plugin, &plugin.app, call, context, claim.as_ref());
                    let result = result.await;
                    host.keep_log(app.id, name, trace_id, &result);
                    result.map_err(InvokeError::from)
                }
            };
            recording.end(&result);
            result
        };
        match is_keyed {
            true => to_its_end(run).await,
            false => run.await,
        }
    }
}

/// Runs a call to its end, even if its caller disconnects: the answer is kept for a repeat.
async fn to_its_end(
    run: impl Future<Output = Result<Response, InvokeError>> + Send + 'static,
) -> Result<Response, InvokeError> {
    match tokio::spawn(run.in_current_span()).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The host stops.
            Err(_) => Err(Refusal::Disconnected.into()),
        },
    }
}
