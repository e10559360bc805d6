//! The command line: arguments in, text or JSON out, and an exit code that says
//! whose fault a failure is.

mod app;
mod error;
mod export;
mod import;
mod input;
mod kv;
mod list;
mod output;
mod record;
mod run;
mod store;

use clap::{Parser, Subcommand};
use error::Exit;
use output::Output;
use std::io::IsTerminal;
use std::process::ExitCode;
use store::StoreSpec;

#[derive(Parser)]
#[command(name = "kvasm", version, about, max_term_width = 100, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  kvasm app create shop
  kvasm run counter.wasm --app shop add --input '{\"name\":\"visits\",\"by\":1}'
  kvasm kv list shop counters --values
  kvasm kv export shop > shop.jsonl

Exit codes: 0 done; 1 the entry is not there; 2 your arguments or your data;
3 the plugin; 4 the host or its store.";

/// What every command takes.
#[derive(clap::Args)]
struct Common {
    /// Where the entries are: sqlite:PATH, postgres://USER@HOST/DATABASE, or
    /// memory, which starts empty and is gone at the end [default: a SQLite file
    /// in your data folder]
    #[arg(long, global = true, env = "KVASM_STORE", hide_env_values = true, value_name = "STORE")]
    store: Option<StoreSpec>,
    /// Print JSON for programs: results and errors, both on stdout
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Call a function of a plugin
    Run(run::Run),
    /// Create, list, show and delete apps
    #[command(subcommand)]
    App(app::AppCommand),
    /// Read and write an app's entries
    #[command(subcommand)]
    Kv(kv::KvCommand),
    /// Create the store or bring its schema up to date
    Migrate,
}

/// Runs the command that the arguments name.
pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return error::arguments(&error).into(),
    };
    trace();
    let mut output = Output::new(cli.common.json);
    let result = execute(&cli, &mut output).and_then(|exit| {
        output.flush()?;
        Ok(exit)
    });
    result
        .unwrap_or_else(|error| error::report(&error, &mut output))
        .into()
}

fn execute(cli: &Cli, output: &mut Output) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(error::Machine::of("the program could not start its threads"))?;
    let common = &cli.common;
    runtime.block_on(async {
        match &cli.command {
            Command::Run(run) => run.execute(common, output).await,
            Command::App(command) => command.execute(common, output).await,
            Command::Kv(command) => command.execute(common, output).await,
            Command::Migrate => store::migrate(common, output).await,
        }
    })
}

/// The host's own log: warnings and errors on stderr, more with `KVASM_LOG`.
fn trace() {
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_env_var("KVASM_LOG")
        .with_default_directive(tracing::Level::WARN.into())
        .from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}
