//! The servers that are measured, each as a process of its own.

use super::guests;
use crate::{Bench, target};
use anyhow::{Context, Result, bail};
use axum::extract::State;
use axum::routing::post;
use kvasm::Host;
use kvasm::http::{ServerOptions, router};
use kvasm::model::{AppLimits, AppName, Collection, Key, Timestamp, Value};
use kvasm::service::{Caller, Write};
use kvasm::store::{PostgresOptions, PostgresStore};
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child as Process, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Which server this process is, if it is one.
const ROLE: &str = "KVASM_BENCH_SERVER";
/// The database that the server uses, if it is on Postgres.
const POSTGRES: &str = "KVASM_BENCH_POSTGRES";
/// The entry that every server reads.
const KEY: &str = "00000007";

/// `get` answers with the entry; `burn` computes for about 50 ms.
const GUEST: &str = r#"(module
  (import "kvasm_v1" "kv_get" (func $get (param i32 i32 i32 i32 i32 i32 i32 i32) (result i64)))
  (import "kvasm_v1" "output_write" (func $write (param i32 i32) (result i64)))
  (memory (export "memory") 1)
  (data (i32.const 0) "notes")
  (data (i32.const 16) "00000007")
  (func (export "get") (result i32) (local $len i64)
    (local.set $len (call $get (i32.const 0) (i32.const 5) (i32.const 16) (i32.const 8)
      (i32.const 0) (i32.const 0) (i32.const 1024) (i32.const 4096)))
    (if (i64.lt_s (local.get $len) (i64.const 0)) (then (return (i32.const 1))))
    (drop (call $write (i32.const 1024) (i32.wrap_i64 (local.get $len))))
    (i32.const 0))
  (func (export "burn") (result i32) (local $left i32)
    (local.set $left (i32.const 60000000))
    (loop $again
      (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (i32.const 0)))"#;

fn value() -> String {
    format!("{{\"a\":\"{}\"}}", "x".repeat(90))
}

/// A server's process, ended when this is dropped.
pub struct Child {
    process: Process,
    pub address: SocketAddr,
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Child {
    /// Kvasm, with the apps `bench` and `quiet` without limits, and `loud` with those that
    /// new apps of `kvasm serve` get.
    pub fn kvasm() -> Result<Child> {
        Child::own("kvasm", None)
    }

    /// Kvasm with the apps of `guests`, without limits: over a SQLite file of its own, or a
    /// database of Postgres that others may use, too.
    pub fn guests(postgres: Option<&str>) -> Result<Child> {
        Child::own("guests", postgres)
    }

    /// An axum handler that reads the entry from the same store.
    pub fn axum() -> Result<Child> {
        Child::own("axum", None)
    }

    fn own(role: &str, postgres: Option<&str>) -> Result<Child> {
        let mut command = Command::new(std::env::current_exe()?);
        if let Some(url) = postgres {
            command.env(POSTGRES, url);
        }
        command.env(ROLE, role);
        Child::start(command)
    }

    /// A process whose first line says at which address it serves.
    pub fn start(mut command: Command) -> Result<Child> {
        let mut process = command.stdout(Stdio::piped()).spawn()?;
        let stdout = process.stdout.take().context("no output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line.trim().parse().context("the server did not start")?;
        Ok(Child { process, address })
    }

    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The CPU time that the process has taken so far, with that of the kernel.
    pub fn cpu_seconds(&self) -> Result<f64> {
        cpu_seconds(&self.process.id().to_string())
    }

    /// `wasmtime serve` with a component that does the same, if there is a
    /// wasmtime 48.
    pub fn wasmtime() -> Result<Option<Child>> {
        let program = std::env::var("KVASM_WASMTIME").unwrap_or_else(|_| "wasmtime".to_owned());
        let version = Command::new(&program).arg("--version").output();
        let is_48 = version.is_ok_and(|output| output.stdout.starts_with(b"wasmtime 48."));
        if !is_48 {
            return Ok(None);
        }
        let component = target().join("bench-keyvalue.wat");
        std::fs::write(&component, include_str!("../keyvalue.wat"))?;
        // A port that was free a moment ago.
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let process = Command::new(program)
            .args(["serve", "--addr", &free.to_string(), "-S", "keyvalue"])
            .arg("-S")
            .arg(format!("keyvalue-in-memory-data={KEY}={}", value()))
            .arg(&component)
            .stderr(Stdio::null())
            .spawn()?;
        let child = Child {
            process,
            address: free,
        };
        let start = Instant::now();
        while TcpStream::connect(free).is_err() {
            if start.elapsed() > Duration::from_secs(30) {
                bail!("wasmtime serve did not start");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Some(child))
    }
}

/// The CPU time that a process, or `self`, has taken so far, with that of the kernel.
pub fn cpu_seconds(process: &str) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // After the name, which may have spaces, the 12th and 13th are ticks of 10 ms.
    let (_, fields) = stat.rsplit_once(')').context("no stat")?;
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: Vec<f64> = ticks.map(str::parse).collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / 100.0)
}

/// Serves, if this process was started to. Does not return then.
pub fn serve() -> Result<()> {
    let Ok(role) = std::env::var(ROLE) else {
        return Ok(());
    };
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        if let Ok(url) = std::env::var(POSTGRES) {
            let store = PostgresStore::connect(PostgresOptions::new(url)).await?;
            return guests_server(&Host::builder().store(store).build()?, listener).await;
        }
        let bench = Bench::new(|builder| builder).await?;
        match role.as_str() {
            "axum" => axum_server(&bench, listener).await,
            "guests" => guests_server(&bench.host, listener).await,
            _ => kvasm_server(&bench, listener).await,
        }
    })?;
    std::process::exit(0);
}

