//! Deadlines of calls, and the accounting of their time.
//!
//! One [`Deadline`] accompanies a call from its entry point to its commit. Each stage adds the
//! time that it took, so that a call that times out can tell what it was spent on, and whose
//! fault that was.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::time::timeout_at;

/// The stages of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Waiting for other calls of its app to end.
    Queue,
    /// Waiting for a free instance.
    Instance,
    /// Waiting for its module to be read or compiled.
    Loading,
    /// Ready to compute, but waiting for a CPU permit or a CPU.
    Cpu,
    /// In a host function, which waits for the store.
    HostFunction,
    /// Waiting for other transactions on the same entries.
    Locks,
    /// Waiting for the commit of a transaction.
    Commit,
    /// Computing.
    Computing,
    /// Waiting on its own request: sleeping, by WASI.
    Sleeping,
    /// Waiting on its own request: for the response of another server.
    Fetching,
    /// Waiting for anything else, such as an embedder's host function.
    Other,
}

impl Stage {
    const ALL: [Stage; 11] = [
        Stage::Queue,
        Stage::Instance,
        Stage::Loading,
        Stage::Cpu,
        Stage::HostFunction,
        Stage::Locks,
        Stage::Commit,
        Stage::Computing,
        Stage::Sleeping,
        Stage::Fetching,
        Stage::Other,
    ];

    /// Whether the plugin is responsible for the time.
    pub fn is_guest_time(self) -> bool {
        matches!(self, Stage::Computing | Stage::Sleeping | Stage::Fetching)
    }

    /// Whether the call waits for others, and neither for its own work nor for its own requests.
    fn is_waiting(self) -> bool {
        matches!(
            self,
            Stage::Queue | Stage::Instance | Stage::Loading | Stage::Cpu | Stage::Locks
        )
    }

    /// Whether the host is short of the resource: a [patient](Deadline::patient) call may wait
    /// for it longer.
    fn is_host_shortage(self) -> bool {
        matches!(self, Stage::Cpu | Stage::Instance)
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Queue => "queued behind other calls of the app",
            Stage::Instance => "waiting for an instance",
            Stage::Loading => "loading the plugin",
            Stage::Cpu => "waiting for a CPU",
            Stage::HostFunction => "in host functions",
            Stage::Locks => "waiting for other transactions on the same entries",
            Stage::Commit => "committing",
            Stage::Computing => "computing",
            Stage::Sleeping => "sleeping",
            Stage::Fetching => "waiting for other servers",
            Stage::Other => "waiting",
        })
    }
}

/// The deadline of a call, and the time spent in each stage. Clones share both.
#[derive(Debug, Clone)]
pub struct Deadline(Arc<Ledger>);

#[derive(Debug)]
struct Ledger {
    start: Instant,
    limit: Duration,
    patience: Duration,
    spent_ns: [AtomicU64; Stage::ALL.len()],
    /// When the current wait for the host began, in ns from the start; 0 if there is none.
    waits_since_ns: AtomicU64,
}

/// While a call waits for the host, its deadline moves; this is the interval of checks.
const CHECK_INTERVAL: Duration = Duration::from_millis(10);

impl Deadline {
    /// Creates a deadline `limit` from now.
    pub fn after(limit: Duration) -> Deadline {
        Deadline::patient(limit, Duration::ZERO)
    }

    /// Creates a deadline for work whose result nobody is waiting for: it passes after `limit`,
    /// not counting up to `patience` of waiting for a CPU or an instance.
    pub fn patient(limit: Duration, patience: Duration) -> Deadline {
        Deadline(Arc::new(Ledger {
            start: Instant::now(),
            limit,
            patience,
            spent_ns: Default::default(),
            waits_since_ns: AtomicU64::new(0),
        }))
    }

    /// Returns when it passes, as known now. A patient one may pass later.
    pub fn at(&self) -> Instant {
        // A limit that overflows is replaced with one beyond the life of a process.
        let far = Duration::from_secs(60 * 60 * 24 * 365);
        let limit = self.0.limit.saturating_add(self.excluded());
        let end = self.0.start.checked_add(limit);
        end.unwrap_or_else(|| self.0.start + far)
    }

