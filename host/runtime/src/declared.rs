//! What the declarations of a plugin amount to, before its exports are looked up.

use super::error::LoadError;
use super::manifest::{self, Declaration};
use super::needs::DeclaredNeeds;
use crate::abi::printable;
use kvasm_core::{DeclaredTrigger, Needs, TRIGGERS_MAX, display_truncated};
use std::collections::BTreeSet;

/// Maximum length of a function name, in bytes: it is part of each log line.
const NAME_BYTES_MAX: usize = 256;
/// Maximum total length of a module's function names, in bytes: they are part of each list of
/// versions.
pub(super) const NAMES_BYTES_MAX: usize = 64 * 1024;

/// What a plugin's export is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FunctionKind {
    /// Can be called by name.
    Function,
    /// Can be called by name, and each call is a transaction.
    Transaction,
    /// Handles HTTP requests.
    Http,
    /// Handles HTTP requests, each as a transaction.
    HttpTransaction,
    /// Handles changes of entries.
    OnChange,
    /// Runs according to a schedule.
    Cron,
    /// Handles timers.
    OnTimer,
}

/// A declared function or handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DeclaredFunction {
    /// The export's name.
    pub(super) name: String,
    /// What it is for.
    pub(super) kind: FunctionKind,
}

/// The declarations of a plugin, valid apart from the exports that they name.
#[derive(Debug, Default)]
pub(super) struct Declared {
    /// In the order of the section.
    pub(super) functions: Vec<DeclaredFunction>,
    pub(super) triggers: Vec<DeclaredTrigger>,
    pub(super) needs: Needs,
}

/// Reads the custom section `kvasm.plugin.v1`.
///
/// # Errors
/// [`LoadError::Manifest`], or a limit of names.
pub(super) fn read(section: &[u8]) -> Result<Declared, LoadError> {
    let refuse = |why: String| LoadError::Manifest(printable(&why));
    let mut declared = Declared::default();
    let mut needs = DeclaredNeeds::default();
    let mut handlers = BTreeSet::new();
    let mut has_http = false;
    for declaration in manifest::parse(section).map_err(refuse)? {
        if let Some(trigger) = declaration.trigger().map_err(refuse)? {
            declared.triggers.push(trigger);
        }
        needs.add(&declaration).map_err(refuse)?;
        let Some(function) = function(declaration) else {
            continue;
        };
        match function.kind {
            FunctionKind::Function | FunctionKind::Transaction => {}
            FunctionKind::Http | FunctionKind::HttpTransaction if has_http => {
                return Err(refuse("it declares more than one HTTP handler".to_owned()));
            }
            FunctionKind::Http | FunctionKind::HttpTransaction => has_http = true,
            FunctionKind::OnChange | FunctionKind::Cron | FunctionKind::OnTimer => {
                let name = &function.name;
                if !handlers.insert(name.clone()) {
                    return Err(refuse(format!("it declares the handler {name:?} twice")));
                }
            }
        }
        declared.functions.push(function);
    }
    let found = declared.triggers.len();
    if found > TRIGGERS_MAX {
        let why = format!("it declares {found} triggers; the limit is {TRIGGERS_MAX}");
        return Err(refuse(why));
    }
    declared.needs = needs.finish().map_err(refuse)?;
    check_declared_names(&declared.functions)?;
    Ok(declared)
}

fn function(declaration: Declaration) -> Option<DeclaredFunction> {
    let (name, kind) = match declaration {
        Declaration::Function {
            name,
            transaction: false,
        } => (name, FunctionKind::Function),
        Declaration::Function {
            name,
            transaction: true,
        } => (name, FunctionKind::Transaction),
        Declaration::Http {
            name,
            transaction: false,
        } => (name, FunctionKind::Http),
        Declaration::Http {
            name,
            transaction: true,
        } => (name, FunctionKind::HttpTransaction),
        Declaration::OnChange { name, .. } => (name, FunctionKind::OnChange),
        Declaration::Cron { name, .. } => (name, FunctionKind::Cron),
        Declaration::OnTimer { name } => (name, FunctionKind::OnTimer),
        Declaration::HttpOrigin { .. }
        | Declaration::Config { .. }
        | Declaration::Secret { .. }
        | Declaration::Timers {} => return None,
    };
    Some(DeclaredFunction { name, kind })
}

/// Checks the names of functions, handlers and the HTTP handler. A function that is declared twice
/// counts once; one that is also a handler counts twice.
fn check_declared_names(functions: &[DeclaredFunction]) -> Result<(), LoadError> {
    let is_called = |kind| matches!(kind, FunctionKind::Function | FunctionKind::Transaction);
    let called = functions.iter().filter(|f| is_called(f.kind));
    let called: BTreeSet<&str> = called.map(|function| function.name.as_str()).collect();
    let others = functions.iter().filter(|f| !is_called(f.kind));
    check_names(called.into_iter().chain(others.map(|f| f.name.as_str())))
}

/// Returns an error if names are too long, individually or in total.
pub(super) fn check_names<'n>(names: impl Iterator<Item = &'n str>) -> Result<(), LoadError> {
    let mut all = 0;
    for name in names {
        all += name.len();
        check_name(name)?;
    }
    check_total(all)
}

/// Returns an error if a name is too long.
pub(super) fn check_name(name: &str) -> Result<(), LoadError> {
    if name.len() > NAME_BYTES_MAX {
        return Err(LoadError::LongName {
            start: display_truncated(&name, 64),
            len: name.len(),
            limit: NAME_BYTES_MAX,
        });
    }
    Ok(())
}

/// Returns an error if names of this length are too long in total.
pub(super) fn check_total(len: usize) -> Result<(), LoadError> {
    if len > NAMES_BYTES_MAX {
        return Err(LoadError::ManyNames {
            len,
            limit: NAMES_BYTES_MAX,
        });
    }
    Ok(())
}
