//! A server with a dispatcher, and a neighbour of the app that causes the load.

use kvasm::dispatch::{DispatchOptions, Dispatcher};
use kvasm::model::{App, DeadLetterFilter, Limits};
use kvasm::store::{SqliteOptions, SqliteStore, Store};
use kvasm::{Host, HostBuilder};
use kvasm_tests::guests::{manifest, module_with};
use kvasm_tests::server::{ApiClient, Server, eventually};
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Mutex, MutexGuard, oneshot};
use tokio::task::JoinHandle;

/// Tests that cause heavy load, or measure the process or the machine, run one after another:
/// they would disturb each other.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Waits until no other test holds this.
pub async fn serial() -> MutexGuard<'static, ()> {
    ALONE.lock().await
}

/// As [`alone`], for tests that are not asynchronous.
pub fn serial_blocking() -> MutexGuard<'static, ()> {
    ALONE.blocking_lock()
}

/// The defaults, with a time limit that a neighbour's call meets on any machine: a busy one
/// needs more than the usual 5 s for what takes milliseconds.
pub fn long_timeouts() -> Limits {
    Limits {
        wall_time: Duration::from_secs(20),
        ..Limits::default()
    }
}

/// A server over HTTP with a dispatcher, on a SQLite file by default.
pub struct LoadHost {
    pub server: Server,
    dispatcher: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
    _keep: Box<dyn Any + Send>,
}

impl LoadHost {
    /// With the limits of [`patient`].
    pub async fn new() -> LoadHost {
        LoadHost::with(|builder| builder).await
    }

    /// With a customised host.
    pub async fn with(set_up: impl FnOnce(HostBuilder) -> HostBuilder) -> LoadHost {
        let folder = tempfile::tempdir().unwrap();
        let options = SqliteOptions::new(folder.path().join("kvasm.db"));
        let store = Arc::new(SqliteStore::open(options).await.unwrap());
        LoadHost::over(store, Box::new(folder), set_up).await
    }

    /// Over a store; `keep` lives as long as the stage.
    pub async fn over(
        store: Arc<dyn Store>,
        keep: Box<dyn Any + Send>,
        set_up: impl FnOnce(HostBuilder) -> HostBuilder,
    ) -> LoadHost {
        let set_up =
            |builder: HostBuilder| set_up(builder.shared_store(store).limits(long_timeouts()));
        let server = Server::with(set_up).await;
        let dispatcher = Dispatcher::new(server.host.clone(), DispatchOptions::default());
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(dispatcher.run(async { drop(stopped.await) }));
        LoadHost {
            server,
            dispatcher: Some((stop, task)),
            _keep: keep,
        }
    }

    pub fn host(&self) -> &Host {
        &self.server.host
    }

    /// Stops the dispatcher, then the server.
    pub async fn stop(mut self) {
        if let Some((stop, task)) = self.dispatcher.take() {
            drop(stop);
            task.await.unwrap();
        }
        self.server.stop().await;
    }

    /// Waits until an app has no outstanding deliveries.
    pub async fn wait_until_idle(&self, app: &App) {
        eventually("all deliveries are done", async || {
            let left = self.host().store().deliveries(app.id, None, 1).await;
            left.unwrap().is_empty()
        })
        .await;
    }

    /// The errors of an app's dead letters.
    pub async fn dead_letter_errors(&self, app: &App) -> Vec<String> {
        let all = DeadLetterFilter::default();
        let letters = self
            .host()
            .store()
            .dead_letters(app.id, &all, None, 100)
            .await;
        letters.unwrap().into_iter().map(|l| l.error).collect()
    }

    /// The triggers of an app that are paused.
    pub async fn paused(&self, app: &App) -> Vec<String> {
        let triggers = self.host().store().triggers(app.id).await.unwrap();
        let paused = triggers
            .iter()
            .filter(|trigger| trigger.standing.paused.is_some());
        paused.map(|trigger| trigger.name.to_string()).collect()
    }
}

