//! `kvasm build`: from the sources of a plugin to a module that can be deployed. The language's file
//! compiles; what is the same for all languages is here.

mod compact;
mod languages;
mod plugin_source;
mod rust;
pub(crate) mod section;
pub(crate) mod size;

use crate::failure::{CommandOutcome, Failure};
use crate::{Global, inspect, output};
use clap::{Args, ValueEnum};
use languages::OtherLanguage;
use parking_lot::Mutex;
pub(crate) use plugin_source::{ModuleFile, PluginSource, PluginSourceOrHere};
pub(crate) use rust::{cargo, local_packages};
use section::KeptSections;
use serde_json::json;
use size::SizePart;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;

/// How many of the largest parts of a module are shown.
const PARTS_SHOWN: usize = 5;

#[derive(Args)]
pub(super) struct BuildArgs {
    /// Folder of the plugin
    #[arg(default_value = ".")]
    folder: PathBuf,
    /// Optimise, and keep of custom sections only Kvasm's and function names; this is the default
    #[arg(long, conflicts_with = "debug")]
    release: bool,
    /// Do not optimise, and keep function names and debugging information for backtraces
    #[arg(long)]
    debug: bool,
    /// Remove the names of functions too, which backtraces show, and their types for `inspect`
    #[arg(long, conflicts_with = "debug")]
    strip_names: bool,
    #[command(flatten)]
    target: TargetOption,
    /// Where to write the module [default: build/FOLDER.wasm; for Rust target/kvasm/NAME.wasm]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// What a plugin in Rust is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum WasmTarget {
    /// With standard output, clocks and random numbers of WASI preview 1
    #[value(name = "wasm32-wasip1")]
    Wasip1,
    /// The smallest modules
    #[value(name = "wasm32-unknown-unknown")]
    Unknown,
}

/// The option of the commands that build.
#[derive(Args)]
pub(crate) struct TargetOption {
    /// The target, for sources in Rust [default: `target` in `[package.metadata.kvasm]` of
    /// Cargo.toml, else wasm32-wasip1]
    #[arg(long, value_enum)]
    pub(crate) target: Option<WasmTarget>,
}

impl WasmTarget {
    pub(crate) fn name(self) -> &'static str {
        match self {
            WasmTarget::Unknown => "wasm32-unknown-unknown",
            WasmTarget::Wasip1 => "wasm32-wasip1",
        }
    }
}

/// How to build.
pub(crate) struct BuildOptions {
    /// Without optimisations, and with debugging information.
    pub(crate) debug: bool,
    /// What is left of custom sections.
    pub(crate) kept: KeptSections,
    /// For plugins in Rust; `None` is what the project says, or the default.
    pub(crate) target: Option<WasmTarget>,
    /// Where to write the module, if not to the language's place.
    pub(crate) output: Option<PathBuf>,
    /// The compiler while it runs.
    pub(crate) child: BuildProcess,
}

impl BuildOptions {
    /// For a module that is run at once: what a host does not read is left out.
    pub(crate) fn to_run(
        release: bool,
        target: Option<WasmTarget>,
        child: BuildProcess,
    ) -> BuildOptions {
        BuildOptions {
            debug: !release,
            // The rest is large, and only debuggers read it.
            kept: match release {
                true => KeptSections::Names,
                false => KeptSections::Lines,
            },
            target,
            output: None,
            child,
        }
    }
}

/// A compiler's process, so that another thread can stop it.
#[derive(Clone, Default)]
pub(crate) struct BuildProcess(Arc<Mutex<Option<Child>>>);

impl BuildProcess {
    /// Starts a process whose output is piped, and returns the output.
    pub(crate) fn start(&self, command: &mut Command) -> std::io::Result<Option<ChildStdout>> {
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take();
        *self.0.lock() = Some(child);
        Ok(stdout)
    }

    /// Waits for the end. Call it once the output has ended: the process cannot be stopped meanwhile.
    pub(crate) fn wait(&self) -> std::io::Result<Option<ExitStatus>> {
        let child = self.0.lock().take();
        child.map(|mut child| child.wait()).transpose()
    }

