//! The argument PLUGIN of commands: a module, or the sources that it is built from.

use super::{BuildOptions, BuildProcess, TargetOption, build, shown};
use crate::failure::Failure;
use crate::{Global, input, output};
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
pub(crate) struct PluginSource {
    /// The plugin: a wasm module, or the folder of its sources, which is built first
    plugin: PathBuf,
    #[command(flatten)]
    target: TargetOption,
}

/// The same for a command whose last argument it is.
#[derive(Args)]
pub(crate) struct PluginSourceOrHere {
    /// The plugin: a wasm module, or the folder of its sources, which is built first
    #[arg(default_value = ".")]
    plugin: PathBuf,
    #[command(flatten)]
    target: TargetOption,
}

/// A module, and where it is.
pub(crate) struct ModuleFile {
    /// The file, for messages.
    pub(crate) place: String,
    pub(crate) wasm: Vec<u8>,
}

impl From<PluginSourceOrHere> for PluginSource {
    fn from(source: PluginSourceOrHere) -> PluginSource {
        PluginSource {
            plugin: source.plugin,
            target: source.target,
        }
    }
}

impl PluginSource {
    /// Reads the module, or builds it as `kvasm build` does.
    ///
    /// # Errors
    /// A user error: it cannot be read, is larger than `bytes_max`, or does not compile.
    pub(crate) fn module(&self, global: &Global, bytes_max: u64) -> Result<ModuleFile, Failure> {
        let target = self.target.target;
        if !self.plugin.is_dir() {
            if target.is_some() {
                return Err(Failure::user(
                    "--target is for a folder of sources, which is built first",
                ));
            }
            return Ok(ModuleFile {
                place: self.plugin.display().to_string(),
                wasm: input::file_up_to(&self.plugin, bytes_max)?,
            });
        }
        let options = BuildOptions::to_run(true, target, BuildProcess::default());
        let built = build(&self.plugin, &options)?;
        let place = shown(&built.path);
        if !global.json {
            output::note(&format!("Built {place}: {} bytes.", built.wasm.len()));
        }
        Ok(ModuleFile {
            place,
            wasm: built.wasm,
        })
    }
}
