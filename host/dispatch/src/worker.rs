//! Runs one claimed delivery.

use super::{AttemptEvent, DispatchContext, millis, pauses, retry};
use kvasm_core::store::StoreError;
use kvasm_core::{
    App, AppId, DEPTH_MAX, DeadReason, Delivery, FailOutcome, FailedAttempt, LeaseToken,
    ProbeDelay, Verdict, truncate,
};
use kvasm_host::DeliverError;
use kvasm_service::{SeenGeneration, admit_app_line, error_chain};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::OnceCell;
use tokio::time::{MissedTickBehavior, interval_at};
use uuid::Uuid;

/// Maximum length of a stored error, in bytes.
const ERROR_BYTES_MAX: usize = 4 * 1024;

/// How long a delivery is held if its app cannot be read, so that an app's backlog is not
/// claimed and released in a busy loop, and when it is due after that.
const UNREAD_HOLD: Duration = Duration::from_millis(500);
const UNREAD_PAUSE: Duration = Duration::from_secs(2);
/// The first pause before a nack is retried.
const GIVE_BACK_PAUSE: Duration = Duration::from_millis(250);
/// Maximum length of a tenant's text in a line of the host's own log, in bytes.
const LOGGED_BYTES_MAX: usize = 256;

/// The outcome of an attempt.
enum AttemptOutcome {
    Done,
    /// Another host has the delivery, or it was deleted.
    Lost,
    /// It is to be run again after this time, in milliseconds.
    Deferred(u64),
    Failed(Box<DeliverError>),
}

/// A claimed delivery.
pub(super) struct Claimed {
    pub(super) id: AppId,
    /// The app as read after the claim, `None` if it was deleted. Shared by all deliveries of a
    /// claim.
    pub(super) app: Arc<OnceCell<Option<Arc<App>>>>,
    pub(super) delivery: Arc<Delivery>,
    pub(super) lease: Uuid,
}

pub(super) async fn work(shared: &DispatchContext, claimed: Claimed) {
    let Claimed {
        id,
        app,
        delivery,
        lease,
    } = claimed;
    let receipt = LeaseToken {
        app: id,
        place: delivery.place.clone(),
        lease,
    };
    let read = async || {
        let access = shared.host.access();
        access.app_by_id(&mut SeenGeneration::default(), id).await
    };
    let app = match app.get_or_try_init(read).await {
        Ok(Some(app)) => app,
        // Its deliveries were deleted with it.
        Ok(None) => return,
        Err(error) => {
            let what = format!("a delivery of app {id}, which cannot be read");
            shared.deliveries.report_skip(&what, &error_chain(&error));
            return release(shared, &receipt).await;
        }
    };
    if let Some((reason, error)) = reason_not_to_run(&delivery) {
        let verdict = Verdict::DeadLetter(reason);
        let failed = failure(shared, receipt, verdict, error);
        return nack(shared, app, &delivery, failed, Uuid::now_v7()).await;
    }
    if delivery.attempts == 1 {
        let lag = shared.clock.now().0.saturating_sub(delivery.queued_at.0);
        let lag = Duration::from_millis(u64::try_from(lag).unwrap_or(0));
        shared.host.metrics().delivery_lag(lag);
    }
    let running = shared.host.metrics().delivery_running();
    shared.observe(AttemptEvent::Started(&delivery));
    let outcome = attempt(shared, app, &delivery, &receipt).await;
    drop(running);
    match outcome {
        AttemptOutcome::Done => {
            shared.observe(AttemptEvent::Succeeded(&delivery));
            shared.host.metrics().delivery(app.name.as_str(), "done");
            if delivery.is_probe {
                pauses::after_probe(shared, app, &delivery);
            }
        }
        AttemptOutcome::Lost => shared.host.metrics().delivery(app.name.as_str(), "lost"),
        AttemptOutcome::Deferred(wait_ms) => defer(shared, app, &receipt, wait_ms).await,
        AttemptOutcome::Failed(error) => {
            shared.observe(AttemptEvent::Failed(&delivery, &error.error));
            let failed = classify(shared, &delivery, receipt, &error);
            let request_id = error.error.request_id().unwrap_or_else(Uuid::now_v7);
            nack(shared, app, &delivery, failed, request_id).await;
        }
    }
}

/// Returns why a delivery must not be run at all.
fn reason_not_to_run(delivery: &Delivery) -> Option<(DeadReason, String)> {
    if delivery.event.depth > DEPTH_MAX {
        let error = format!(
            "trigger recursion limit exceeded (depth {}, limit {DEPTH_MAX}): handlers change what \
             they watch",
            delivery.event.depth
        );
        return Some((DeadReason::Depth, error));
    }
    // Attempts are counted at the claim, so the hosts of earlier claims have crashed.
    if delivery.attempts > delivery.policy.attempts_max {
        let error = "every attempt was abandoned (host crash or expired lease)";
        return Some((DeadReason::Attempts, error.to_owned()));
    }
    None
}

