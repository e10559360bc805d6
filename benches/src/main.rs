//! `cargo xtask bench`: Kvasm's figures as ratios, each measured in turns with its baseline in
//! one run.

mod apps;
mod baselines;
mod calls;
mod cold_start;
mod deadlines;
mod events;
mod fetches;
mod folders;
mod http;
mod large;
mod memory;
mod pressure;
mod reads;
mod report;
mod schema;
mod sdk;
mod settings;
mod targets;
mod watch;
mod writes;

use anyhow::Result;
use clap::Parser;
use events::Engine;
use folders::folder;
use kvasm::model::{App, AppName, Limits};
use kvasm::store::{SqliteOptions, SqliteStore};
use kvasm::{Host, HostBuilder};
use report::Row;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Measure Kvasm against its baselines
///
/// KVASM_WASMTIME, KVASM_WORKERD and KVASM_SPACETIMEDB name the programs of peers that are not
/// in PATH; KVASM_SPACETIMEDB_MODULE names the module for SpacetimeDB. Comparisons with missing
/// peers are skipped, with a message on stderr.
#[derive(Parser)]
struct Arguments {
    /// Few and short rounds: shows that the benchmarks run, not how fast
    #[arg(long)]
    quick: bool,
    /// Only the benchmarks whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// Also write the report to this file as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

/// How much to measure.
#[derive(Clone, Copy)]
struct Effort {
    rounds: usize,
    /// Divides the work of a round.
    divisor: usize,
}

/// A host over a new file on disk, and an app.
struct Bench {
    folder: TempDir,
    host: Host,
    app: App,
}

impl Bench {
    async fn new(set_up: impl FnOnce(HostBuilder) -> HostBuilder) -> Result<Bench> {
        let folder = folder()?;
        let store = SqliteStore::open(SqliteOptions::new(folder.path().join("bench.db"))).await?;
        let host = set_up(Host::builder().store(store)).build()?;
        let app = host.create_app(AppName::parse("bench")?).await?;
        Ok(Bench { folder, host, app })
    }

    fn database(&self) -> PathBuf {
        self.folder.path().join("bench.db")
    }
}

fn target() -> PathBuf {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    target.canonicalize().unwrap_or(target)
}

/// Limits under which a guest may run a long round.
fn generous() -> Limits {
    Limits {
        wall_time: std::time::Duration::from_secs(120),
        cpu_time: std::time::Duration::from_secs(120),
        ..Limits::default()
    }
}

fn main() -> Result<()> {
    http::serve()?;
    folders::sweep()?;
    let arguments = Arguments::parse();
    let effort = if arguments.quick {
        Effort {
            rounds: 2,
            divisor: 50,
        }
    } else {
        Effort {
            rounds: 9,
            divisor: 1,
        }
    };
    let runtime = tokio::runtime::Runtime::new()?;
    println!("{}", report::machine());
    report::print_head();
    let mut rows: Vec<Row> = Vec::new();
    for (name, measure) in BENCHMARKS {
        if arguments
            .only
            .as_ref()
            .is_some_and(|only| !name.contains(only.as_str()))
        {
            continue;
        }
        let new = measure(&runtime, effort)?;
        new.iter().for_each(Row::print);
        rows.extend(new);
    }
    if let Some(path) = arguments.json {
        let settings = serde_json::json!({
            "quick": arguments.quick, "rounds": effort.rounds, "synchronous": "FULL",
            "journal_mode": "WAL", "limits": format!("{:?}", Limits::default()),
        });
        std::fs::write(path, report::json(&rows, settings)?)?;
    }
    Ok(())
}

type Measure = fn(&tokio::runtime::Runtime, Effort) -> Result<Vec<Row>>;

const BENCHMARKS: &[(&str, Measure)] = &[
    ("call", calls::measure),
    ("get", reads::measure),
    ("sdk", sdk::measure),
    ("set", writes::measure),
    ("targets", targets::measure),
    ("config", settings::measure),
    ("fetch", fetches::measure),
    ("deadline", deadlines::measure),
    ("cold", reads::cold),
    ("cold-start", cold_start::measure),
    ("memory", memory::measure),
    ("schema", schema::measure),
    ("http", http::measure),
    ("guest", http::guests::measure),
    ("transfer", http::transfers::measure),
    ("flood", http::flood),
    ("baseline", baselines::measure),
    ("peers", http::peers::measure),
    ("large", large::measure),
    ("cache", large::cache::measure),
    ("cgroup", large::cgroup::measure),
    ("apps", apps::measure),
    ("pressure", pressure::measure),
    ("batch", events::batches),
    ("transaction", events::transactions),
    ("trigger-sqlite", |r, e| {
        events::triggers(r, e, Engine::Sqlite)
    }),
    ("trigger-postgres", |r, e| {
        events::triggers(r, e, Engine::Postgres)
    }),
    ("delivery-sqlite", |r, e| {
        events::deliveries(r, e, Engine::Sqlite)
    }),
    ("delivery-postgres", |r, e| {
        events::deliveries(r, e, Engine::Postgres)
    }),
    ("timer-sqlite", |r, e| events::timers(r, e, Engine::Sqlite)),
    ("timer-postgres", |r, e| {
        events::timers(r, e, Engine::Postgres)
    }),
    ("watch-sqlite", |r, e| watch::measure(r, e, Engine::Sqlite)),
    ("watch-postgres", |r, e| {
        watch::measure(r, e, Engine::Postgres)
    }),
    ("soak", pressure::soak),
    ("claim-sqlite", |r, e| events::claims(r, e, Engine::Sqlite)),
    ("claim-postgres", |r, e| {
        events::claims(r, e, Engine::Postgres)
    }),
];