    /// Returns the time of waiting for the host that does not count.
    fn excluded(&self) -> Duration {
        if self.0.patience.is_zero() {
            return Duration::ZERO;
        }
        let stages = Stage::ALL.into_iter();
        let stages = stages.filter(|stage| stage.is_host_shortage());
        let waited = stages.map(|stage| self.spent(stage)).sum::<Duration>();
        let now = match self.0.waits_since_ns.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => self
                .0
                .start
                .elapsed()
                .saturating_sub(Duration::from_nanos(since)),
        };
        waited.saturating_add(now).min(self.0.patience)
    }

    fn spent(&self, stage: Stage) -> Duration {
        let spent = self.0.spent_ns.get(stage as usize);
        Duration::from_nanos(spent.map_or(0, |ns| ns.load(Ordering::Relaxed)))
    }

    /// Waits for a future until the deadline. Returns `None` if that passes first.
    pub async fn bound<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        loop {
            let mut until = self.at();
            if self.0.waits_since_ns.load(Ordering::Relaxed) != 0 {
                until = until.max(Instant::now() + CHECK_INTERVAL);
            }
            match timeout_at(until.into(), future.as_mut()).await {
                Ok(output) => return Some(output),
                Err(_) if self.has_passed() => return None,
                // It was waiting for the host, so the deadline has moved.
                Err(_) => {}
            }
        }
    }

    /// Returns the time limit of the call.
    pub fn limit(&self) -> Duration {
        self.0.limit
    }

    /// Whether it has passed.
    pub fn has_passed(&self) -> bool {
        Instant::now() >= self.at()
    }

    /// Returns the time since the call began.
    pub fn elapsed(&self) -> Duration {
        self.0.start.elapsed()
    }

    /// Returns the time that the call waited for others: in queues, for its module, a CPU or locks.
    pub fn waited(&self) -> Duration {
        let waits = Stage::ALL.into_iter().filter(|stage| stage.is_waiting());
        waits.map(|stage| self.spent(stage)).sum()
    }

    /// Whether half of its time has passed.
    pub fn is_half_spent(&self) -> bool {
        Instant::now() + self.0.limit / 2 >= self.at()
    }

    /// Adds time to a stage.
    pub fn spend(&self, stage: Stage, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        if let Some(spent) = self.0.spent_ns.get(stage as usize) {
            spent.fetch_add(ns, Ordering::Relaxed);
        }
    }

    /// Adds the time until the guard is dropped to a stage.
    #[must_use]
    pub fn timed(&self, stage: Stage) -> Timed<'_> {
        if !self.0.patience.is_zero() && stage.is_host_shortage() {
            let since = u64::try_from(self.0.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.0.waits_since_ns.store(since.max(1), Ordering::Relaxed);
        }
        Timed {
            deadline: self,
            stage,
            start: Instant::now(),
            lane: self.spent(Stage::Locks),
        }
    }

    /// Waits for a future until the deadline, and adds the time to a stage.
    ///
    /// # Errors
    /// [`Timeout`] if the deadline passes first; the future is dropped.
    pub async fn within<T>(
        &self,
        stage: Stage,
        future: impl Future<Output = T>,
    ) -> Result<T, Timeout> {
        let timed = self.timed(stage);
        let ended = self.bound(future).await;
        drop(timed);
        ended.ok_or_else(|| self.timeout(Stage::Other))
    }

    /// Returns the account of a call that has timed out. Time not accounted to a stage is added
    /// to `rest`.
    pub fn timeout(&self, rest: Stage) -> Timeout {
        let mut spent = Stage::ALL.map(|stage| self.spent(stage));
        let known = spent
            .iter()
            .fold(Duration::ZERO, |a, b| a.saturating_add(*b));
        if let Some(spent) = spent.get_mut(rest as usize) {
            *spent += self.0.start.elapsed().saturating_sub(known);
        }
        Timeout {
            limit: self.0.limit,
            forgiven: self.excluded(),
            spent: Box::new(spent),
        }
    }
}

/// Adds time to a stage when it is dropped.
pub struct Timed<'d> {
    deadline: &'d Deadline,
    stage: Stage,
    start: Instant,
    /// The time spent waiting for locks before, as a host function may wait for locks.
    lane: Duration,
}

impl Drop for Timed<'_> {
    fn drop(&mut self) {
        let within = self.deadline.spent(Stage::Locks).saturating_sub(self.lane);
        let own = self.start.elapsed().saturating_sub(within);
        self.deadline.spend(self.stage, own);
        if !self.deadline.0.patience.is_zero() && self.stage.is_host_shortage() {
            self.deadline.0.waits_since_ns.store(0, Ordering::Relaxed);
        }
    }
}

/// A call that timed out, and the time spent in each stage.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct Timeout {
    limit: Duration,
    forgiven: Duration,
    // Boxed, so that errors that hold it stay small.
    spent: Box<[Duration; Stage::ALL.len()]>,
}

