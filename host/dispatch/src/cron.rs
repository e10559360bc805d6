//! Schedules: creates the runs that are due, and plans the next ones.
//!
//! Of runs missed while no host was running, only the last is created. While a run is
//! outstanding, no further one is created.

use super::DispatchContext;
use super::supervisor::{Stop, working};
use kvasm_core::store::StoreError;
use kvasm_core::{AppId, DueSchedule, Queue, Schedule, ScheduleTick, Timestamp, Trigger, Watch};
use kvasm_service::{TaskHandle, error_chain};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// Number of schedules read per page.
const SCHEDULES: u32 = 100;
/// Number of apps whose runs are created concurrently; those of one app are created one by one.
const APPS_AT_ONCE: usize = 8;

/// Repeatedly creates the due runs. With several hosts, the first one wins.
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
        tokio::select! {
            biased;
            () = stop.requested() => return Ok(()),
            passed = working(&task, pass(&shared, &task)) => passed?,
        }
        task.report_ok();
        tokio::select! {
            () = stop.requested() => return Ok(()),
            () = tokio::time::sleep(shared.options.poll) => {}
        }
    }
}

/// Processes all due schedules once. Skipped ones are retried in the next pass.
pub(super) async fn pass(
    shared: &Arc<DispatchContext>,
    task: &TaskHandle,
) -> Result<(), StoreError> {
    let now = shared.clock.now();
    let (mut after, mut late) = (None, Duration::ZERO);
    loop {
        task.progress();
        let store = shared.host.store();
        let due = store.schedules(after.as_ref(), now, SCHEDULES).await?;
        // One that waits for a probe is not late.
        let is_open = |due: &&DueSchedule| match &due.trigger {
            Ok(trigger) => trigger.standing.probe_at.is_none(),
            Err(_) => true,
        };
        let planned = due
            .iter()
            .filter(is_open)
            .filter_map(|due| due.place.next_at);
        let waited = planned.map(|at| now.0.saturating_sub(at.0)).max();
        let waited = u64::try_from(waited.unwrap_or(0)).unwrap_or(0);
        late = late.max(Duration::from_millis(waited));
        let is_last = due.len() < SCHEDULES as usize;
        after = due.last().map(|due| due.place.clone());
        make(shared, task, due, now).await;
        if is_last {
            shared.host.health().report_late(late);
            return Ok(());
        }
    }
}

/// Creates these runs, for a few apps concurrently.
async fn make(
    shared: &Arc<DispatchContext>,
    task: &TaskHandle,
    due: Vec<DueSchedule>,
    now: Timestamp,
) {
    let mut apps: BTreeMap<AppId, Vec<ScheduleTick>> = BTreeMap::new();
    for DueSchedule { place, trigger } in due {
        let Queue { app, trigger: name } = &place.queue;
        match trigger {
            Ok(trigger) => {
                if let Watch::Schedule(schedule) = &trigger.watch {
                    let ticks = apps.entry(*app).or_default();
                    ticks.push(tick(*app, &trigger, schedule, now));
                }
            }
            Err(why) => task.report_skip(&format_args!("schedule {name} of app {app}"), &why),
        }
    }
    let mut running = JoinSet::new();
    for (app, ticks) in apps {
        if running.len() >= APPS_AT_ONCE {
            note(task, running.join_next().await);
        }
        let (shared, task) = (Arc::clone(shared), task.clone());
        running.spawn(async move { of_app(&shared, &task, app, ticks).await });
    }
    while let Some(ended) = running.join_next().await {
        note(task, Some(ended));
    }
}

fn note(task: &TaskHandle, ended: Option<Result<(), tokio::task::JoinError>>) {
    if let Some(Err(panic)) = ended {
        task.report_skip(&"the schedules of an app", &panic.to_string());
    }
}

/// Creates the runs of one app. After an error the rest is retried in the next pass.
async fn of_app(shared: &DispatchContext, task: &TaskHandle, app: AppId, ticks: Vec<ScheduleTick>) {
    for tick in ticks {
        match shared.host.store().tick(&tick).await {
            Ok(true) => shared.changed.notify_one(),
            Ok(false) => {}
            Err(error) => {
                let cause = error_chain(&error);
                return task.report_skip(&format_args!("schedules of app {app}"), &cause);
            }
        }
    }
}

fn tick(app: AppId, trigger: &Trigger, schedule: &Schedule, now: Timestamp) -> ScheduleTick {
    ScheduleTick {
        queue: Queue {
            app,
            trigger: trigger.name.clone(),
        },
        planned: trigger.next_at,
        // The maximum time, if there is no next run.
        next: schedule.next_after(now).or(Some(Timestamp(i64::MAX))),
        run: trigger.next_at.map(|at| schedule.last_until(at, now)),
        now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvasm_core::{DeclaredTrigger, TriggerName};

    const MINUTE: i64 = 60_000;

    fn ticked(next_at: Option<i64>, now: i64) -> (Option<i64>, Option<i64>) {
        let schedule = Schedule::parse("*/5 * * * *").unwrap();
        let name = TriggerName::parse("t").unwrap();
        let declared = DeclaredTrigger::new(name, Watch::Schedule(schedule.clone()));
        let mut trigger = Trigger::declared(&declared, Timestamp(0));
        trigger.next_at = next_at.map(Timestamp);
        let tick = tick(AppId::generate(), &trigger, &schedule, Timestamp(now));
        assert_eq!(tick.planned, trigger.next_at);
        (tick.run.map(|at| at.0), tick.next.map(|at| at.0))
    }

    #[test]
    fn new_schedule_is_planned_but_not_run() {
        assert_eq!(ticked(None, 1), (None, Some(5 * MINUTE)));
    }

    #[test]
    fn only_the_last_missed_run_is_created() {
        let five = 5 * MINUTE;
        assert_eq!(ticked(Some(five), five), (Some(five), Some(2 * five)));
        assert_eq!(ticked(Some(five), five + 7), (Some(five), Some(2 * five)));
        assert_eq!(
            ticked(Some(five), 9 * five + 1),
            (Some(9 * five), Some(10 * five))
        );
    }
}
