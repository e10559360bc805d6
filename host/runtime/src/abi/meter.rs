//! Measures a guest's CPU time.
//!
//! The thread's CPU clock is read around each poll of a guest's future, so that time without a
//! CPU is not counted, whether another process or another thread of this host was running. The
//! store's own work is subtracted.
//!
//! Reading that clock is a system call, whose cost is noticeable in calls of a few microseconds.
//! So it is only read once a guest has seen a tick. Until then the wall time of a poll is
//! counted instead, up to one tick: a guest that computes for longer, or that was preempted,
//! sees a tick as soon as it runs. No call is charged more than that one tick too much.

use kvasm_service::{Deadline, Stage};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The interval at which computing guests are preempted.
pub const TICK: Duration = Duration::from_millis(10);

/// Measures the CPU time of one guest, and accounts the rest to the stages of its deadline.
pub(crate) struct CpuMeter {
    deadline: Deadline,
    base: Instant,
    /// CPU time of earlier polls.
    spent_ns: AtomicU64,
    /// Whether the thread's CPU clock is read.
    exact: AtomicBool,
    /// The thread's CPU time at the start of this poll, plus the store's since then; unused
    /// unless `exact`.
    cpu_at_ns: AtomicU64,
    /// The time at the start of this poll, plus the store's since then.
    wall_at_ns: AtomicU64,
    /// Whether the guest has asked to sleep, and has not been seen awake since.
    sleeps: AtomicBool,
    /// When the last poll ended; 0 during one.
    ended_at_ns: AtomicU64,
}

impl CpuMeter {
    pub fn new(deadline: Deadline) -> CpuMeter {
        CpuMeter {
            deadline,
            base: Instant::now(),
            spent_ns: AtomicU64::new(0),
            exact: AtomicBool::new(false),
            cpu_at_ns: AtomicU64::new(0),
            wall_at_ns: AtomicU64::new(0),
            sleeps: AtomicBool::new(false),
            ended_at_ns: AtomicU64::new(0),
        }
    }

    /// Records that the guest asks to sleep: until it is seen awake, the time between polls
    /// counts as sleep.
    pub fn mark_asleep(&self) {
        self.sleeps.store(true, Ordering::Relaxed);
    }

    /// Records that the guest is awake: it computes, or calls something else.
    pub fn mark_awake(&self) {
        self.sleeps.store(false, Ordering::Relaxed);
    }

    /// Accounts the time since the last poll, if the guest slept.
    pub(crate) fn count_sleep(&self) {
        let ended_at = self.ended_at_ns.swap(0, Ordering::Relaxed);
        if ended_at != 0 && self.sleeps.load(Ordering::Relaxed) {
            let slept = self.wall_ns().saturating_sub(ended_at);
            self.deadline
                .spend(Stage::Sleeping, Duration::from_nanos(slept));
        }
    }

