//! The scenarios of the noisy app.

use super::client::Client;
use super::{PressureServer, guest};
use anyhow::Result;
use std::pin::Pin;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};

/// Starts the load, which ends when the handle is aborted.
pub type StartLoad = Box<dyn Fn() -> JoinHandle<()>>;
type Prepared<'s> = Pin<Box<dyn Future<Output = Result<StartLoad>> + 's>>;

pub struct Scenario {
    pub name: &'static str,
    pub prepare: for<'s> fn(&'s PressureServer) -> Prepared<'s>,
}

const MIB: usize = 1024 * 1024;

pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "40 clients of an endless function",
        prepare: |stage| Box::pin(calls(stage, "(loop (br 0)) unreachable", 1, 40, 0)),
    },
    Scenario {
        name: "32 clients of a plugin with 8 memories",
        prepare: |stage| Box::pin(calls(stage, "(loop (br 0)) unreachable", 8, 32, 0)),
    },
    Scenario {
        name: "16 clients that send 8 MiB minus one byte",
        prepare: |stage| Box::pin(calls(stage, "(i32.const 0)", 1, 16, 8 * MIB - 1)),
    },
    Scenario {
        name: "8 clients of a function that fails with 8 MiB of NUL",
        prepare: |stage| Box::pin(failures(stage)),
    },
    Scenario {
        name: "100 clients that read an 8 MiB response slowly",
        prepare: |stage| Box::pin(slow_readers(stage)),
    },
    Scenario {
        name: "4 clients that export 20,000 entries",
        prepare: |stage| Box::pin(exports(stage)),
    },
    Scenario {
        name: "a client that deploys modules that compile slowly",
        prepare: |stage| Box::pin(slow_modules(stage)),
    },
    Scenario {
        name: "the deletion of apps of 20,000 entries",
        prepare: |stage| Box::pin(deletions(stage)),
    },
];

/// Writes 8 MiB of NUL bytes and returns `code`.
fn output(code: u8) -> String {
    format!(
        "(local $left i32) (local.set $left (i32.const 128))
         (loop $more
           (drop (call $write (i32.const 0) (i32.const 65536)))
           (br_if $more (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
         (i32.const {code})"
    )
}

/// A module with a function `run`.
fn module(body: &str, memories: usize) -> Result<Vec<u8>> {
    let more = "(memory 1)".repeat(memories - 1);
    Ok(wat::parse_str(format!(
        "(module (import \"kvasm_v1\" \"output_write\" (func $write (param i32 i32) (result i64)))
           (memory (export \"memory\") 1) {more}
           (func (export \"run\") (result i32) {body}))"
    ))?)
}

/// `clients` clients that do something repeatedly.
fn many<F, T>(clients: usize, what: F) -> StartLoad
where
    F: Fn(usize) -> T + Clone + Send + 'static,
    T: Future<Output = ()> + Send + 'static,
{
    Box::new(move || {
        let what = what.clone();
        tokio::spawn(async move {
            let mut tasks = JoinSet::new();
            for client in 0..clients {
                let what = what.clone();
                tasks.spawn(async move {
                    loop {
                        what(client).await;
                        tokio::task::yield_now().await;
                    }
                });
            }
            while tasks.join_next().await.is_some() {}
        })
    })
}

/// Calls of a function with the default limits of new apps.
async fn calls(
    stage: &PressureServer,
    body: &str,
    memories: usize,
    clients: usize,
    input: usize,
) -> Result<StartLoad> {
    stage.app("loud", &module(body, memories)?).await?;
    let client = stage.anonymous();
    let input = vec![0; input];
    Ok(many(clients, move |_| {
        let (client, input) = (client.clone(), input.clone());
        async move {
            let path = "/v1/apps/loud/call/run";
            let _ = client.send("POST", path, "text/plain", &input).await;
        }
    }))
}

async fn failures(stage: &PressureServer) -> Result<StartLoad> {
    calls(stage, &output(1), 1, 8, 0).await
}

async fn slow_readers(stage: &PressureServer) -> Result<StartLoad> {
    stage.app("loud", &module(&output(0), 1)?).await?;
    let client = stage.anonymous();
    Ok(many(100, move |_| {
        let client = client.clone();
        async move {
            let _ = read_slowly(&client).await;
        }
    }))
}

/// Reads 512 bytes per second.
async fn read_slowly(client: &Client) -> Result<()> {
    let mut stream = TcpStream::connect(client.address).await?;
    let head = client.head("POST", "/v1/apps/loud/call/run", "text/plain", 0);
    stream.write_all(head.as_bytes()).await?;
    let mut buffer = [0; 512];
    while stream.read(&mut buffer).await? > 0 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

async fn exports(stage: &PressureServer) -> Result<StartLoad> {
    let loud = stage.app("loud", &guest("counter")?).await?;
    stage.fill(loud).await?;
    let admin = stage.admin.clone();
    Ok(many(4, move |_| {
        let admin = admin.clone();
        async move {
            let path = "/v1/apps/loud/kv/export";
            let _ = admin.send("GET", path, "text/plain", &[]).await;
        }
    }))
}

/// A function with many locals that are set under many conditions.
fn slow_module(seed: usize) -> Result<Vec<u8>> {
    let locals = "(local i32)".repeat(1_000);
    let ifs: String = (0..8_000)
        .map(|n| {
            let (to, from) = ((n * 7 + seed) % 1_000, (n * 13) % 1_000);
            format!("(if (local.get {to}) (then (local.set {from} (i32.const {n}))))\n")
        })
        .collect();
    module(&format!("{locals} {ifs} (i32.const 0)"), 1)
}

async fn slow_modules(stage: &PressureServer) -> Result<StartLoad> {
    stage.app("loud", &guest("counter")?).await?;
    let admin = stage.admin.clone();
    let modules = (0..4).map(slow_module).collect::<Result<Vec<_>>>()?;
    Ok(many(4, move |client| {
        let (admin, wasm) = (admin.clone(), modules.get(client).cloned());
        async move {
            let path = "/v1/apps/loud/plugins?activate=false";
            let wasm = wasm.unwrap_or_default();
            let _ = admin.send("POST", path, "application/wasm", &wasm).await;
        }
    }))
}

async fn deletions(stage: &PressureServer) -> Result<StartLoad> {
    let mut ready = Vec::new();
    for n in 0..5 {
        let name = format!("loud-{n}");
        stage.app(&name, &guest("counter")?).await?;
        stage.fill(&name).await?;
        ready.push(name);
    }
    let ready = std::sync::Arc::new(std::sync::Mutex::new(ready));
    let admin = stage.admin.clone();
    Ok(Box::new(move || {
        let (ready, admin) = (ready.clone(), admin.clone());
        tokio::spawn(async move {
            // Once the neighbour is running.
            tokio::time::sleep(Duration::from_millis(500)).await;
            let name = ready.lock().ok().and_then(|mut ready| ready.pop());
            let path = format!("/v1/apps/{}", name.unwrap_or_default());
            let _ = admin.send("DELETE", &path, "text/plain", &[]).await;
            std::future::pending().await
        })
    }))
}
