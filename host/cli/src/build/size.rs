//! What makes a module large: its functions, by the crate that they come from, and its data.

use super::section::malformed;
use crate::failure::Failure;
use std::collections::{BTreeMap, BTreeSet};
use wasmparser::{ExternalKind, KnownCustom, Name, Parser, Payload, TypeRef};

/// The name of functions whose crate is unknown.
const OTHERS: &str = "other functions";
/// The name of those among them that the host calls.
const EXPORTED: &str = "exported functions";

/// A part of a module and its size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SizePart {
    /// A crate, `data`, or a custom section.
    pub(crate) name: String,
    pub(crate) bytes: usize,
}

/// Returns the parts of a module, the largest first. Without a name section only exported functions
/// are distinguished from others.
///
/// # Errors
/// The plugin's fault: it is not a module.
pub(crate) fn parts(wasm: &[u8]) -> Result<Vec<SizePart>, Failure> {
    let mut names: BTreeMap<u32, Option<String>> = BTreeMap::new();
    let mut exported = BTreeSet::new();
    let mut bodies = Vec::new();
    let mut sizes: BTreeMap<String, usize> = BTreeMap::new();
    let mut imported = 0_u32;
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.map_err(malformed)? {
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    if let TypeRef::Func(_) | TypeRef::FuncExact(_) = import.map_err(malformed)?.ty
                    {
                        imported += 1;
                    }
                }
            }
            Payload::CodeSectionEntry(body) => bodies.push(body.range().len()),
            Payload::ExportSection(section) => {
                for export in section {
                    let export = export.map_err(malformed)?;
                    if let ExternalKind::Func | ExternalKind::FuncExact = export.kind {
                        exported.insert(export.index);
                    }
                }
            }
            Payload::DataSection(section) => {
                sizes.insert("data".to_owned(), section.range().len());
            }
            Payload::CustomSection(section) => {
                let name = format!("section {}", section.name());
                *sizes.entry(name).or_default() += section.range().len();
                if let KnownCustom::Name(subsections) = section.as_known() {
                    // A malformed name section only makes the report coarser.
                    for subsection in subsections.into_iter().map_while(Result::ok) {
                        if let Name::Function(map) = subsection {
                            let all = map.into_iter().map_while(Result::ok);
                            names.extend(all.map(|naming| (naming.index, crate_of(naming.name))));
                        }
                    }
                }
            }
            _ => {}
        }
    }
    for (index, bytes) in (imported..).zip(bodies) {
        let name = names.get(&index).and_then(Option::as_deref);
        let name = name.unwrap_or(match exported.contains(&index) {
            true => EXPORTED,
            false => OTHERS,
        });
        *sizes.entry(name.to_owned()).or_default() += bytes;
    }
    let part = |(name, bytes)| SizePart { name, bytes };
    let mut parts: Vec<SizePart> = sizes.into_iter().map(part).collect();
    parts.sort_by_key(|part| std::cmp::Reverse(part.bytes));
    Ok(parts)
}

/// Returns the crate of a function: the first part of its path, or that of the trait if the type
/// has no path, as in `<str as core::fmt::Display>::fmt`. Exports and functions in C have none.
fn crate_of(mangled: &str) -> Option<String> {
    let demangled = format!("{:#}", rustc_demangle::demangle(mangled));
    let of_type = first_of_path(&demangled);
    let of_trait = || first_of_path(demangled.split_once(" as ")?.1);
    of_type.or_else(of_trait).map(str::to_owned)
}

/// Returns the first identifier of a path that has several.
fn first_of_path(text: &str) -> Option<&str> {
    const BEFORE: [&str; 9] = [
        "<", "&", "[", "(", "mut ", "dyn ", "*const ", "*mut ", "impl ",
    ];
    let mut path = text;
    while let Some(rest) = BEFORE.iter().find_map(|before| path.strip_prefix(before)) {
        path = rest;
    }
    let (first, _) = path.split_once("::")?;
    let is_name = |name: &str| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    Some(first).filter(|first| !first.is_empty() && is_name(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn function_belongs_to_the_crate_of_its_path() {
        for (name, expected) in [
            (
                "serde_json::de::from_slice::h0123456789abcdef",
                "serde_json",
            ),
            ("_ZN5notes3add17h0123456789abcdefE", "notes"),
            ("<notes::Note as core::fmt::Debug>::fmt", "notes"),
            ("<&mut [notes::Note] as core::fmt::Debug>::fmt", "notes"),
            ("<str as core::fmt::Display>::fmt", "core"),
            ("<u32 as alloc::string::ToString>::to_string", "alloc"),
        ] {
            assert_eq!(crate_of(name).as_deref(), Some(expected), "{name}");
        }
        for name in ["memcpy", "__rust_alloc", ""] {
            assert_eq!(crate_of(name), None, "{name}");
        }
    }
}
