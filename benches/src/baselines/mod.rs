//! Compares Kvasm over HTTP, with an SDK plugin, with the same work without Kvasm: inline
//! rusqlite, the same statements with sqlx, and a stored procedure.

mod bare;
mod inline;

use crate::Effort;
use crate::events::database;
use crate::http::child::Child;
use crate::http::guests::ACCOUNTS;
use crate::http::load::Load;
use crate::http::servers;
use crate::report::{Row, Target};
use anyhow::{Context, Result};
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use bare::{BareSqlx, Work};
use inline::Inline;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// Two different accounts, and what to add to each.
fn transfer() -> [(i64, i64); 2] {
    let accounts = i64::try_from(ACCOUNTS).unwrap_or(i64::MAX);
    let random = |below: i64| (uuid::Uuid::new_v4().as_u128() as i64).rem_euclid(below);
    let from = random(accounts);
    let to = (from + 1 + random(accounts - 1)) % accounts;
    [(from, -1), (to, 1)]
}

pub fn measure(runtime: &Runtime, effort: Effort) -> Result<Vec<Row>> {
    let mut rows = beside_rusqlite(runtime, effort)?;
    rows.extend(runtime.block_on(beside_sqlx(effort))?);
    Ok(rows)
}

fn time(effort: Effort) -> Duration {
    Duration::from_millis((1000 / effort.divisor as u64).max(100))
}

fn calls(server: &Child, function: &str, body: &str) -> Load {
    let path = format!("/v1/apps/sdk/call/{function}");
    Load::post_with(server.address, &path, body)
}

fn beside_rusqlite(runtime: &Runtime, effort: Effort) -> Result<Vec<Row>> {
    let server = Child::own(servers::GUESTS)?;
    let load = calls(&server, "transfer", &ACCOUNTS.to_string());
    let mut inline = Inline::open()?;
    let mut rows = Vec::new();
    for callers in [1, 64] {
        let mut pairs = Vec::new();
        for _ in 0..effort.rounds.min(5) {
            let ours = runtime.block_on(load.rate(callers, time(effort)))?;
            pairs.push((ours, inline.rate(time(effort))?));
        }
        let name = format!("transfer, {callers} callers, vs. inline rusqlite, 1 thread, no HTTP");
        rows.push(Row::pair(&name, "calls/s", &pairs, None).durable());
    }
    Ok(rows)
}

/// The work of a baseline, its name, and the minimum ratio of Kvasm's rate to that of the
/// baseline without HTTP.
type Baseline = (Work, &'static str, Option<f64>);

/// The functions of the Kvasm plugin, and the baselines for each.
const WORK: &[(&str, &[Baseline])] = &[
    ("get", &[(Work::Get, "bare sqlx", Some(0.7))]),
    (
        "transfer",
        &[
            (Work::Transfer, "bare sqlx", Some(0.5)),
            (Work::Procedure, "a stored procedure", None),
        ],
    ),
];

/// The baseline runs in this process without HTTP, which the targets refer to, and also behind
/// a bare axum handler in a separate process.
async fn beside_sqlx(effort: Effort) -> Result<Vec<Row>> {
    let url = database()?;
    let kvasm = Child::postgres(servers::GUESTS, &url)?;
    BareSqlx::make_procedure(&url).await?;
    let bare = Arc::new(BareSqlx::connect(&url).await?);
    let axum = Child::postgres(servers::SQLX, &url)?;
    let mut rows = Vec::new();
    for callers in [16, 64] {
        for (function, works) in WORK {
            let accounts = ACCOUNTS.to_string();
            let body = if *function == "get" { "" } else { &accounts };
            let ours = calls(&kvasm, function, body);
            let mut pairs: Vec<_> = works.iter().map(|_| (Vec::new(), Vec::new())).collect();
            for _ in 0..effort.rounds.min(5) {
                let ours = ours.rate(callers, time(effort)).await?;
                for ((work, ..), (without, behind)) in works.iter().zip(&mut pairs) {
                    without.push((ours, rate(&bare, *work, callers, time(effort)).await?));
                    let load = Load::post(axum.address, path(*work));
                    behind.push((ours, load.rate(callers, time(effort)).await?));
                }
            }
            for ((_, name, least), (without, behind)) in works.iter().zip(&pairs) {
                let name = format!("Postgres {function}, {callers} callers, vs. {name}");
                let target = least.map(Target::AtLeast);
                let both = [
                    Row::pair(&format!("{name}, no HTTP"), "calls/s", without, target),
                    Row::pair(&format!("{name} behind axum"), "calls/s", behind, None),
                ];
                let durable = |row: Row| match *function {
                    "get" => row,
                    _ => row.durable(),
                };
                rows.extend(both.map(durable));
            }
        }
    }
    Ok(rows)
}

/// How often per second `callers` callers do the work.
async fn rate(bare: &Arc<BareSqlx>, work: Work, callers: usize, time: Duration) -> Result<f64> {
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..callers {
        let bare = Arc::clone(bare);
        tasks.spawn(async move {
            let mut done = 0_u64;
            while start.elapsed() < time {
                bare.run(work).await?;
                done += 1;
            }
            anyhow::Ok(done)
        });
    }
    let mut done = 0;
    while let Some(task) = tasks.join_next().await {
        done += task.context("a caller")??;
    }
    Ok(done as f64 / start.elapsed().as_secs_f64())
}

const fn path(work: Work) -> &'static str {
    match work {
        Work::Get => "/get",
        Work::Transfer => "/transfer",
        Work::Procedure => "/procedure",
    }
}

/// The baseline behind HTTP, on the database of a Kvasm server.
pub async fn router(url: &str) -> Result<axum::Router> {
    let bare = Arc::new(BareSqlx::connect(url).await?);
    let mut router = axum::Router::new();
    for work in [Work::Get, Work::Transfer, Work::Procedure] {
        let answer = async move |State(bare): State<Arc<BareSqlx>>| match bare.run(work).await {
            Ok(text) => (StatusCode::OK, text),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")),
        };
        router = router.route(path(work), post(answer));
    }
    Ok(router.with_state(bare))
}
