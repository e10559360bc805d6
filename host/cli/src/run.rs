//! `kvasm run`.

use super::build::PluginSource;
use super::failure::{CommandOutcome, Failure};
use super::http_request::{self, HeaderLine, RequestLine, ShownResponse};
use super::open::StoreSpec;
use super::shell::quoted;
use super::{CacheArgs, Global, input, open, output};
use base64::Engine as _;
use clap::Args;
use kvasm::model::{App, AppName, Invalid, Principal, Scope};
use kvasm::service::ServiceError;
use kvasm::{Call, GuestLog, Host, Plugin};
use serde_json::{Value, json};

/// The name of the app if none is given.
const APP: &str = "run";

#[derive(Args)]
#[command(after_help = "Examples:\n  \
        kvasm run my-plugin add_tag --input '{\"name\":\"ada\",\"tag\":\"kind\"}'\n  \
        kvasm run target/guests/shortener.wasm --http 'PUT /rust' --input https://www.rust-lang.org/")]
pub(super) struct RunArgs {
    #[command(flatten)]
    source: PluginSource,
    /// The app whose entries it uses; one that does not exist in the default store is made in memory
    /// for this call [default: such an app]
    #[arg(long, value_parser = AppName::parse)]
    app: Option<AppName>,
    /// The function to call
    #[arg(required_unless_present = "http", conflicts_with = "http")]
    function: Option<String>,
    /// Call the HTTP handler instead, with this method and path, such as "GET /notes?limit=5"
    #[arg(long, value_name = "METHOD PATH")]
    http: Option<RequestLine>,
    /// A header of the request; repeatable
    #[arg(
        long,
        short = 'H',
        value_name = "NAME: VALUE",
        requires = "http",
        conflicts_with = "function"
    )]
    header: Vec<HeaderLine>,
    /// Input of the function, or body of the request: text, @FILE, or - for stdin [default: none]
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
             `kvasm deploy`, and call it with `kvasm call`",
        ));
    }
    let module = run.source.module(global, input::BYTES_MAX)?;
    let input = match &run.input {
        Some(input) => input::argument(input)?,
        None => Vec::new(),
    };
    let mut call = match (&run.http, run.function) {
        (Some(line), _) => Call::http().input(http_request::frame(line, run.header, &input)?),
        (None, function) => Call::function(function.unwrap_or_default()).input(input),
    };
    let place = place(global, run.app.as_ref(), run.cache).await?;
    if place.is_temporary && !global.json {
        output::note(&format!(
            "The app {} exists for this call only, in memory; nothing that it writes is kept.",
            place.app.name
        ));
    }
    let loaded = place.host.load(&place.app, module.wasm).await;
    let plugin = loaded.map_err(|e| Failure::from(e).at(&module.place))?;
    match place.is_temporary {
        true => grant_needs(&place, &plugin).await?,
        false => check_needs(&place, &plugin).await?,
    }
    if let Some(scopes) = run.scopes {
        call = call.principal(Principal::for_app(place.app.id, scopes));
    }
    let called = place.host.call(&plugin, call).await;
    print_result(global, &place, run.http.as_ref(), called).await
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

/// Checks that the app gives a plugin all that it needs, as when it is activated.
async fn check_needs(place: &CallPlace, plugin: &Plugin) -> Result<(), Failure> {
    if plugin.needs().is_empty() {
        return Ok(());
    }
    let settings = place.host.store().settings(place.app.id).await?;
    let unmet = plugin.needs().check(&settings);
    unmet.map_err(|unmet| {
        let app = &place.app.name;
        Failure::from(ServiceError::NeedsUnmet(unmet)).with_advice(&format!(
            "Grant or set it in {app}, or run the plugin in memory, with an app that grants all: \
             without --app, or with --store memory"
        ))
    })
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

async fn print_result(
    global: &Global,
    place: &CallPlace,
    request: Option<&RequestLine>,
    result: Result<kvasm::Response, kvasm::CallFailure>,
) -> Result<CommandOutcome, Failure> {
    match result {
        Ok(response) if global.json => {
            let members = match request {
                Some(line) => ShownResponse::read(line, response.output)
                    .await?
                    .members()
                    .into(),
                None => vec![("output", output_as_json(&response.output))],
            };
            let mut answer = json!({
                "request_id": response.request_id,
                "log": response.log.lines(),
                "log_dropped": response.log.dropped(),
                "kept": !place.is_temporary,
            });
            if let Some(answer) = answer.as_object_mut() {
                answer.extend(
                    members
                        .into_iter()
                        .map(|(name, value)| (name.to_owned(), value)),
                );
            }
            output::json(&answer)?;
        }
        Ok(response) => {
            print_log(&response.log);
            match request {
                Some(line) => ShownResponse::read(line, response.output).await?.print()?,
                None => output::raw(&response.output)?,
            }
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