/// Runs the handler, and renews the lease meanwhile.
async fn attempt(
    shared: &DispatchContext,
    app: &App,
    delivery: &Arc<Delivery>,
    receipt: &LeaseToken,
) -> AttemptOutcome {
    let handler = shared.host.deliver(app, delivery, receipt.clone());
    let renew = || renew(shared, receipt);
    match while_leased(handler, shared.lease() / 3, renew).await {
        Some(Ok(_cost)) => AttemptOutcome::Done,
        Some(Err(error)) if error.error.is_lease_lost() => AttemptOutcome::Lost,
        Some(Err(error)) => match error.error.deferral_ms() {
            Some(wait_ms) => AttemptOutcome::Deferred(wait_ms),
            None => AttemptOutcome::Failed(Box::new(error)),
        },
        // Its commit would be rejected.
        None => AttemptOutcome::Lost,
    }
}

/// Runs a handler and, concurrently, the renewals of its lease, so that a renewal that waits for
/// the store does not block it. Returns `None`, and drops the handler, once `renew` reports that
/// the lease is lost.
async fn while_leased<T, R: Future<Output = bool>>(
    handler: impl Future<Output = T>,
    every: Duration,
    renew: impl Fn() -> R,
) -> Option<T> {
    let renewals = async {
        let mut renewals = interval_at(tokio::time::Instant::now() + every, every);
        renewals.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            renewals.tick().await;
            if !renew().await {
                return;
            }
        }
    };
    tokio::select! {
        ended = handler => Some(ended),
        () = renewals => None,
    }
}

/// Renews a lease. Returns `false` if it is known to be lost.
async fn renew(shared: &DispatchContext, receipt: &LeaseToken) -> bool {
    let until = shared.clock.now().plus_ms(millis(shared.lease()));
    match shared.host.store().renew(receipt, until).await {
        Ok(held) => held,
        Err(error) => {
            let what = format_args!("the renewal of a lease of app {}", receipt.app);
            shared.deliveries.report_skip(&what, &error_chain(&error));
            true
        }
    }
}

/// Classifies a failed attempt, and decides what to do with its delivery.
fn classify(
    shared: &DispatchContext,
    delivery: &Delivery,
    receipt: LeaseToken,
    error: &DeliverError,
) -> FailedAttempt {
    let deterministic = error.error.is_deterministic();
    let failure_kind = match deterministic {
        true if error.error.is_permanent() => retry::FailureKind::Permanent,
        true => retry::FailureKind::Deterministic,
        false => retry::FailureKind::Transient,
    };
    let now = shared.clock.now();
    let verdict = retry::verdict(
        delivery.policy,
        delivery.attempts,
        // By a clock in doubt, no delivery is too old.
        match shared.clock.is_trusted() {
            true => delivery.queued_at,
            false => now,
        },
        now,
        failure_kind,
        retry::backoff(delivery.attempts, shared.jitter()).max(error.error.retry_wait_min()),
    );
    FailedAttempt {
        deterministic,
        trace: error
            .error
            .trace()
            .map(|trace| truncate_for_store(trace.to_owned())),
        plugin: error.plugin,
        ..failure(shared, receipt, verdict, error.error.summary())
    }
}

fn failure(
    shared: &DispatchContext,
    receipt: LeaseToken,
    verdict: Verdict,
    error: String,
) -> FailedAttempt {
    FailedAttempt {
        receipt,
        now: shared.clock.now(),
        verdict,
        deterministic: false,
        probe: ProbeDelay {
            first: shared.options.probe_after,
            jitter: shared.jitter(),
        },
        error: truncate_for_store(error),
        trace: None,
        plugin: None,
    }
}

async fn nack(
    shared: &DispatchContext,
    app: &App,
    delivery: &Delivery,
    failed: FailedAttempt,
    request_id: Uuid,
) {
    let outcome = match failed.verdict {
        Verdict::RetryAt(_) => "retry",
        Verdict::DeadLetter(_) => "dead",
    };
    let trigger = failed.receipt.place.trigger.clone();
    match fail(shared, &failed).await {
        Ok(FailOutcome::LeaseLost) => shared.host.metrics().delivery(app.name.as_str(), "lost"),
        Ok(returned) => {
            pauses::after_failure(shared, app, delivery, request_id, returned);
            shared.host.metrics().delivery(app.name.as_str(), outcome);
            if let Verdict::DeadLetter(reason) = failed.verdict
                && let Some(suppressed) = admit_app_line(app.id)
            {
                // The full text is in the dead letter.
                let error = truncate(&failed.error, LOGGED_BYTES_MAX);
                tracing::warn!(app = %app.name, %trigger, %reason, error, suppressed, "a delivery became a dead letter");
            }
        }
        // It is retried when its lease expires.
        Err(error) => {
            let what = format_args!("the nack of a failed delivery of app {}", app.name);
            shared.deliveries.report_skip(&what, &error_chain(&error));
        }
    }
}

