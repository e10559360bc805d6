//! Calls over HTTP of an SDK plugin, compared with a bare plugin in the text format that does
//! the same.

use super::child::Child;
use super::load::Load;
use super::servers;
use crate::Effort;
use crate::events::{Engine, database, manifest};
use crate::report::{Row, median};
use anyhow::{Context, Result};
use kvasm::Host;
use kvasm::model::{AppName, Batch, Collection, Key, Op, Value};
use kvasm::service::{BATCH_MAX, Caller};
use kvasm_tests::guests;
use std::time::Duration;
use tokio::runtime::Runtime;

/// The apps of the two plugins.
pub const APPS: [&str; 2] = ["sdk", "wat"];
/// The functions of both, their input, and the number of connections.
const CALLS: &[(&str, &str, usize)] = &[
    ("noop", "", 16),
    ("get", "", 16),
    ("set", "", 16),
    ("set", "", 64),
    ("transfer", "20000", 16),
    ("transfer", "20000", 64),
];
/// The number of accounts for transfers.
pub const ACCOUNTS: u64 = 20_000;

/// `noop`; `get` returns a number; `set` writes one of 20,000; `transfer` is a transaction of
/// two gets and two sets; `burn` computes for about 50 ms.
const BARE: &str = r#"
  (import "kvasm_v1" "kv_get" (func $get (param i32 i32 i32 i32 i32 i32 i32 i32) (result i64)))
  (import "kvasm_v1" "kv_set" (func $set (param i32 i32 i32 i32 i32 i32 i32 i32) (result i64)))
  (import "kvasm_v1" "output_write" (func $write (param i32 i32) (result i64)))
  (import "kvasm_v1" "random_fill" (func $random (param i32 i32) (result i64)))
  (memory (export "memory") 1)
  (data (i32.const 0) "accounts") (data (i32.const 48) "numbers")
  (data (i32.const 16) "00000007") (data (i32.const 40) "1")
  (func $digits (param $n i32) (local $at i32)
    (local.set $at (i32.const 23))
    (loop $more
      (i32.store8 (local.get $at)
        (i32.add (i32.const 48) (i32.rem_u (local.get $n) (i32.const 10))))
      (local.set $n (i32.div_u (local.get $n) (i32.const 10)))
      (local.set $at (i32.sub (local.get $at) (i32.const 1)))
      (br_if $more (i32.gt_u (local.get $at) (i32.const 15)))))
  (func $account (result i32)
    (drop (call $random (i32.const 32) (i32.const 4)))
    (i32.rem_u (i32.load (i32.const 32)) (i32.const 20000)))
  (func $read (result i64)
    (call $get (i32.const 0) (i32.const 8) (i32.const 16) (i32.const 8)
      (i32.const 0) (i32.const 0) (i32.const 1024) (i32.const 4096)))
  (func $put (result i32)
    (i64.lt_s (call $set (i32.const 0) (i32.const 8) (i32.const 16) (i32.const 8)
      (i32.const 40) (i32.const 1) (i32.const 0) (i32.const 0)) (i64.const 0)))
  (func (export "noop") (result i32) (i32.const 0))
  (func (export "burn") (result i32) (local $left i32)
    (local.set $left (i32.const 60000000))
    (loop $again
      (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (i32.const 0))
  (func (export "get") (result i32) (local $len i64)
    (local.set $len (call $get (i32.const 48) (i32.const 7) (i32.const 16) (i32.const 8)
      (i32.const 0) (i32.const 0) (i32.const 1024) (i32.const 4096)))
    (if (i64.lt_s (local.get $len) (i64.const 0)) (then (return (i32.const 1))))
    (drop (call $write (i32.const 1024) (i32.wrap_i64 (local.get $len))))
    (i32.const 0))
  (func (export "set") (result i32)
    (call $digits (call $account))
    (call $put))
  (func (export "transfer") (result i32) (local $from i32)
    (local.set $from (call $account))
    (call $digits (local.get $from))
    (drop (call $read))
    (if (call $put) (then (return (i32.const 1))))
    (call $digits (i32.rem_u (i32.add (local.get $from) (i32.const 1)) (i32.const 20000)))
    (drop (call $read))
    (call $put))"#;

/// The plugin of an app.
pub fn plugin(app: &str) -> Result<Vec<u8>> {
    if app == "sdk" {
        return Ok(guests::wasm("sdk"));
    }
    let functions = manifest(&[
        r#"{"kind":"function","name":"noop"}"#,
        r#"{"kind":"function","name":"burn"}"#,
        r#"{"kind":"function","name":"get"}"#,
        r#"{"kind":"function","name":"set"}"#,
        r#"{"kind":"function","name":"transfer","transaction":true}"#,
    ]);
    Ok(wat::parse_str(format!("(module {BARE} {functions})"))?)
}

/// Creates an entry for every account, so that a round starts with all of them.
pub async fn fill(host: &Host, name: &str) -> Result<()> {
    let app = host.app(&AppName::parse(name)?).await?.context("no app")?;
    let caller = Caller::new(&app, None);
    let numbers: Vec<_> = (0..ACCOUNTS).collect();
    for chunk in numbers.chunks(BATCH_MAX) {
        let set = |number: &u64| {
            Ok(Op::Set {
                collection: Collection::parse("accounts")?,
                key: Key::parse(format!("{number:08}"))?,
                value: Value::json("0".to_owned(), 1024)?,
                expires_at: None,
            })
        };
        let batch = Batch {
            ops: chunk.iter().map(set).collect::<Result<_>>()?,
            ..Batch::default()
        };
        host.kv().commit(&caller, batch).await?;
    }
    Ok(())
}

/// For each function, the calls per second of both plugins, and the server's CPU time per call,
/// which is affected least by other work on the machine.
pub fn measure(runtime: &Runtime, effort: Effort) -> Result<Vec<Row>> {
    runtime.block_on(async {
        let mut rows = on(Engine::Sqlite, &Child::own(servers::GUESTS)?, effort).await?;
        let database = database()?;
        let server = Child::postgres(servers::GUESTS, &database)?;
        rows.extend(on(Engine::Postgres, &server, effort).await?);
        let sqlite = Child::own(servers::GUESTS)?;
        rows.push(repeats(Engine::Sqlite, &sqlite, effort).await?);
        rows.push(repeats(Engine::Postgres, &server, effort).await?);
        Ok(rows)
    })
}

/// Repeats of an idempotent call, which read the kept answer, beside calls that get one entry.
async fn repeats(engine: Engine, server: &Child, effort: Effort) -> Result<Row> {
    const CONNECTIONS: usize = 16;
    let time = Duration::from_millis((1000 / effort.divisor as u64).max(100));
    let path = "/v1/apps/sdk/call/get";
    let get = Load::post(server.address, path);
    let repeat = Load::post_as(server.address, path, "Idempotency-Key: bench\r\n", "");
    let mut pairs = Vec::new();
    for _ in 0..effort.rounds.min(5) {
        let repeats = repeat.rate(CONNECTIONS, time).await?;
        pairs.push((repeats, get.rate(CONNECTIONS, time).await?));
    }
    let engine = engine.name();
    let name = format!("repeat of an idempotent call vs. get, {CONNECTIONS} connections, {engine}");
    Ok(Row::pair(&name, "calls/s", &pairs, None))
}

async fn on(engine: Engine, server: &Child, effort: Effort) -> Result<Vec<Row>> {
    let time = Duration::from_millis((1000 / effort.divisor as u64).max(100));
    let mut rows = Vec::new();
    for (function, body, connections) in CALLS {
        let mut rates = Vec::new();
        let mut costs = [Vec::new(), Vec::new()];
        for _ in 0..effort.rounds.min(5) {
            let mut pair = [0.0, 0.0];
            for ((app, rate), costs) in APPS.iter().zip(&mut pair).zip(&mut costs) {
                let path = format!("/v1/apps/{app}/call/{function}");
                let load = Load::post_with(server.address, &path, body);
                let before = server.cpu_seconds()?;
                *rate = load.rate(*connections, time).await?;
                let calls = *rate * time.as_secs_f64();
                costs.push((server.cpu_seconds()? - before) * 1e6 / calls);
            }
            let [sdk, bare] = pair;
            rates.push((sdk, bare));
        }
        let engine = engine.name();
        let name = format!("{function}, {connections} connections, {engine}");
        let row = Row::pair(&name, "calls/s", &rates, None);
        let writes = matches!(*function, "set" | "transfer");
        rows.push(if writes { row.durable() } else { row });
        let [sdk, bare] = &mut costs;
        rows.push(Row {
            baseline: Some(median(bare)),
            ..Row::series("the server's CPU time for each", "us", sdk)
        });
    }
    Ok(rows)
}
