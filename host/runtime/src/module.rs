//! A compiled plugin, ready to be instantiated.

use super::declared::{self, DeclaredFunction, FunctionKind, check_names};
use super::error::LoadError;
use super::invocation::Invocation;
use super::module_parts::NAME_SHOWN_BYTES;
use super::source_lines::SourceLines;
use crate::abi::{printable, printable_start};
use kvasm_abi::FUNCTION_EXPORTS;
use kvasm_core::{DeclaredTrigger, Digest, Exports, Needs, Watch};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use wasmtime::{ExternType, InstancePre, Linker, Module, ModuleExport, UnknownImportError};

/// Size of a module in addition to its image: types, names, resolved imports.
const OVERHEAD_BYTES: usize = 64 * 1024;
/// How many of a wrong type's parameters and results an error shows.
const SHOWN_TYPES_MAX: usize = 16;
/// How much of a wrong type an error shows, in bytes.
const TYPE_BYTES_MAX: usize = 256;
/// How much of the reason for which an import does not match an error shows, in bytes.
const MISMATCH_BYTES_MAX: usize = 1024;
/// The imports that need the app's settings.
const SETTINGS_IMPORTS: [&str; 2] = ["config_get", "secret_get"];

/// How a function is called.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Signature {
    /// `() -> i32`: a plugin's function; 0 is success.
    Status,
    /// `() -> ()`: a WASI command's `_start`.
    Start,
}

impl Signature {
    /// Returns the signature of a function with so many parameters and results, the first of which
    /// is an `i32` or is not; `None` if the host cannot call it.
    pub(super) fn of(params: usize, results: usize, first_is_i32: bool) -> Option<Signature> {
        match (params, results) {
            (0, 1) if first_is_i32 => Some(Signature::Status),
            (0, 0) => Some(Signature::Start),
            _ => None,
        }
    }

    /// Whether an export of this name is a function of the plugin. One without a result is not,
    /// except for a command's entry point.
    pub(super) fn is_callable(self, name: &str) -> bool {
        match self {
            Signature::Status => true,
            Signature::Start => name == "_start",
        }
    }
}

pub(super) struct Function {
    pub(super) export: ModuleExport,
    pub(super) signature: Signature,
    /// Whether its writes are buffered into one commit.
    pub(super) transaction: bool,
    /// Whether the last call computed for long: then the next one acquires a CPU permit before
    /// it starts.
    pub(super) computes_long: AtomicBool,
}

/// The callable exports of a module.
#[derive(Default)]
struct CallableExports {
    functions: BTreeMap<String, Function>,
    http: Option<(String, Function)>,
    handlers: BTreeMap<String, Function>,
    triggers: Vec<DeclaredTrigger>,
    needs: Needs,
}

/// A module with its imports resolved, ready to be instantiated for any app.
pub struct CompiledPlugin {
    pub(super) pre: InstancePre<Invocation>,
    pub(super) memory: ModuleExport,
    /// A WASI reactor's `_initialize`.
    pub(super) initialize: Option<ModuleExport>,
    pub(super) functions: BTreeMap<String, Function>,
    pub(super) http: Option<(String, Function)>,
    /// Functions that only deliveries call.
    pub(super) handlers: BTreeMap<String, Function>,
    triggers: Vec<DeclaredTrigger>,
    needs: Arc<Needs>,
    reads_settings: bool,
    /// The source lines of its code, for backtraces.
    pub(super) lines: SourceLines,
    bytes: usize,
    digest: Digest,
}

/// A compiled module as it is loaded.
pub(super) struct LoadedModule {
    pub(super) module: Module,
    pub(super) lines: SourceLines,
}

impl CompiledPlugin {
    pub(super) fn new(
        linker: &Linker<Invocation>,
        loaded: LoadedModule,
        digest: Digest,
        section: Option<&[u8]>,
    ) -> Result<CompiledPlugin, LoadError> {
        let LoadedModule { module, lines } = loaded;
        let memory = match module.get_export(kvasm_abi::MEMORY) {
            Some(ExternType::Memory(memory)) if !memory.is_shared() => {
                module.get_export_index(kvasm_abi::MEMORY)
            }
            _ => None,
        };
        let memory = memory.ok_or(LoadError::NoMemory)?;
        let offer = offer(&module, section)?;
        let initialize = match signature(&module, "_initialize") {
            Some(Signature::Start) => module.get_export_index("_initialize"),
            Some(Signature::Status) | None => None,
        };
        let image = module.image_range();
        let bytes = image.end.addr() - image.start.addr() + OVERHEAD_BYTES + lines.bytes();
        let imports_settings = module.imports().any(|import| {
            import.module() == kvasm_abi::MODULE && SETTINGS_IMPORTS.contains(&import.name())
        });
        let reads_settings = imports_settings || !offer.needs.is_empty();
        let pre = linker.instantiate_pre(&module).map_err(import_error)?;
        Ok(CompiledPlugin {
            pre,
            memory,
            initialize,
            functions: offer.functions,
            http: offer.http,
            handlers: offer.handlers,
            triggers: offer.triggers,
            needs: Arc::new(offer.needs),
            reads_settings,
            lines,
            bytes,
            digest,
        })
    }

    /// Returns the names of the callable functions, in order.
    pub fn functions(&self) -> impl Iterator<Item = &str> {
        self.functions.keys().map(String::as_str)
    }

