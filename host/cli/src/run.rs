//! `kvasm run`.

use super::failure::{CommandOutcome, Failure};
use super::{CacheArgs, Global, input, open, output};
use base64::Engine as _;
use clap::Args;
use kvasm::model::{AppName, Principal, Scope};
use kvasm::{Call, GuestLog};
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;

#[derive(Args)]
pub(super) struct RunArgs {
    /// The plugin, a wasm module
    plugin: PathBuf,
    /// The app whose entries it uses
    #[arg(long, value_parser = AppName::parse)]
    app: AppName,
    /// The function to call
    function: String,
    /// Input of the function: text, @FILE, or - for stdin [default: none]
    #[arg(long, short)]
    input: Option<String>,
    /// Call with these scopes, such as script:read,script:write [default: a public call]
    #[arg(long = "as", value_name = "SCOPES", value_delimiter = ',')]
    scopes: Option<Vec<Scope>>,
    #[command(flatten)]
    cache: CacheArgs,
}

pub(super) async fn run(global: &Global, run: RunArgs) -> Result<CommandOutcome, Failure> {
    let config = open::config(global)?;
    let wasm = input::file(&run.plugin)?;
    let input = match &run.input {
        Some(input) => input::argument(input)?,
        None => Vec::new(),
    };
    let builder = open::builder(global, &config).await?.instances(1);
    let folder = run.cache.folder(config.cache_dir);
    let host = folder.apply(builder).build()?;
    let app = open::app(&host, &run.app).await?;
    let loaded = host.load(&app, wasm).await;
    let plugin = loaded.map_err(|e| Failure::from(e).at(&run.plugin.display().to_string()))?;
    let mut call = Call::function(run.function).input(input);
    if let Some(scopes) = run.scopes {
        call = call.principal(Principal::for_app(app.id, scopes));
    }
    match host.call(&plugin, call).await {
        Ok(response) if global.json => {
            let answer = json!({
                "output": output_as_json(&response.output),
                "request_id": response.request_id,
                "log": response.log.lines(),
                "log_dropped": response.log.dropped(),
            });
            writeln!(std::io::stdout(), "{answer}")?;
        }
        Ok(response) => {
            print_log(&response.log);
            output::raw(&response.output)?;
        }
        Err(failure) => {
            if !global.json {
                print_log(&failure.log);
            }
            return Err(Failure::from(failure));
        }
    }
    Ok(CommandOutcome::Done)
}

pub(super) fn output_as_json(output: &[u8]) -> Value {
    serde_json::from_slice(output).unwrap_or_else(|_| match std::str::from_utf8(output) {
        Ok(text) => json!(text),
        Err(_) => json!({ "base64": base64::engine::general_purpose::STANDARD.encode(output) }),
    })
}

fn print_log(log: &GuestLog) {
    for line in log.lines() {
        output::note_item(&line.to_string());
    }
    if log.dropped() > 0 {
        output::note(&format!("({} more lines dropped)", log.dropped()));
    }
}
