//! Reads the structure of a module without compiling it. What it keeps of a module is bounded, whatever
//! is in it: about four bytes for each byte of the file, and a fixed number of names.

use crate::abi::{printable, printable_start};
use crate::declared::{self, Declared, NAMES_BYTES_MAX, check_name, check_total};
use crate::error::LoadError;
use crate::inspect::{MemorySize, Omitted, SectionSizes, TableSize};
use crate::manifest;
use crate::module::{Signature, shown_type, wrong_type};
use crate::precheck::COMPONENT;
use kvasm_abi::FUNCTION_EXPORTS;
use std::collections::{BTreeMap, BTreeSet};
use wasmparser::{
    CompositeInnerType, Encoding, ExternalKind, FromReader, FuncType, MemoryType, Parser, Payload,
    SectionLimited, TableType, TypeRef, TypeSectionReader, ValType,
};

/// Default size of a memory page, as a power of two.
const PAGE_BYTES_LOG2: u32 = 16;
/// The maximum number of items of a section, as in the compiler.
const ITEMS_MAX: u32 = 1_000_000;
/// How many imports and collections are listed, and how many custom sections, memories and tables.
const IMPORTS_MAX: usize = 1_000;
const COLLECTIONS_MAX: usize = 1_000;
const LISTED_MAX: usize = 100;
/// The SDK for Rust exports a global for each collection that a plugin declares, so that the linker
/// refuses a second declaration. Its name begins with this.
const COLLECTION_EXPORTS: &str = "kvasm_collection:";
/// How much of a name is listed, in bytes.
pub(super) const NAME_SHOWN_BYTES: usize = 256;
/// How many exports of another type are described.
pub(super) const DESCRIBED_MAX: usize = 100;

/// An import: its type if it is a function.
pub(super) struct ImportParts<'w> {
    pub(super) module: &'w str,
    pub(super) name: &'w str,
    pub(super) function_type: Option<u32>,
}

/// The parts of a module that decide whether it is a plugin.
pub(super) struct ModuleParts<'w> {
    /// The content of the type section.
    pub(super) type_section: Option<&'w [u8]>,
    /// The first of them.
    pub(super) imports: Vec<ImportParts<'w>>,
    pub(super) memories: Vec<MemorySize>,
    pub(super) tables: Vec<TableSize>,
    pub(super) sizes: SectionSizes,
    /// The names of the collections that it declares, in order.
    pub(super) collections: BTreeSet<String>,
    /// What is not in these lists.
    pub(super) omitted: Omitted,
    /// What it declares, if it has declarations.
    pub(super) declared: Option<Result<Declared, LoadError>>,
    declared_names: BTreeSet<String>,
    /// How the host calls functions of each type, if it can.
    types: Vec<Option<Signature>>,
    /// The type of each function, imported ones first.
    functions: Vec<u32>,
    /// Those that are declared, and the memory. Without declarations, those that can be called, up to
    /// the limit of names.
    exports: BTreeMap<&'w str, (ExternalKind, u32)>,
    /// The total length of the names that can be called, without declarations.
    callable_bytes: usize,
    /// The refusal of a name that is too long, without declarations.
    long_name: Option<LoadError>,
    /// Whether the memory of this index can be exported to the host.
    shared: Vec<bool>,
}

