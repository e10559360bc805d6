//! A host with one app and a dispatcher, and helpers for tests.

use kvasm::dispatch::{DispatchOptions, Dispatcher};
use kvasm::model::{
    App, AppName, Collection, DeadLetter, DeadLetterFilter, Delivery, Grant, Key, Limits, Op,
    Pieces, Timestamp, Trigger, Value,
};
use kvasm::service::{Caller, List};
use kvasm::store::{MemoryStore, PostgresStore, SqliteOptions, SqliteStore, Store};
use kvasm::{Call, Host, HostBuilder, InvokeError, Response};
pub use kvasm_tests::guests::manifest;
use serde_json::{Value as Json, json};
use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// The timeout of a wait.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct EventHost {
    pub host: Host,
    pub name: AppName,
    dispatcher: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
    _keep: Box<dyn Any + Send + Sync>,
}

impl EventHost {
    /// In memory, with a dispatcher.
    pub async fn new() -> EventHost {
        let mut stage = EventHost::over(Arc::new(MemoryStore::new()), Box::new(())).await;
        stage.start();
        stage
    }

    /// Over a store in memory, with a host that lets handlers run for minutes.
    pub async fn with_long_timeouts() -> EventHost {
        let ages = Duration::from_secs(600);
        let builder = Host::builder().limits(Limits {
            cpu_time: ages,
            wall_time: ages,
            ..Limits::default()
        });
        EventHost::with_builder(builder, Arc::new(MemoryStore::new()), Box::new(())).await
    }

    /// On a SQLite file, with a dispatcher.
    pub async fn sqlite() -> EventHost {
        let folder = tempfile::tempdir().unwrap();
        let options = SqliteOptions::new(folder.path().join("kvasm.db"));
        let store = SqliteStore::open(options).await.unwrap();
        let mut stage = EventHost::over(Arc::new(store), Box::new(folder)).await;
        stage.start();
        stage
    }

    /// Two hosts on a new Postgres database, both without a dispatcher.
    pub async fn two_on_postgres() -> [EventHost; 2] {
        let url = tokio::task::spawn_blocking(kvasm_tests::postgres::fresh_database);
        let options = kvasm_tests::postgres::store_options(url.await.unwrap());
        let mut stages = Vec::new();
        for _ in 0..2 {
            let store = PostgresStore::connect(options.clone()).await.unwrap();
            stages.push(EventHost::over(Arc::new(store), Box::new(())).await);
        }
        stages.try_into().ok().unwrap()
    }

    /// Over a store, without a dispatcher yet.
    pub async fn over(store: Arc<dyn Store>, keep: Box<dyn Any + Send + Sync>) -> EventHost {
        EventHost::with_builder(Host::builder(), store, keep).await
    }

    /// Like [`over`](EventHost::over), with a given host builder.
    pub async fn with_builder(
        builder: HostBuilder,
        store: Arc<dyn Store>,
        keep: Box<dyn Any + Send + Sync>,
    ) -> EventHost {
        let host = builder.shared_store(store).instances(40).build();
        let host = host.unwrap();
        let name = AppName::parse("app").unwrap();
        if host.app(&name).await.unwrap().is_none() {
            host.create_app(name.clone()).await.unwrap();
        }
        EventHost {
            host,
            name,
            dispatcher: None,
            _keep: keep,
        }
    }

