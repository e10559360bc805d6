//! Which imports of a module this host provides: it links small modules that have nothing but these
//! imports, so that the linker decides, and not a list beside it.

use super::reader::{ImportParts, ModuleParts};
use super::{ImportState, InspectedImport};
use crate::abi::printable;
use crate::engine::Runtime;
use crate::error::LoadError;
use crate::module::import_error;
use wasm_encoder::{EntityType, ImportSection, Module, RawSection, SectionId};
use wasmtime::error::Context;

/// Number of missing imports after which the search ends: a module that imports 100,000 unknown
/// functions needs no longer list.
const MISSING_MAX: usize = 100;

/// Returns the imports of a module, in order. Those after the first 100 that are missing are not
/// checked.
pub(super) fn imports(runtime: &Runtime, parts: &ModuleParts<'_>) -> Vec<InspectedImport> {
    let mut missing = Vec::new();
    check(runtime, parts, 0, &parts.imports, &mut missing);
    let mut all = provided(parts);
    for (at, state) in missing {
        if let Some(import) = all.get_mut(at) {
            import.state = state;
        }
    }
    all
}

/// Returns the imports of a module that is known to link.
pub(super) fn provided(parts: &ModuleParts<'_>) -> Vec<InspectedImport> {
    let view = |import: &ImportParts<'_>| InspectedImport {
        module: printable(import.module),
        name: printable(import.name),
        state: ImportState::Provided,
    };
    parts.imports.iter().map(view).collect()
}

/// Finds the missing ones of a part of the imports, which begins at `start`, by halving it.
fn check(
    runtime: &Runtime,
    parts: &ModuleParts<'_>,
    start: usize,
    imports: &[ImportParts<'_>],
    missing: &mut Vec<(usize, ImportState)>,
) {
    if imports.is_empty() || missing.len() >= MISSING_MAX {
        return;
    }
    let Err(error) = link(runtime, parts, imports) else {
        return;
    };
    if imports.len() == 1 {
        missing.push((start, error));
        return;
    }
    let (first, second) = imports.split_at(imports.len() / 2);
    check(runtime, parts, start, first, missing);
    check(runtime, parts, start + first.len(), second, missing);
}

/// Links a module with these imports.
fn link(
    runtime: &Runtime,
    parts: &ModuleParts<'_>,
    imports: &[ImportParts<'_>],
) -> Result<(), ImportState> {
    let mut section = ImportSection::new();
    for import in imports {
        // This host provides functions only.
        let index = import.function_type.ok_or(ImportState::Unknown)?;
        section.import(import.module, import.name, EntityType::Function(index));
    }
    let mut module = Module::new();
    if let Some(data) = parts.type_section {
        let id = SectionId::Type.into();
        module.section(&RawSection { id, data });
    }
    module.section(&section);
    let linked = wasmtime::Module::new(&runtime.engine, module.finish())
        .context("the type of the import")
        .and_then(|module| runtime.linker.instantiate_pre(&module));
    match linked.map(drop).map_err(import_error) {
        Ok(()) => Ok(()),
        Err(LoadError::UnknownImport { .. }) => Err(ImportState::Unknown),
        Err(error) => Err(ImportState::Mismatch(error.to_string())),
    }
}