async fn fill(host: &Host, name: &str, collection: &str, value: String) -> Result<()> {
    let app = host.app(&AppName::parse(name)?).await?.context("no app")?;
    let write = Write {
        collection: Collection::parse(collection)?,
        key: Key::parse(KEY)?,
        value: Value::json(value, 1024)?,
        ttl_ms: None,
        expect: None,
    };
    host.kv().set(&Caller::new(&app, None), write).await?;
    Ok(())
}

async fn kvasm_server(bench: &Bench, listener: tokio::net::TcpListener) -> Result<()> {
    let host = &bench.host;
    let actor = host.operator("bench");
    for name in ["bench", "quiet", "loud"] {
        if name != "bench" {
            host.create_app(AppName::parse(name)?).await?;
        }
        let app = host.app(&AppName::parse(name)?).await?.context("no app")?;
        let limits = |limit| (name == "loud").then_some(limit);
        let limits = AppLimits {
            calls_per_second: limits(1_000),
            calls_at_once: limits(32),
            ..AppLimits::default()
        };
        let admin = host.admin();
        admin.set_public(&actor, &app, true).await?;
        let app = admin.set_limits(&actor, &app, limits.into(), None).await?;
        host.deploy(&actor, &app, wat::parse_str(GUEST)?, true)
            .await?;
        fill(host, name, "notes", value()).await?;
    }
    serve_host(host, listener).await
}

async fn guests_server(host: &Host, listener: tokio::net::TcpListener) -> Result<()> {
    let actor = host.operator("bench");
    for name in guests::APPS {
        let app = AppName::parse(name)?;
        // Another host of the same database has made it.
        if host.app(&app).await?.is_some() {
            continue;
        }
        let app = host.create_app(app).await?;
        let admin = host.admin();
        admin.set_public(&actor, &app, true).await?;
        let app = admin
            .set_limits(&actor, &app, AppLimits::default().into(), None)
            .await?;
        host.deploy(&actor, &app, guests::plugin(name)?, true)
            .await?;
        fill(host, name, "numbers", "7".to_owned()).await?;
        guests::fill(host, name).await?;
    }
    serve_host(host, listener).await
}

/// Says where it serves, and serves.
pub async fn serve_host(host: &Host, listener: tokio::net::TcpListener) -> Result<()> {
    println!("{}", listener.local_addr()?);
    let options = ServerOptions::default();
    let stop = CancellationToken::new();
    let router = router(host.clone(), options.clone(), stop.clone());
    kvasm::http::serve(listener, router, options, host.metrics().clone(), stop).await;
    Ok(())
}

/// A row for a change that nobody looks up.
pub fn audit() -> kvasm::model::Audit {
    kvasm::model::Audit {
        id: uuid::Uuid::now_v7(),
        at: Timestamp::now(),
        token: None,
        actor: "bench".to_owned(),
        action: "bench".into(),
        app: None,
        detail: serde_json::json!({}),
        request_id: uuid::Uuid::nil(),
    }
}

/// What the bare handler reads.
struct Read {
    host: Host,
    app: kvasm::model::AppId,
    collection: Collection,
    key: Key,
}

async fn read(State(read): State<Arc<Read>>) -> Vec<u8> {
    let Read {
        host,
        app,
        collection,
        key,
    } = &*read;
    let entry = host
        .store()
        .get(*app, collection, key, Timestamp::now())
        .await;
    let entry = entry.ok().flatten();
    entry.map_or_else(Vec::new, |entry| entry.value.as_bytes().to_vec())
}

async fn axum_server(bench: &Bench, listener: tokio::net::TcpListener) -> Result<()> {
    fill(&bench.host, "bench", "notes", value()).await?;
    println!("{}", listener.local_addr()?);
    let state = Arc::new(Read {
        host: bench.host.clone(),
        app: bench.app.id,
        collection: Collection::parse("notes")?,
        key: Key::parse(KEY)?,
    });
    let router = axum::Router::new().route("/", post(read)).with_state(state);
    Ok(axum::serve(listener, router).await?)
}
