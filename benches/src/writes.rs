//! Durable `kv_set` from 64 concurrent invocations, compared with one commit per write.

use crate::report::{Row, Target};
use crate::{Bench, Effort, generous};
use anyhow::Result;
use kvasm::{Call, Host, Plugin};
use rusqlite::Connection;
use std::time::Instant;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

const INVOCATIONS: usize = 64;

/// `run` sets as many entries of `notes` as the input's first u32 says; their keys are the next
/// 8 bytes and four digits.
const SET: &str = r#"
  (import "kvasm_v1" "kv_set" (func $set (param i32 i32 i32 i32 i32 i32 i32 i32) (result i64)))
  (import "kvasm_v1" "input_read" (func $input (param i32 i32 i32) (result i64)))
  (memory (export "memory") 1)
  (data (i32.const 0) "notes")
  (data (i32.const 256) "{\"a\":\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"}")
  (func $digit (param $at i32) (param $n i32)
    (i32.store8 (local.get $at) (i32.add (i32.const 48) (i32.rem_u (local.get $n) (i32.const 10)))))
  (func (export "run") (result i32) (local $left i32)
    (drop (call $input (i32.const 0) (i32.const 60) (i32.const 12)))
    (local.set $left (i32.load (i32.const 60)))
    (loop $again
      (call $digit (i32.const 75) (local.get $left))
      (call $digit (i32.const 74) (i32.div_u (local.get $left) (i32.const 10)))
      (call $digit (i32.const 73) (i32.div_u (local.get $left) (i32.const 100)))
      (call $digit (i32.const 72) (i32.div_u (local.get $left) (i32.const 1000)))
      (if (i64.lt_s (call $set (i32.const 0) (i32.const 5) (i32.const 64) (i32.const 12)
                       (i32.const 256) (i32.const 98) (i32.const 0) (i32.const 0)) (i64.const 0))
        (then (return (i32.const 1))))
      (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (i32.const 0))"#;

/// The guest that sets, with additional fields.
pub fn guest(fields: &str) -> Result<Vec<u8>> {
    Ok(wat::parse_str(format!("(module {SET} {fields})"))?)
}

/// Writes per second, from concurrent invocations.
pub async fn concurrent(host: &Host, plugin: &Plugin, round: usize, sets: usize) -> Result<f64> {
    let start = Instant::now();
    let mut calls = JoinSet::new();
    for n in 0..INVOCATIONS {
        let mut input = u32::try_from(sets)?.to_le_bytes().to_vec();
        input.extend(format!("{round:04}{n:04}").bytes());
        let (host, plugin) = (host.clone(), plugin.clone());
        calls.spawn(async move { host.call(&plugin, Call::function("run").input(input)).await });
    }
    while let Some(call) = calls.join_next().await {
        call??;
    }
    Ok((INVOCATIONS * sets) as f64 / start.elapsed().as_secs_f64())
}

const INSERT: &str = "INSERT INTO kv_entries
    (app_id, collection, key, value, size, version, created_at, updated_at)
    VALUES (?1, 'notes', ?2, ?3, 120, 1, 1, 1)";

/// Writes per second, each with its own commit.
fn one_by_one(connection: &Connection, app: &[u8], round: usize, writes: usize) -> Result<f64> {
    let value = format!("{{\"a\":\"{}\"}}", "x".repeat(90));
    let start = Instant::now();
    for n in 0..writes {
        connection.prepare_cached(INSERT)?.execute((
            app,
            format!("one-{round:04}{n:04}"),
            &value,
        ))?;
    }
    Ok(writes as f64 / start.elapsed().as_secs_f64())
}

pub fn measure(runtime: &Runtime, effort: Effort) -> Result<Vec<Row>> {
    runtime.block_on(async {
        let bench = Bench::new(|builder| builder.limits(generous())).await?;
        let plugin = bench.host.load(&bench.app, guest("")?).await?;
        // The same schema in a separate file, so that neither waits for the other's lock.
        let other = Bench::new(|builder| builder.instances(1)).await?;
        let connection = Connection::open(other.database())?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        let app = *other.app.id.uuid().as_bytes();
        let mut pairs = Vec::new();
        for round in 0..effort.rounds {
            let sets = (300 / effort.divisor).max(5);
            let writes = (1000 / effort.divisor).max(20);
            let grouped = concurrent(&bench.host, &plugin, round, sets).await?;
            pairs.push((grouped, one_by_one(&connection, &app, round, writes)?));
        }
        Ok(vec![
            Row::pair(
                "durable kv_set from 64 invocations, vs. a commit each",
                "writes/s",
                &pairs,
                Some(Target::AtLeast(15.0)),
            )
            .durable(),
        ])
    })
}