    /// Kills the process, if it is running.
    pub(crate) fn stop(&self) {
        if let Some(child) = &mut *self.0.lock() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What a language's compiler has made.
pub(crate) struct Compiled {
    /// The module, with names.
    pub(crate) wasm: Vec<u8>,
    /// The language's place for it.
    pub(crate) output: PathBuf,
}

/// A built module.
pub(crate) struct Built {
    /// Where it is.
    pub(crate) path: PathBuf,
    pub(crate) wasm: Vec<u8>,
    /// The size before it was stripped.
    unstripped_bytes: usize,
    /// What makes it large, the largest first.
    parts: Vec<SizePart>,
}

/// The language of a plugin.
enum Language {
    Rust,
    Other(OtherLanguage),
}

impl Language {
    /// Returns the language of the plugin in a folder.
    fn of(folder: &Path) -> Result<Language, Failure> {
        if folder.join("Cargo.toml").is_file() {
            return Ok(Language::Rust);
        }
        if let Some(language) = OtherLanguage::of(folder) {
            return Ok(Language::Other(language));
        }
        let shown = folder.display();
        Err(Failure::user(match folder.is_dir() {
            true => format!(
                "{shown} has no Cargo.toml, go.mod, asconfig.json, plugin.zig or .c file, so it is not \
                 the folder of a plugin"
            ),
            false => format!("{shown} is not a folder"),
        }))
    }

    fn compile(&self, folder: &Path, options: &BuildOptions) -> Result<Compiled, Failure> {
        match self {
            Language::Rust => rust::compile(folder, options),
            Language::Other(language) => language.compile(folder, options),
        }
    }
}

pub(super) async fn run(global: &Global, args: BuildArgs) -> Result<CommandOutcome, Failure> {
    // The default has an option, so that scripts can say what they mean.
    let _ = args.release;
    let kept = match (args.debug, args.strip_names) {
        (true, _) => KeptSections::All,
        (false, true) => KeptSections::Host,
        (false, false) => KeptSections::Names,
    };
    let options = BuildOptions {
        debug: args.debug,
        kept,
        target: args.target.target,
        output: args.output,
        child: BuildProcess::default(),
    };
    let built = build(&args.folder, &options)?;
    report(global, &built)?;
    let place = built.path.display().to_string();
    let inspected = inspect::read(global, built.wasm).await;
    let inspection = inspected.map_err(|e| e.at(&place))?;
    inspect::check(&inspection).map_err(|e| e.at(&place))?;
    Ok(CommandOutcome::Done)
}

/// Returns an error if a folder has no plugin in a language that can be built.
///
/// # Errors
/// A user error.
pub(crate) fn check_folder(folder: &Path) -> Result<(), Failure> {
    Language::of(folder).map(drop)
}

/// Builds the plugin in a folder. The compiler's messages go to standard error.
///
/// # Errors
/// A user error: there is no plugin, it does not compile, or a tool is missing.
pub(crate) fn build(folder: &Path, options: &BuildOptions) -> Result<Built, Failure> {
    let compiled = Language::of(folder)?.compile(folder, options)?;
    let mut wasm = section::declare(compiled.wasm, folder)?;
    let unstripped_bytes = wasm.len();
    // Debugging information refers to positions in the code.
    if let KeptSections::Names | KeptSections::Host = options.kept {
        wasm = compact::compact(&wasm)?;
    }
    let mut parts = size::parts(&wasm)?;
    parts.retain(|part| match part.name.strip_prefix("section ") {
        Some(section) => options.kept.has(section),
        None => true,
    });
    let wasm = match options.kept {
        KeptSections::All => wasm,
        kept => section::strip(&wasm, kept)?,
    };
    let path = options.output.clone().unwrap_or(compiled.output);
    write(&path, &wasm)?;
    Ok(Built {
        path,
        wasm,
        unstripped_bytes,
        parts,
    })
}

/// Writes a file whole or not at all, since another process may be reading it.
fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let failed =
        |error: std::io::Error| Failure::user(format!("cannot write {}: {error}", path.display()));
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    std::fs::write(&partial, bytes)
        .and_then(|()| std::fs::rename(&partial, path))
        .map_err(failed)
}

fn report(global: &Global, built: &Built) -> Result<(), Failure> {
    let largest = built.parts.iter().take(PARTS_SHOWN);
    let largest: Vec<&SizePart> = largest.filter(|part| part.bytes > 0).collect();
    let view = json!({
        "path": built.path,
        "bytes": built.wasm.len(),
        "unstripped_bytes": built.unstripped_bytes,
        "largest": largest
            .iter()
            .map(|part| json!({ "name": part.name, "bytes": part.bytes }))
            .collect::<Vec<_>>(),
    });
    output::object(global.json, &view, || {
        let mut text = format!("{}: {} bytes", shown(&built.path), built.wasm.len());
        if built.unstripped_bytes > built.wasm.len() {
            text.push_str(&format!(" ({} before stripping)", built.unstripped_bytes));
        }
        let width = largest.iter().map(|part| part.name.len()).max();
        for part in &largest {
            let width = width.unwrap_or_default();
            text.push_str(&format!("\n  {:width$}  {:>9}", part.name, part.bytes));
        }
        text
    })
}

/// A path as people write it: relative to the current folder, if it is within.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here)
        .unwrap_or(path)
        .display()
        .to_string()
}
