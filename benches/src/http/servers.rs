//! The roles of server processes of this program.

use super::child::{FILE, POSTGRES, ROLE};
use super::guests;
use crate::baselines;
use anyhow::{Context, Result};
use axum::extract::State;
use axum::routing::post;
use kvasm::Host;
use kvasm::dispatch::{DispatchOptions, Dispatcher};
use kvasm::model::{AppLimits, AppName, Collection, Key, Op, Timestamp, Value};
use kvasm::server::{ServerOptions, router};
use kvasm::service::Caller;
use kvasm::store::{PostgresOptions, PostgresStore, SqliteOptions, SqliteStore};
use std::io::BufRead;
use std::net::Ipv4Addr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Kvasm with the apps of [`guests`] without limits, and for each of them an app with the
/// suffix `-loud` that has the default limits of `kvasm serve`.
pub const GUESTS: &str = "guests";
/// Kvasm over an existing store.
pub const HOST: &str = "host";
/// An axum handler that reads the entry from the same kind of store.
pub const AXUM: &str = "axum";
/// The statements of [`baselines`], each behind an axum handler.
pub const SQLX: &str = "sqlx";

/// The entry that every server reads, and its value.
pub const KEY: &str = "00000007";
pub const VALUE: &str = "7";
const NUMBERS: &str = "numbers";

/// Runs the server, if this process was started as one. Does not return then.
pub fn serve() -> Result<()> {
    let Ok(role) = std::env::var(ROLE) else {
        return Ok(());
    };
    crate::large::cgroup::enter()?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        if role == SQLX {
            let router = baselines::router(&std::env::var(POSTGRES)?).await?;
            return listen(router, listener, None).await;
        }
        let host = host(&role).await?;
        if role == AXUM {
            return axum_server(&host, listener).await;
        }
        if role == GUESTS {
            make_apps(&host).await?;
            // As in a server, which also writes logs to the store.
            let dispatcher = Dispatcher::new(host.clone(), DispatchOptions::default());
            tokio::spawn(dispatcher.run(std::future::pending()));
        }
        let options = ServerOptions::default();
        println!("{}", listener.local_addr()?);
        answer(Some(host.clone()));
        let stop = CancellationToken::new();
        let router = router(host.clone(), options.clone(), stop.clone());
        kvasm::server::serve(listener, router, options, host.metrics().clone(), stop).await;
        Ok(())
    })?;
    std::process::exit(0);
}

async fn host(role: &str) -> Result<Host> {
    if let Ok(url) = std::env::var(POSTGRES) {
        let store = PostgresStore::connect(PostgresOptions::new(url)).await?;
        return Ok(Host::builder().store(store).build()?);
    }
    let file = std::env::var_os(FILE).context("no file")?;
    let store = SqliteStore::open(SqliteOptions::new(file)).await?;
    let builder = Host::builder().store(store);
    // Callers of a cold plugin wait until it is compiled.
    let builder = match role {
        HOST => builder.limits(crate::generous()),
        _ => builder,
    };
    Ok(builder.build()?)
}

async fn listen(router: axum::Router, listener: TcpListener, host: Option<Host>) -> Result<()> {
    println!("{}", listener.local_addr()?);
    answer(host);
    Ok(axum::serve(listener, router).await?)
}

/// Prints the number of compiled modules for each line on stdin, and exits with the process
/// that started this one.
fn answer(host: Option<Host>) {
    std::thread::spawn(move || {
        for _ in std::io::stdin().lock().lines().map_while(Result::ok) {
            let text = host.as_ref().map(|host| host.metrics().encode());
            let text = text.unwrap_or_default();
            let count = text
                .lines()
                .find_map(|line| line.strip_prefix(r#"kvasm_modules_total{name="compiled"} "#));
            println!("{}", count.unwrap_or("0"));
        }
        std::process::exit(0);
    });
}

async fn make_apps(host: &Host) -> Result<()> {
    for plugin in guests::APPS {
        for name in [plugin.to_owned(), format!("{plugin}-loud")] {
            // Another host on the same database may have created it.
            if host.app(&AppName::parse(&name)?).await?.is_some() {
                continue;
            }
            make_app(host, &name, guests::plugin(plugin)?).await?;
            fill(host, &name).await?;
            if name == plugin {
                guests::fill(host, &name).await?;
            }
        }
    }
    Ok(())
}

/// Creates a public app.
pub async fn make_app(host: &Host, name: &str, wasm: Vec<u8>) -> Result<()> {
    let actor = host.operator("bench");
    let app = host.create_app(AppName::parse(name)?).await?;
    let limits = |limit| name.ends_with("-loud").then_some(limit);
    let limits = AppLimits {
        calls_per_second: limits(1_000),
        calls_at_once: limits(32),
        ..AppLimits::default()
    };
    let admin = host.admin();
    admin.set_public(&actor, &app, true).await?;
    let app = admin.set_limits(&actor, &app, limits.into(), None).await?;
    host.deploy(&actor, &app, wasm, true).await?;
    Ok(())
}

async fn fill(host: &Host, name: &str) -> Result<()> {
    let app = host.app(&AppName::parse(name)?).await?.context("no app")?;
    let write = Op::Set {
        collection: Collection::parse(NUMBERS)?,
        key: Key::parse(KEY)?,
        value: Value::json(VALUE.to_owned(), 1024)?,
        expires_at: None,
    };
    host.kv()
        .apply(&Caller::new(&app, None), write, None)
        .await?;
    Ok(())
}

/// An audit row for a change whose audit does not matter.
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

/// The statement of the bare handler.
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

async fn axum_server(host: &Host, listener: TcpListener) -> Result<()> {
    let app = host.create_app(AppName::parse("bench")?).await?;
    fill(host, "bench").await?;
    let state = Arc::new(Read {
        host: host.clone(),
        app: app.id,
        collection: Collection::parse(NUMBERS)?,
        key: Key::parse(KEY)?,
    });
    let router = axum::Router::new().route("/", post(read)).with_state(state);
    listen(router, listener, None).await
}
