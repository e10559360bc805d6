//! Custom sections of a built module: adds the declarations, and strips what the host does not read.

use crate::failure::Failure;
use crate::input;
use serde_json::Value;
use std::path::Path;
use wasm_encoder::{CustomSection, Module, RawSection};
use wasmparser::{Parser, Payload};

/// The file beside the source that declares the functions of a plugin whose language cannot emit
/// custom sections: a JSON array of the declarations that docs/abi.md describes.
pub(crate) const DECLARATIONS: &str = "kvasm.json";

/// The custom section with a plugin's declarations, as in docs/abi.md.
const MANIFEST_SECTION: &str = "kvasm.plugin.v1";
/// The custom section with the types of functions for people, as in docs/abi.md.
pub(crate) const TYPES_SECTION: &str = "kvasm.types.v1";
/// Custom sections that the host reads begin with this.
const HOST_SECTIONS: &str = "kvasm.";
/// Custom sections with the source lines of code, and the names of files in them.
const LINE_SECTIONS: [&str; 2] = [".debug_line", ".debug_line_str"];

/// Adds the declarations of the file `kvasm.json` in `folder`, if there is one, to a module.
///
/// # Errors
/// A user error: the file is not such an array, or the module has declarations already.
pub(crate) fn declare(wasm: Vec<u8>, folder: &Path) -> Result<Vec<u8>, Failure> {
    let path = folder.join(DECLARATIONS);
    if !path.exists() {
        return Ok(wasm);
    }
    let at = |why: String| Failure::user(why).at(&path.display().to_string());
    let text = input::text(input::file(&path)?).map_err(at)?;
    let section = declarations(&text).map_err(at)?;
    if names(&wasm)?.iter().any(|name| name == MANIFEST_SECTION) {
        return Err(at(format!(
            "the module already has a section {MANIFEST_SECTION:?}, which its language wrote; \
             remove the file, or the declarations in the source"
        )));
    }
    let mut wasm = wasm;
    append(&mut wasm, MANIFEST_SECTION, &section);
    Ok(wasm)
}

/// Turns the array into the section: one declaration a line.
fn declarations(text: &str) -> Result<Vec<u8>, String> {
    let all: Vec<Value> = serde_json::from_str(text)
        .map_err(|error| format!("expected a JSON array of declarations: {error}"))?;
    let mut section = Vec::new();
    for declaration in all {
        if !declaration.is_object() {
            return Err(format!(
                "expected an object like {{\"kind\":\"function\",\"name\":\"hello\"}}, not {declaration}"
            ));
        }
        section.extend(declaration.to_string().into_bytes());
        section.push(b'\n');
    }
    Ok(section)
}

/// Appends a custom section to a module, which may have any number of them anywhere.
fn append(wasm: &mut Vec<u8>, name: &str, data: &[u8]) {
    use wasm_encoder::{Encode, Section};
    let section = CustomSection {
        name: name.into(),
        data: data.into(),
    };
    wasm.push(section.id());
    section.encode(wasm);
}

/// Which custom sections of a module are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeptSections {
    /// All, for debuggers.
    All,
    /// Those that the host reads, types, and for backtraces names and source lines.
    Lines,
    /// Those that the host reads, types, and for backtraces names.
    Names,
    /// Those that the host reads.
    Host,
}

impl KeptSections {
    /// Whether a custom section of this name is kept.
    pub(crate) fn has(self, name: &str) -> bool {
        let is_name = name == "name" || name == TYPES_SECTION;
        match self {
            KeptSections::All => true,
            _ if name.starts_with(HOST_SECTIONS) && !is_name => true,
            KeptSections::Lines => is_name || LINE_SECTIONS.contains(&name),
            KeptSections::Names => is_name,
            KeptSections::Host => false,
        }
    }
}

/// Returns a module without the custom sections that are not kept.
///
/// # Errors
/// The plugin's fault: it is not a module.
pub(crate) fn strip(wasm: &[u8], kept: KeptSections) -> Result<Vec<u8>, Failure> {
    let mut module = Module::new();
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload.map_err(malformed)?;
        if let Payload::CustomSection(section) = &payload
            && !kept.has(section.name())
        {
            continue;
        }
        if let Some((id, range)) = payload.as_section() {
            let data = wasm.get(range).unwrap_or_default();
            module.section(&RawSection { id, data });
        }
    }
    Ok(module.finish())
}

/// Returns the names of the custom sections of a module.
fn names(wasm: &[u8]) -> Result<Vec<String>, Failure> {
    let mut names = Vec::new();
    for payload in Parser::new(0).parse_all(wasm) {
        if let Payload::CustomSection(section) = payload.map_err(malformed)? {
            names.push(section.name().to_owned());
        }
    }
    Ok(names)
}

pub(super) fn malformed(error: wasmparser::BinaryReaderError) -> Failure {
    Failure::plugin(format!("the compiler made no valid module: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &[u8] = b"\0asm\x01\0\0\0";

    fn module(custom: &[&str]) -> Vec<u8> {
        let mut wasm = EMPTY.to_vec();
        for name in custom {
            append(&mut wasm, name, b"data");
        }
        wasm
    }

    #[test]
    fn only_sections_that_the_host_reads_are_kept() {
        let types = TYPES_SECTION;
        let all = [
            "name",
            "kvasm.plugin.v1",
            types,
            ".debug_info",
            ".debug_line",
        ];
        let wasm = module(&all);
        let stripped = |kept| strip(&wasm, kept).ok().unwrap();
        assert_eq!(stripped(KeptSections::All), wasm);
        let lines = ["name", "kvasm.plugin.v1", types, ".debug_line"];
        assert_eq!(stripped(KeptSections::Lines), module(&lines));
        let names = ["name", "kvasm.plugin.v1", types];
        assert_eq!(stripped(KeptSections::Names), module(&names));
        assert_eq!(stripped(KeptSections::Host), module(&["kvasm.plugin.v1"]));
        assert!(strip(b"\0asm\x01\0\0\0\x00\xff", KeptSections::Host).is_err());
    }

    #[test]
    fn declarations_are_added_once() {
        let folder = tempfile::tempdir().unwrap();
        let declare = |wasm| declare(wasm, folder.path());
        assert_eq!(declare(module(&[])).ok().unwrap(), EMPTY);
        let file = folder.path().join(DECLARATIONS);
        std::fs::write(
            &file,
            "[{\"kind\":\"function\",\"name\":\"a\"},\n {\"kind\":\"timers\"}]\n",
        )
        .unwrap();
        let declared = declare(module(&["name"])).ok().unwrap();
        assert_eq!(names(&declared).ok().unwrap(), ["name", MANIFEST_SECTION]);
        let section = "{\"kind\":\"function\",\"name\":\"a\"}\n{\"kind\":\"timers\"}\n";
        assert!(declared.ends_with(section.as_bytes()));
        assert!(declare(declared).is_err());
        for bad in ["", "{}", "[1]", "[{\"kind\":}]"] {
            std::fs::write(&file, bad).unwrap();
            assert!(declare(module(&[])).is_err(), "{bad}");
        }
    }
}
