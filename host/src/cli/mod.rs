//! The command line: parse the arguments, call the library, print for people or
//! as JSON, and say by the exit code whose fault a failure is.

mod app;
mod batch;
mod client;
mod config;
mod dead_letter;
mod delivery;
mod failure;
mod kv;
mod log;
mod logs;
mod migrate;
mod open;
mod output;
mod plugin;
mod profile;
mod run;
mod serve;
mod token;
mod transfer;
mod trigger;

use clap::{Args, Parser, Subcommand};
use failure::{Failure, Outcome};
use std::process::ExitCode;

const AFTER_HELP: &str = "\
Examples:
  kvasm serve
  kvasm login --server http://127.0.0.1:7180 --token kvasm_...
  kvasm app create demo --public
  kvasm plugin deploy demo counter.wasm
  kvasm call demo add --input '{\"name\":\"visits\",\"by\":1}'
  kvasm kv set demo notes today '\"rain\"'
  kvasm kv list demo notes --values
  kvasm kv export demo > demo.jsonl
  kvasm trigger set demo index --collection notes
  kvasm dead-letter list demo

Exit codes:
  0  success
  1  what was asked for is not there (kv get, kv has, kv delete; dead-letter show, replay, discard), or an older
     schema (migrate --check)
  2  your fault: bad arguments, an unknown app, a refused value, a conflict, a missing scope
  3  the plugin's fault: it cannot be loaded, trapped, failed or ran out of time
  4  the host's fault: the server or the store cannot be reached, or an internal error";

/// A multi-tenant WebAssembly plugin host with a durable key-value store for each app.
#[derive(Parser)]
#[command(name = "kvasm", version, about, after_help = AFTER_HELP)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Global {
    /// The server to speak to, such as http://127.0.0.1:7180
    #[arg(long, global = true, value_name = "URL", env = "KVASM_SERVER")]
    server: Option<String>,
    /// The token to show to the server
    #[arg(long, global = true, env = "KVASM_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// The server and token of this name in the file of profiles, which
    /// `kvasm login` writes [default: the profile "default", if there is one]
    #[arg(long, global = true, value_name = "NAME", env = "KVASM_PROFILE")]
    profile: Option<String>,
    /// Without a server: where apps and entries live: sqlite:PATH, postgres:URL or memory
    /// [default: a SQLite file in your data directory]
    #[arg(long, global = true, env = "KVASM_STORE", hide_env_values = true)]
    store: Option<String>,
    /// Print JSON for machines
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Serve apps over HTTP
    Serve(serve::Serve),
    /// Keep a server and a token, for the commands below
    Login(profile::Login),
    /// Call a function of an app's active plugin
    Call(plugin::Call),
    /// Try a plugin without deploying it: load it for an app and call a function
    Run(run::Run),
    /// Deploy plugins, and roll back
    #[command(subcommand)]
    Plugin(plugin::Command),
    /// Create, list, show and delete apps
    #[command(subcommand)]
    App(app::Command),
    /// Read and write an app's entries
    #[command(subcommand)]
    Kv(kv::Command),
    /// Say which changes and times call a plugin's functions
    #[command(subcommand)]
    Trigger(trigger::Command),
    /// Show what triggers have still to do
    #[command(subcommand)]
    Delivery(delivery::Command),
    /// Show, replay and discard deliveries that were given up
    #[command(subcommand)]
    DeadLetter(dead_letter::Command),
    /// Show what an app uses
    Usage(app::Usage),
    /// Show what an app's plugin has logged
    Logs(logs::Logs),
    /// Make, list and revoke tokens
    #[command(subcommand)]
    Token(token::Command),
    /// Show what administrators did
    Audit(token::Audit),
    /// Bring the store's schema up to date, or say whether it is
    Migrate(migrate::Migrate),
}

/// Where compiled plugins are kept.
#[derive(Args)]
struct CacheArgs {
    /// The folder for compiled plugins, or none [default: in your cache directory]
    #[arg(long, value_name = "FOLDER", env = "KVASM_CACHE_DIR")]
    cache_dir: Option<open::CacheDir>,
    /// Compile the plugin and keep nothing, as --cache-dir none
    #[arg(long)]
    no_cache: bool,
}

impl CacheArgs {
    fn folder(self) -> open::CacheDir {
        match self.no_cache {
            true => open::CacheDir::None,
            false => self.cache_dir.unwrap_or(open::CacheDir::Default),
        }
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    // Before anything else: it answers on standard output, and no thread runs yet.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|first| first == open::COMPILE_WORKER)
    {
        return kvasm::compile_worker();
    }
    let cli = Cli::parse();
    // A server has a log of its own.
    if !matches!(cli.command, Command::Serve(_)) {
        start_log();
    }
    let json = cli.global.json;
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        // A guest may have its thread for 10 ms a poll. By default new connections and
        // bytes are looked for after 61 polls, which is more than half a second then.
        .event_interval(8)
        .build()
        .map_err(Failure::from)
        .and_then(|runtime| runtime.block_on(dispatch(cli)));
    match result {
        Ok(outcome) => ExitCode::from(outcome.code()),
        Err(failure) => failure.report(json),
    }
}

/// The host's own log goes to standard error; `KVASM_LOG` chooses what of it.
fn start_log() {
    use tracing_subscriber::EnvFilter;
    let filter =
        EnvFilter::try_from_env("KVASM_LOG").unwrap_or_else(|_| EnvFilter::new("error,kvasm=warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
}

async fn dispatch(cli: Cli) -> Result<Outcome, Failure> {
    let global = &cli.global;
    match cli.command {
        Command::Serve(serve) => serve::run(global, serve).await,
        Command::Login(login) => profile::login(global, login).await,
        Command::Call(call) => plugin::call(global, call).await,
        Command::Run(run) => run::run(global, run).await,
        Command::Plugin(command) => plugin::run(global, command).await,
        Command::App(command) => app::run(global, command).await,
        Command::Kv(command) => kv::run(global, command).await,
        Command::Trigger(command) => trigger::run(global, command).await,
        Command::Delivery(command) => delivery::run(global, command).await,
        Command::DeadLetter(command) => dead_letter::run(global, command).await,
        Command::Usage(usage) => app::usage(global, usage).await,
        Command::Logs(logs) => logs::run(global, logs).await,
        Command::Token(command) => token::run(global, command).await,
        Command::Audit(audit) => token::audit(global, audit).await,
        Command::Migrate(migrate) => migrate::run(global, migrate).await,
    }
}
