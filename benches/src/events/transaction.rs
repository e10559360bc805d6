//! A function with 5 reads and 5 writes, with and without a transaction.

use super::stage::{BenchHost, Engine, manifest, note_at};
use crate::report::{Row, Target};
use crate::{Effort, generous};
use anyhow::Result;
use kvasm::model::{App, Key};
use kvasm::service::Caller;
use kvasm::{Call, Host, Plugin};
use std::time::Instant;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// Reads five entries of `notes`, then writes them. Their keys are the 8 bytes of the input and
/// a digit.
const GUEST: &str = r#"
  (import "kvasm_v1" "kv_get" (func $get (param i32 i32 i32 i32 i32 i32 i32 i32) (result i64)))
  (import "kvasm_v1" "kv_set" (func $set (param i32 i32 i32 i32 i32 i32 i32 i32) (result i64)))
  (import "kvasm_v1" "input_read" (func $input (param i32 i32 i32) (result i64)))
  (memory (export "memory") 1)
  (data (i32.const 0) "notes")
  (func $work (result i32) (local $n i32) (local $len i64)
    (drop (call $input (i32.const 0) (i32.const 64) (i32.const 8)))
    (loop $more
      (i32.store8 (i32.const 72) (i32.add (i32.const 48) (local.get $n)))
      (local.set $len (call $get (i32.const 0) (i32.const 5) (i32.const 64) (i32.const 9)
        (i32.const 0) (i32.const 0) (i32.const 1024) (i32.const 4096)))
      (if (i64.lt_s (local.get $len) (i64.const 0)) (then (return (i32.const 1))))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $n) (i32.const 5))))
    (local.set $n (i32.const 0))
    (loop $more
      (i32.store8 (i32.const 72) (i32.add (i32.const 48) (local.get $n)))
      (if (i64.lt_s (call $set (i32.const 0) (i32.const 5) (i32.const 64) (i32.const 9)
                       (i32.const 1024) (i32.wrap_i64 (local.get $len)) (i32.const 0) (i32.const 0))
                    (i64.const 0))
        (then (return (i32.const 2))))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $n) (i32.const 5))))
    (i32.const 0))
  (func (export "plain") (result i32) (call $work))
  (func (export "whole") (result i32) (call $work))"#;

const CALLERS_MAX: usize = 16;

fn prefix(caller: usize) -> String {
    format!("k{caller:07}")
}

/// Creates the entries that every caller reads first.
async fn seed(host: &Host, app: &App) -> Result<()> {
    for caller in 0..CALLERS_MAX {
        for n in 0..5 {
            let write = note_at(Key::parse(format!("{}{n}", prefix(caller)))?)?;
            host.kv()
                .apply(&Caller::new(app, None), write, None)
                .await?;
        }
    }
    Ok(())
}

/// Microseconds per call, of callers that each call one after another.
async fn run(
    host: &Host,
    plugin: &Plugin,
    function: &'static str,
    callers: usize,
    calls: usize,
) -> Result<f64> {
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for caller in 0..callers {
        let (host, plugin) = (host.clone(), plugin.clone());
        tasks.spawn(async move {
            for _ in 0..calls {
                let call = Call::function(function).input(prefix(caller));
                host.call(&plugin, call).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(task) = tasks.join_next().await {
        task??;
    }
    Ok(start.elapsed().as_secs_f64() * 1e6 / (callers * calls) as f64)
}

pub fn measure(runtime: &Runtime, effort: Effort) -> Result<Vec<Row>> {
    runtime.block_on(async {
        let stage = BenchHost::new(Engine::Sqlite, |builder| builder.limits(generous())).await?;
        let host = &stage.host;
        let declared = manifest(&[
            r#"{"kind":"function","name":"plain"}"#,
            r#"{"kind":"function","name":"whole","transaction":true}"#,
        ]);
        let wasm = wat::parse_str(format!("(module {GUEST} {declared})"))?;
        let app = stage.app("bench", &wasm).await?;
        let plugin = host.load(&app, wasm).await?;
        seed(host, &app).await?;
        let mut rows = Vec::new();
        for (callers, calls) in [(1, 500), (CALLERS_MAX, 100)] {
            let calls = (calls / effort.divisor).max(2);
            let mut pairs = Vec::new();
            for _ in 0..effort.rounds {
                pairs.push((
                    run(host, &plugin, "whole", callers, calls).await?,
                    run(host, &plugin, "plain", callers, calls).await?,
                ));
            }
            rows.push(
                Row::pair(
                    &format!("5 reads and 5 writes, a transaction, {callers} callers"),
                    "us",
                    &pairs,
                    Some(Target::AtMost(1.0)),
                )
                .durable(),
            );
        }
        Ok(rows)
    })
}
