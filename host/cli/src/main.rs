//! The command line: parses the arguments, calls the library, prints for people or as JSON, and
//! reports whose fault a failure is by the exit code.

mod allocator;
mod app;
mod audit;
mod batch;
mod build;
mod call;
mod calls;
mod client;
mod config;
mod dead_letter;
mod delivery;
mod deploy;
mod dev;
mod environment;
mod failure;
mod global;
mod grant;
mod help;
mod http_request;
mod input;
mod inspect;
mod kv;
mod kv_watch;
mod log;
mod logs;
mod migrate;
mod new;
mod open;
mod otel;
mod output;
mod overview;
mod plugin;
mod profile;
mod run;
mod serve;
mod server_timeout;
mod settings;
mod shell;
mod test;
mod timer;
mod token;
mod token_file;
mod transfer;
mod trigger;

use clap::{Args, FromArgMatches, Parser, Subcommand};
use environment::Environment;
use failure::{CommandOutcome, Failure};
use global::Global;
use std::path::PathBuf;
use std::process::ExitCode;

const AFTER_HELP: &str = "\
Examples:
  kvasm new my-plugin
  kvasm dev my-plugin
  kvasm build my-plugin
  kvasm inspect my-plugin/target/kvasm/my_plugin.wasm
  kvasm serve --token-file admin.token
  KVASM_TOKEN=$(cat admin.token) kvasm login --server http://127.0.0.1:7181
  kvasm app create demo --public
  kvasm deploy demo my-plugin
  kvasm call demo add_tag --input '{\"name\":\"ada\",\"tag\":\"kind\"}'
  kvasm kv set demo notes today '\"rain\"'
  kvasm kv list demo notes --values
  kvasm kv export demo > demo.jsonl
  kvasm config set demo currency EUR
  kvasm secret set demo stripe-key < key.txt
  kvasm grant demo http https://api.example.com
  kvasm trigger set demo index --collection notes
  kvasm dead-letter list demo

Exit codes:
  0  success
  1  not found (kv get, kv has, kv delete; config get; dead-letter show, replay, discard; delivery discard),
     or an older schema (migrate --check)
  2  caller's fault: bad arguments, an unknown app, a refused value or input, a conflict, a missing scope or grant
  3  plugin's fault: it cannot be loaded, trapped, failed, or timed out
  4  host's fault: the server or the store is unavailable, or an internal error";

/// A multi-tenant WebAssembly plugin host with a durable key-value store for each app.
#[derive(Parser)]
#[command(name = "kvasm", version, about, after_help = AFTER_HELP)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve apps over HTTP
    Serve(serve::Serve),
    /// Save a server and a token for other commands
    Login(profile::Login),
    /// Create a plugin to start from
    New(new::NewArgs),
    /// Build a plugin from its sources
    Build(build::BuildArgs),
    /// Serve a plugin from its sources, and swap it after each change
    Dev(dev::DevArgs),
    /// Run the tests of a plugin in Rust, natively or in the built module
    Test(test::TestArgs),
    /// Show what a module is, and whether this host would load it
    Inspect(inspect::InspectArgs),
    /// Run a function or the HTTP handler of a plugin without deploying it
    Run(run::RunArgs),
    /// Build a plugin if need be, upload it as a new version, and activate it
    Deploy(deploy::DeployArgs),
    /// Call a function of an app's active plugin
    Call(call::CallArgs),
    /// Manage plugin versions: show, activate, roll back, delete
    #[command(subcommand)]
    Plugin(plugin::PluginCommand),
    /// Manage apps
    #[command(subcommand)]
    App(app::AppCommand),
    /// Read and write an app's entries
    #[command(subcommand)]
    Kv(kv::KvCommand),
    /// Set and show configuration values of an app
    #[command(subcommand)]
    Config(settings::ConfigCommand),
    /// Set and remove secrets of an app, and rotate their key
    #[command(subcommand)]
    Secret(settings::SecretCommand),
    /// Grant permissions to the plugins of an app
    Grant(grant::GrantArgs),
    /// Revoke a permission of the plugins of an app
    Revoke(grant::RevokeArgs),
    /// List the permissions of the plugins of an app
    Grants(grant::GrantsArgs),
    /// Manage triggers
    #[command(subcommand)]
    Trigger(trigger::TriggerCommand),
    /// Show and discard outstanding deliveries
    #[command(subcommand)]
    Delivery(delivery::DeliveryCommand),
    /// Show, cancel and run timers
    #[command(subcommand)]
    Timer(timer::TimerCommand),
    /// Show, replay and discard dead letters
    #[command(subcommand)]
    DeadLetter(dead_letter::DeadLetterCommand),
    /// Show the usage of an app
    Usage(app::UsageArgs),
    /// Show what needs a person, the hosts, and what they did
    Overview(overview::OverviewArgs),
    /// Show the log of an app's plugin
    Logs(logs::LogsArgs),
    /// Show the calls of an app's plugin, with their outcome, time and cost
    Calls(calls::CallsArgs),
    /// Create, list and revoke tokens
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Show the audit log
    Audit(audit::AuditArgs),
    /// Migrate the store's schema, or check whether it is up to date
    Migrate(migrate::MigrateArgs),
}

