//! A compiled plugin, ready to be instantiated.

use super::error::LoadError;
use super::invocation::Invocation;
use super::manifest::{self, Declaration};
use super::needs::DeclaredNeeds;
use crate::abi::{printable, printable_start};
use kvasm_core::{DeclaredTrigger, Digest, Exports, Needs, TRIGGERS_MAX, Watch, display_truncated};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use wasmtime::{
    ExternType, FuncType, InstancePre, Linker, Module, ModuleExport, UnknownImportError, ValType,
};

/// Size of a module in addition to its image: types, names, resolved imports.
const OVERHEAD_BYTES: usize = 64 * 1024;
/// Maximum length of a function name, in bytes: it is part of each log line.
const NAME_BYTES_MAX: usize = 256;
/// Maximum total length of a module's function names, in bytes: they are part of each list of
/// versions.
const NAMES_BYTES_MAX: usize = 64 * 1024;
/// How many of a wrong type's parameters and results an error shows.
const SHOWN_TYPES_MAX: usize = 16;
/// How much of a wrong type an error shows, in bytes.
const TYPE_BYTES_MAX: usize = 256;
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
    bytes: usize,
    digest: Digest,
}

impl CompiledPlugin {
    pub(super) fn new(
        linker: &Linker<Invocation>,
        module: Module,
        digest: Digest,
        section: Option<&[u8]>,
    ) -> Result<CompiledPlugin, LoadError> {
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
        let bytes = image.end.addr() - image.start.addr() + OVERHEAD_BYTES;
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

fn import_error(error: wasmtime::Error) -> LoadError {
    match error.downcast_ref::<UnknownImportError>() {
        Some(unknown) => LoadError::UnknownImport {
            module: printable(unknown.module()),
            name: printable(unknown.name()),
        },
        None => LoadError::ImportMismatch(printable(&format!("{error:#}"))),
    }
}

/// Returns the declared functions, handlers and HTTP handler; without declarations, all exports
/// with a suitable signature.
fn offer(module: &Module, section: Option<&[u8]>) -> Result<CallableExports, LoadError> {
    let mut offer = CallableExports::default();
    let Some(section) = section else {
        let all = module
            .exports()
            .filter_map(|export| function(module, export.name()));
        offer.functions = all.collect();
        check_names(&offer)?;
        return Ok(offer);
    };
    let refuse = |why: String| LoadError::Manifest(printable(&why));
    let mut needs = DeclaredNeeds::default();
    for declaration in manifest::parse(section).map_err(refuse)? {
        let find =
            |name: String| function(module, &name).ok_or_else(|| not_callable(module, &name));
        if let Some(trigger) = declaration.trigger().map_err(refuse)? {
            offer.triggers.push(trigger);
        }
        needs.add(&declaration).map_err(refuse)?;
        match declaration {
            Declaration::Function { name, transaction } => {
                let (name, function) = find(name)?;
                let function = Function {
                    transaction,
                    ..function
                };
                offer.functions.insert(name, function);
            }
            Declaration::Http { .. } if offer.http.is_some() => {
                return Err(refuse("it declares more than one HTTP handler".to_owned()));
            }
            Declaration::Http { name } => offer.http = Some(find(name)?),
            Declaration::OnChange { name, .. }
            | Declaration::Cron { name, .. }
            | Declaration::OnTimer { name } => {
                let (name, function) = find(name)?;
                if offer.handlers.insert(name.clone(), function).is_some() {
                    return Err(refuse(format!("it declares the handler {name:?} twice")));
                }
            }
            Declaration::HttpOrigin { .. }
            | Declaration::Config { .. }
            | Declaration::Secret { .. }
            | Declaration::Timers {} => {}
        }
    }
    if offer.triggers.len() > TRIGGERS_MAX {
        let found = offer.triggers.len();
        let why = format!("it declares {found} triggers; the limit is {TRIGGERS_MAX}");
        return Err(refuse(why));
    }
    offer.needs = needs.finish().map_err(refuse)?;
    check_names(&offer)?;
    Ok(offer)
}

/// Returns an error if names are too long, individually or in total.
fn check_names(offer: &CallableExports) -> Result<(), LoadError> {
    let http = offer.http.as_ref().map(|(name, _)| name);
    let named = offer.functions.keys().chain(offer.handlers.keys());
    let mut all = 0;
    for name in named.chain(http) {
        all += name.len();
        if name.len() > NAME_BYTES_MAX {
            return Err(LoadError::LongName {
                start: display_truncated(name, 64),
                len: name.len(),
                limit: NAME_BYTES_MAX,
            });
        }
    }
    if all > NAMES_BYTES_MAX {
        return Err(LoadError::ManyNames {
            len: all,
            limit: NAMES_BYTES_MAX,
        });
    }
    Ok(())
}

fn function(module: &Module, name: &str) -> Option<(String, Function)> {
    let signature = signature(module, name)?;
    // A function without a result is not callable, except for a command's entry point.
    if signature == Signature::Start && name != "_start" {
        return None;
    }
    let export = module.get_export_index(name)?;
    let function = Function {
        export,
        signature,
        transaction: false,
        computes_long: AtomicBool::new(false),
    };
    Some((name.to_owned(), function))
}

/// Returns why a declared name cannot be called.
fn not_callable(module: &Module, name: &str) -> LoadError {
    let found = match module.get_export(name) {
        None => return LoadError::MissingFunction(printable(name)),
        Some(ExternType::Func(function)) => shown(&function),
        Some(ExternType::Global(_)) => "a global".to_owned(),
        Some(ExternType::Memory(_)) => "a memory".to_owned(),
        Some(ExternType::Table(_)) => "a table".to_owned(),
        Some(ExternType::Tag(_)) => "a tag".to_owned(),
    };
    LoadError::WrongType {
        name: printable(name),
        found: printable_start(found.as_bytes(), TYPE_BYTES_MAX),
    }
}

/// Returns a function's type as in `(i32 i64) -> i32`.
fn shown(function: &FuncType) -> String {
    // Enough to recognise it: a type may have a thousand parameters.
    let names = |types: &mut dyn Iterator<Item = ValType>| {
        let names: Vec<_> = types.take(SHOWN_TYPES_MAX).map(|t| t.to_string()).collect();
        names.join(" ")
    };
    let params = names(&mut function.params());
    match function.results().len() {
        0 => format!("({params}) -> ()"),
        _ => format!("({params}) -> {}", names(&mut function.results())),
    }
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
