//! Schedules: the runs that are due, and when the next one is.
//!
//! Of runs that were missed, because no host was there, the last is made and the
//! others are not. While a run is outstanding no further one is made.

use super::Shared;
use crate::model::{AppId, Queue, Schedule, Tick, Timestamp, Trigger, Watch};
use crate::store::StoreError;

/// Schedules that are looked at in one go.
const SCHEDULES: u32 = 100;

/// Makes the runs that are due, on whichever host comes first.
pub(super) async fn plan(shared: &Shared) -> Result<(), StoreError> {
    let store = shared.host.store();
    loop {
        let now = shared.clock.now();
        let due = store.schedules(now, SCHEDULES).await?;
        let count = due.len();
        for (app, trigger) in due {
            if let Watch::Schedule(schedule) = &trigger.watch {
                store.tick(&tick(app, &trigger, schedule, now)).await?;
            }
        }
        if count < SCHEDULES as usize {
            return Ok(());
        }
    }
}

fn tick(app: AppId, trigger: &Trigger, schedule: &Schedule, now: Timestamp) -> Tick {
    Tick {
        queue: Queue {
            app,
            trigger: trigger.name.clone(),
        },
        planned: trigger.next_at,
        // The end of time, if there is no next one.
        next: schedule.next_after(now).or(Some(Timestamp(i64::MAX))),
        run: trigger.next_at.map(|at| schedule.last_until(at, now)),
        now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DeclaredTrigger, TriggerName};

    const MINUTE: i64 = 60_000;

    fn ticked(next_at: Option<i64>, now: i64) -> (Option<i64>, Option<i64>) {
        let schedule = Schedule::parse("*/5 * * * *").unwrap();
        let declared = DeclaredTrigger {
            name: TriggerName::parse("t").unwrap(),
            watch: Watch::Schedule(schedule.clone()),
        };
        let mut trigger = Trigger::declared(&declared, Timestamp(0));
        trigger.next_at = next_at.map(Timestamp);
        let tick = tick(AppId::generate(), &trigger, &schedule, Timestamp(now));
        assert_eq!(tick.planned, trigger.next_at);
        (tick.run.map(|at| at.0), tick.next.map(|at| at.0))
    }

    #[test]
    fn a_new_schedule_is_planned_and_not_run() {
        assert_eq!(ticked(None, 1), (None, Some(5 * MINUTE)));
    }

    #[test]
    fn of_missed_runs_the_last_is_made() {
        let five = 5 * MINUTE;
        assert_eq!(ticked(Some(five), five), (Some(five), Some(2 * five)));
        assert_eq!(ticked(Some(five), five + 7), (Some(five), Some(2 * five)));
        assert_eq!(
            ticked(Some(five), 9 * five + 1),
            (Some(9 * five), Some(10 * five))
        );
    }
}