/// The folder for compiled plugins.
#[derive(Args)]
struct CacheArgs {
    /// Folder for compiled plugins, or none [env: KVASM_CACHE_DIR] [default: in your cache
    /// directory]
    #[arg(long, value_name = "FOLDER")]
    cache_dir: Option<open::CacheDir>,
    /// Compile the plugin without caching it, like --cache-dir none
    #[arg(long)]
    no_cache: bool,
}

impl CacheArgs {
    /// The folder: `configured` unless an argument overrides it.
    fn folder(self, configured: open::CacheDir) -> open::CacheDir {
        match self.no_cache {
            true => open::CacheDir::None,
            false => self.cache_dir.unwrap_or(configured),
        }
    }
}

fn main() -> ExitCode {
    allocator::give_back_large_buffers();
    // First of all: it responds on standard output, and no other thread may be running.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|first| first == open::COMPILE_WORKER)
    {
        return kvasm::compile_worker();
    }
    if std::env::args_os()
        .nth(1)
        .is_some_and(|first| first == test::TEST_HOST)
    {
        return test::serve(std::env::args_os().nth(2).map(PathBuf::from));
    }
    let cli = help::command::<Cli>().get_matches();
    let cli = Cli::from_arg_matches(&cli).unwrap_or_else(|error| error.exit());
    let json = cli.global.json;
    match run(cli) {
        Ok(outcome) => ExitCode::from(outcome.code()),
        Err(failure) => failure.report(json),
    }
}

fn run(cli: Cli) -> Result<CommandOutcome, Failure> {
    let environment = Environment::read()?;
    // A server sets up its own log.
    if !matches!(cli.command, Command::Serve(_)) {
        start_log(&environment)?;
        environment.warn_of_unknown();
    }
    let global = cli.global.with_environment(environment)?;
    let is_server = matches!(cli.command, Command::Serve(_));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        // A guest may use its thread for 10 ms per poll. By default the runtime checks for new
        // connections and data every 61 polls, which would then be more than half a second.
        .event_interval(8)
        .build()?;
    let result = runtime.block_on(dispatch(&global, cli.command));
    if !is_server {
        // A blocked read of standard input cannot be cancelled: after a refused import, shutdown
        // would wait for the process that writes the input.
        runtime.shutdown_background();
    }
    result
}

/// The host's own log goes to standard error, filtered by `KVASM_LOG`.
fn start_log(environment: &Environment) -> Result<(), Failure> {
    use tracing_subscriber::EnvFilter;
    let filter = environment.get("KVASM_LOG").unwrap_or("error,kvasm=warn");
    let filter = EnvFilter::try_new(filter)
        .map_err(|e| Failure::user(format!("KVASM_LOG is {filter:?}: {e}")))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    Ok(())
}

async fn dispatch(global: &Global, command: Command) -> Result<CommandOutcome, Failure> {
    match command {
        Command::Serve(serve) => serve::run(global, serve).await,
        Command::Login(login) => profile::login(global, login).await,
        Command::New(arguments) => new::run(global, &arguments),
        Command::Build(build) => build::run(global, build).await,
        Command::Dev(dev) => dev::run(global, dev).await,
        Command::Test(test) => test::run(global, test).await,
        Command::Inspect(inspect) => inspect::run(global, inspect).await,
        Command::Run(run) => run::run(global, run).await,
        Command::Deploy(deploy) => deploy::deploy(global, deploy).await,
        Command::Call(call) => call::run(global, call).await,
        Command::Plugin(command) => plugin::run(global, command).await,
        Command::App(command) => app::run(global, command).await,
        Command::Kv(command) => kv::run(global, command).await,
        Command::Config(command) => settings::config(global, command).await,
        Command::Secret(command) => settings::secret(global, command).await,
        Command::Grant(args) => grant::grant(global, args).await,
        Command::Revoke(args) => grant::revoke(global, args).await,
        Command::Grants(args) => grant::grants(global, args).await,
        Command::Trigger(command) => trigger::run(global, command).await,
        Command::Delivery(command) => delivery::run(global, command).await,
        Command::Timer(command) => timer::run(global, command).await,
        Command::DeadLetter(command) => dead_letter::run(global, command).await,
        Command::Usage(usage) => app::usage(global, usage).await,
        Command::Overview(overview) => overview::run(global, overview).await,
        Command::Logs(logs) => logs::run(global, logs).await,
        Command::Calls(calls) => calls::run(global, calls).await,
        Command::Token(command) => token::run(global, command).await,
        Command::Audit(audit) => audit::run(global, audit).await,
        Command::Migrate(migrate) => migrate::run(global, migrate).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// Checks that no argument of a command has the id of a global one.
    fn check(command: &clap::Command, global: &[clap::Id]) {
        for argument in command.get_arguments() {
            let (name, id) = (command.get_name(), argument.get_id());
            assert!(!global.contains(id), "{name}: {id} means two things");
        }
        for command in command.get_subcommands() {
            check(command, global);
        }
    }

    /// Values are found by id: two arguments with the same id would share one value.
    #[test]
    fn argument_ids_do_not_shadow_global_ones() {
        let cli = Cli::command();
        let global = cli
            .get_arguments()
            .filter(|argument| argument.is_global_set());
        let global: Vec<_> = global.map(|argument| argument.get_id().clone()).collect();
        assert!(global.iter().any(|id| id == "token"), "{global:?}");
        for command in cli.get_subcommands() {
            check(command, &global);
        }
        cli.debug_assert();
    }
}
