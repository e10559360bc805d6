//! The app of one test: a real store, a real runtime and a real dispatcher, by the test's clock.

use super::faults::{FaultyKv, PlannedFaults, TestServers};
use super::link::HarnessLink;
use super::messages::{
    CallEnd, FaultPlan, HarnessAction, HarnessAnswer, HarnessLine, HarnessRequest, HarnessWrite,
};
use super::state;
use crate::failure::Failure;
use crate::logs;
use kvasm::api::CostView;
use kvasm::api::LogView;
use kvasm::dispatch::{AttemptEvent, StepDispatcher};
use kvasm::metrics::Metrics;
use kvasm::model::{
    App, AppName, Applied, Batch, Collection, ConfigValue, DeadLetterFilter, Grant, Key, Limits,
    LimitsPatch, NewTimer, Op, PluginVersion, Principal, Replay, Scope, SettingName, TimerName,
    TimerOp, TimerTime, Timestamp, Value,
};
use kvasm::service::{
    Caller, DEAD_LETTERS_MAX, DispatchNotifier, Keyring, Kv, KvService, ServiceError, Services,
    StoredDeadLetters,
};
use kvasm::store::{SqliteOptions, SqliteStore, Store};
use kvasm::{
    Call, CallError, CallFailure, Compiler, DeliverFailure, DeployError, Host, InvokeError,
};
use parking_lot::Mutex;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The app's name. That of the harness without a host, too.
const APP: &str = "test";
/// The exit code of a function that refuses its input.
const EXIT_REFUSED: i32 = 3;
/// Time limits of a run: larger than a server's by default, as the module may not be optimised. A
/// lease still takes 30 s.
const CPU_TIME: Duration = Duration::from_secs(10);
const WALL_TIME: Duration = Duration::from_secs(20);
/// Maximum number of runs of handlers in one action.
const RUNS_MAX: u32 = 100_000;
/// Number of log lines passed on at once.
const LOG_LINES_MAX: usize = 1_000;

/// The host of a test.
pub(super) struct TestApp {
    host: Host,
    app: App,
    /// What the test itself writes with: no fault is planned for it.
    kv: Arc<dyn Kv>,
    faults: Arc<PlannedFaults>,
    link: Arc<HarnessLink>,
    steps: StepDispatcher,
    /// The version to activate, as soon as the settings that it needs are there.
    inactive: Mutex<Option<PluginVersion>>,
    /// The last log line that was passed on.
    logged: AtomicU64,
}

impl TestApp {
    /// Opens the store in `folder`, which a crash may have left, and deploys the module if the store
    /// is new.
    pub(super) async fn open(
        folder: &Path,
        wasm: Vec<u8>,
        cache: &Path,
        link: &Arc<HarnessLink>,
    ) -> Result<TestApp, Failure> {
        std::fs::create_dir_all(folder)?;
        let store = SqliteStore::open(SqliteOptions {
            ballast: 0,
            ..SqliteOptions::new(folder.join("kvasm.db"))
        });
        let store: Arc<dyn Store> = Arc::new(store.await?);
        let limits = Limits {
            cpu_time: CPU_TIME,
            wall_time: WALL_TIME,
            ..Limits::default()
        };
        let metrics = Metrics::default();
        let faults = Arc::new(PlannedFaults::default());
        let events = Arc::new(DispatchNotifier::default());
        let kv = KvService::new(Arc::clone(&store), events, metrics.clone(), &limits);
        let kv: Arc<dyn Kv> = Arc::new(kv);
        let services = Services {
            kv: Arc::new(FaultyKv {
                inner: Arc::clone(&kv),
                faults: Arc::clone(&faults),
                link: Arc::clone(link),
            }),
            dead_letters: Arc::new(StoredDeadLetters(Arc::clone(&store))),
            outbound: Arc::new(TestServers {
                faults: Arc::clone(&faults),
                link: Arc::clone(link),
            }),
        };
        let host = Host::builder()
            .shared_store(store)
            .services(services)
            .limits(limits)
            .metrics(metrics)
            .secrets(Keyring::file_or_create(folder.join("secrets.key")))
            .cache_dir(cache)
            .compiler(Compiler::InProcess)
            .unpooled()
            .build()?;
        let name = AppName::parse(APP)?;
        let (app, inactive) = match host.app(&name).await? {
            Some(app) => {
                let version = match app.active {
                    Some(_) => None,
                    None => Some(PluginVersion(1)),
                };
                (app, version)
            }
            None => deploy(&host, name, wasm).await?,
        };
        let steps = {
            let link = Arc::clone(link);
            StepDispatcher::new(host.clone(), move |event| link.send(&reported(event)))
        };
        Ok(TestApp {
            host,
            app,
            kv,
            faults,
            link: Arc::clone(link),
            steps,
            inactive: Mutex::new(inactive),
            logged: AtomicU64::new(0),
        })
    }

