//! The cost of a trigger for the writes that it watches, and for others.
//!
//! No dispatcher runs: this measures only the writes with their deliveries.

use super::stage::{BenchHost, Engine, manifest};
use crate::report::{Row, Target};
use crate::{Effort, generous, writes};
use anyhow::{Result, ensure};
use tokio::runtime::Runtime;

/// A kind of app, and the microseconds per write in each round.
struct Kind {
    name: &'static str,
    wasm: Vec<u8>,
    fires: bool,
    costs: Vec<f64>,
}

/// A guest that writes to `notes`, with a handler for changes in a collection.
fn watching(name: &'static str, collection: &str) -> Result<Kind> {
    let handler = format!(r#"{{"kind":"on_change","name":"handle","collection":"{collection}"}}"#);
    let fields = [
        manifest(&[r#"{"kind":"function","name":"run"}"#, &handler]),
        "(func (export \"handle\") (result i32) (i32.const 0))".to_owned(),
    ];
    Ok(Kind {
        name,
        wasm: writes::guest(&fields.concat())?,
        fires: collection == "notes",
        costs: Vec::new(),
    })
}

/// Runs a round in a new app, so that no outbox grows from round to round.
async fn round(stage: &BenchHost, kind: &mut Kind, round: usize, sets: usize) -> Result<()> {
    let app = stage
        .app(&format!("{}-{round}", kind.name), &kind.wasm)
        .await?;
    let plugin = stage.host.load(&app, kind.wasm.clone()).await?;
    let rate = writes::concurrent(&stage.host, &plugin, round, sets).await?;
    kind.costs.push(1e6 / rate);
    let made = stage.host.store().deliveries(app.id, None, 1).await?;
    ensure!(made.is_empty() != kind.fires, "{}: {made:?}", kind.name);
    Ok(())
}

pub fn measure(runtime: &Runtime, effort: Effort, engine: Engine) -> Result<Vec<Row>> {
    runtime.block_on(on(engine, effort))
}

async fn on(engine: Engine, effort: Effort) -> Result<Vec<Row>> {
    let stage = BenchHost::new(engine, |builder| builder.limits(generous())).await?;
    let sets = match engine {
        Engine::Sqlite => 300,
        Engine::Postgres => 60,
    };
    let sets = (sets / effort.divisor).max(5);
    let plain = Kind {
        name: "plain",
        wasm: writes::guest("")?,
        fires: false,
        costs: Vec::new(),
    };
    let mut kinds = [
        plain,
        watching("watched", "notes")?,
        watching("elsewhere", "others")?,
    ];
    for number in 0..effort.rounds {
        for kind in &mut kinds {
            round(&stage, kind, number, sets).await?;
        }
        // The first one also pays for work that the last one has left.
        kinds.rotate_left(1);
    }
    kinds.sort_by_key(|kind| match kind.name {
        "plain" => 0,
        "watched" => 1,
        _ => 2,
    });
    let [plain, watched, elsewhere] = kinds;
    let pairs = |kind: Kind| -> Vec<_> {
        let baseline = plain.costs.iter().copied();
        kind.costs.into_iter().zip(baseline).collect()
    };
    let name = engine.name();
    Ok(vec![
        Row::pair(
            &format!("64 kv_set at once that a trigger watches, {name}"),
            "us",
            &pairs(watched),
            Some(Target::AtMost(2.0)),
        )
        .durable(),
        Row::pair(
            &format!("the same, with a trigger on another collection, {name}"),
            "us",
            &pairs(elsewhere),
            Some(Target::AtMost(1.1)),
        )
        .durable(),
    ])
}
