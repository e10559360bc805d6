//! What a module is and what a deployment would make of it, without running it.

mod imports;
mod reader;

use crate::abi::printable;
use crate::declared::{self, Declared, FunctionKind, check_names};
use crate::engine::Runtime;
use crate::error::{Blame, LoadError};
use crate::manifest;
use crate::module::wrong_type;
use crate::precheck;
use bytes::Bytes;
use kvasm_core::{AppId, DeclaredTrigger, Needs};
use reader::ModuleParts;
use std::mem::discriminant;
use std::sync::Arc;
use tokio::task::spawn_blocking;

/// A module, as read by [`Runtime::inspect`].
#[derive(Debug)]
pub struct Inspection {
    /// Sizes of the module and its sections.
    pub sizes: SectionSizes,
    /// Its memories, imported ones first.
    pub memories: Vec<MemorySize>,
    /// Its functions and handlers: those that it declares, in the order of the declarations; without
    /// declarations, all exports that can be called.
    pub functions: Vec<InspectedFunction>,
    /// Triggers that it declares.
    pub triggers: Vec<DeclaredTrigger>,
    /// What it declares that it needs from its app.
    pub needs: Needs,
    /// Its imports, in order.
    pub imports: Vec<InspectedImport>,
    /// Why this host would refuse to load it; empty if it can run here.
    pub refusals: Vec<LoadError>,
}

/// Sizes of a module and its sections, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SectionSizes {
    /// The whole module.
    pub total: usize,
    /// The bodies of its functions.
    pub code: usize,
    /// The initial contents of its memories.
    pub data: usize,
    /// Its custom sections with their names, in order.
    pub custom: Vec<(String, usize)>,
}

/// The size of a memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemorySize {
    /// Whether it is the memory that the host uses.
    pub is_exported: bool,
    /// The size at the start.
    pub initial_bytes: u64,
    /// The largest size that the module allows itself, if it sets one.
    pub max_bytes: Option<u64>,
}

/// A function or a handler of a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InspectedFunction {
    /// The export's name.
    pub name: String,
    /// What it is for.
    pub kind: FunctionKind,
    /// If the host cannot call it: what the module exports by that name, if anything.
    pub not_callable: Option<NotCallable>,
}

/// Why a declared function cannot be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotCallable {
    /// There is no export of that name.
    Missing,
    /// The export is something else than a function `() -> i32`.
    Export(String),
}

/// An import of a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InspectedImport {
    /// The module that it names.
    pub module: String,
    /// The name in that module.
    pub name: String,
    /// Whether this host provides it.
    pub state: ImportState,
}

/// Whether a host provides an import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImportState {
    /// It does.
    Provided,
    /// It knows no function of that name.
    Unknown,
    /// Its function has another type; the text says which.
    Mismatch(String),
}

impl Runtime {
    /// Reads a module and checks whether it could run here, as [`load`](Runtime::load) would. In
    /// contrast to it, the result has all reasons for a refusal that can be found.
    ///
    /// # Errors
    /// [`LoadError::NotWasm`] if it is not a module, or truncated; an error of the host.
    pub async fn inspect(self: &Arc<Self>, wasm: Bytes) -> Result<Inspection, LoadError> {
        let (this, bytes) = (Arc::clone(self), wasm.clone());
        let read = spawn_blocking(move || {
            ModuleParts::read(&bytes)?;
            let size = this.check_size(&bytes).map_err(LoadError::from);
            Ok::<_, LoadError>(size.and_then(|()| precheck::check(&bytes, &this.limits)))
        });
        let checked = read.await.map_err(LoadError::host)??;
        // Only what passes is compiled: the rest may be too large for it.
        let (loaded, is_compiled) = match checked {
            Err(error) => (Err(error), false),
            Ok(()) => (self.load(AppId::generate(), wasm.clone()).await, true),
        };
        let refused = loaded.err();
        if let Some(error) = &refused
            && error.blame() == Blame::Host
        {
            return Err(error.clone());
        }
        let this = Arc::clone(self);
        let described = spawn_blocking(move || describe(&this, &wasm, refused, is_compiled));
        described.await.map_err(LoadError::host)?
    }
}

/// Describes a module that was refused for this reason, or was not. A module that has passed the
/// compiler is read in full.
fn describe(
    runtime: &Runtime,
    wasm: &[u8],
    refused: Option<LoadError>,
    is_compiled: bool,
) -> Result<Inspection, LoadError> {
    let parts = ModuleParts::read(wasm)?;
    let imports = match &refused {
        None => imports::provided(&parts),
        Some(_) => imports::imports(runtime, &parts),
    };
    let mut refusals = Vec::new();
    let (functions, declared) = functions(&parts, wasm, &mut refusals);
    if !parts.has_memory() {
        refusals.push(LoadError::NoMemory);
    }
    for import in &imports {
        refusals.extend(refusal(import, is_compiled));
    }
    match refused {
        // What loads has no flaw, whatever was read here.
        None => refusals.clear(),
        Some(error) => {
            let is_known = |known: &LoadError| discriminant(known) == discriminant(&error);
            if !refusals.iter().any(is_known) {
                refusals.insert(0, error);
            }
        }
    }
    Ok(Inspection {
        sizes: parts.sizes,
        memories: parts.memories,
        functions,
        triggers: declared.triggers,
        needs: declared.needs,
        imports,
        refusals,
    })
}

/// Returns the functions of a module and its declarations, and adds what is wrong with them.
fn functions(
    parts: &ModuleParts<'_>,
    wasm: &[u8],
    refusals: &mut Vec<LoadError>,
) -> (Vec<InspectedFunction>, Declared) {
    let Some(section) = manifest::section(wasm) else {
        refusals.extend(check_names(parts.callable()).err());
        let functions = parts.callable().map(|name| InspectedFunction {
            name: printable(name),
            kind: FunctionKind::Function,
            not_callable: None,
        });
        return (functions.collect(), Declared::default());
    };
    let declared = declared::read(section).unwrap_or_else(|error| {
        refusals.push(error);
        Declared::default()
    });
    let mut functions = Vec::new();
    for function in &declared.functions {
        let name = function.name.as_str();
        let not_callable = match (parts.is_callable(name), parts.describe_export(name)) {
            (true, _) => None,
            (false, Some(export)) => Some(NotCallable::Export(export)),
            (false, None) => Some(NotCallable::Missing),
        };
        refusals.extend(not_callable.as_ref().map(|why| match why {
            NotCallable::Missing => LoadError::MissingFunction(printable(name)),
            NotCallable::Export(found) => wrong_type(name, found),
        }));
        functions.push(InspectedFunction {
            name: printable(name),
            kind: function.kind,
            not_callable,
        });
    }
    (functions, declared)
}

/// Returns the refusal of a module for this import. The imports of browsers have their own.
fn refusal(import: &InspectedImport, is_compiled: bool) -> Option<LoadError> {
    match &import.state {
        ImportState::Provided => None,
        ImportState::Unknown if !is_compiled && precheck::is_of_browsers(&import.module) => None,
        ImportState::Unknown => Some(LoadError::UnknownImport {
            module: import.module.clone(),
            name: import.name.clone(),
        }),
        ImportState::Mismatch(why) => Some(LoadError::ImportMismatch(why.clone())),
    }
}
