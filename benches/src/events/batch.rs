//! A commit of 100 sets, compared with 100 durable sets one after another.

use super::stage::{BenchHost, Engine};
use crate::report::{Row, Target};
use crate::{Effort, generous, writes};
use anyhow::Result;
use kvasm::{Call, Host, Plugin};
use kvasm_abi::{Address, Batch, BatchOp, FORMAT_JSON};
use std::time::Instant;
use tokio::runtime::Runtime;

const SETS: usize = 100;

/// Commits the batch given as its input.
const COMMIT: &str = r#"(module
  (import "kvasm_v1" "kv_commit" (func $commit (param i32 i32 i32 i32) (result i64)))
  (import "kvasm_v1" "input_read" (func $input (param i32 i32 i32) (result i64)))
  (import "kvasm_v1" "input_len" (func $len (result i64)))
  (memory (export "memory") 2)
  (func (export "run") (result i32) (local $len i32)
    (local.set $len (i32.wrap_i64 (call $len)))
    (drop (call $input (i32.const 0) (i32.const 65536) (local.get $len)))
    (i32.wrap_i64 (i64.shr_u
      (call $commit (i32.const 65536) (local.get $len) (i32.const 0) (i32.const 4096))
      (i64.const 63)))))"#;

/// A batch of sets with new keys.
fn packed(round: usize, n: usize) -> Result<Vec<u8>> {
    let value = format!("{{\"a\":\"{}\"}}", "x".repeat(90));
    let keys: Vec<_> = (0..SETS)
        .map(|set| format!("b{round:03}{n:04}{set:04}"))
        .collect();
    let format = u32::try_from(FORMAT_JSON)?;
    let ops: Vec<_> = keys
        .iter()
        .map(|key| BatchOp::Set {
            address: Address {
                collection: b"notes",
                key: key.as_bytes(),
            },
            format,
            ttl_ms: 0,
            value: value.as_bytes(),
        })
        .collect();
    let mut bytes = Vec::new();
    Batch::encode(&[], &ops, &mut |piece: &[u8]| {
        bytes.extend_from_slice(piece);
    });
    Ok(bytes)
}

/// Writes per second, with one batch per invocation.
async fn together(host: &Host, plugin: &Plugin, round: usize, batches: usize) -> Result<f64> {
    let inputs = (0..batches).map(|n| packed(round, n));
    let inputs = inputs.collect::<Result<Vec<_>>>()?;
    let start = Instant::now();
    for input in inputs {
        host.call(plugin, Call::function("run").input(input))
            .await?;
    }
    Ok((batches * SETS) as f64 / start.elapsed().as_secs_f64())
}

/// Writes per second, one after another, 100 per invocation.
async fn one_by_one(host: &Host, plugin: &Plugin, round: usize, calls: usize) -> Result<f64> {
    let start = Instant::now();
    for n in 0..calls {
        let mut input = u32::try_from(SETS)?.to_le_bytes().to_vec();
        input.extend(format!("s{round:03}{n:04}").bytes());
        host.call(plugin, Call::function("run").input(input))
            .await?;
    }
    Ok((calls * SETS) as f64 / start.elapsed().as_secs_f64())
}

pub fn measure(runtime: &Runtime, effort: Effort) -> Result<Vec<Row>> {
    runtime.block_on(async {
        let stage = BenchHost::new(Engine::Sqlite, |builder| builder.limits(generous())).await?;
        let host = &stage.host;
        let commit = wat::parse_str(COMMIT)?;
        let app = stage.app("bench", &commit).await?;
        let commit = host.load(&app, commit).await?;
        let set = host.load(&app, writes::guest("")?).await?;
        let mut pairs = Vec::new();
        for round in 0..effort.rounds {
            let batches = (200 / effort.divisor).max(4);
            let calls = (20 / effort.divisor).max(1);
            let together = together(host, &commit, round, batches).await?;
            pairs.push((together, one_by_one(host, &set, round, calls).await?));
        }
        Ok(vec![
            Row::pair(
                "a commit of 100 sets, vs. 100 sets one after another",
                "writes/s",
                &pairs,
                Some(Target::AtLeast(20.0)),
            )
            .durable(),
        ])
    })
}
