//! `kvasm dev`: serves a plugin from its sources, and swaps it after each change.

mod session;
mod watch;

use super::failure::{CommandOutcome, Failure};
use super::open::{CacheDir, StoreSpec};
use super::serve::{self, Signals};
use super::{Global, input, open};
use crate::build::{BuildOptions, BuildProcess, TargetOption, check_folder};
use clap::Args;
use kvasm::Compiler;
use kvasm::dispatch::{DispatchOptions, Dispatcher};
use kvasm::metrics::Metrics;
use kvasm::model::AppName;
use kvasm::server::{router, serve as serve_http};
use kvasm::service::Spans;
use session::{LastCall, Session, say};
use std::io::BufRead;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{Receiver, channel};
use tokio_util::sync::CancellationToken;

/// The name of the app if the folder's name is none.
const APP: &str = "dev";
/// Number of lines of standard input that wait for a build to end.
const LINES_MAX: usize = 16;

#[derive(Args)]
#[command(after_help = "Examples:\n  \
        kvasm dev my-plugin --call add_tag --input '{\"name\":\"ada\",\"tag\":\"kind\"}'\n  \
        kvasm dev my-plugin --store sqlite:dev.db --port 8080")]
pub(super) struct DevArgs {
    /// Folder of the plugin
    #[arg(default_value = ".")]
    folder: PathBuf,
    /// The port to listen on, on 127.0.0.1 [default: a free one]
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    port: u16,
    /// Call this function after each change
    #[arg(long, value_name = "FUNCTION")]
    call: Option<String>,
    /// Input of that function: text, @FILE, or - for stdin
    #[arg(long, short, requires = "call")]
    input: Option<String>,
    /// Optimise; without it a build is faster, and backtraces have names and source lines
    #[arg(long)]
    release: bool,
    #[command(flatten)]
    target: TargetOption,
}

pub(super) async fn run(global: &Global, args: DevArgs) -> Result<CommandOutcome, Failure> {
    check_folder(&args.folder)?;
    let mut signals = Signals::listen()?;
    let mut config = open::config(global)?;
    let last_call = last_call(&args)?;
    // A store of its own, unless an argument names one; removed at the end.
    let (store, temporary) = match global.store_argument() {
        Some(text) => (open::parse(text)?, None),
        None => {
            let folder = tempfile::Builder::new().prefix("kvasm-dev-").tempdir()?;
            let store = StoreSpec::Sqlite(folder.path().join("kvasm.db"));
            (store, Some(folder))
        }
    };
    config.cache_dir = CacheDir::None;
    // The address that is printed.
    config.server.pages.paths = true;
    let metrics = Metrics::default();
    // On all cores, as the author waits for it, and trusts the module.
    let host = serve::host(
        &config,
        &store,
        metrics.clone(),
        Compiler::InProcess,
        Spans::default(),
    )
    .await?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, args.port)).await;
    let listener = listener.map_err(|e| Failure::user(format!("--port {}: {e}", args.port)))?;
    let address = listener.local_addr()?;
    let app = app_name(&args.folder)?;
    let child = BuildProcess::default();
    let options = BuildOptions::to_run(args.release, args.target.target, child.clone());

    let session = Session::start(
        host.clone(),
        app.clone(),
        store.shown(),
        args.folder,
        options,
        last_call,
    );
    let session = session.await?;
    let stop = CancellationToken::new();
    let routes = router(host.clone(), config.server.clone(), stop.clone());
    let serving = serve_http(
        listener,
        routes,
        config.server.clone(),
        metrics,
        stop.clone(),
    );
    let serving = tokio::spawn(serving);
    let dispatch = DispatchOptions {
        drain: config.server.drain_timeout,
        ..config.dispatch.clone()
    };
    let dispatcher = Dispatcher::new(host.clone(), dispatch);
    let dispatching = tokio::spawn(dispatcher.run(stop.clone().cancelled_owned()));
    say(&format!(
        "Serving the app {app} on http://{address}/a/{app}/, with its data in {}.",
        store.shown()
    ))?;

    let ended = tokio::select! {
        ended = session.run(input_lines()) => ended,
        () = signals.next() => Ok(()),
    };
    child.stop();
    host.health().begin_stop();
    stop.cancel();
    let _ = tokio::join!(serving, dispatching);
    drop(host);
    drop(temporary);
    ended.map(|()| CommandOutcome::Done)
}

fn last_call(args: &DevArgs) -> Result<Option<LastCall>, Failure> {
    let Some(function) = args.call.clone() else {
        return Ok(None);
    };
    let input = match &args.input {
        Some(input) => input::argument(input)?,
        None => Vec::new(),
    };
    Ok(Some(LastCall { function, input }))
}

/// Returns the app's name: that of the folder, if it can be one.
fn app_name(folder: &Path) -> Result<AppName, Failure> {
    let absolute = folder
        .canonicalize()
        .map_err(|error| Failure::user(format!("{}: {error}", folder.display())))?;
    let name = absolute.file_name().unwrap_or_default().to_string_lossy();
    let of_folder = AppName::parse(&name.to_lowercase());
    of_folder
        .or_else(|_| AppName::parse(APP))
        .map_err(Failure::from)
}

/// Reads lines of standard input, until it ends.
fn input_lines() -> Receiver<String> {
    let (send, lines) = channel(LINES_MAX);
    // Not a thread of the runtime, which would wait for it at shutdown.
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if send.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}
