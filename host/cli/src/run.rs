//! `kvasm run`.

use super::failure::{CommandOutcome, Failure};
use super::open::StoreSpec;
use super::shell::quoted;
use super::{CacheArgs, Global, input, open, output};
use base64::Engine as _;
use clap::Args;
use kvasm::model::{App, AppName, Invalid, Principal, Scope};
use kvasm::{Call, GuestLog, Host, Plugin};
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;

/// The name of the app if none is given.
const APP: &str = "run";

#[derive(Args)]
pub(super) struct RunArgs {
    /// The plugin, a wasm module
    plugin: PathBuf,
    /// The app whose entries it uses; one that does not exist in the default store is made in memory
    /// for this call [default: such an app]
    #[arg(long, value_parser = AppName::parse)]
    app: Option<AppName>,
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

/// A host, and the app of the call.
struct CallPlace {
    host: Host,
    app: App,
    /// Whether both end with the call.
    is_temporary: bool,
}

pub(super) async fn run(global: &Global, run: RunArgs) -> Result<CommandOutcome, Failure> {
    if global.server_argument().is_some() {
        return Err(Failure::user(
            "`kvasm run` runs a plugin in its own process, not on a server; deploy it with \
             `kvasm plugin deploy`, and call it with `kvasm call`",
        ));
    }
    let wasm = input::file(&run.plugin)?;
    let input = match &run.input {
        Some(input) => input::argument(input)?,
        None => Vec::new(),
    };
    let place = place(global, run.app.as_ref(), run.cache).await?;
    if place.is_temporary && !global.json {
        output::note(&format!(
            "The app {} exists for this call only, in memory; nothing that it writes is kept.",
            place.app.name
        ));
    }
    let loaded = place.host.load(&place.app, wasm).await;
    let plugin = loaded.map_err(|e| Failure::from(e).at(&run.plugin.display().to_string()))?;
    if place.is_temporary {
        grant_needs(&place, &plugin).await?;
    }
    let mut call = Call::function(run.function).input(input);
    if let Some(scopes) = run.scopes {
        call = call.principal(Principal::for_app(place.app.id, scopes));
    }
    print_result(global, &place, place.host.call(&plugin, call).await)
}

/// Finds the app in the store that is named, else in the default store, else makes it in memory.
async fn place(
    global: &Global,
    app: Option<&AppName>,
    cache: CacheArgs,
) -> Result<CallPlace, Failure> {
    let config = open::config(global)?;
    let folder = cache.folder(config.cache_dir.clone());
    let open = async |store: &StoreSpec| {
        let builder = open::on_store(store, &config).await?;
        Ok::<Host, Failure>(folder.apply(builder.instances(1)).build()?)
    };
    let named = match (global.store(), &config.store) {
        (Some(text), _) => Some(open::parse(text)?),
        (None, store) => store.clone(),
    };
    // The default store is not created only to find no app there.
    let store = match (named, app) {
        (Some(StoreSpec::Memory), _) | (None, None) => None,
        (Some(store), Some(_)) => Some((store, true)),
        (None, Some(_)) => open::existing_default_store().map(|store| (store, false)),
        (Some(store), None) => {
            return Err(Failure::user(format!(
                "--app is missing: the app of {} whose entries the plugin uses",
                store.shown()
            )));
        }
    };
    if let (Some((store, is_named)), Some(name)) = (store, app) {
        let host = open(&store).await?;
        match host.app(name).await? {
            Some(app) => {
                return Ok(CallPlace {
                    host,
                    app,
                    is_temporary: false,
                });
            }
            None if is_named => return Err(no_app(name, &store)),
            None => {}
        }
    }
    temporary(open(&StoreSpec::Memory).await?, app).await
}

/// Makes an app in a host whose store is in memory.
async fn temporary(host: Host, name: Option<&AppName>) -> Result<CallPlace, Failure> {
    let name = match name {
        Some(name) => name.clone(),
        None => AppName::parse(APP).map_err(|error: Invalid| Failure::host(error.to_string()))?,
    };
    let app = host.create_app(name).await?;
    Ok(CallPlace {
        host,
        app,
        is_temporary: true,
    })
}

/// Grants a plugin all that it needs: who tries it out, without an app of anyone, permits it.
async fn grant_needs(place: &CallPlace, plugin: &Plugin) -> Result<(), Failure> {
    let grants = plugin.needs().grants();
    if grants.is_empty() {
        return Ok(());
    }
    let operator = place.host.operator("run");
    let admin = place.host.admin();
    admin.add_grants(&operator, &place.app, grants).await?;
    Ok(())
}

/// The failure for an app that a named store lacks. The advice names the store: without it, the
/// command could go to a server or to another store.
fn no_app(name: &AppName, store: &StoreSpec) -> Failure {
    let shown = store.shown();
    let advice = match store {
        StoreSpec::Postgres(url) if *url != shown => {
            format!("create it with `kvasm app create {name}` and the same --store")
        }
        StoreSpec::Postgres(_) | StoreSpec::Sqlite(_) | StoreSpec::Memory => {
            format!(
                "create it with `kvasm --store {} app create {name}`",
                quoted(&shown)
            )
        }
    };
    Failure::user(format!("there is no app {name} in {shown}; {advice}"))
}

fn print_result(
    global: &Global,
    place: &CallPlace,
    result: Result<kvasm::Response, kvasm::CallFailure>,
) -> Result<CommandOutcome, Failure> {
    match result {
        Ok(response) if global.json => {
            let answer = json!({
                "output": output_as_json(&response.output),
                "request_id": response.request_id,
                "log": response.log.lines(),
                "log_dropped": response.log.dropped(),
                "kept": !place.is_temporary,
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
