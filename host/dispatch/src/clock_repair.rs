//! Repairs what a host with a wrong clock has postponed: deliveries, leases and probes whose
//! wait is longer than the maximum, and schedules planned past their next time. Runs at the
//! start, after the clock has stepped, and periodically, because another host's clock may have
//! been wrong.

use super::supervisor::{Skips, Stop, working};
use super::{DispatchContext, millis, retry};
use kvasm_core::store::StoreError;
use kvasm_core::{DueSchedule, Queue, SchedulePosition, ScheduleTick, Timestamp, Watch};
use kvasm_service::{TaskHandle, error_chain};
use std::sync::Arc;
use std::time::Duration;

/// Interval between passes.
const EVERY: Duration = Duration::from_secs(600);
/// Number of queues or schedules read per page.
const PAGE: u32 = 100;
/// Number of deliveries changed per transaction.
const ROWS: u32 = 500;
/// Pause between such transactions, to let others through.
const REST: Duration = Duration::from_millis(10);
/// How much the clocks of two hosts may differ before one replans a schedule that the other has
/// just run.
const SLACK: Duration = Duration::from_secs(60);

/// Runs passes repeatedly.
pub(super) async fn run(
    shared: Arc<DispatchContext>,
    task: TaskHandle,
    mut stop: Stop,
) -> Result<(), StoreError> {
    loop {
        tokio::select! {
            biased;
            () = stop.requested() => return Ok(()),
            () = shared.clock.wait_until_trusted() => {}
        }
        if shared.clock.may_replan() {
            tokio::select! {
                biased;
                () = stop.requested() => return Ok(()),
                passed = working(&task, pass(&shared, &task)) => passed?,
            }
        }
        task.report_ok();
        tokio::select! {
            () = stop.requested() => return Ok(()),
            () = shared.stepped.notified() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

async fn pass(shared: &DispatchContext, task: &TaskHandle) -> Result<(), StoreError> {
    let mut rescued = Rescued::default();
    let queues = queues(shared, task, &mut rescued).await;
    let schedules = schedules(shared, task, &mut rescued).await;
    if rescued.deliveries > 0 || rescued.schedules > 0 {
        tracing::warn!(
            deliveries = rescued.deliveries,
            schedules = rescued.schedules,
            "rescheduled deliveries and schedules that a clock running ahead had postponed"
        );
        shared.changed.notify_one();
    }
    queues.and(schedules)
}

#[derive(Default)]
struct Rescued {
    deliveries: u64,
    schedules: u64,
}

/// Processes all queues with a delivery, due now or later.
async fn queues(
    shared: &DispatchContext,
    task: &TaskHandle,
    rescued: &mut Rescued,
) -> Result<(), StoreError> {
    let (mut after, mut skips) = (None, Skips::new(task));
    loop {
        let ever = Timestamp(i64::MAX);
        let queues = shared.host.store().due(after.as_ref(), ever, PAGE).await?;
        for queue in &queues {
            let made_due = rescue(shared, task, queue).await;
            let what = format_args!("a queue of app {}", queue.app);
            rescued.deliveries += skips.take(what, made_due)?.unwrap_or(0);
        }
        match queues.last() {
            Some(last) => after = Some(last.clone()),
            None => return Ok(()),
        }
    }
}

/// Makes deliveries due whose wait is longer than the maximum, and returns their number.
async fn rescue(
    shared: &DispatchContext,
    task: &TaskHandle,
    queue: &Queue,
) -> Result<u64, StoreError> {
    let mut total = 0;
    loop {
        let now = shared.clock.now();
        let wait = retry::WAIT_MAX + shared.lease() + SLACK;
        let beyond = now.plus_ms(millis(wait));
        let store = shared.host.store();
        let rescued = store.rescue(queue, beyond, now, ROWS).await?;
        total += rescued;
        if rescued < u64::from(ROWS) {
            return Ok(total);
        }
        task.progress();
        tokio::time::sleep(REST).await;
    }
}

/// Processes all schedules except those paused by an operator. The run of a due one may be
/// waiting for a probe.
async fn schedules(
    shared: &DispatchContext,
    task: &TaskHandle,
    rescued: &mut Rescued,
) -> Result<(), StoreError> {
    let mut after = None::<SchedulePosition>;
    loop {
        let (store, ever) = (shared.host.store(), Timestamp(i64::MAX));
        let page = store.schedules(after.as_ref(), ever, PAGE).await?;
        let is_last = page.len() < PAGE as usize;
        after = page.last().map(|last| last.place.clone());
        for due in page {
            let app = due.place.queue.app;
            task.progress();
            match replan(shared, task, due).await {
                Ok(replanned) => rescued.schedules += u64::from(replanned),
                Err(error) => {
                    task.report_skip(
                        &format_args!("schedules of app {app}"),
                        &error_chain(&error),
                    );
                }
            }
        }
        if is_last {
            return Ok(());
        }
    }
}

/// Replans a schedule that is planned past the next time of its expression, and returns whether
/// it was. Unreadable ones are left to the schedules task.
async fn replan(
    shared: &DispatchContext,
    task: &TaskHandle,
    due: DueSchedule,
) -> Result<bool, StoreError> {
    let DueSchedule { place, trigger } = due;
    let Ok(trigger) = trigger else {
        return Ok(false);
    };
    if trigger.standing.probe_at.is_some() {
        rescue(shared, task, &place.queue).await?;
    }
    let (Watch::Schedule(schedule), Some(planned)) = (&trigger.watch, place.next_at) else {
        return Ok(false);
    };
    let latest = shared.clock.now().plus_ms(millis(SLACK));
    let Some(next) = schedule.next_after(latest).filter(|next| *next < planned) else {
        return Ok(false);
    };
    let tick = ScheduleTick {
        queue: place.queue,
        planned: Some(planned),
        next: Some(next),
        run: None,
        // Even if it is waiting for a probe.
        now: Timestamp(i64::MAX),
    };
    shared.host.store().tick(&tick).await?;
    Ok(true)
}
