//! Instantiates and calls an empty function, compared with bare wasmtime with the same
//! settings.

use crate::report::{Row, Target};
use crate::{Bench, Effort};
use anyhow::Result;
use kvasm::wasmtime::{
    Engine, InstancePre, Linker, Module, ResourceLimiter, Store, UpdateDeadline,
};
use kvasm::{Call, Plugin, engine_config};
use std::time::Instant;
use tokio::runtime::Runtime;

const EMPTY: &str =
    "(module (memory (export \"memory\") 1) (func (export \"run\") (result i32) (i32.const 0)))";

/// Allows everything: the baseline's counterpart of Kvasm's limiter.
struct Free;

impl ResourceLimiter for Free {
    fn memory_growing(
        &mut self,
        _: usize,
        _: usize,
        _: Option<usize>,
    ) -> kvasm::wasmtime::Result<bool> {
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _: usize,
        _: usize,
        _: Option<usize>,
    ) -> kvasm::wasmtime::Result<bool> {
        Ok(true)
    }
}

/// wasmtime's error is a separate type, which `anyhow` accepts in a box.
fn boxed(error: kvasm::wasmtime::Error) -> anyhow::Error {
    anyhow::Error::from_boxed(error.into())
}

async fn bare(
    engine: &Engine,
    pre: &InstancePre<Free>,
    calls: usize,
) -> kvasm::wasmtime::Result<f64> {
    let start = Instant::now();
    for _ in 0..calls {
        let mut store = Store::new(engine, Free);
        store.limiter(|free| free);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|_| Ok(UpdateDeadline::Yield(1)));
        let instance = pre.instantiate_async(&mut store).await?;
        let run = instance.get_typed_func::<(), i32>(&mut store, "run")?;
        run.call_async(&mut store, ()).await?;
    }
    Ok(start.elapsed().as_secs_f64() * 1e6 / calls as f64)
}

async fn kvasm(bench: &Bench, plugin: &Plugin, calls: usize) -> Result<f64> {
    let start = Instant::now();
    for _ in 0..calls {
        bench.host.call(plugin, Call::function("run")).await?;
    }
    Ok(start.elapsed().as_secs_f64() * 1e6 / calls as f64)
}

pub fn measure(runtime: &Runtime, effort: Effort) -> Result<Vec<Row>> {
    runtime.block_on(async {
        let bench = Bench::new(|builder| builder).await?;
        let wasm = wat::parse_str(EMPTY)?;
        let plugin = bench.host.load(&bench.app, wasm.clone()).await?;
        let engine = Engine::new(&engine_config(
            &kvasm::model::Limits::default(),
            256,
            4 << 30,
        ))
        .map_err(boxed)?;
        let pre = Module::from_binary(&engine, &wasm)
            .and_then(|module| Linker::new(&engine).instantiate_pre(&module))
            .map_err(boxed)?;
        let calls = 5000 / effort.divisor;
        let mut pairs = Vec::new();
        for _ in 0..effort.rounds {
            pairs.push((
                kvasm(&bench, &plugin, calls).await?,
                bare(&engine, &pre, calls).await.map_err(boxed)?,
            ));
        }
        let row = Row::pair(
            "instantiate and call an empty function",
            "us",
            &pairs,
            Some(Target::AtMost(2.0)),
        );
        Ok(vec![row])
    })
}