    /// Does what the harness asks for, and answers.
    pub(super) async fn act(&self, request: HarnessRequest) {
        Timestamp::stop_clock(Timestamp(request.now_ms));
        let mut answer = HarnessAnswer::default();
        let done = self.done(request.action, request.faults, &mut answer).await;
        self.pass_logs_on();
        answer.now_ms = Timestamp::now().0;
        self.link.send(&match done {
            Ok(()) => HarnessLine::Done(Box::new(answer)),
            Err(failure) => HarnessLine::Refused(failure.text().to_owned()),
        });
    }

    async fn done(
        &self,
        action: HarnessAction,
        plan: FaultPlan,
        answer: &mut HarnessAnswer,
    ) -> Result<(), Failure> {
        let actor = self.host.operator("the test");
        let admin = self.host.admin();
        match action {
            HarnessAction::Call {
                function,
                input,
                is_principal,
            } => {
                self.activate().await?;
                self.faults.begin(plan);
                let called = self.call(function, input, is_principal).await;
                (answer.operations, answer.conflicts) = self.faults.end().map_err(Failure::user)?;
                answer.call = Some(called?);
            }
            HarnessAction::RunUntil { .. } | HarnessAction::Settle => {
                self.activate().await?;
                self.faults.begin(plan);
                let ran = match action {
                    HarnessAction::RunUntil { until_ms } => self.run_until(until_ms).await,
                    _ => self.settle().await,
                };
                (answer.operations, answer.conflicts) = self.faults.end().map_err(Failure::user)?;
                ran?;
            }
            HarnessAction::Write { batches } => {
                self.activate().await?;
                for batch in batches {
                    answer.versions.push(self.write(batch).await?);
                }
            }
            HarnessAction::State => {
                answer.state = Some(state::read(&self.host, &self.kv, &self.app).await?);
            }
            HarnessAction::Replay => {
                let all = DeadLetterFilter::default();
                let replay = admin.replay(&actor, &self.app, all, DEAD_LETTERS_MAX, false);
                replay.await?;
            }
            HarnessAction::Quota { entries, bytes } => {
                let patch = LimitsPatch {
                    entries: Some(entries),
                    bytes: Some(bytes),
                    ..LimitsPatch::default()
                };
                admin.set_limits(&actor, &self.app, patch, None).await?;
            }
            HarnessAction::Config { name, value } => {
                let (name, value) = (SettingName::parse(&name)?, value.into_bytes());
                let value = ConfigValue::parse(&value)?;
                admin.set_config(&actor, &self.app, name, value).await?;
            }
            HarnessAction::Secret { name, secret } => {
                let name = SettingName::parse(&name)?;
                admin.set_secret(&actor, &self.app, name, &secret).await?;
            }
            // Those that need no app are done before.
            HarnessAction::Open { .. } | HarnessAction::Fetched(_) | HarnessAction::Stop => {}
        }
        Ok(())
    }

