//! What a module is and what a deployment would make of it, without running it.

mod imports;

use crate::abi::printable;
use crate::declared::FunctionKind;
use crate::engine::Runtime;
use crate::error::{Blame, LoadError};
use crate::module_parts::{DESCRIBED_MAX, ModuleParts};
use crate::precheck;
use bytes::Bytes;
use kvasm_core::{AppId, DeclaredTrigger, Needs};
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
    /// Its tables, imported ones first.
    pub tables: Vec<TableSize>,
    /// Its functions and handlers: those that it declares, in the order of the declarations; without
    /// declarations, all exports that can be called.
    pub functions: Vec<InspectedFunction>,
    /// The names of the typed collections that it declares, in order: those of `collections!` in the SDK
    /// for Rust. It may use others.
    pub collections: Vec<String>,
    /// Triggers that it declares.
    pub triggers: Vec<DeclaredTrigger>,
    /// What it declares that it needs from its app.
    pub needs: Needs,
    /// Its imports, in order.
    pub imports: Vec<InspectedImport>,
    /// Why this host would refuse to load it; empty if it can run here. Of one kind at most the first
    /// 100.
    pub refusals: Vec<LoadError>,
    /// What is not in these lists.
    pub omitted: Omitted,
}

/// How many parts of a module an [`Inspection`] does not list: the lists of a hostile module could be
/// as long as the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Omitted {
    /// Custom sections after the first 100.
    pub custom_sections: usize,
    /// Memories after the first 100.
    pub memories: usize,
    /// Tables after the first 100.
    pub tables: usize,
    /// Without declarations, functions beyond the limit of names.
    pub functions: usize,
    /// Collections after the first 1,000.
    pub collections: usize,
    /// Imports after the first 1,000.
    pub imports: usize,
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

/// The size of a table, in elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableSize {
    /// The size at the start.
    pub initial_elements: u64,
    /// The largest size that the module allows itself, if it sets one.
    pub max_elements: Option<u64>,
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
    /// Not checked, since too many others are missing.
    Unchecked,
}

impl Runtime {
    /// Reads a module and checks whether it could run here, as [`load`](Runtime::load) would. In
    /// contrast to it, the result has all reasons for a refusal that can be found without compiling it,
    /// and that of the compiler if there is none.
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
    let mut parts = ModuleParts::read(wasm)?;
    let imports = match &refused {
        None => imports::provided(&parts),
        Some(_) => imports::imports(runtime, &parts),
    };
    let mut refusals = parts.refusals();
    let functions = functions(&parts);
    let declared = parts.declared.take().and_then(Result::ok);
    let declared = declared.unwrap_or_default();
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
        tables: parts.tables,
        functions,
        collections: parts.collections.into_iter().collect(),
        triggers: declared.triggers,
        needs: declared.needs,
        imports,
        refusals,
        omitted: parts.omitted,
    })
}

/// Returns the functions of a module.
fn functions(parts: &ModuleParts<'_>) -> Vec<InspectedFunction> {
    let declared = match &parts.declared {
        Some(Ok(declared)) => declared,
        Some(Err(_)) => return Vec::new(),
        None => {
            let functions = parts.callable().map(|name| InspectedFunction {
                name: printable(name),
                kind: FunctionKind::Function,
                not_callable: None,
            });
            return functions.collect();
        }
    };
    let mut described = 0;
    let functions = declared.functions.iter().map(|function| {
        let name = function.name.as_str();
        let not_callable = (!parts.is_callable(name)).then(|| {
            described += 1;
            match parts.describe_export(name, described <= DESCRIBED_MAX) {
                Some(export) => NotCallable::Export(export),
                None => NotCallable::Missing,
            }
        });
        InspectedFunction {
            name: printable(name),
            kind: function.kind,
            not_callable,
        }
    });
    functions.collect()
}

/// Returns the refusal of a module for this import. The imports of browsers have their own.
fn refusal(import: &InspectedImport, is_compiled: bool) -> Option<LoadError> {
    match &import.state {
        ImportState::Provided | ImportState::Unchecked => None,
        ImportState::Unknown if !is_compiled && precheck::is_of_browsers(&import.module) => None,
        ImportState::Unknown => Some(LoadError::UnknownImport {
            module: import.module.clone(),
            name: import.name.clone(),
        }),
        ImportState::Mismatch(why) => Some(LoadError::ImportMismatch(why.clone())),
    }
}
