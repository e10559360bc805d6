//! Periodically samples the store for gauges and the overview, app by app. Scrapes of the metrics do
//! not query the store, and neither does an overview query each app.

use super::supervisor::{Stop, working};
use super::{DispatchContext, millis};
use kvasm_core::store::{AppSurvey, LogSize, StoreError, StoreGauges};
use kvasm_core::{App, AppId, DELIVERIES_MAX, Timestamp};
use kvasm_metrics::{FULLEST_APPS, QuotaUse, Sample};
use kvasm_service::{Attention, StoreSample, TaskHandle, error_chain};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
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
                Ok((sample, log, attention)) => {
                    let is_due = warned.is_none_or(|at| at.elapsed() >= WARNING);
                    if let Some(log) = log.filter(|log| is_due && !log.checkpoint_blocked.is_zero()) {
                        warn(log);
                        warned = Some(Instant::now());
                    }
                    shared.host.health().report_overdue(sample.overdue);
                    shared.host.history().sampled(summary(&sample, attention));
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
) -> Result<(Sample, Option<LogSize>, Attention), StoreError> {
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
    let mut attention = match late_schedules(shared, task).await {
        Ok(attention) => attention,
        // The gauges do not need them.
        Err(error) => {
            task.report_skip(&"the late schedules", &error_chain(&error));
            Attention::default()
        }
    };
    loop {
        let apps = store.apps(after.as_ref(), APPS).await?;
        for app in &apps {
            task.progress();
            match store.survey(app.id).await {
                Ok(survey) => {
                    failed = 0;
                    let overdue = add(&mut sample, &survey, shared.clock.now());
                    note(&mut attention, app, &survey, overdue);
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
    Ok((sample, size.log, attention))
}

/// Adds an app, and returns for how long its deliveries are due.
fn add(sample: &mut Sample, survey: &AppSurvey, now: Timestamp) -> Duration {
    sample.apps += 1;
    sample.pending += survey.usage.deliveries;
    sample.dead_letters += survey.dead_letters;
    sample.paused_triggers += survey.paused_triggers;
    let overdue = survey
        .oldest_due
        .map_or(0, |due| now.0.saturating_sub(due.0));
    let overdue = Duration::from_millis(u64::try_from(overdue).unwrap_or(0));
    sample.overdue = sample.overdue.max(overdue);
    overdue
}

/// Notes what of an app needs a person.
fn note(attention: &mut Attention, app: &App, survey: &AppSurvey, overdue: Duration) {
    if survey.paused_triggers > 0 {
        let paused = survey.paused_triggers;
        attention.paused_triggers.add(&app.name, None, paused);
    }
    if survey.dead_letters > 0 {
        let letters = survey.dead_letters;
        attention.dead_letters.add(&app.name, None, letters);
    }
    if overdue > Attention::LATE {
        attention.overdue.add(&app.name, None, millis(overdue));
    }
    for (resource, ratio) in quota_use(app, survey) {
        // A conversion of a float saturates.
        let percent = (ratio * 100.0) as u64;
        if percent >= Attention::QUOTA {
            attention.quotas.add(&app.name, Some(resource), percent);
        }
    }
}

/// The used part of each quota of an app.
fn quota_use(app: &App, survey: &AppSurvey) -> impl Iterator<Item = (&'static str, f64)> {
    let (quota, usage) = (app.limits.quota, survey.usage);
    let resources = [
        ("entries", quota.entries, usage.entries),
        ("bytes", quota.bytes, usage.bytes),
        ("deliveries", Some(DELIVERIES_MAX), usage.deliveries),
    ];
    resources.into_iter().filter_map(|(resource, limit, used)| {
        // A quota of 0 is full as soon as there is anything.
        Some((resource, used as f64 / limit?.max(1) as f64))
    })
}

/// Finds schedules that are late. Their apps' names are read once each.
async fn late_schedules(
    shared: &DispatchContext,
    task: &TaskHandle,
) -> Result<Attention, StoreError> {
    let (mut attention, mut after) = (Attention::default(), None);
    let mut names: HashMap<AppId, Option<App>> = HashMap::new();
    let (store, now) = (shared.host.store(), shared.clock.now());
    let late = i64::try_from(Attention::LATE.as_millis()).unwrap_or(i64::MAX);
    let before = Timestamp(now.0.saturating_sub(late));
    loop {
        task.progress();
        let page = store.schedules(after.as_ref(), before, APPS).await?;
        for due in &page {
            // One that waits for a probe is not late.
            let waits = due
                .trigger
                .as_ref()
                .is_ok_and(|trigger| trigger.standing.probe_at.is_some());
            let Some(at) = due.place.next_at.filter(|_| !waits) else {
                continue;
            };
            let id = due.place.queue.app;
            let app = match names.entry(id) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(place) => place.insert(store.app_by_id(id).await?),
            };
            if let Some(app) = app {
                let name = due.place.queue.trigger.as_str();
                let late = now.0.saturating_sub(at.0).unsigned_abs();
                attention.late_schedules.add(&app.name, Some(name), late);
            }
        }
        if page.len() < APPS as usize {
            return Ok(attention);
        }
        after = page.into_iter().last().map(|due| due.place);
    }
}

/// The sample for the overview.
fn summary(sample: &Sample, attention: Attention) -> StoreSample {
    StoreSample {
        at: Timestamp::now(),
        overdue: sample.overdue,
        gauges: StoreGauges {
            apps: sample.apps,
            pending: sample.pending,
            dead_letters: sample.dead_letters,
            paused_triggers: sample.paused_triggers,
            store_bytes: sample.database_bytes,
        },
        attention,
    }
}

/// The fullest apps so far, in descending order.
#[derive(Default)]
struct Fullest(Vec<(f64, Vec<QuotaUse>)>);

impl Fullest {
    fn add(&mut self, app: &App, survey: &AppSurvey) {
        let of_app = quota_use(app, survey).map(|(resource, ratio)| QuotaUse {
            app: app.name.to_string(),
            resource,
            ratio,
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
