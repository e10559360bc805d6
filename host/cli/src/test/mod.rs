//! `kvasm test`: the tests of a plugin in Rust, natively or against the built module.

mod faults;
mod host_process;
mod link;
mod messages;
mod state;
mod test_app;

use super::failure::{CommandOutcome, Failure};
use super::{Global, inspect, output};
use crate::build::{BuildOptions, BuildProcess, WasmTarget, build, cargo};
use clap::Args;
pub(crate) use host_process::{TEST_HOST, serve};
use kvasm::{Compiler, Host};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The module in the folder of a run, the cache of its compiled form, and the folder in which each
/// harness makes one for its store.
const MODULE: &str = "plugin.wasm";
const CACHE: &str = "cache";
const STORES: &str = "stores";
/// Tells the harness which program is its host, and the folder of the run.
const PROGRAM_VARIABLE: &str = "KVASM_TEST_HOST";
const FOLDER_VARIABLE: &str = "KVASM_TEST_FOLDER";

#[derive(Args)]
#[command(after_help = "Examples:\n  \
        kvasm test my-plugin\n  \
        kvasm test my-plugin --wasm\n  \
        kvasm test my-plugin --wasm -- pays --nocapture")]
pub(super) struct TestArgs {
    /// Folder of the plugin
    #[arg(default_value = ".")]
    folder: PathBuf,
    /// Run what the harness calls in the built module, on a host with a store of its own for each test
    #[arg(long)]
    wasm: bool,
    /// Optimise the module, as `kvasm build` does; without it backtraces have source lines
    #[arg(long, requires = "wasm")]
    release: bool,
    /// The target of the module [default: as for `kvasm build`]
    #[arg(long, value_enum, requires = "wasm")]
    target: Option<WasmTarget>,
    /// Arguments of the tests' program, such as a part of their names
    #[arg(last = true, value_name = "ARGUMENTS")]
    arguments: Vec<String>,
}

pub(super) async fn run(global: &Global, args: TestArgs) -> Result<CommandOutcome, Failure> {
    if !args.folder.join("Cargo.toml").is_file() {
        return Err(Failure::user(format!(
            "{} has no Cargo.toml: the harness is for plugins in Rust; test other modules with \
             `kvasm run`",
            args.folder.display()
        )));
    }
    // The tests get the signal too. This process waits for them, and removes what it has made.
    tokio::spawn(async { while tokio::signal::ctrl_c().await.is_ok() {} });
    let mut cargo = cargo(&args.folder);
    cargo.arg("test").arg("--").args(&args.arguments);
    if !args.wasm {
        cargo.env_remove(PROGRAM_VARIABLE);
        return tests_passed(&mut cargo);
    }
    let session = tempfile::Builder::new().prefix("kvasm-test-").tempdir()?;
    prepare(global, &args, session.path()).await?;
    cargo
        .env(PROGRAM_VARIABLE, std::env::current_exe()?)
        .env(FOLDER_VARIABLE, session.path());
    let passed = tests_passed(&mut cargo);
    let harnesses = std::fs::read_dir(session.path().join(STORES))?.count();
    let passed = passed?;
    if harnesses == 0 {
        return Err(Failure::user(
            "no test has run the module: only what a test does with its Harness runs there; the rest \
             ran natively",
        ));
    }
    output::note(&format!(
        "The module ran in {harnesses} test{}.",
        if harnesses == 1 { "" } else { "s" }
    ));
    Ok(passed)
}

/// Builds the module, and compiles it once for all tests.
async fn prepare(global: &Global, args: &TestArgs, session: &Path) -> Result<(), Failure> {
    let options = BuildOptions::to_run(args.release, args.target, BuildProcess::default());
    let built = build(&args.folder, &options)?;
    let place = built.path.display().to_string();
    let inspected = inspect::read(global, built.wasm.clone()).await;
    let inspection = inspected.map_err(|e| e.at(&place))?;
    inspect::check(&inspection).map_err(|e| e.at(&place))?;
    std::fs::write(session.join(MODULE), &built.wasm)?;
    std::fs::create_dir(session.join(STORES))?;
    let host = Host::builder()
        .cache_dir(session.join(CACHE))
        .compiler(Compiler::InProcess)
        .unpooled()
        .build()?;
    let app = host
        .create_app(kvasm::model::AppName::parse("test")?)
        .await?;
    host.load(&app, built.wasm).await?;
    Ok(())
}

fn tests_passed(cargo: &mut Command) -> Result<CommandOutcome, Failure> {
    let status = cargo
        .status()
        .map_err(|error| Failure::user(format!("cargo cannot be started: {error}")))?;
    match status.success() {
        true => Ok(CommandOutcome::Done),
        false => Err(Failure::plugin(
            "the tests failed or did not compile; cargo's messages are above",
        )),
    }
}
