//! What a guest computes.
//!
//! The CPU clock of the thread is read around each poll of a guest's future, so
//! that time without a CPU is not counted, whoever has it: another process, or
//! another thread of this host. The store's own work is taken out again.

use crate::service::{Deadline, Stage};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Counts the CPU time of one guest, and tells its deadline where the rest went.
pub(crate) struct Meter {
    deadline: Deadline,
    base: Instant,
    /// CPU time of the polls that have ended.
    spent_ns: AtomicU64,
    /// The thread's CPU time when this poll began, and what the store has used
    /// since.
    cpu_at_ns: AtomicU64,
    /// The time when this poll began, and what the store has taken since.
    wall_at_ns: AtomicU64,
}

impl Meter {
    pub(crate) fn new(deadline: Deadline) -> Meter {
        Meter {
            deadline,
            base: Instant::now(),
            spent_ns: AtomicU64::new(0),
            cpu_at_ns: AtomicU64::new(0),
            wall_at_ns: AtomicU64::new(0),
        }
    }

    fn wall_ns(&self) -> u64 {
        u64::try_from(self.base.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// A poll begins on this thread.
    pub(crate) fn begin(&self) {
        self.cpu_at_ns.store(thread_cpu_ns(), Ordering::Relaxed);
        self.wall_at_ns.store(self.wall_ns(), Ordering::Relaxed);
    }

    /// The poll ends, on the thread on which it has begun.
    pub(crate) fn end(&self) {
        let cpu = self.of_this_poll();
        let wall_at = self.wall_at_ns.load(Ordering::Relaxed);
        let wall = Duration::from_nanos(self.wall_ns().saturating_sub(wall_at));
        self.spent_ns.fetch_add(cpu, Ordering::Relaxed);
        let cpu = Duration::from_nanos(cpu);
        self.deadline.spend(Stage::Computing, cpu);
        self.deadline.spend(Stage::Cpu, wall.saturating_sub(cpu));
    }

    fn of_this_poll(&self) -> u64 {
        let cpu_at = self.cpu_at_ns.load(Ordering::Relaxed);
        thread_cpu_ns().saturating_sub(cpu_at)
    }

    /// The CPU time so far. To be asked within a poll, on its thread.
    pub(crate) fn spent(&self) -> Duration {
        let before = self.spent_ns.load(Ordering::Relaxed);
        Duration::from_nanos(before.saturating_add(self.of_this_poll()))
    }

    /// The deadline of the call.
    pub(crate) fn deadline(&self) -> &Deadline {
        &self.deadline
    }

    /// Runs work of the store, which is not the guest's computing.
    pub(crate) async fn aside<T>(&self, work: impl Future<Output = T>) -> T {
        let _timed = self.deadline.timed(Stage::HostFunction);
        let mut work = pin!(work);
        poll_fn(|context| {
            let (cpu, wall) = (thread_cpu_ns(), self.wall_ns());
            let poll = work.as_mut().poll(context);
            let cpu = thread_cpu_ns().saturating_sub(cpu);
            let wall = self.wall_ns().saturating_sub(wall);
            // As if the poll around this one had begun so much later.
            self.cpu_at_ns.fetch_add(cpu, Ordering::Relaxed);
            self.wall_at_ns.fetch_add(wall, Ordering::Relaxed);
            poll
        })
        .await
    }
}

/// The CPU time that this thread has used, in ns.
#[cfg(unix)]
fn thread_cpu_ns() -> u64 {
    use rustix::time::{ClockId, clock_gettime};
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let ns = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(ns)
}

/// Systems without such a clock count the time of polls, preemption included.
#[cfg(not(unix))]
fn thread_cpu_ns() -> u64 {
    use std::sync::OnceLock;
    static BASE: OnceLock<Instant> = OnceLock::new();
    let base = BASE.get_or_init(Instant::now);
    u64::try_from(base.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps the CPU busy for that much of the thread's own time.
    fn compute(ms: u64) {
        let start = thread_cpu_ns();
        while thread_cpu_ns() - start < ms * 1_000_000 {
            std::hint::spin_loop();
        }
    }

    #[tokio::test]
    async fn computing_counts_and_sleeping_and_the_store_do_not() {
        let meter = Meter::new(Deadline::after(Duration::from_secs(60)));
        meter.begin();
        compute(20);
        std::thread::sleep(Duration::from_millis(30));
        meter.aside(async { compute(200) }).await;
        let spent = meter.spent();
        assert!(spent >= Duration::from_millis(20), "{spent:?}");
        assert!(spent < Duration::from_millis(200), "{spent:?}");
        meter.end();
        let timeout = meter.deadline().timeout(Stage::Other);
        assert!(timeout.spent(Stage::HostFunction) >= Duration::from_millis(200));
        assert!(timeout.spent(Stage::Cpu) >= Duration::from_millis(30));
        assert!(timeout.spent(Stage::Computing) < Duration::from_millis(200));
    }
}
