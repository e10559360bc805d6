//! `kvasm run`: one call of a plugin's function.

use super::Common;
use super::error::{self, Exit, Refused};
use super::output::Output;
use super::{input, store};
use anyhow::Result;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use kvasm::model::{AppName, Limits, Principal, Scope, Subject};
use kvasm::{Call, GuestLog, LogLine, Plugin, Response};
use serde::Serialize;
use serde_json::value::RawValue;
use std::path::PathBuf;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  kvasm run counter.wasm --app shop add --input '{\"name\":\"visits\",\"by\":1}'
  kvasm run counter.wasm --app shop read --input @request.json
  echo Ada | kvasm run hello-c.wasm --app shop hello --input -
  kvasm run counter.wasm --app shop add --as script:read --input '{\"name\":\"a\",\"by\":1}'")]
pub(super) struct Run {
    /// The plugin: a wasm module
    #[arg(value_name = "PLUGIN.wasm")]
    plugin: PathBuf,
    /// The function; left out, the plugin's functions are named
    function: Option<String>,
    /// The app that the plugin runs for
    #[arg(long, value_parser = AppName::parse)]
    app: AppName,
    /// The input: text, @PATH for a file, or - for stdin
    #[arg(long, value_name = "TEXT|@PATH|-", allow_negative_numbers = true)]
    input: Option<String>,
    /// Call as a principal with these scopes for the app. Each of the plugin's
    /// reads then needs script:read, and each write script:write
    #[arg(long = "as", value_name = "SCOPE,...", value_delimiter = ',')]
    scopes: Option<Vec<Scope>>,
    /// Where compiled modules are kept [default: your cache folder]
    #[arg(long, value_name = "PATH", conflicts_with = "no_cache")]
    cache_dir: Option<PathBuf>,
    /// Compile anew, and keep nothing
    #[arg(long)]
    no_cache: bool,
}

#[derive(Serialize)]
struct Answer<'a> {
    output: OutputJson<'a>,
    request_id: String,
    log: &'a [LogLine],
    #[serde(skip_serializing_if = "is_zero")]
    log_lines_dropped: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// The output as it can stand in JSON.
#[derive(Serialize)]
#[serde(untagged)]
enum OutputJson<'a> {
    Json(&'a RawValue),
    Bytes { bytes: String },
}

impl Run {
    pub(super) async fn execute(&self, common: &Common, output: &mut Output) -> Result<Exit> {
        let limits = Limits::default();
        let wasm = input::file(&self.plugin, Subject::Module, limits.module_bytes)?;
        let input = match &self.input {
            Some(argument) => input::argument(argument, Subject::Input, limits.input_bytes)?,
            None => Vec::new(),
        };
        let cache = self.cache();
        let opened = common
            .open_with(|builder| match cache {
                Some(dir) => builder.cache_dir(dir),
                None => builder,
            })
            .await?;
        let app = opened.app(&self.app).await?;
        let plugin = opened.host.load(&app, wasm).await?;
        let mut call = Call::function(self.function(&plugin)?).input(input);
        if let Some(scopes) = &self.scopes {
            call = call.principal(Principal::for_app(app.id, scopes.clone()));
        }
        let response = opened.host.call(&plugin, call).await?;
        print(&response, output)?;
        Ok(Exit::Done)
    }

    /// The folder for compiled modules; none where the user has no home.
    fn cache(&self) -> Option<PathBuf> {
        if self.no_cache {
            return None;
        }
        let own = || Some(store::dirs()?.cache_dir().join("modules"));
        self.cache_dir.clone().or_else(own)
    }

    fn function(&self, plugin: &Plugin) -> Result<&str, Refused> {
        self.function.as_deref().ok_or_else(|| {
            let names: Vec<_> = plugin.functions().collect();
            Refused(match names.as_slice() {
                [] => "the plugin has no functions".to_owned(),
                names => format!("say which function to call: {}", names.join(", ")),
            })
        })
    }
}

fn print(response: &Response, output: &mut Output) -> Result<()> {
    if output.is_json() {
        output.json(&answer(response, &response.log))?;
        return Ok(());
    }
    error::guest_log(&response.log);
    output.bytes(&response.output)?;
    Ok(())
}

fn answer<'a>(response: &'a Response, log: &'a GuestLog) -> Answer<'a> {
    let output = match serde_json::from_slice(&response.output) {
        Ok(json) => OutputJson::Json(json),
        Err(_) => OutputJson::Bytes { bytes: BASE64_STANDARD.encode(&response.output) },
    };
    Answer {
        output,
        request_id: response.request_id.to_string(),
        log: log.lines(),
        log_lines_dropped: log.dropped(),
    }
}