impl Timeout {
    /// Returns the time limit of the call.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// Returns the time spent in a stage.
    pub fn spent(&self, stage: Stage) -> Duration {
        self.spent.get(stage as usize).copied().unwrap_or_default()
    }

    /// Returns the stage that took the most time, which is to blame.
    pub fn longest(&self) -> Stage {
        let stages = Stage::ALL.into_iter();
        let longest = stages.max_by_key(|stage| self.spent(*stage));
        longest.unwrap_or(Stage::Other)
    }
}

impl fmt::Display for Timeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the call timed out after {} ms", self.limit.as_millis())?;
        if self.forgiven.as_millis() > 0 {
            let forgiven = self.forgiven.as_millis();
            write!(f, ", not counting {forgiven} ms of waiting for the host")?;
        }
        let mut stages = Stage::ALL.map(|stage| (self.spent(stage).as_millis(), stage));
        stages.sort_by_key(|(ms, _)| std::cmp::Reverse(*ms));
        let known = stages.iter().filter(|(ms, _)| *ms > 0);
        for (at, (ms, stage)) in known.enumerate() {
            let separator = if at == 0 { ":" } else { "," };
            write!(f, "{separator} {ms} ms {stage}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeout_blames_longest_stage_and_lists_all() {
        let deadline = Deadline::after(Duration::from_secs(5));
        deadline.spend(Stage::Computing, Duration::from_millis(550));
        deadline.spend(Stage::Cpu, Duration::from_millis(4_400));
        deadline.spend(Stage::Queue, Duration::from_millis(50));
        let timeout = deadline.timeout(Stage::Other);
        assert_eq!(deadline.waited(), Duration::from_millis(4_450));
        assert_eq!(timeout.longest(), Stage::Cpu);
        assert!(!timeout.longest().is_guest_time());
        let text = timeout.to_string();
        assert_eq!(
            text,
            "the call timed out after 5000 ms: 4400 ms waiting for a CPU, \
             550 ms computing, 50 ms queued behind other calls of the app"
        );
    }

    #[test]
    fn maximum_time_limit_does_not_overflow() {
        let deadline = Deadline::after(Duration::MAX);
        assert!(!deadline.has_passed());
    }

    #[tokio::test]
    async fn patient_deadline_excludes_waiting_for_host() {
        let ms = Duration::from_millis;
        let deadline = Deadline::patient(ms(20), ms(200));
        let wait = deadline.within(Stage::Instance, tokio::time::sleep(ms(100)));
        wait.await.unwrap();
        assert!(!deadline.has_passed());
        // Its own time counts.
        let never = deadline.within(Stage::HostFunction, std::future::pending::<()>());
        let timeout = never.await.unwrap_err();
        assert!(timeout.spent(Stage::Instance) >= ms(100));
        // Its patience is limited.
        let deadline = Deadline::patient(ms(20), ms(50));
        let never = deadline.within(Stage::Cpu, std::future::pending::<()>());
        let timeout = never.await.unwrap_err();
        assert_eq!(timeout.longest(), Stage::Cpu);
        assert!(timeout.spent(Stage::Cpu) >= ms(70), "{timeout}");
        let text = timeout.to_string();
        assert!(
            text.contains("after 20 ms, not counting 50 ms of waiting for the host:"),
            "{text}"
        );
        // Other calls have no patience.
        let deadline = Deadline::after(ms(20));
        deadline.spend(Stage::Cpu, ms(15));
        assert_eq!(deadline.at(), deadline.0.start + ms(20));
    }

    #[tokio::test]
    async fn lock_wait_in_host_function_is_counted_once() {
        let deadline = Deadline::after(Duration::from_secs(60));
        let outer = deadline.timed(Stage::HostFunction);
        let inner = deadline.timed(Stage::Locks);
        tokio::time::sleep(Duration::from_millis(30)).await;
        drop(inner);
        let locks = deadline.spent(Stage::Locks);
        drop(outer);
        assert!(locks >= Duration::from_millis(30));
        assert_eq!(deadline.spent(Stage::Locks), locks);
        let whole = deadline.0.start.elapsed();
        assert!(deadline.spent(Stage::HostFunction) <= whole - locks);
    }

    #[tokio::test]
    async fn wait_time_is_accounted_to_its_stage() {
        let deadline = Deadline::after(Duration::from_millis(20));
        let never = deadline.within(Stage::Loading, std::future::pending::<()>());
        let timeout = never.await.unwrap_err();
        assert_eq!(timeout.longest(), Stage::Loading);
        assert!(timeout.spent(Stage::Loading) >= Duration::from_millis(20));
        assert!(deadline.has_passed());
    }
}
