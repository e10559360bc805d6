//! `config_get`, compared with a host call that does nothing else: `now_ms`.

use crate::report::{Row, Target};
use crate::{Bench, Effort, generous};
use anyhow::Result;
use kvasm::model::{ConfigValue, SettingName};
use kvasm::{Call, Plugin};
use std::time::Instant;
use tokio::runtime::Runtime;

/// Makes one kind of host call as many times as the input's u32 says.
fn looping(call: &str) -> Result<Vec<u8>> {
    let text = format!(
        r#"(module
          (import "kvasm_v1" "now_ms" (func $now (result i64)))
          (import "kvasm_v1" "config_get" (func $get (param i32 i32 i32 i32) (result i64)))
          (import "kvasm_v1" "input_read" (func $input (param i32 i32 i32) (result i64)))
          (memory (export "memory") 1) (data (i32.const 0) "currency")
          (func (export "run") (result i32) (local $left i32)
            (drop (call $input (i32.const 0) (i32.const 32) (i32.const 4)))
            (local.set $left (i32.load (i32.const 32)))
            (loop $again
              (if (i64.lt_s {call} (i64.const 0)) (then (return (i32.const 1))))
              (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
            (i32.const 0)))"#
    );
    Ok(wat::parse_str(text)?)
}

/// Returns the time of a host call, in nanoseconds.
async fn guest(bench: &Bench, plugin: &Plugin, calls: u32) -> Result<f64> {
    let call = Call::function("run").input(calls.to_le_bytes());
    let start = Instant::now();
    bench.host.call(plugin, call).await?;
    Ok(start.elapsed().as_secs_f64() * 1e9 / f64::from(calls))
}

pub fn measure(runtime: &Runtime, effort: Effort) -> Result<Vec<Row>> {
    runtime.block_on(async {
        let bench = Bench::new(|builder| builder.limits(generous())).await?;
        let (admin, operator) = (bench.host.admin(), bench.host.operator("bench"));
        // Among as many others as an app may have.
        for number in 0..255 {
            let name = SettingName::parse(&format!("n{number}"))?;
            let value = ConfigValue::parse(b"x")?;
            admin.set_config(&operator, &bench.app, name, value).await?;
        }
        let (name, value) = (SettingName::parse("currency")?, ConfigValue::parse(b"EUR")?);
        admin.set_config(&operator, &bench.app, name, value).await?;
        let get = "(call $get (i32.const 0) (i32.const 8) (i32.const 1024) (i32.const 256))";
        let get = bench.host.load(&bench.app, looping(get)?).await?;
        let now = bench.host.load(&bench.app, looping("(call $now)")?).await?;
        let calls = u32::try_from(500_000 / effort.divisor)?;
        let (mut gets, mut nows, mut added) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..effort.rounds {
            let (get, now) = (
                guest(&bench, &get, calls).await?,
                guest(&bench, &now, calls).await?,
            );
            gets.push(get);
            nows.push(now);
            added.push(get - now);
        }
        Ok(vec![
            Row::series("now_ms, in one call", "ns", &mut nows),
            Row::series("config_get of 3 bytes, in one call", "ns", &mut gets),
            Row::series("config_get, more than now_ms", "ns", &mut added)
                .target(Target::AtMost(1000.0)),
        ])
    })
}
