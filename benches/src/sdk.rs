//! A read by the SDK, compared with the call of the ABI that it makes, and its JSON decoded natively.

use crate::report::{Row, Target};
use crate::{Bench, Effort, generous, reads};
use anyhow::{Context, Result};
use kvasm::model::{Batch, Collection, Commit, Key, Op, Timestamp, Value};
use kvasm::{Call, Plugin};
use kvasm_tests::guests;
use std::hint::black_box;
use std::time::Instant;
use tokio::runtime::Runtime;

/// The value that both guests read.
const TEXT: &str = r#"{"name":"Ada Lovelace","email":"ada@example.com","age":36,"active":true,"roles":["author","editor"]}"#;

/// As in the guest.
#[derive(serde::Deserialize)]
#[expect(dead_code, reason = "it is only read from JSON")]
struct Profile {
    name: String,
    email: String,
    age: u32,
    active: bool,
    roles: Vec<String>,
}

async fn write(bench: &Bench) -> Result<()> {
    let op = Op::Set {
        collection: Collection::parse("notes")?,
        key: Key::parse("00000007")?,
        value: Value::json(TEXT, 1 << 20)?,
        expires_at: None,
    };
    let batch = Commit::new(bench.app.id, Timestamp::now(), Batch::of(vec![op]));
    bench.host.store().commit(batch).await?;
    Ok(())
}

/// Microseconds for each read of the guest.
async fn by_sdk(bench: &Bench, plugin: &Plugin, reads: usize) -> Result<f64> {
    let call = Call::function("read_profiles").input(reads.to_string());
    let start = Instant::now();
    bench.host.call(plugin, call).await?;
    Ok(start.elapsed().as_secs_f64() * 1e6 / reads as f64)
}

/// Microseconds for each value.
fn decode(values: usize) -> Result<f64> {
    let start = Instant::now();
    for _ in 0..values {
        let profile: Profile = serde_json::from_str(black_box(TEXT)).context("the value")?;
        black_box(profile);
    }
    Ok(start.elapsed().as_secs_f64() * 1e6 / values as f64)
}

pub fn measure(runtime: &Runtime, effort: Effort) -> Result<Vec<Row>> {
    runtime.block_on(async {
        let bench = Bench::new(|builder| builder.limits(generous())).await?;
        write(&bench).await?;
        let sdk = bench.host.load(&bench.app, guests::wasm("sdk")).await?;
        let raw = wat::parse_str(reads::GET)?;
        let raw = bench.host.load(&bench.app, raw).await?;
        let reads = 20_000 / effort.divisor;
        let mut pairs = Vec::new();
        for _ in 0..effort.rounds {
            let sdk = by_sdk(&bench, &sdk, reads).await?;
            let raw = reads::guest(&bench, &raw, reads).await?;
            pairs.push((sdk, raw + decode(reads)?));
        }
        let name = "get of a struct of 100 B by the SDK vs. the ABI's call and serde_json natively";
        Ok(vec![Row::pair(
            name,
            "us",
            &pairs,
            Some(Target::AtMost(1.3)),
        )])
    })
}
