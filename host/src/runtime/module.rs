//! A compiled plugin: a module that is known to run here.

use super::cache::DiskCache;
use super::error::LoadError;
use super::invocation::Invocation;
use super::manifest::{self, Declaration};
use crate::abi::printable;
use crate::model::{Digest, Exports};
use std::collections::BTreeMap;
use wasmtime::{
    Engine, ExternType, FuncType, InstancePre, Linker, Module, ModuleExport, UnknownImportError,
};

/// Compiles a module and keeps it on the disk.
pub(super) fn compile(
    engine: &Engine,
    disk: Option<&DiskCache>,
    digest: &[u8; 32],
    wasm: &[u8],
) -> Result<Module, LoadError> {
    let module = Module::from_binary(engine, wasm)
        .map_err(|e| LoadError::NotWasm(printable(&format!("{e:#}"))))?;
    if let Some(disk) = disk {
        disk.put(digest, &module);
    }
    Ok(module)
}

/// How a function is called.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Signature {
    /// `() -> i32`: a plugin's function; 0 is success.
    Status,
    /// `() -> ()`: a WASI command's `_start`.
    Start,
}

pub(super) struct Function {
    pub(super) export: ModuleExport,
    pub(super) signature: Signature,
}

/// A module with its imports resolved, ready to be instantiated for any app.
pub struct CompiledPlugin {
    pub(super) pre: InstancePre<Invocation>,
    pub(super) memory: ModuleExport,
    /// A WASI reactor's `_initialize`.
    pub(super) initialize: Option<ModuleExport>,
    pub(super) functions: BTreeMap<String, Function>,
    pub(super) http: Option<(String, Function)>,
    /// Slots of the pool that an instance takes.
    pub(super) slots: u32,
    digest: Digest,
}

impl CompiledPlugin {
    pub(super) fn new(
        linker: &Linker<Invocation>,
        module: Module,
        digest: [u8; 32],
        wasm: &[u8],
    ) -> Result<CompiledPlugin, LoadError> {
        let memory = match module.get_export(kvasm_abi::MEMORY) {
            Some(ExternType::Memory(memory)) if !memory.is_shared() => {
                module.get_export_index(kvasm_abi::MEMORY)
            }
            _ => None,
        };
        let memory = memory.ok_or(LoadError::NoMemory)?;
        let (functions, http) = exports(&module, manifest::section(wasm))?;
        let initialize = match signature(&module, "_initialize") {
            Some(Signature::Start) => module.get_export_index("_initialize"),
            Some(Signature::Status) | None => None,
        };
        let needs = module.resources_required();
        let slots = needs.num_memories.max(needs.num_tables).max(1);
        let pre = linker.instantiate_pre(&module).map_err(import_error)?;
        Ok(CompiledPlugin {
            pre,
            memory,
            initialize,
            functions,
            http,
            slots,
            digest: Digest(digest),
        })
    }

    /// The names of the functions that can be called, in order.
    pub fn functions(&self) -> impl Iterator<Item = &str> {
        self.functions.keys().map(String::as_str)
    }

    /// What it offers to callers.
    pub fn exports(&self) -> Exports {
        Exports {
            functions: self.functions.keys().cloned().collect(),
            http: self.http.as_ref().map(|(name, _)| name.clone()),
            triggers: Vec::new(),
        }
    }

    /// The SHA-256 of the module's bytes.
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

fn import_error(error: wasmtime::Error) -> LoadError {
    match error.downcast_ref::<UnknownImportError>() {
        Some(unknown) => LoadError::UnknownImport {
            module: printable(unknown.module()),
            name: printable(unknown.name()),
        },
        None => LoadError::ImportMismatch(printable(&format!("{error:#}"))),
    }
}

type ModuleExports = (BTreeMap<String, Function>, Option<(String, Function)>);

/// The declared functions and HTTP handler; without declarations, every export
/// that can be a function.
fn exports(module: &Module, section: Option<&[u8]>) -> Result<ModuleExports, LoadError> {
    let Some(section) = section else {
        let all = module
            .exports()
            .filter_map(|export| function(module, export.name()));
        return Ok((all.collect(), None));
    };
    let declarations =
        manifest::parse(section).map_err(|why| LoadError::Manifest(printable(&why)))?;
    let (mut functions, mut http) = (BTreeMap::new(), None);
    for declaration in declarations {
        let find = |name: String| {
            function(module, &name).ok_or_else(|| LoadError::MissingFunction(printable(&name)))
        };
        match declaration {
            Declaration::Function { name } => {
                let (name, function) = find(name)?;
                functions.insert(name, function);
            }
            Declaration::Http { .. } if http.is_some() => {
                let why = "it declares more than one HTTP handler";
                return Err(LoadError::Manifest(why.to_owned()));
            }
            Declaration::Http { name } => http = Some(find(name)?),
        }
    }
    Ok((functions, http))
}

fn function(module: &Module, name: &str) -> Option<(String, Function)> {
    let signature = signature(module, name)?;
    // A function without a result is no plugin's function but a command's entry.
    if signature == Signature::Start && name != "_start" {
        return None;
    }
    let export = module.get_export_index(name)?;
    Some((name.to_owned(), Function { export, signature }))
}

fn signature(module: &Module, name: &str) -> Option<Signature> {
    let Some(ExternType::Func(function)) = module.get_export(name) else {
        return None;
    };
    let returns_i32 =
        |f: &FuncType| f.results().len() == 1 && f.result(0).is_some_and(|r| r.is_i32());
    match function.params().len() {
        0 if returns_i32(&function) => Some(Signature::Status),
        0 if function.results().len() == 0 => Some(Signature::Start),
        _ => None,
    }
}