impl<'w> ModuleParts<'w> {
    /// Reads a module.
    ///
    /// # Errors
    /// [`LoadError::NotWasm`]: it is truncated, or is not a module, or has more items than a compiler
    /// accepts.
    pub(super) fn read(wasm: &'w [u8]) -> Result<ModuleParts<'w>, LoadError> {
        if !wasm.starts_with(b"\0asm") {
            return Err(not_wasm("the wasm header is missing"));
        }
        let declared = manifest::section(wasm).map(declared::read);
        let functions = declared.iter().flatten().flat_map(|all| &all.functions);
        let mut parts = ModuleParts {
            type_section: None,
            imports: Vec::new(),
            memories: Vec::new(),
            tables: Vec::new(),
            sizes: SectionSizes {
                total: wasm.len(),
                ..SectionSizes::default()
            },
            collections: BTreeSet::new(),
            omitted: Omitted::default(),
            declared_names: functions.map(|function| function.name.clone()).collect(),
            declared,
            types: Vec::new(),
            functions: Vec::new(),
            exports: BTreeMap::new(),
            callable_bytes: 0,
            long_name: None,
            shared: Vec::new(),
        };
        for payload in Parser::new(0).parse_all(wasm) {
            let payload = payload.map_err(|error| not_wasm(&error.to_string()))?;
            if let Payload::Version {
                encoding: Encoding::Component,
                ..
            } = payload
            {
                return Err(not_wasm(COMPONENT));
            }
            parts.add(wasm, payload)?;
        }
        if let Some((ExternalKind::Memory, index)) = parts.exports.get(kvasm_abi::MEMORY)
            && let Some(memory) = parts.memories.get_mut(*index as usize)
        {
            memory.is_exported = true;
        }
        Ok(parts)
    }

    fn add(&mut self, wasm: &'w [u8], payload: Payload<'w>) -> Result<(), LoadError> {
        match payload {
            Payload::TypeSection(section) => {
                self.type_section = wasm.get(section.range());
                for group in items(section)? {
                    for sub in group?.into_types() {
                        self.types.push(match &sub.composite_type.inner {
                            CompositeInnerType::Func(function) => signature(function),
                            _ => None,
                        });
                    }
                }
            }
            Payload::ImportSection(section) => {
                if section.count() > ITEMS_MAX {
                    return Err(too_many(section.count()));
                }
                for import in section.into_imports() {
                    let import = import.map_err(malformed)?;
                    self.add_import(import.module, import.name, import.ty);
                }
            }
            Payload::FunctionSection(section) => {
                for index in items(section)? {
                    self.functions.push(index?);
                }
            }
            Payload::TableSection(section) => {
                for table in items(section)? {
                    self.add_table(table?.ty);
                }
            }
            Payload::MemorySection(section) => {
                for memory in items(section)? {
                    self.add_memory(memory?);
                }
            }
            Payload::ExportSection(section) => {
                for export in items(section)? {
                    let export = export?;
                    self.add_export(export.name, export.kind, export.index);
                }
            }
            Payload::CodeSectionStart { range, .. } => self.sizes.code = range.len(),
            Payload::DataSection(section) => self.sizes.data = section.range().len(),
            Payload::CustomSection(section) => match self.sizes.custom.len() < LISTED_MAX {
                true => {
                    let name = printable_start(section.name().as_bytes(), NAME_SHOWN_BYTES);
                    self.sizes.custom.push((name, section.range().len()));
                }
                false => self.omitted.custom_sections += 1,
            },
            _ => {}
        }
        Ok(())
    }

    fn add_import(&mut self, module: &'w str, name: &'w str, ty: TypeRef) {
        let function_type = match ty {
            TypeRef::Func(index) | TypeRef::FuncExact(index) => Some(index),
            _ => None,
        };
        self.functions.extend(function_type);
        match ty {
            TypeRef::Memory(memory) => self.add_memory(memory),
            TypeRef::Table(table) => self.add_table(table),
            _ => {}
        }
        match self.imports.len() < IMPORTS_MAX {
            true => self.imports.push(ImportParts {
                module,
                name,
                function_type,
            }),
            false => self.omitted.imports += 1,
        }
    }

    fn add_memory(&mut self, memory: MemoryType) {
        let page = memory.page_size_log2.unwrap_or(PAGE_BYTES_LOG2);
        let bytes = |pages: u64| pages.saturating_mul(1 << page.min(PAGE_BYTES_LOG2));
        self.shared.push(memory.shared);
        match self.memories.len() < LISTED_MAX {
            true => self.memories.push(MemorySize {
                is_exported: false,
                initial_bytes: bytes(memory.initial),
                max_bytes: memory.maximum.map(bytes),
            }),
            false => self.omitted.memories += 1,
        }
    }

    fn add_table(&mut self, table: TableType) {
        match self.tables.len() < LISTED_MAX {
            true => self.tables.push(TableSize {
                initial_elements: table.initial,
                max_elements: table.maximum,
            }),
            false => self.omitted.tables += 1,
        }
    }

    fn add_export(&mut self, name: &'w str, kind: ExternalKind, index: u32) {
        if let (ExternalKind::Global, Some(collection)) =
            (kind, name.strip_prefix(COLLECTION_EXPORTS))
        {
            let name = printable_start(collection.as_bytes(), NAME_SHOWN_BYTES);
            match self.collections.len() < COLLECTIONS_MAX {
                true => drop(self.collections.insert(name)),
                false => self.omitted.collections += 1,
            }
        }
        let is_kept = match self.declared {
            _ if name == kvasm_abi::MEMORY => true,
            Some(_) => return self.add_declared(name, (kind, index)),
            None => {
                let signature = self.signature(kind, index);
                let is_callable = signature.is_some_and(|found| found.is_callable(name));
                if is_callable {
                    self.callable_bytes += name.len();
                    self.long_name = self.long_name.take().or(check_name(name).err());
                }
                let is_kept = is_callable && self.callable_bytes <= NAMES_BYTES_MAX;
                self.omitted.functions += usize::from(is_callable && !is_kept);
                is_kept
            }
        };
        if is_kept {
            self.exports.insert(name, (kind, index));
        }
    }

    /// The export with the prefix for functions precedes the one without.
    fn add_declared(&mut self, export: &'w str, found: (ExternalKind, u32)) {
        let name = export.strip_prefix(FUNCTION_EXPORTS).unwrap_or(export);
        if !self.declared_names.contains(name) {
            return;
        }
        match name == export {
            true => drop(self.exports.entry(name).or_insert(found)),
            false => drop(self.exports.insert(name, found)),
        }
    }

    fn signature(&self, kind: ExternalKind, index: u32) -> Option<Signature> {
        match kind {
            ExternalKind::Func | ExternalKind::FuncExact => {
                let index = self.functions.get(index as usize)?;
                *self.types.get(*index as usize)?
            }
            _ => None,
        }
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

    /// Returns the names of the exports that can be called, in order, if there are no declarations; at
    /// most as many as the limit of names allows.
    pub(super) fn callable(&self) -> impl Iterator<Item = &'w str> {
        let names = self.exports.keys().copied();
        names.filter(|name| self.is_callable(name))
    }

    /// Whether an export is a function that the host can call.
    pub(super) fn is_callable(&self, name: &str) -> bool {
        let export = self.exports.get(name);
        let signature = export.and_then(|(kind, index)| self.signature(*kind, *index));
        signature.is_some_and(|signature| signature.is_callable(name))
    }

    /// Describes the export of this name, if there is one: its type if it is a function and
    /// `with_type`, for which the types are read again.
    pub(super) fn describe_export(&self, name: &str, with_type: bool) -> Option<String> {
        let (kind, index) = self.exports.get(name)?;
        Some(match kind {
            ExternalKind::Func | ExternalKind::FuncExact => {
                let index = self.functions.get(*index as usize).filter(|_| with_type);
                let described = index.and_then(|index| self.describe_type(*index));
                described.unwrap_or_else(|| "a function of another type".to_owned())
            }
            ExternalKind::Memory => "a memory".to_owned(),
            ExternalKind::Table => "a table".to_owned(),
            ExternalKind::Global => "a global".to_owned(),
            ExternalKind::Tag => "a tag".to_owned(),
        })
    }

    /// Describes a type.
    fn describe_type(&self, index: u32) -> Option<String> {
        let section = wasmparser::BinaryReader::new(self.type_section?, 0);
        let groups = TypeSectionReader::new(section).ok()?.into_iter();
        let mut types = groups
            .map_while(Result::ok)
            .flat_map(|group| group.into_types());
        match types.nth(index as usize)?.composite_type.inner {
            CompositeInnerType::Func(function) => Some(shown_type(
                function.params().iter(),
                function.results().iter(),
            )),
            _ => None,
        }
    }

    /// Returns what is wrong with its declarations and the names of its functions; of the declared
    /// functions that cannot be called the first 100.
    pub(super) fn refusals(&self) -> Vec<LoadError> {
        let declared = match &self.declared {
            Some(Err(error)) => return vec![error.clone()],
            Some(Ok(declared)) => declared,
            None => {
                let total = check_total(self.callable_bytes).err();
                let refusal = self.long_name.clone().or(total);
                return refusal.into_iter().collect();
            }
        };
        let names = declared.functions.iter().map(|function| &function.name);
        let missing = names.filter(|name| !self.is_callable(name));
        let described = missing.take(DESCRIBED_MAX);
        let refusal = |name: &String| match self.describe_export(name, true) {
            Some(found) => wrong_type(name, &found),
            None => LoadError::MissingFunction(printable(name)),
        };
        described.map(refusal).collect()
    }
}

/// Checks the declarations of a module and the names of its functions, which is cheap compared with
/// compiling it. What cannot be read is left to the compiler.
///
/// # Errors
/// The first refusal.
pub(super) fn check_exports(wasm: &[u8]) -> Result<(), LoadError> {
    match ModuleParts::read(wasm) {
        Ok(parts) => parts.refusals().into_iter().next().map_or(Ok(()), Err),
        Err(_) => Ok(()),
    }
}

fn signature(function: &FuncType) -> Option<Signature> {
    let (params, results) = (function.params(), function.results());
    let is_i32 = results.first() == Some(&ValType::I32);
    Signature::of(params.len(), results.len(), is_i32)
}

/// The items of a section, of which there may not be more than the compiler accepts.
fn items<'w, T: FromReader<'w>>(
    section: SectionLimited<'w, T>,
) -> Result<impl Iterator<Item = Result<T, LoadError>>, LoadError> {
    match section.count() > ITEMS_MAX {
        true => Err(too_many(section.count())),
        false => Ok(section.into_iter().map(|item| item.map_err(malformed))),
    }
}

fn too_many(count: u32) -> LoadError {
    not_wasm(&format!(
        "a section has {count} items; the limit is {ITEMS_MAX}"
    ))
}

fn malformed(error: wasmparser::BinaryReaderError) -> LoadError {
    not_wasm(&error.to_string())
}

fn not_wasm(why: &str) -> LoadError {
    LoadError::NotWasm(printable(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        let wasm = wat::parse_str(text).unwrap();
        check_exports(&wasm)
            .err()
            .map_or(String::new(), |error| error.to_string())
    }

    fn functions(count: usize, name: impl Fn(usize) -> String) -> String {
        let all =
            (0..count).map(|n| format!("(func (export \"{}\") (result i32) i32.const 0)", name(n)));
        format!("(module {})", all.collect::<String>())
    }

    #[test]
    fn names_and_declarations_are_checked_without_compiling() {
        let long = functions(1, |_| "n".repeat(257));
        assert!(refusal(&long).contains("257 bytes; the limit is 256"));
        // 66,000 bytes; the host cannot call a function of another type.
        let many = functions(330, |n| format!("{n:0200}"));
        assert!(
            refusal(&many).contains("66000 bytes in total"),
            "{}",
            refusal(&many)
        );
        assert_eq!(
            refusal(
                &many
                    .replace("(result i32)", "(result i64)")
                    .replace("i32.const", "i64.const")
            ),
            ""
        );
        let declares = |lines: &str| {
            let lines = lines.replace('"', "\\\"");
            refusal(&format!(
                "(module (@custom \"kvasm.plugin.v1\" \"{lines}\") (import \"a\" \"b\" (func (param f32)))
                    (type $g (func (param i64))) (type $f (func (result i32)))
                    (func (export \"f\") (type $f) i32.const 0) (func (export \"g\") (type $g)))"
            ))
        };
        assert_eq!(declares(r#"{"kind":"function","name":"f"}"#), "");
        assert!(
            declares(r#"{"kind":"function","name":"x"}"#).contains("declares \"x\" but does not")
        );
        assert!(
            declares(r#"{"kind":"function","name":"g"}"#).contains("exports it as (i64) -> ()")
        );
        assert!(declares("{").contains("is malformed"));
        let long = format!(r#"{{"kind":"function","name":"{}"}}"#, "n".repeat(257));
        assert!(declares(&long).contains("257 bytes"));
    }

    #[test]
    fn lists_are_bounded() {
        let imports = (0..1_500).map(|n| format!("(import \"m\" \"{n}\" (func))"));
        let tables = "(table 1 2 funcref)".repeat(150);
        let exports = functions(1_000, |n| format!("{n:0200}"));
        let text = format!(
            "(module {} {tables} {}",
            imports.collect::<String>(),
            exports.split_once(' ').unwrap().1
        );
        let mut wasm = wat::parse_str(text).unwrap();
        for _ in 0..150 {
            wasm.extend(b"\0\x02\x01x");
        }
        let parts = ModuleParts::read(&wasm).unwrap();
        assert_eq!(parts.imports.len(), 1_000);
        assert_eq!(parts.callable().count(), 327);
        assert_eq!((parts.tables.len(), parts.sizes.custom.len()), (100, 100));
        let omitted = &parts.omitted;
        assert_eq!((omitted.imports, omitted.functions), (500, 673));
        assert_eq!((omitted.tables, omitted.custom_sections), (50, 50));
        assert!(matches!(
            parts.refusals()[..],
            [LoadError::ManyNames { len: 200_000, .. }]
        ));
        // A count without items.
        let counted = b"\0asm\x01\0\0\0\x07\x05\xff\xff\xff\xff\x0f";
        let error = ModuleParts::read(counted).err().unwrap().to_string();
        assert!(error.contains("4294967295 items"), "{error}");
    }
}