    /// Sends a request to the HTTP handler. Returns the head and the body of its response.
    pub async fn http(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> (Json, String) {
        let output = self.try_http(method, path, headers, body).await;
        let output = output.unwrap().output;
        let (head, body) = kvasm_abi::http::split(&output).unwrap();
        let body = String::from_utf8(body.to_vec()).unwrap();
        (serde_json::from_slice(head).unwrap(), body)
    }

    pub async fn try_http(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Response, InvokeError> {
        let head = json!({ "method": method, "path": path, "query": "", "headers": headers });
        self.try_request(&head, body.as_bytes()).await
    }

    /// Sends a request with a given head.
    pub async fn try_request(&self, head: &Json, body: &[u8]) -> Result<Response, InvokeError> {
        let head = head.to_string();
        let mut frame = kvasm_abi::http::prefix(head.len()).unwrap().to_vec();
        frame.extend_from_slice(head.as_bytes());
        frame.extend_from_slice(body);
        let app = self.app().await;
        self.host.invoke(&app, Call::http().input(frame)).await
    }

    /// Another app of the same host, whose dispatcher serves both.
    pub async fn neighbour(&self, name: &str) -> EventHost {
        let name = AppName::parse(name).unwrap();
        self.host.create_app(name.clone()).await.unwrap();
        EventHost {
            host: self.host.clone(),
            name,
            dispatcher: None,
            _keep: Box::new(()),
        }
    }

    pub fn start(&mut self) {
        self.start_with(DispatchOptions::default());
    }

    pub fn start_with(&mut self, options: DispatchOptions) {
        let dispatcher = Dispatcher::new(self.host.clone(), options);
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(dispatcher.run(async { drop(stopped.await) }));
        self.dispatcher = Some((stop, task));
    }

    pub async fn stop(&mut self) {
        if let Some((stop, task)) = self.dispatcher.take() {
            drop(stop);
            task.await.unwrap();
        }
    }

    pub async fn app(&self) -> App {
        self.host.app(&self.name).await.unwrap().unwrap()
    }

    /// Deploys a module and activates it, and grants it timers.
    pub async fn deploy_with_timers(&self, wasm: Vec<u8>) {
        let operator = self.host.operator("test");
        let app = self.app().await;
        let granted = self
            .host
            .admin()
            .add_grants(&operator, &app, vec![Grant::Timers]);
        granted.await.unwrap();
        self.deploy(wasm).await;
    }

    /// Deploys a module and activates it.
    pub async fn deploy(&self, wasm: Vec<u8>) {
        let actor = self.host.operator("a test");
        let app = self.app().await;
        self.host.deploy(&actor, &app, wasm, true).await.unwrap();
    }

    pub async fn try_call(
        &self,
        function: &str,
        input: impl Into<Pieces>,
    ) -> Result<Response, InvokeError> {
        let app = self.app().await;
        let call = Call::function(function).input(input);
        self.host.invoke(&app, call).await
    }

    pub async fn call(&self, function: &str, input: impl Into<Pieces>) -> Vec<u8> {
        self.try_call(function, input).await.unwrap().output
    }

    /// Writes JSON, as a call by an administrator does.
    pub async fn set(&self, c: &str, k: &str, json: &str) {
        let app = self.app().await;
        let write = Op::Set {
            collection: collection(c),
            key: Key::parse(k).unwrap(),
            value: Value::json(json, 1 << 20).unwrap(),
            expires_at: None,
        };
        let caller = Caller::new(&app, None);
        self.host.kv().apply(&caller, write, None).await.unwrap();
    }

    pub async fn get(&self, c: &str, k: &str) -> Option<String> {
        let value = self.get_bytes(c, k).await;
        value.map(|value| String::from_utf8(value).unwrap())
    }

    pub async fn get_bytes(&self, c: &str, k: &str) -> Option<Vec<u8>> {
        let app = self.app().await;
        let (c, k) = (collection(c), Key::parse(k).unwrap());
        let caller = Caller::new(&app, None);
        let entry = self.host.kv().get(&caller, &c, &k).await.unwrap();
        entry.map(|entry| entry.value.as_bytes().to_vec())
    }

    /// The keys and values of a collection, in one snapshot.
    pub async fn all(&self, c: &str) -> Vec<(String, String)> {
        let app = self.app().await;
        let list = List {
            with_values: true,
            ..List::all(collection(c))
        };
        let caller = Caller::new(&app, None);
        let page = self.host.kv().list(&caller, list).await.unwrap();
        let text = |entry: Option<kvasm::model::Entry>| {
            String::from_utf8_lossy(entry.unwrap().value.as_bytes()).into_owned()
        };
        let entries = page.entries.into_iter();
        entries
            .map(|(key, entry)| (key.as_str().to_owned(), text(entry)))
            .collect()
    }

    pub async fn outstanding(&self) -> Vec<Delivery> {
        let app = self.app().await;
        let all = self.host.store().deliveries(app.id, None, 1_000).await;
        all.unwrap()
    }

    pub async fn dead_letters(&self) -> Vec<DeadLetter> {
        let app = self.app().await;
        let all = DeadLetterFilter::default();
        let letters = self.host.store().dead_letters(app.id, &all, None, 1_000);
        letters.await.unwrap()
    }

    pub async fn triggers(&self) -> Vec<Trigger> {
        let app = self.app().await;
        self.host.store().triggers(app.id).await.unwrap()
    }

    /// Replays all dead letters.
    pub async fn replay(&self) {
        let app = self.app().await;
        let actor = self.host.operator("a test");
        let audit = kvasm::model::Audit {
            id: uuid::Uuid::now_v7(),
            at: Timestamp::now(),
            token: None,
            actor: "a test".to_owned(),
            action: "deadletter.replay".into(),
            app: Some((app.id, app.name)),
            detail: serde_json::json!({}),
            request_id: actor.request_id(),
        };
        let all = DeadLetterFilter::default();
        let replay = self.host.store().replay(app.id, all, 1_000, audit);
        replay.await.unwrap();
        self.host.notifier().wake();
    }

    /// Waits until nothing is outstanding.
    pub async fn wait_until_idle(&self) {
        let start = Instant::now();
        loop {
            let left = self.outstanding().await;
            let Some(first) = left.first() else { return };
            let count = left.len();
            assert!(
                start.elapsed() < PATIENCE,
                "{count} are left, such as {first:#?}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

pub fn collection(name: &str) -> Collection {
    Collection::parse(name).unwrap()
}

/// Waits until `holds` returns true.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < PATIENCE, "timed out waiting until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