    /// Activates the module. That fails while the test has not set what it needs.
    async fn activate(&self) -> Result<(), Failure> {
        let Some(version) = *self.inactive.lock() else {
            return Ok(());
        };
        let actor = self.host.operator("the test");
        let activation = self
            .host
            .admin()
            .activate_plugin(&actor, &self.app, version);
        match activation.await {
            Ok(_) => {}
            Err(error @ ServiceError::NeedsUnmet(_)) => {
                return Err(Failure::user(format!(
                    "{error}; a host does not activate a plugin without them: set them with \
                     testing::set_config and testing::set_secret before the test writes or calls"
                )));
            }
            Err(error) => return Err(error.into()),
        }
        *self.inactive.lock() = None;
        // Schedules are planned from now on.
        self.steps.run_due().await.map_err(steps_failed)?;
        Ok(())
    }

    async fn call(
        &self,
        function: Option<String>,
        input: Vec<u8>,
        is_principal: bool,
    ) -> Result<CallEnd, Failure> {
        let call = match function {
            Some(name) => Call::function(name),
            None => Call::http(),
        };
        let mut call = call.input(input);
        if is_principal {
            let scopes = [Scope::ScriptRead, Scope::ScriptWrite];
            call = call.principal(Principal::for_app(self.app.id, scopes));
        }
        let app = self.host.app(&self.app.name).await?;
        let app = app.unwrap_or_else(|| self.app.clone());
        match self.host.invoke(&app, call).await {
            Ok(response) => Ok(CallEnd {
                how: "returned",
                message: String::new(),
                error: "",
                cost: CostView::from(&response.cost),
                output: response.output,
            }),
            Err(InvokeError::Call(failure)) => Ok(failed(&failure)),
            Err(error) => Err(Failure::user(error.to_string())),
        }
    }

    /// Commits a batch. Returns the versions of the entries that it has set.
    async fn write(&self, batch: Vec<HarnessWrite>) -> Result<Vec<u64>, Failure> {
        let limit = self.host.limits().value_bytes;
        let mut built = Batch::default();
        for write in batch {
            match write {
                HarnessWrite::Set {
                    collection,
                    key,
                    value,
                    is_json,
                    expires_at_ms,
                } => built.ops.push(Op::Set {
                    collection: Collection::parse(collection)?,
                    key: Key::parse(key)?,
                    value: match is_json {
                        true => Value::json(value, limit)?,
                        false => Value::bytes(value, limit)?,
                    },
                    expires_at: expires_at_ms.map(Timestamp),
                }),
                HarnessWrite::Delete { collection, key } => built.ops.push(Op::Delete {
                    collection: Collection::parse(collection)?,
                    key: Key::parse(key)?,
                }),
                HarnessWrite::TimerSet {
                    name,
                    at_ms,
                    payload,
                } => built.timers.push(TimerOp::Set(NewTimer {
                    name: TimerName::parse(name)?,
                    time: TimerTime::At(Timestamp(at_ms)),
                    payload: Value::Bytes(payload),
                })),
                HarnessWrite::TimerCancel { name } => built.timers.push(TimerOp::Cancel {
                    name: TimerName::parse(name)?,
                    expect: None,
                }),
                HarnessWrite::Replay { letter } => built.replays.push(Replay {
                    letter,
                    is_required: false,
                }),
            }
        }
        let caller = Caller::new(&self.app, None);
        let applied = self.kv.commit(&caller, built).await?;
        let versions = applied.into_iter().filter_map(|applied| match applied {
            Applied::Set(version) => Some(version.0),
            _ => None,
        });
        Ok(versions.collect())
    }

    /// Runs what is due until a time, each at its time, and leaves the clock there.
    async fn run_until(&self, until_ms: i64) -> Result<(), Failure> {
        let mut runs = 0;
        loop {
            self.run_due(&mut runs).await?;
            let next = state::next_due(&self.host, &self.app, true).await?;
            match next.filter(|at| at.0 <= until_ms) {
                Some(at) => Timestamp::stop_clock(at),
                None => break,
            }
        }
        Timestamp::stop_clock(Timestamp(until_ms));
        Ok(())
    }

    /// Runs handlers until no delivery is outstanding, or only those that wait for an operator.
    async fn settle(&self) -> Result<(), Failure> {
        let mut runs = 0;
        loop {
            self.run_due(&mut runs).await?;
            match state::next_due(&self.host, &self.app, false).await? {
                Some(at) => Timestamp::stop_clock(at),
                None => return Ok(()),
            }
        }
    }

