//! Transfers, a transaction of two reads and two writes each, over many accounts and over few:
//! how much of the rate is left under contention, and how many calls fail.

use super::child::Child;
use super::guests::ACCOUNTS;
use super::load::{Load, LoadResult};
use super::servers;
use crate::Effort;
use crate::events::database;
use crate::report::{Row, Target};
use anyhow::Result;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// The numbers of concurrent callers, and of accounts to compare with [`ACCOUNTS`]. The target
/// ratios are for SQLite and for Postgres.
const CALLERS: [usize; 3] = [1, 16, 64];
const FEW: [(u64, f64, f64); 2] = [(10, 0.8, 0.6), (2, 0.5, 0.3)];

pub fn measure(runtime: &Runtime, effort: Effort) -> Result<Vec<Row>> {
    runtime.block_on(async {
        let mut rows = on("SQLite", &[Child::own(servers::GUESTS)?], effort).await?;
        let url = database()?;
        let host = || Child::postgres(servers::GUESTS, &url);
        // One after the other: the first one fills the store.
        let one = host()?;
        let hosts = [one, host()?];
        rows.extend(on("Postgres, 2 hosts", &hosts, effort).await?);
        Ok(rows)
    })
}

async fn on(store: &str, hosts: &[Child], effort: Effort) -> Result<Vec<Row>> {
    let time = Duration::from_millis((2000 / effort.divisor as u64).max(100));
    let mut rows = Vec::new();
    for callers in CALLERS
        .into_iter()
        .filter(|callers| *callers >= hosts.len())
    {
        for (accounts, on_sqlite, on_postgres) in FEW {
            let (mut pairs, mut failed, mut answers) = (Vec::new(), 0, 0);
            for _ in 0..effort.rounds.min(3) {
                let few = count(hosts, accounts, callers, time).await?;
                let many = count(hosts, ACCOUNTS, callers, time).await?;
                pairs.push((few.rate, many.rate));
                failed += few.failed + many.failed;
                answers += few.answers + many.answers;
            }
            let name = format!("transfers over {accounts} accounts, {callers} callers, {store}");
            let least = if hosts.len() == 1 {
                on_sqlite
            } else {
                on_postgres
            };
            let target = (callers == 64).then_some(Target::AtLeast(least));
            rows.push(Row::pair(&name, "calls/s", &pairs, target).durable());
            let part = failed as f64 * 100.0 / (failed + answers).max(1) as f64;
            rows.push(Row::figure("failed transfers", "%", part).target(Target::AtMost(0.0)));
        }
    }
    Ok(rows)
}

/// The transfers of `callers` callers, spread over the hosts.
async fn count(
    hosts: &[Child],
    accounts: u64,
    callers: usize,
    time: Duration,
) -> Result<LoadResult> {
    let each = callers / hosts.len();
    let mut counts = JoinSet::new();
    for host in hosts {
        let path = "/v1/apps/sdk/call/transfer";
        let load = Load::post_with(host.address, path, &accounts.to_string());
        counts.spawn(async move { load.count(each, time).await });
    }
    let mut sum = LoadResult::default();
    while let Some(count) = counts.join_next().await {
        let one = count??;
        sum.rate += one.rate;
        sum.answers += one.answers;
        sum.failed += one.failed;
    }
    Ok(sum)
}
