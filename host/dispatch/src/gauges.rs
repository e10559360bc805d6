//! Periodically samples the store for gauges, app by app. Scrapes of the metrics do not query
//! the store.

use super::DispatchContext;
use super::supervisor::{Stop, working};
use kvasm_core::store::{AppSurvey, LogSize, StoreError};
use kvasm_core::{App, DELIVERIES_MAX, Timestamp};
use kvasm_metrics::{FULLEST_APPS, QuotaUse, Sample};
use kvasm_service::{TaskHandle, error_chain};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Number of apps read per page.
const APPS: u32 = 200;
/// Sampling takes at most one part in `SHARE` of the time.
const SHARE: u32 = 20;
/// Number of consecutive failing apps that counts as a failure of the store.
const FAILING_APPS: u32 = 10;
/// Minimum interval between warnings that a reader blocks the checkpoint of the log.
const WARNING: Duration = Duration::from_secs(600);

/// Samples repeatedly. After a failure the last sample stays visible, with its time, until the
/// next.
pub(super) async fn run(
    shared: Arc<DispatchContext>,
    task: TaskHandle,
    mut stop: Stop,
) -> Result<(), StoreError> {
    let (mut pause, mut warned) = (Duration::ZERO, None::<Instant>);
    loop {
        tokio::select! {
            () = stop.requested() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
        let start = Instant::now();
        pause = shared.options.sample;
        tokio::select! {
            biased;
            () = stop.requested() => return Ok(()),
            sampled = working(&task, sample(&shared, &task)) => match sampled {
                Ok((sample, log)) => {
                    let is_due = warned.is_none_or(|at| at.elapsed() >= WARNING);
                    if let Some(log) = log.filter(|log| is_due && !log.checkpoint_blocked.is_zero()) {
                        warn(log);
                        warned = Some(Instant::now());
                    }
                    shared.host.health().report_overdue(sample.overdue);
                    shared.host.metrics().sampled(sample);
                    task.report_ok();
                    // Not after an error, such as a timeout: that says nothing about the store's
                    // work.
                    pause = pause.max(start.elapsed() * (SHARE - 1));
                    // For the metric, where nobody asks whether this host is ready.
                    shared.host.health().check().await;
                }
                Err(error) => task.report_skip(&"a sample for the metrics", &error_chain(&error)),
            },
        }
    }
}

fn warn(log: LogSize) {
    tracing::warn!(
        bytes = log.bytes,
        held_for = ?log.checkpoint_blocked,
        "a reader holds an old snapshot of the database, so its WAL grows and cannot be \
         checkpointed: close whatever has the file open, such as a shell or a backup"
    );
}

async fn sample(
    shared: &DispatchContext,
    task: &TaskHandle,
) -> Result<(Sample, Option<LogSize>), StoreError> {
    let store = shared.host.store();
    let size = store.size().await?;
    let mut sample = Sample {
        at: SystemTime::now(),
        apps: 0,
        pending: 0,
        overdue: Duration::ZERO,
        dead_letters: 0,
        paused_triggers: 0,
        database_bytes: size.database,
        wal: size.log.map(|log| (log.bytes, log.checkpoint_blocked)),
        fullest: Vec::new(),
    };
    let (mut after, mut fullest, mut failed) = (None, Fullest::default(), 0);
    loop {
        let apps = store.apps(after.as_ref(), APPS).await?;
        for app in &apps {
            task.progress();
            match store.survey(app.id).await {
                Ok(survey) => {
                    failed = 0;
                    add(&mut sample, &survey, shared.clock.now());
                    fullest.add(app, &survey);
                }
                // A failing app does not affect the gauges of others.
                Err(error) => {
                    failed += 1;
                    if failed >= FAILING_APPS {
                        return Err(error);
                    }
                    task.report_skip(
                        &format_args!("the sample of app {}", app.name),
                        &error_chain(&error),
                    );
                }
            }
        }
        match apps.last() {
            Some(last) => after = Some(last.name.clone()),
            None => break,
        }
    }
    sample.fullest = fullest.all();
    Ok((sample, size.log))
}

fn add(sample: &mut Sample, survey: &AppSurvey, now: Timestamp) {
    sample.apps += 1;
    sample.pending += survey.usage.deliveries;
    sample.dead_letters += survey.dead_letters;
    sample.paused_triggers += survey.paused_triggers;
    let overdue = survey
        .oldest_due
        .map_or(0, |due| now.0.saturating_sub(due.0));
    let overdue = Duration::from_millis(u64::try_from(overdue).unwrap_or(0));
    sample.overdue = sample.overdue.max(overdue);
}

/// The fullest apps so far, in descending order.
#[derive(Default)]
struct Fullest(Vec<(f64, Vec<QuotaUse>)>);

impl Fullest {
    fn add(&mut self, app: &App, survey: &AppSurvey) {
        let (quota, usage) = (app.limits.quota, survey.usage);
        let resources = [
            ("entries", quota.entries, usage.entries),
            ("bytes", quota.bytes, usage.bytes),
            ("deliveries", Some(DELIVERIES_MAX), usage.deliveries),
        ];
        let of_app = resources.into_iter().filter_map(|(resource, limit, used)| {
            Some(QuotaUse {
                app: app.name.to_string(),
                resource,
                // A quota of 0 is full as soon as there is anything.
                ratio: used as f64 / limit?.max(1) as f64,
            })
        });
        let of_app: Vec<_> = of_app.collect();
        let most = of_app.iter().map(|full| full.ratio).fold(0.0, f64::max);
        if most > 0.0 {
            let place = self.0.partition_point(|(ratio, _)| *ratio >= most);
            self.0.insert(place, (most, of_app));
            self.0.truncate(FULLEST_APPS);
        }
    }

    fn all(self) -> Vec<QuotaUse> {
        self.0.into_iter().flat_map(|(_, of_app)| of_app).collect()
    }
}
