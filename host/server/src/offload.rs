//! Runs work on large texts on other threads, so that it does not block the server threads.

use super::problem::Problem;
use kvasm_core::AppId;
use kvasm_service::{FairSemaphore, Share};
use std::num::NonZero;
use std::sync::Arc;
use tokio::task::{JoinError, spawn_blocking};

/// Maximum size of text that a server thread parses or serialises itself: about a fifth of a
/// millisecond of work, ten times the cost of handing it over.
const HERE_BYTES_MAX: usize = 64 * 1024;

/// Runs work on other threads. The number of concurrent jobs is the number of cores minus one; one
/// app gets at most half of these permits, and waiting apps take turns.
pub(super) struct Offload {
    places: Arc<FairSemaphore>,
    /// Number of jobs that ran on another thread.
    #[cfg(test)]
    pub(super) count: std::sync::atomic::AtomicUsize,
}

impl Offload {
    pub(super) fn new() -> Offload {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let places = u32::try_from(cores.saturating_sub(1).max(1)).unwrap_or(u32::MAX);
        Offload::over(FairSemaphore::new(places, Share::Half))
    }

    fn over(places: Arc<FairSemaphore>) -> Offload {
        Offload {
            places,
            #[cfg(test)]
            count: Default::default(),
        }
    }