    fn wall_ns(&self) -> u64 {
        u64::try_from(self.base.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Returns the thread's CPU time, or 0 unless `exact`.
    fn cpu_ns(&self) -> u64 {
        match self.exact.load(Ordering::Relaxed) {
            true => thread_cpu_ns(),
            false => 0,
        }
    }

    /// Called at the start of a poll on this thread.
    pub fn begin(&self) {
        self.count_sleep();
        self.cpu_at_ns.store(self.cpu_ns(), Ordering::Relaxed);
        self.wall_at_ns.store(self.wall_ns(), Ordering::Relaxed);
    }

    /// Called at the end of a poll, on the thread where it started.
    pub fn end(&self) {
        let wall = self.wall_of_poll();
        let cpu = self.cpu_of_poll(wall);
        self.count(cpu, wall);
        if self.sleeps.load(Ordering::Relaxed) {
            self.ended_at_ns.store(self.wall_ns(), Ordering::Relaxed);
        }
    }

    fn count(&self, cpu: Duration, wall: Duration) {
        let ns = u64::try_from(cpu.as_nanos()).unwrap_or(u64::MAX);
        self.spent_ns.fetch_add(ns, Ordering::Relaxed);
        self.deadline.spend(Stage::Computing, cpu);
        self.deadline.spend(Stage::Cpu, wall.saturating_sub(cpu));
    }

    fn wall_of_poll(&self) -> Duration {
        let wall_at = self.wall_at_ns.load(Ordering::Relaxed);
        Duration::from_nanos(self.wall_ns().saturating_sub(wall_at))
    }

    fn cpu_of_poll(&self, wall: Duration) -> Duration {
        if !self.exact.load(Ordering::Relaxed) {
            return wall.min(TICK);
        }
        let cpu_at = self.cpu_at_ns.load(Ordering::Relaxed);
        Duration::from_nanos(thread_cpu_ns().saturating_sub(cpu_at))
    }

    /// Called at a tick, within a poll and on its thread. Returns the CPU time so far, and uses
    /// the CPU clock from now on.
    pub fn tick(&self) -> Duration {
        if !self.exact.load(Ordering::Relaxed) {
            let wall = self.wall_of_poll();
            self.count(wall.min(TICK), wall);
            self.exact.store(true, Ordering::Relaxed);
            self.begin();
        }
        let before = self.spent_ns.load(Ordering::Relaxed);
        Duration::from_nanos(before).saturating_add(self.cpu_of_poll(Duration::ZERO))
    }

    /// Whether the guest has computed for long: half a tick by the CPU clock, in addition to the
    /// time up to its first tick, which may not have been CPU time.
    pub(crate) fn computes_long(&self) -> bool {
        self.exact.load(Ordering::Relaxed) && self.spent() >= TICK + TICK / 2
    }

    /// Returns the CPU time of the polls that have ended.
    pub(crate) fn spent(&self) -> Duration {
        Duration::from_nanos(self.spent_ns.load(Ordering::Relaxed))
    }

    /// Returns the deadline of the call.
    pub fn deadline(&self) -> &Deadline {
        &self.deadline
    }

    /// Runs work of the store, which does not count as the guest's CPU time.
    pub async fn exclude<T>(&self, work: impl Future<Output = T>) -> T {
        self.exclude_in(Stage::HostFunction, work).await
    }

    /// Runs work of the host, which does not count as the guest's CPU time but to a stage.
    pub async fn exclude_in<T>(&self, stage: Stage, work: impl Future<Output = T>) -> T {
        self.mark_awake();
        let _timed = self.deadline.timed(stage);
        let mut work = pin!(work);
        poll_fn(|context| {
            let (cpu, wall) = (self.cpu_ns(), self.wall_ns());
            let poll = work.as_mut().poll(context);
            let cpu = self.cpu_ns().saturating_sub(cpu);
            let wall = self.wall_ns().saturating_sub(wall);
            // As if the surrounding poll had started that much later.
            self.cpu_at_ns.fetch_add(cpu, Ordering::Relaxed);
            self.wall_at_ns.fetch_add(wall, Ordering::Relaxed);
            poll
        })
        .await
    }
}

/// Returns the CPU time of this thread, in ns.
#[cfg(unix)]
fn thread_cpu_ns() -> u64 {
    use rustix::time::{ClockId, clock_gettime};
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let ns = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(ns)
}

/// On systems without such a clock, counts the time of polls, preemption included.
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

    /// Keeps the CPU busy for `ms` of the thread's own time.
    fn compute(ms: u64) {
        let start = thread_cpu_ns();
        while thread_cpu_ns() - start < ms * 1_000_000 {
            std::hint::spin_loop();
        }
    }

    #[tokio::test]
    async fn only_guest_execution_counts_as_cpu_time() {
        let meter = CpuMeter::new(Deadline::after(Duration::from_secs(60)));
        meter.begin();
        assert!(meter.tick() <= TICK);
        compute(20);
        std::thread::sleep(Duration::from_millis(30));
        meter.exclude(async { compute(200) }).await;
        let spent = meter.tick();
        assert!(spent >= Duration::from_millis(20), "{spent:?}");
        assert!(spent < Duration::from_millis(200), "{spent:?}");
        meter.end();
        let timeout = meter.deadline().timeout(Stage::Other);
        assert!(timeout.spent(Stage::HostFunction) >= Duration::from_millis(200));
        assert!(timeout.spent(Stage::Cpu) >= Duration::from_millis(30));
        assert!(timeout.spent(Stage::Computing) < Duration::from_millis(200));
    }

    #[tokio::test]
    async fn poll_shorter_than_a_tick_counts_at_most_one_tick() {
        let meter = CpuMeter::new(Deadline::after(Duration::from_secs(60)));
        meter.begin();
        std::thread::sleep(Duration::from_millis(50));
        meter.exclude(async { compute(50) }).await;
        meter.end();
        meter.begin();
        meter.end();
        // Time without a CPU, and the store's.
        let timeout = meter.deadline().timeout(Stage::Other);
        assert!(timeout.spent(Stage::Cpu) >= Duration::from_millis(40));
        assert!(timeout.spent(Stage::HostFunction) >= Duration::from_millis(50));
        meter.begin();
        assert!(meter.tick() <= 3 * TICK);
    }
}