    /// Returns what it exports to callers.
    pub fn exports(&self) -> Exports {
        Exports {
            functions: self.functions.keys().cloned().collect(),
            http: self.http.as_ref().map(|(name, _)| name.clone()),
            triggers: self.triggers.clone(),
            needs: Needs::clone(&self.needs),
        }
    }

    /// Whether it handles timers, and so may set some.
    pub(super) fn handles_timers(&self) -> bool {
        let mut watches = self.triggers.iter().map(|trigger| &trigger.watch);
        watches.any(|watch| *watch == Watch::Timers)
    }

    /// Returns what it declares that it needs from its app.
    pub fn needs(&self) -> &Arc<Needs> {
        &self.needs
    }

    /// Whether a run can read the app's settings, or needs its grants.
    pub fn reads_settings(&self) -> bool {
        self.reads_settings
    }

    /// Returns its approximate size in memory: code, data and metadata.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the SHA-256 of the module's bytes.
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

pub(super) fn import_error(error: wasmtime::Error) -> LoadError {
    match error.downcast_ref::<UnknownImportError>() {
        Some(unknown) => LoadError::UnknownImport {
            module: printable_start(unknown.module().as_bytes(), NAME_SHOWN_BYTES),
            name: printable_start(unknown.name().as_bytes(), NAME_SHOWN_BYTES),
        },
        None => {
            let why = format!("{error:#}");
            LoadError::ImportMismatch(printable_start(why.as_bytes(), MISMATCH_BYTES_MAX))
        }
    }
}

/// Returns the declared functions, handlers and HTTP handler; without declarations, all exports
/// with a suitable signature.
fn offer(module: &Module, section: Option<&[u8]>) -> Result<CallableExports, LoadError> {
    let mut offer = CallableExports::default();
    let Some(section) = section else {
        let all = module.exports().filter_map(|export| {
            let function = function(module, export.name())?;
            Some((export.name().to_owned(), function))
        });
        offer.functions = all.collect();
        check_names(offer.functions.keys().map(String::as_str))?;
        return Ok(offer);
    };
    let declared = declared::read(section)?;
    for DeclaredFunction { name, kind } in declared.functions {
        let function = declared_function(module, &name)?;
        match kind {
            FunctionKind::Function | FunctionKind::Transaction => {
                let function = Function {
                    transaction: kind == FunctionKind::Transaction,
                    ..function
                };
                offer.functions.insert(name, function);
            }
            FunctionKind::Http | FunctionKind::HttpTransaction => {
                let function = Function {
                    transaction: kind == FunctionKind::HttpTransaction,
                    ..function
                };
                offer.http = Some((name, function));
            }
            FunctionKind::OnChange | FunctionKind::Cron | FunctionKind::OnTimer => {
                offer.handlers.insert(name, function);
            }
        }
    }
    offer.triggers = declared.triggers;
    offer.needs = declared.needs;
    Ok(offer)
}

/// Finds a declared function under its name, with the prefix for functions or without.
fn declared_function(module: &Module, name: &str) -> Result<Function, LoadError> {
    let prefixed = format!("{FUNCTION_EXPORTS}{name}");
    let export = match module.get_export(&prefixed) {
        Some(_) => prefixed.as_str(),
        None => name,
    };
    function(module, export).ok_or_else(|| not_callable(module, name, export))
}

fn function(module: &Module, name: &str) -> Option<Function> {
    let signature = signature(module, name)?;
    if !signature.is_callable(name) {
        return None;
    }
    Some(Function {
        export: module.get_export_index(name)?,
        signature,
        transaction: false,
        computes_long: AtomicBool::new(false),
    })
}

/// Returns why a function that is declared under a name cannot be called.
fn not_callable(module: &Module, name: &str, export: &str) -> LoadError {
    let found = match module.get_export(export) {
        None => return LoadError::MissingFunction(printable(name)),
        Some(ExternType::Func(function)) => shown_type(function.params(), function.results()),
        Some(ExternType::Global(_)) => "a global".to_owned(),
        Some(ExternType::Memory(_)) => "a memory".to_owned(),
        Some(ExternType::Table(_)) => "a table".to_owned(),
        Some(ExternType::Tag(_)) => "a tag".to_owned(),
    };
    wrong_type(name, &found)
}

/// The refusal of an export that is declared, and is `found` instead.
pub(super) fn wrong_type(name: &str, found: &str) -> LoadError {
    LoadError::WrongType {
        name: printable(name),
        found: printable_start(found.as_bytes(), TYPE_BYTES_MAX),
    }
}

/// Returns a function's type as in `(i32 i64) -> i32`.
pub(super) fn shown_type<T: Display>(
    params: impl ExactSizeIterator<Item = T>,
    results: impl ExactSizeIterator<Item = T>,
) -> String {
    // Enough to recognise it: a type may have a thousand parameters.
    let names = |types: &mut dyn Iterator<Item = T>| {
        let names: Vec<_> = types.take(SHOWN_TYPES_MAX).map(|t| t.to_string()).collect();
        names.join(" ")
    };
    let (mut params, mut results) = (params, results);
    let params = names(&mut params);
    match results.len() {
        0 => format!("({params}) -> ()"),
        _ => format!("({params}) -> {}", names(&mut results)),
    }
}

fn signature(module: &Module, name: &str) -> Option<Signature> {
    let Some(ExternType::Func(function)) = module.get_export(name) else {
        return None;
    };
    let is_i32 = function.result(0).is_some_and(|result| result.is_i32());
    Signature::of(function.params().len(), function.results().len(), is_i32)
}