    async fn run_due(&self, runs: &mut u32) -> Result<(), Failure> {
        *runs += self.steps.run_due().await.map_err(steps_failed)?;
        match *runs > RUNS_MAX {
            true => Err(Failure::user(format!(
                "the handlers do not come to an end after {runs} runs"
            ))),
            false => Ok(()),
        }
    }

    fn pass_logs_on(&self) {
        let seen = self.logged.load(Ordering::Relaxed);
        for record in self.host.logs().read(self.app.id, seen, LOG_LINES_MAX) {
            self.logged.store(record.seq, Ordering::Relaxed);
            let text = logs::shown(&LogView::from(&record));
            self.link.send(&HarnessLine::Log(text));
        }
    }
}

fn steps_failed(error: kvasm::dispatch::StepError) -> Failure {
    Failure::user(error.to_string())
}

/// Makes the app, uploads the module, and grants what it needs.
async fn deploy(
    host: &Host,
    name: AppName,
    wasm: Vec<u8>,
) -> Result<(App, Option<PluginVersion>), Failure> {
    let actor = host.operator("the test");
    let app = host.create_app(name).await?;
    let deployed = host.deploy(&actor, &app, wasm, false).await;
    let (version, _, exports) = deployed.map_err(|error| match error {
        DeployError::Load(error) => Failure::from(error),
        DeployError::Service(error) => Failure::from(error),
    })?;
    let grants: Vec<Grant> = exports.needs.grants();
    if !grants.is_empty() {
        host.admin().add_grants(&actor, &app, grants).await?;
    }
    Ok((app, Some(version)))
}

/// What the harness is notified of an attempt.
fn reported(event: AttemptEvent<'_>) -> HarnessLine {
    match event {
        AttemptEvent::Started(delivery) => {
            HarnessLine::Started(delivery.target.column().to_owned())
        }
        AttemptEvent::Succeeded(_) => HarnessLine::Succeeded,
        AttemptEvent::Failed(delivery, error) => {
            let handler = delivery.target.column();
            HarnessLine::Failed(format!("{handler}: {}", why(error)))
        }
    }
}

/// The error of an attempt. A trap that is no panic has its backtrace, which names source lines.
fn why(error: &DeliverFailure) -> String {
    let summary = error.summary();
    match error.trace() {
        Some(trace) if summary.starts_with("the plugin trapped") => format!("{summary}\n{trace}"),
        _ => summary,
    }
}

fn failed(failure: &CallFailure) -> CallEnd {
    let (how, message, error) = match (&failure.error, failure.log.panic()) {
        (CallError::Trap { .. }, Some(panic)) => ("trapped", panic.to_owned(), ""),
        (CallError::Trap { reason, backtrace }, None) => {
            ("trapped", format!("trapped: {reason}\n{backtrace}"), "")
        }
        (CallError::Failed { code, message }, _) if *code == EXIT_REFUSED => {
            ("refused", message.clone(), "")
        }
        (CallError::Failed { message, .. }, _) => ("failed", message.clone(), ""),
        (CallError::Commit(error), _) => ("not_committed", error.to_string(), kind(error)),
        (error @ CallError::Conflict { .. }, _) => ("not_committed", error.to_string(), "Conflict"),
        (error, _) => ("failed", error.to_string(), ""),
    };
    CallEnd {
        how,
        message,
        error,
        output: Vec::new(),
        cost: CostView::from(&failure.cost),
    }
}

/// The variant of the SDK's error for a failed commit.
fn kind(error: &ServiceError) -> &'static str {
    match error {
        ServiceError::Invalid(_) | ServiceError::Overflow(_) => "Invalid",
        ServiceError::NotInteger(_) => "Type",
        ServiceError::Quota { .. } => "Quota",
        ServiceError::Conflict { .. } => "Conflict",
        ServiceError::Denied(_) => "Denied",
        ServiceError::Unavailable(_) | ServiceError::Full(_) => "Unavailable",
        _ => "Internal",
    }
}
