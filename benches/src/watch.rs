//! What a set costs while an app has many watchers over HTTP, compared with none.

use crate::Effort;
use crate::events::{Engine, store};
use crate::report::{Row, Target, median};
use anyhow::{Context, Result, ensure};
use kvasm::model::{App, Collection, Key, Value};
use kvasm::service::Caller;
use kvasm_tests::server::Server;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

const WATCHERS: usize = 1_000;
const SETS: usize = 500;

/// Sets one after another through the service, in an app of its own with and without watchers.
pub fn measure(runtime: &Runtime, effort: Effort, engine: Engine) -> Result<Vec<Row>> {
    runtime.block_on(async {
        let (store, _folder) = store(engine).await?;
        let server = Server::over(store, None).await;
        let watched = server.app("watched", false).await;
        let alone = server.app("alone", false).await;
        let seen = Arc::new(AtomicUsize::new(0));
        let mut readers = watch(&server, "watched", &seen).await?;
        let mut pairs = Vec::new();
        // Each watcher is also sent that it is ready.
        let mut expected = WATCHERS;
        for _ in 0..effort.rounds {
            let before = median_set(&server, &alone, effort).await?;
            pairs.push((median_set(&server, &watched, effort).await?, before));
            // What the watchers still receive must not slow the next round.
            expected += WATCHERS * sets(effort);
            while seen.load(Ordering::Relaxed) < expected {
                ensure!(
                    readers.try_join_next().is_none(),
                    "a watcher was disconnected"
                );
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        let name = format!(
            "a set with {WATCHERS} watchers of its app, vs. none, {}",
            engine.name()
        );
        let target = Some(Target::AtMost(1.5));
        Ok(vec![Row::pair(&name, "us", &pairs, target)])
    })
}

fn sets(effort: Effort) -> usize {
    (SETS / effort.divisor).max(20)
}

/// The median time of a set, in microseconds.
async fn median_set(server: &Server, app: &App, effort: Effort) -> Result<f64> {
    let caller = Caller::administrator(app, &server.host.operator("bench"));
    let mut times = Vec::new();
    for n in 0..sets(effort) {
        let at = (
            Collection::parse("c")?,
            Key::parse(format!("k{}", n % 100))?,
        );
        let value = Value::json(format!("{{\"n\":{n}}}"), 1024)?;
        let began = Instant::now();
        let set = server.host.kv().set(&caller, at, value, None, None);
        set.await?;
        times.push(began.elapsed().as_secs_f64() * 1e6);
    }
    Ok(median(&mut times))
}

/// Connects watchers, which count the events that they receive and discard them.
async fn watch(server: &Server, app: &str, seen: &Arc<AtomicUsize>) -> Result<JoinSet<()>> {
    let mut readers = JoinSet::new();
    let request = format!(
        "GET /v1/apps/{app}/kv/watch HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {}\r\n\r\n",
        server.root.secret()
    );
    for _ in 0..WATCHERS {
        let mut stream = TcpStream::connect(server.address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut lines = BufReader::new(stream).lines();
        // The head, and the event that says that changes follow.
        while lines.next_line().await?.context("the connection ended")? != "event: ready" {}
        let seen = Arc::clone(seen);
        readers.spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                if line.starts_with("data: ") {
                    seen.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
    Ok(readers)
}