    /// Runs work on about this many bytes for an app: on this thread, or as [`run`](Offload::run) if
    /// they are many.
    ///
    /// # Errors
    /// Errors of the work, and those of [`run`](Offload::run).
    pub(super) async fn by_size<T, E>(
        &self,
        app: AppId,
        bytes: usize,
        work: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<T, Problem>
    where
        T: Send + 'static,
        E: Into<Problem> + Send + 'static,
    {
        let done = match bytes > HERE_BYTES_MAX {
            true => self.run(app, work).await,
            false => Ok(work()),
        };
        let done = done.map_err(|error| Problem::internal(&error))?;
        done.map_err(Into::into)
    }

    /// Runs a job for an app once a permit is available. The job completes even if the caller is
    /// cancelled.
    ///
    /// # Errors
    /// If it panics, or the runtime ends.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        app: AppId,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        let place = self.places.acquire(app, 1, 0).await;
        #[cfg(test)]
        self.count
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        spawn_blocking(move || {
            let _place = place;
            work()
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::{Routes, build};
    use crate::{Authority, ServerOptions, SharedServer};
    use axum::Router;
    use axum::body::Body;
    use axum::http::Request;
    use axum::http::header::CONTENT_TYPE;
    use http_body_util::BodyExt;
    use kvasm_core::{AppName, Level, Timestamp};
    use kvasm_host::Host;
    use kvasm_service::{LogRecord, LogSource};
    use std::sync::atomic::Ordering;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    /// The server thread continues while a job runs, and jobs of one app do not block another's.
    #[tokio::test]
    async fn offloaded_work_is_shared_fairly_between_apps() {
        let aside = Arc::new(Offload::over(FairSemaphore::new(1, Share::Half)));
        let (app, other) = (AppId::generate(), AppId::generate());
        let serving = thread::current().id();
        let (go, gone) = mpsc::channel::<()>();
        let (done, order) = mpsc::channel();
        let mut tasks = Vec::new();
        let begin = |app, name: &'static str, first: Option<mpsc::Receiver<()>>| {
            let (aside, done) = (Arc::clone(&aside), done.clone());
            tokio::spawn(async move {
                let work = move || {
                    assert_ne!(thread::current().id(), serving);
                    if let Some(gone) = first {
                        gone.recv_timeout(Duration::from_secs(60)).unwrap();
                    }
                    done.send(name).unwrap();
                };
                aside.run(app, work).await.unwrap();
            })
        };
        tasks.push(begin(app, "first", Some(gone)));
        tokio::task::yield_now().await;
        for _ in 0..20 {
            tasks.push(begin(app, "app", None));
        }
        tokio::task::yield_now().await;
        tasks.push(begin(other, "other", None));
        for _ in 0..30 {
            tokio::task::yield_now().await;
        }
        assert!(order.try_recv().is_err());
        go.send(()).unwrap();
        for task in tasks {
            task.await.unwrap();
        }
        let order: Vec<_> = order.try_iter().collect();
        assert_eq!(order.len(), 22);
        assert!(order[..3].contains(&"other"), "{order:?}");
    }

    /// A server whose requests have the operator's authority.
    struct Scene {
        shared: SharedServer,
        router: Router,
        app: AppId,
    }

    impl Scene {
        async fn new() -> Scene {
            let host = Host::builder().instances(4).build().unwrap();
            let app = host.create_app(AppName::parse("shop").unwrap()).await;
            let trust = Authority::Operator("test".into());
            let shared =
                SharedServer::new(host, ServerOptions::default(), trust, Default::default());
            Scene {
                router: build(shared.clone(), Routes::All),
                app: app.unwrap().id,
                shared,
            }
        }

        /// Sends a request and returns how many jobs it ran on other threads.
        async fn pieces(&self, method: &str, path: &str, kind: &str, body: &str) -> usize {
            let count = || self.shared.aside.count.load(Ordering::Relaxed);
            let before = count();
            let request = Request::builder().method(method).uri(path);
            let request = request.header(CONTENT_TYPE, kind);
            let request = request.body(Body::from(body.to_owned())).unwrap();
            let answer = tower::ServiceExt::oneshot(self.router.clone(), request).await;
            let (head, body) = answer.unwrap().into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let start = String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned();
            assert!(head.status.is_success(), "{method} {path}: {start}");
            count() - before
        }
    }

    #[tokio::test]
    async fn large_bodies_are_processed_off_the_serving_threads() {
        let scene = Scene::new().await;
        let wat = |spaces: usize| {
            let head = format!("{{\"status\":200{}}}", " ".repeat(spaces));
            let bytes = [&(head.len() as u32).to_le_bytes(), head.as_bytes()].concat();
            let data: String = bytes.iter().map(|byte| format!("\\{byte:02x}")).collect();
            let wat = format!(
                r#"(module
                    (import "kvasm_v1" "output_write"
                        (func $output (param i32 i32) (result i64)))
                    (memory (export "memory") 8) (data (i32.const 0) "{data}")
                    (@custom "kvasm.plugin.v1" "{{\"kind\":\"http\",\"name\":\"run\"}}")
                    (func (export "run") (result i32)
                        (drop (call $output (i32.const 0) (i32.const {}))) (i32.const 0)))"#,
                bytes.len()
            );
            wat::parse_str(wat).unwrap()
        };
        for (size, pieces) in [(100, 0), (HERE_BYTES_MAX, 1)] {
            let (json, value) = ("application/json", format!("\"{}\"", "x".repeat(size)));
            let entry = "/v1/apps/shop/kv/entry?collection=c&key=k";
            assert_eq!(scene.pieces("PUT", entry, json, &value).await, pieces);
            let set = format!(r#"{{"collection":"c","key":"k","json":{value}}}"#);
            let commit = format!(r#"{{"operations":[{{"set":{set}}}]}}"#);
            let path = "/v1/apps/shop/kv/commit";
            assert_eq!(scene.pieces("POST", path, json, &commit).await, pieces);
            // Both the request and the response can be small or large.
            for (spaces, pieces) in [(0, pieces), (HERE_BYTES_MAX, pieces + 1)] {
                let spaces = " ".repeat(spaces);
                let keys = format!(r#"{{"keys":[{{"collection":"c","key":"k"}}]{spaces}}}"#);
                let path = "/v1/apps/shop/kv/get-many";
                assert_eq!(scene.pieces("POST", path, json, &keys).await, pieces);
            }
            let list = "/v1/apps/shop/kv/list?collection=c";
            assert_eq!(scene.pieces("GET", list, json, "").await, 0);
            let list = format!("{list}&values=true");
            assert_eq!(scene.pieces("GET", &list, json, "").await, pieces);

            let lines = (0..size / 100).map(|_| LogRecord {
                seq: 0,
                at: Timestamp(0),
                level: Level::Info,
                source: LogSource::Plugin,
                function: "f".into(),
                trace_id: None,
                request_id: uuid::Uuid::nil(),
                message: "x".repeat(100),
                discarded: false,
                cost: None,
            });
            scene.shared.host.logs().push(scene.app, lines);
            let logs = "/v1/apps/shop/logs?limit=1000";
            assert_eq!(scene.pieces("GET", logs, json, "").await, pieces);

            let host = &scene.shared.host;
            let (name, actor) = (AppName::parse("shop").unwrap(), host.operator("test"));
            let app = host.app(&name).await.unwrap().unwrap();
            host.deploy(&actor, &app, wat(size), true).await.unwrap();
            assert_eq!(scene.pieces("GET", "/a/shop/", json, "").await, pieces);
        }
        // The audit log and the list of versions are large only with many rows.
        let audit = "/v1/apps/shop/audit?limit=1000";
        assert_eq!(scene.pieces("GET", audit, "text/plain", "").await, 0);
    }
}
