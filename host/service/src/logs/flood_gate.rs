//! Which records of an app are kept while it writes too many.

use std::time::Instant;

/// How many records an app may write.
#[derive(Debug, Clone, Copy)]
pub struct FloodRates {
    /// Records per second that it may write for long.
    pub per_second: f64,
    /// Records that it may write at once.
    pub burst: f64,
    /// Of the calls of an app that writes more, the records of one in this many are kept.
    pub sample: u64,
    /// The part of both rates that records of failures may use in addition, before they are sampled.
    pub for_failures: f64,
}

/// A bucket of tokens, which may be overdrawn once.
#[derive(Debug, Clone, Copy)]
struct TokenAllowance {
    tokens: f64,
    per_second: f64,
    burst: f64,
}

impl TokenAllowance {
    fn new(rates: &FloodRates, part: f64) -> TokenAllowance {
        TokenAllowance {
            tokens: rates.burst * part,
            per_second: rates.per_second * part,
            burst: rates.burst * part,
        }
    }

    fn refill(&mut self, seconds: f64) {
        self.tokens = (self.tokens + seconds * self.per_second).min(self.burst);
    }

    fn takes(&mut self, records: usize) -> bool {
        let takes = self.tokens > 0.0;
        if takes {
            self.tokens -= records as f64;
        }
        takes
    }

    fn is_full(&self) -> bool {
        self.tokens >= self.burst
    }
}

/// Decides which calls' records are kept: all, or a sample while the app writes too many.
pub(super) struct FloodGate {
    all: TokenAllowance,
    failures: TokenAllowance,
    sample: u64,
    refilled: Instant,
    /// Calls since the flood began.
    calls: u64,
    /// Records left out since they were last taken.
    left_out: u64,
}

impl FloodGate {
    pub(super) fn new(rates: &FloodRates, now: Instant) -> FloodGate {
        FloodGate {
            all: TokenAllowance::new(rates, 1.0),
            failures: TokenAllowance::new(rates, rates.for_failures),
            sample: rates.sample,
            refilled: now,
            calls: 0,
            left_out: 0,
        }
    }

    pub(super) fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.refilled).as_secs_f64();
        self.all.refill(passed);
        self.failures.refill(passed);
        self.refilled = now;
    }

    /// Whether a call's records are kept: all of them, so the last call may overdraw. Those of calls
    /// that failed have an allowance of their own.
    pub(super) fn admits(&mut self, records: usize, has_failed: bool, now: Instant) -> bool {
        self.refill(now);
        if self.all.takes(records) {
            self.calls = 0;
            return true;
        }
        if has_failed && self.failures.takes(records) {
            return true;
        }
        self.calls += 1;
        let is_sampled = self.calls % self.sample == 1;
        if !is_sampled {
            self.left_out += records as u64;
        }
        is_sampled
    }

    pub(super) fn left_out(&self) -> u64 {
        self.left_out
    }

    pub(super) fn take_left_out(&mut self) -> u64 {
        std::mem::take(&mut self.left_out)
    }

    /// Whether it is as a new one.
    pub(super) fn is_idle(&self) -> bool {
        self.left_out == 0 && self.all.is_full() && self.failures.is_full()
    }
}
