//! Limits of the server's log lines about requests.

use super::{Bucket, RateLimit, Throttle, WARNINGS};
use kvasm_core::AppId;
use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// For lines about answered requests, which operators enable.
const ACCESS_LINES: RateLimit = RateLimit {
    burst: 100,
    refill: Duration::from_millis(50),
};

/// Static, because the log is per process.
static REFUSED: Throttle = Throttle::new(WARNINGS);
static ANSWERED: Throttle = Throttle::new(ACCESS_LINES);
/// For lines about requests that the host failed to answer. Their app is not known where they
/// are logged.
static REQUESTS: Mutex<Bucket> = Mutex::new(Bucket::EMPTY);

/// Admits a log line about a request that failed.
///
/// # Returns
/// If admitted, the number of lines suppressed since the last one.
pub fn admit_failed_request_line() -> Option<u64> {
    REQUESTS.lock().take(Instant::now(), WARNINGS)
}

/// How requests have ended. Each kind has its own limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestOutcome {
    /// Missing token or scope: a burst of 10 lines, then one per second.
    Refused,
    /// Anything else: a burst of 100 lines, then 20 per second.
    Answered,
}

/// Admits a log line about a request of an app, or of none.
///
/// # Returns
/// If admitted, the number of lines suppressed since the last one.
pub fn admit_request_line(requests: RequestOutcome, app: Option<AppId>) -> Option<u64> {
    let lines = match requests {
        RequestOutcome::Refused => &REFUSED,
        RequestOutcome::Answered => &ANSWERED,
    };
    lines.line_about(app, Instant::now())
}
