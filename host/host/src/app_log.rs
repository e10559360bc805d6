//! What the host adds to an app's log: the lines of a call, and why it failed.

use super::Host;
use kvasm_core::{App, AppId, Level, Timestamp, TraceId};
use kvasm_runtime::{CallFailure, GuestLog, InvocationTarget, Response};
use kvasm_service::{LogRecord, LogSource};
use std::sync::Arc;
use uuid::Uuid;

impl Host {
    /// Adds a line to an app's log: why the output of its HTTP handler is not a response, after a
    /// call that succeeded for the host.
    pub fn log_invalid_answer(
        &self,
        app: &App,
        request_id: Uuid,
        trace_id: Option<TraceId>,
        why: &str,
    ) {
        let plugin = app.active;
        let plugin = plugin.and_then(|active| self.0.runtime.loaded(&active.digest));
        let name = plugin
            .as_ref()
            .map_or("", |p| InvocationTarget::Http.name(p));
        let line = LogRecord {
            seq: 0,
            at: Timestamp::now(),
            level: Level::Error,
            source: LogSource::Host,
            function: name.into(),
            request_id,
            trace_id,
            message: format!("the handler returned an invalid HTTP response: {why}"),
            discarded: false,
            cost: None,
        };
        self.logs().push(app.id, [line]);
    }

    /// Adds the log lines of an invocation, and the reason of its failure, to the app's log.
    /// Lines of discarded runs come first, and are marked. The last line has the cost.
    pub(super) fn keep_log(
        &self,
        app: AppId,
        function: Arc<str>,
        trace_id: Option<TraceId>,
        result: &Result<Response, CallFailure>,
    ) {
        let (request_id, cost, log, thrown, error) = match result {
            Ok(done) => (done.request_id, done.cost, &done.log, &done.discarded, None),
            Err(failed) => (
                failed.request_id,
                failed.cost,
                &failed.log,
                &failed.discarded,
                Some(&failed.error),
            ),
        };
        let at = Timestamp::now();
        let record = |level, source, message, discarded| LogRecord {
            seq: 0,
            at,
            level,
            source,
            function: Arc::clone(&function),
            request_id,
            trace_id,
            message,
            discarded,
            cost: None,
        };
        let lines = |log: &GuestLog, discarded| {
            let own = log.lines().iter();
            let own = own.map(|line| {
                record(
                    line.level,
                    LogSource::Plugin,
                    line.message.clone(),
                    discarded,
                )
            });
            let dropped = (log.dropped() > 0).then(|| {
                let message = format!("{} more lines of this call were dropped", log.dropped());
                record(Level::Warn, LogSource::Host, message, discarded)
            });
            own.chain(dropped).collect::<Vec<_>>()
        };
        let thrown = thrown.iter().flat_map(|log| lines(log, true));
        let failed = error.map(|error| match error.retry_after_ms() {
            Some(ms) => {
                let message = format!("the handler asks to be run again in {ms} ms");
                record(Level::Info, LogSource::Host, message, false)
            }
            None => record(Level::Error, LogSource::Host, error.to_string(), false),
        });
        let all = thrown.chain(lines(log, false)).chain(failed);
        let mut all: Vec<_> = all.collect();
        if let Some(last) = all.last_mut().filter(|_| cost.runs > 0) {
            last.cost = Some(Box::new(cost));
        }
        self.logs().push(app, all);
    }
}
