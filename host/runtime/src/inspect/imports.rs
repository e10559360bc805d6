//! Which imports of a module this host provides: it links small modules that have nothing but these
//! imports, so that the linker decides, and not a list beside it.

use super::{ImportState, InspectedImport};
use crate::abi::printable_start;
use crate::engine::Runtime;
use crate::error::LoadError;
use crate::module::import_error;
use crate::module_parts::{ImportParts, ModuleParts, NAME_SHOWN_BYTES};
use wasm_encoder::{EntityType, ImportSection, Module, RawSection, SectionId};
use wasmtime::error::Context;

/// Number of missing imports after which the search ends: a module that imports 100,000 unknown
/// functions needs no longer list.
const MISSING_MAX: usize = 100;
/// Total size of the modules that are linked, after which the search ends too, in bytes: the types of a
/// hostile module are as large as the file.
const LINKED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Returns the imports of a module, in order.
pub(super) fn imports(runtime: &Runtime, parts: &ModuleParts<'_>) -> Vec<InspectedImport> {
    let mut search = ImportSearch {
        runtime,
        parts,
        missing: Vec::new(),
        linked_bytes: 0,
        ended_at: None,
    };
    search.check(0, &parts.imports);
    let mut all = provided(parts);
    for import in all.iter_mut().skip(search.ended_at.unwrap_or(usize::MAX)) {
        import.state = ImportState::Unchecked;
    }
    for (at, state) in search.missing {
        if let Some(import) = all.get_mut(at) {
            import.state = state;
        }
    }
    all
}

/// Returns the imports of a module that is known to link.
pub(super) fn provided(parts: &ModuleParts<'_>) -> Vec<InspectedImport> {
    let view = |import: &ImportParts<'_>| InspectedImport {
        module: printable_start(import.module.as_bytes(), NAME_SHOWN_BYTES),
        name: printable_start(import.name.as_bytes(), NAME_SHOWN_BYTES),
        state: ImportState::Provided,
    };
    parts.imports.iter().map(view).collect()
}

/// A search for missing imports.
struct ImportSearch<'s, 'w> {
    runtime: &'s Runtime,
    parts: &'s ModuleParts<'w>,
    /// Those that were found, by their place.
    missing: Vec<(usize, ImportState)>,
    linked_bytes: usize,
    /// The place of the first import that was not checked.
    ended_at: Option<usize>,
}

impl ImportSearch<'_, '_> {
    /// Finds the missing ones of a part of the imports, which begins at `start`, by halving it.
    fn check(&mut self, start: usize, imports: &[ImportParts<'_>]) {
        if imports.is_empty() || self.ended_at.is_some() {
            return;
        }
        if self.missing.len() >= MISSING_MAX || self.linked_bytes >= LINKED_BYTES_MAX {
            self.ended_at = Some(start);
            return;
        }
        let Err(error) = self.link(imports) else {
            return;
        };
        if imports.len() == 1 {
            self.missing.push((start, error));
            return;
        }
        let (first, second) = imports.split_at(imports.len() / 2);
        self.check(start, first);
        self.check(start + first.len(), second);
    }

    /// Links a module with these imports.
    fn link(&mut self, imports: &[ImportParts<'_>]) -> Result<(), ImportState> {
        let mut section = ImportSection::new();
        for import in imports {
            // This host provides functions only.
            let index = import.function_type.ok_or(ImportState::Unknown)?;
            section.import(import.module, import.name, EntityType::Function(index));
        }
        let mut module = Module::new();
        if let Some(data) = self.parts.type_section {
            let id = SectionId::Type.into();
            module.section(&RawSection { id, data });
        }
        module.section(&section);
        let bytes = module.finish();
        self.linked_bytes += bytes.len();
        let linked = wasmtime::Module::new(&self.runtime.engine, bytes)
            .context("the type of the import")
            .and_then(|module| self.runtime.linker.instantiate_pre(&module));
        match linked.map(drop).map_err(import_error) {
            Ok(()) => Ok(()),
            Err(LoadError::UnknownImport { .. }) => Err(ImportState::Unknown),
            Err(error) => Err(ImportState::Mismatch(error.to_string())),
        }
    }
}