/// Releases a delivery whose handler could not be started, through no fault of the app: the
/// attempt does not count.
async fn release(shared: &DispatchContext, receipt: &LeaseToken) {
    tokio::time::sleep(UNREAD_HOLD).await;
    let mut tries = StoreRetries::within(shared.lease());
    loop {
        let at = shared.clock.now().plus_ms(millis(UNREAD_PAUSE));
        let released = shared.host.store().release(receipt, at).await;
        let Err(error) = released else { return };
        match tries.after(&error) {
            Some(pause) => tokio::time::sleep(pause).await,
            None => {
                let what = format_args!("the release of a delivery of app {}", receipt.app);
                return shared.deliveries.report_skip(&what, &error_chain(&error));
            }
        }
    }
}

/// Nacks a delivery whose handler asks to be run again later. While the store is unavailable, retries
/// for a third of the lease. After that it is run again when its lease expires.
async fn defer(shared: &DispatchContext, app: &App, receipt: &LeaseToken, wait_ms: u64) {
    let mut tries = StoreRetries::within(shared.lease() / 3);
    loop {
        let now = shared.clock.now();
        match shared.host.store().defer(receipt, wait_ms, now).await {
            Ok(held) => {
                let outcome = if held { "deferred" } else { "lost" };
                return shared.host.metrics().delivery(app.name.as_str(), outcome);
            }
            Err(error) => match tries.after(&error) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => {
                    let what = format_args!("a deferred delivery of app {}", app.name);
                    return shared.deliveries.report_skip(&what, &error_chain(&error));
                }
            },
        }
    }
}

/// Nacks a delivery. While the store is unavailable, retries for a third of the lease.
async fn fail(shared: &DispatchContext, failed: &FailedAttempt) -> Result<FailOutcome, StoreError> {
    let mut tries = StoreRetries::within(shared.lease() / 3);
    loop {
        match shared.host.store().fail(failed).await {
            Ok(returned) => return Ok(returned),
            Err(error) => match tries.after(&error) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(error),
            },
        }
    }
}

/// Limits retries while the store is unavailable.
struct StoreRetries {
    until: Instant,
    pause: Duration,
}

impl StoreRetries {
    fn within(time: Duration) -> StoreRetries {
        StoreRetries {
            until: Instant::now() + time,
            pause: GIVE_BACK_PAUSE,
        }
    }

    /// Returns the pause before the next try, if there is one.
    fn after(&mut self, error: &StoreError) -> Option<Duration> {
        let pause = self.pause;
        self.pause *= 2;
        let is_soon = Instant::now() + pause < self.until;
        (is_soon && matches!(error, StoreError::Unavailable(_))).then_some(pause)
    }
}

/// Prepares text for the store: truncates it, and removes NUL, which Postgres cannot store.
fn truncate_for_store(mut text: String) -> String {
    text.retain(|c| c != '\0');
    let mut end = text.len().min(ERROR_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

/// Returns a random number from 0 to 1, or 0.5 without randomness.
pub(super) fn jitter() -> f64 {
    let mut bytes = [0; 4];
    match getrandom::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::future::pending;
    use tokio::sync::Notify;

    const OFTEN: Duration = Duration::from_millis(1);

    #[tokio::test]
    async fn handler_continues_during_an_unanswered_renewal() {
        let asked = Notify::new();
        let handler = async {
            asked.notified().await;
            // Polled again after the renewal has started to wait.
            tokio::time::sleep(OFTEN).await;
            "done"
        };
        let renew = || async {
            asked.notify_one();
            pending().await
        };
        let run = while_leased(handler, OFTEN, renew);
        let ended = tokio::time::timeout(Duration::from_secs(60), run).await;
        assert_eq!(ended, Ok(Some("done")));
    }

    #[tokio::test]
    async fn handler_is_cancelled_when_its_lease_is_lost() {
        let renewals = Cell::new(0);
        let renew = || async {
            renewals.set(renewals.get() + 1);
            renewals.get() < 3
        };
        let run = while_leased(pending::<()>(), OFTEN, renew);
        let ended = tokio::time::timeout(Duration::from_secs(60), run).await;
        assert_eq!((ended, renewals.get()), (Ok(None), 3));
    }

    #[test]
    fn retry_delays_have_jitter() {
        let spreads: Vec<f64> = std::iter::repeat_with(jitter).take(100).collect();
        assert!(spreads.iter().all(|spread| (0.0..=1.0).contains(spread)));
        // The probability of a false failure is 2^-100 per half.
        assert!(spreads.iter().any(|spread| *spread < 0.5));
        assert!(spreads.iter().any(|spread| *spread > 0.5));
    }

    #[test]
    fn error_text_is_truncated_at_a_char_boundary() {
        let text = truncate_for_store(format!("\0{}", "é".repeat(ERROR_BYTES_MAX)));
        assert_eq!(text.len(), ERROR_BYTES_MAX);
        assert_eq!(truncate_for_store("é".repeat(3)), "ééé");
        let odd = truncate_for_store(format!("x{}", "é".repeat(ERROR_BYTES_MAX)));
        assert_eq!(odd.len(), ERROR_BYTES_MAX - 1);
    }
}
