//! Lines of the server's requests.

use super::{Bucket, FEW, Pace, Throttle};
use kvasm_core::AppId;
use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// For the lines of requests that were answered, which an operator has asked for.
const MANY: Pace = Pace {
    burst: 100,
    refill: Duration::from_millis(50),
};

/// The log is one for the process, and so are these.
static REFUSED: Throttle = Throttle::new(FEW);
static ANSWERED: Throttle = Throttle::new(MANY);
/// Lines about requests that the host could not answer. Their app is not known where
/// they are written.
static REQUESTS: Mutex<Bucket> = Mutex::new(Bucket::EMPTY);

/// Whether the host's own log may have one more line about a request that failed.
///
/// # Returns
/// How many lines were suppressed since the last one, if it may.
pub fn line_about_request() -> Option<u64> {
    REQUESTS.lock().take(Instant::now(), FEW)
}

/// How requests have ended. Each kind has lines of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requests {
    /// For want of a token or a scope: 10 lines at once and one per second.
    Refused,
    /// In any other way: 100 lines at once and 20 per second.
    Answered,
}

/// Whether the host's own log may have the line of one more request of an app, or of
/// those that are of no app.
///
/// # Returns
/// How many lines were suppressed since the last one, if it may.
pub fn line_of_request(requests: Requests, app: Option<AppId>) -> Option<u64> {
    let lines = match requests {
        Requests::Refused => &REFUSED,
        Requests::Answered => &ANSWERED,
    };
    lines.line_about(app, Instant::now())
}