/// The functions of the neighbour's plugin: `echo` returns its input, `write` sets the entry
/// c/k, and its handler `hear` adds 1 to d/n.
fn plugin() -> Vec<u8> {
    let sections = manifest(&[
        r#"{"kind":"function","name":"echo"}"#,
        r#"{"kind":"function","name":"write"}"#,
        r#"{"kind":"on_change","name":"hear","collection":"c"}"#,
    ]);
    let fields = format!(
        r#"{sections}
        (func (export "echo") (result i32)
          (drop (call $output_write (i32.const 100)
            (i32.wrap_i64 (call $input_read (i32.const 0) (i32.const 100) (i32.const 1000)))))
          (i32.const 0))
        (func (export "write") (result i32)
          (i64.gt_s (i64.const 0) (call $kv_set (i32.const 0) (i32.const 1) (i32.const 1) (i32.const 1)
            (i32.const 4) (i32.const 1) (i32.const 0) (i32.const 0))))
        (func (export "hear") (result i32)
          (i64.gt_s (i64.const 0) (call $kv_increment (i32.const 2) (i32.const 1) (i32.const 3)
            (i32.const 1) (i64.const 1) (i32.const 2000))))"#
    );
    module_with("ckdn1", &fields, "(i32.const 0)")
}

/// An app that makes calls, writes and deliveries at a low rate.
pub struct Neighbour {
    pub app: App,
    api: ApiClient,
}

/// The measurements of a neighbour.
#[derive(Debug, Default)]
pub struct Measurements {
    /// Durations of successful calls.
    pub calls: Vec<Duration>,
    /// Durations of successful writes, which are calls too.
    pub writes: Vec<Duration>,
    /// The answers of failed calls and writes.
    pub failures: Vec<String>,
}

impl Measurements {
    /// The 99th percentile of the durations of its calls and writes.
    pub fn p99(&self) -> Duration {
        let mut all: Vec<_> = self.calls.iter().chain(&self.writes).copied().collect();
        all.sort_unstable();
        let last = all.len().saturating_sub(1);
        all.get(last * 99 / 100).copied().unwrap_or_default()
    }

    /// Panics if a call or a write failed, if there were none, or if they took half of a call's
    /// time limit: a bound for any machine. The benchmarks have the ratios.
    #[track_caller]
    pub fn assert_unaffected(&self) -> &Measurements {
        assert!(self.failures.is_empty(), "{:?}", self.failures);
        assert!(!self.calls.is_empty() && !self.writes.is_empty());
        let half = long_timeouts().wall_time / 2;
        assert!(self.p99() < half, "{:?}", self.p99());
        self
    }
}

impl Neighbour {
    /// Creates an app of this name on a stage.
    pub async fn new(stage: &LoadHost, name: &str) -> Neighbour {
        let app = stage.server.deployed(name, plugin()).await;
        let neighbour = Neighbour {
            app,
            api: stage.server.anonymous(),
        };
        // Loaded and working.
        neighbour.run(1).await.assert_unaffected();
        neighbour
    }

    /// Makes this many calls and writes, one after another.
    pub async fn run(&self, rounds: usize) -> Measurements {
        let mut felt = Measurements::default();
        for _ in 0..rounds {
            self.round(&mut felt).await;
        }
        felt
    }

    async fn round(&self, felt: &mut Measurements) {
        let name = self.app.name.as_str();
        let start = Instant::now();
        let answer = self.api.call(name, "echo", "hello").await;
        match (answer.status, answer.text().as_str()) {
            (200, "hello") => felt.calls.push(start.elapsed()),
            (status, text) => felt.failures.push(format!("{status} {text}")),
        }
        let start = Instant::now();
        let answer = self.api.call(name, "write", "").await;
        match answer.status {
            200 => felt.writes.push(start.elapsed()),
            status => felt.failures.push(format!("{status} {}", answer.text())),
        }
    }

    /// Calls and writes until the watch is ended.
    pub fn spawn(self: &Arc<Neighbour>) -> NeighbourTask {
        let end = Arc::new(AtomicBool::new(false));
        let (neighbour, ended) = (Arc::clone(self), Arc::clone(&end));
        let task = tokio::spawn(async move {
            let mut felt = Measurements::default();
            while !ended.load(Ordering::Relaxed) {
                neighbour.round(&mut felt).await;
            }
            felt
        });
        NeighbourTask { end, task }
    }

    /// Panics unless all its writes were delivered, none is a dead letter, and its trigger is
    /// active.
    pub async fn assert_all_delivered(&self, stage: &LoadHost) {
        stage.wait_until_idle(&self.app).await;
        assert_eq!(
            stage.dead_letter_errors(&self.app).await,
            Vec::<String>::new()
        );
        assert_eq!(stage.paused(&self.app).await, Vec::<String>::new());
    }
}

/// A neighbour that runs until [`end`](NeighbourTask::end).
pub struct NeighbourTask {
    end: Arc<AtomicBool>,
    task: JoinHandle<Measurements>,
}

impl NeighbourTask {
    pub async fn end(self) -> Measurements {
        self.end.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}
