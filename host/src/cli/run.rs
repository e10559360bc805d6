//! `kvasm run`.

use super::failure::{Failure, Outcome};
use super::{CacheArgs, Global, open, output};
use base64::Engine as _;
use clap::Args;
use kvasm::model::{AppName, Limits, Principal, Scope};
use kvasm::{Call, GuestLog};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

#[derive(Args)]
pub(super) struct Run {
    /// The plugin, a wasm module
    plugin: PathBuf,
    /// The app whose entries it reaches
    #[arg(long, value_parser = AppName::parse)]
    app: AppName,
    /// The function to call
    function: String,
    /// Its input: text, @FILE, or - for standard input [default: none]
    #[arg(long, short)]
    input: Option<String>,
    /// Call as a principal with these scopes, such as script:read,script:write
    /// [default: a public call]
    #[arg(long = "as", value_name = "SCOPES", value_delimiter = ',')]
    scopes: Option<Vec<Scope>>,
    #[command(flatten)]
    cache: CacheArgs,
}

pub(super) async fn run(global: &Global, run: Run) -> Result<Outcome, Failure> {
    let limits = Limits::default();
    let wasm = read_file(&run.plugin, limits.module_bytes)?;
    let input = match &run.input {
        Some(input) => argument(input, limits.input_bytes)?,
        None => Vec::new(),
    };
    let builder = open::builder(global).await?.instances(1);
    let host = run.cache.folder().apply(builder).build()?;
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
                "output": output_value(&response.output),
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
    Ok(Outcome::Done)
}

/// An argument that is its own text, `@FILE`, or `-` for standard input; of
/// those no more than `limit` bytes and one are read.
pub(super) fn argument(argument: &str, limit: usize) -> Result<Vec<u8>, Failure> {
    if argument == "-" {
        return Ok(read_bounded(std::io::stdin().lock(), limit)?);
    }
    match argument.strip_prefix('@') {
        Some(path) => read_file(Path::new(path), limit),
        None => Ok(argument.as_bytes().to_vec()),
    }
}

pub(super) fn read_file(path: &Path, limit: usize) -> Result<Vec<u8>, Failure> {
    File::open(path)
        .and_then(|file| read_bounded(file, limit))
        .map_err(|e| Failure::user(format!("{}: {e}", path.display())))
}

/// One byte over the limit is enough for the library to refuse it.
fn read_bounded(reader: impl Read, limit: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

pub(super) fn output_value(output: &[u8]) -> Value {
    serde_json::from_slice(output).unwrap_or_else(|_| match std::str::from_utf8(output) {
        Ok(text) => json!(text),
        Err(_) => json!({ "base64": base64::engine::general_purpose::STANDARD.encode(output) }),
    })
}

fn print_log(log: &GuestLog) {
    for line in log.lines() {
        eprintln!("{line}");
    }
    if log.dropped() > 0 {
        eprintln!("({} more lines were dropped)", log.dropped());
    }
}
