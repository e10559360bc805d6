//! Reads the structure of a module without compiling it.

use super::{MemorySize, SectionSizes};
use crate::abi::printable;
use crate::error::LoadError;
use crate::module::{Signature, shown_type};
use std::collections::BTreeMap;
use wasmparser::{
    CompositeInnerType, Encoding, ExternalKind, FuncType, MemoryType, Parser, Payload, TypeRef,
    ValType,
};

/// Default size of a memory page, as a power of two.
const PAGE_BYTES_LOG2: u32 = 16;

/// An import: the index of its type if it is a function.
pub(super) struct ImportParts<'w> {
    pub(super) module: &'w str,
    pub(super) name: &'w str,
    pub(super) function_type: Option<u32>,
}

/// The parts of a module that decide whether it is a plugin.
#[derive(Default)]
pub(super) struct ModuleParts<'w> {
    /// The content of the type section.
    pub(super) type_section: Option<&'w [u8]>,
    pub(super) imports: Vec<ImportParts<'w>>,
    pub(super) memories: Vec<MemorySize>,
    pub(super) sizes: SectionSizes,
    /// Those that are functions.
    types: Vec<Option<FuncType>>,
    /// The type of each function, imported ones first.
    functions: Vec<u32>,
    exports: BTreeMap<&'w str, (ExternalKind, u32)>,
    /// Whether the memory of this index can be exported to the host.
    shared: Vec<bool>,
}

impl<'w> ModuleParts<'w> {
    /// Reads a module.
    ///
    /// # Errors
    /// [`LoadError::NotWasm`]: it is truncated, or is not a module.
    pub(super) fn read(wasm: &'w [u8]) -> Result<ModuleParts<'w>, LoadError> {
        let not_wasm = |why: &str| LoadError::NotWasm(printable(why));
        if !wasm.starts_with(b"\0asm") {
            return Err(not_wasm("the wasm header is missing"));
        }
        let mut parts = ModuleParts {
            sizes: SectionSizes {
                total: wasm.len(),
                ..SectionSizes::default()
            },
            ..ModuleParts::default()
        };
        for payload in Parser::new(0).parse_all(wasm) {
            let payload = payload.map_err(|error| not_wasm(&error.to_string()))?;
            if let Payload::Version {
                encoding: Encoding::Component,
                ..
            } = payload
            {
                return Err(not_wasm("it is a component; a plugin is a core module"));
            }
            parts
                .add(wasm, payload)
                .map_err(|error| not_wasm(&error.to_string()))?;
        }
        if let Some((ExternalKind::Memory, index)) = parts.exports.get(kvasm_abi::MEMORY)
            && let Some(memory) = parts.memories.get_mut(*index as usize)
        {
            memory.is_exported = true;
        }
        Ok(parts)
    }

    fn add(&mut self, wasm: &'w [u8], payload: Payload<'w>) -> wasmparser::Result<()> {
        match payload {
            Payload::TypeSection(section) => {
                self.type_section = wasm.get(section.range());
                for group in section {
                    for sub in group?.into_types() {
                        self.types.push(match sub.composite_type.inner {
                            CompositeInnerType::Func(function) => Some(function),
                            _ => None,
                        });
                    }
                }
            }
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    let import = import?;
                    let function_type = match import.ty {
                        TypeRef::Func(index) | TypeRef::FuncExact(index) => Some(index),
                        _ => None,
                    };
                    self.functions.extend(function_type);
                    if let TypeRef::Memory(memory) = import.ty {
                        self.add_memory(memory);
                    }
                    self.imports.push(ImportParts {
                        module: import.module,
                        name: import.name,
                        function_type,
                    });
                }
            }
            Payload::FunctionSection(section) => {
                for index in section {
                    self.functions.push(index?);
                }
            }
            Payload::MemorySection(section) => {
                for memory in section {
                    self.add_memory(memory?);
                }
            }
            Payload::ExportSection(section) => {
                for export in section {
                    let export = export?;
                    self.exports
                        .insert(export.name, (export.kind, export.index));
                }
            }
            Payload::CodeSectionStart { range, .. } => self.sizes.code = range.len(),
            Payload::DataSection(section) => self.sizes.data = section.range().len(),
            Payload::CustomSection(section) => {
                let name = printable(section.name());
                self.sizes.custom.push((name, section.range().len()));
            }
            _ => {}
        }
        Ok(())
    }

    fn add_memory(&mut self, memory: MemoryType) {
        let page = memory.page_size_log2.unwrap_or(PAGE_BYTES_LOG2);
        let bytes = |pages: u64| pages.saturating_mul(1 << page.min(PAGE_BYTES_LOG2));
        self.shared.push(memory.shared);
        self.memories.push(MemorySize {
            is_exported: false,
            initial_bytes: bytes(memory.initial),
            max_bytes: memory.maximum.map(bytes),
        });
    }

    /// Whether it exports a memory that the host can use.
    pub(super) fn has_memory(&self) -> bool {
        match self.exports.get(kvasm_abi::MEMORY) {
            Some((ExternalKind::Memory, index)) => {
                self.shared.get(*index as usize).is_some_and(|is| !is)
            }
            _ => false,
        }
    }

    /// Returns the names of all exports that could be functions of the plugin, in order.
    pub(super) fn callable(&self) -> impl Iterator<Item = &'w str> {
        let names = self.exports.keys().copied();
        names.filter(|name| self.is_callable(name))
    }

    /// Whether an export is a function that the host can call.
    pub(super) fn is_callable(&self, name: &str) -> bool {
        let signature = self.export_type(name).and_then(|function| {
            let (params, results) = (function.params(), function.results());
            let is_i32 = results.first() == Some(&ValType::I32);
            Signature::of(params.len(), results.len(), is_i32)
        });
        signature.is_some_and(|signature| signature.is_callable(name))
    }

    /// Describes the export of this name, if there is one: its type if it is a function.
    pub(super) fn describe_export(&self, name: &str) -> Option<String> {
        let (kind, _) = self.exports.get(name)?;
        Some(match (kind, self.export_type(name)) {
            (_, Some(function)) => shown_type(function.params().iter(), function.results().iter()),
            (ExternalKind::Memory, _) => "a memory".to_owned(),
            (ExternalKind::Table, _) => "a table".to_owned(),
            (ExternalKind::Global, _) => "a global".to_owned(),
            (ExternalKind::Tag, _) => "a tag".to_owned(),
            _ => "something else than a function".to_owned(),
        })
    }

    fn export_type(&self, name: &str) -> Option<&FuncType> {
        match self.exports.get(name)? {
            (ExternalKind::Func | ExternalKind::FuncExact, index) => {
                let index = self.functions.get(*index as usize)?;
                self.types.get(*index as usize)?.as_ref()
            }
            _ => None,
        }
    }
}
