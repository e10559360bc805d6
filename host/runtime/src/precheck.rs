//! Checks of a module's declarations before it is compiled.

use super::error::LoadError;
use crate::abi::printable_start;
use kvasm_core::Limits;
use wasmparser::{Encoding, Parser, Payload};

/// Why a component is not a module that this host can run.
pub(super) const COMPONENT: &str = "it is a component; a plugin is a core module: build for \
     wasm32-wasip1 or wasm32-unknown-unknown, not for wasm32-wasip2";
/// The modules that wasm-bindgen imports from begin with this. Its command replaces them by
/// JavaScript, which this host does not have.
const BROWSER_IMPORTS: &str = "__wbindgen_";
/// How much of the name of an import an error shows, in bytes.
const SHOWN_BYTES_MAX: usize = 64;
/// Default size of a memory page, as a power of two.
const PAGE_BYTES_LOG2: u32 = 16;

/// Returns an error if a module was built for browsers, is a component, or declares more tables or memories than an
/// instance may have. Anything unreadable is left to the compiler, which reports the reason.
///
/// # Errors
/// [`LoadError::ForBrowsers`]; [`LoadError::NotWasm`]; [`LoadError::TooMuch`], with the configuration key of the limit.
pub(super) fn check(wasm: &[u8], limits: &Limits) -> Result<(), LoadError> {
    let (mut tables, mut memories, mut bytes) = (0_u64, 0_u64, 0_u64);
    for payload in Parser::new(0).parse_all(wasm) {
        match payload {
            Ok(Payload::Version {
                encoding: Encoding::Component,
                ..
            }) => return Err(LoadError::NotWasm(COMPONENT.to_owned())),
            Ok(Payload::ImportSection(section)) => {
                let mut imports = section.into_imports().map_while(Result::ok);
                let of_browsers = imports.find(|import| is_of_browsers(import.module));
                if let Some(import) = of_browsers {
                    return Err(LoadError::ForBrowsers(printable_start(
                        import.module.as_bytes(),
                        SHOWN_BYTES_MAX,
                    )));
                }
            }
            Ok(Payload::TableSection(section)) => {
                for table in section.into_iter().map_while(Result::ok) {
                    tables += 1;
                    let elements = table.ty.initial;
                    over(
                        "a table of",
                        "elements",
                        elements,
                        limits.table_elements.into(),
                        "limits.table_elements",
                    )?;
                }
            }
            Ok(Payload::MemorySection(section)) => {
                for memory in section.into_iter().map_while(Result::ok) {
                    memories += 1;
                    let page = memory
                        .page_size_log2
                        .unwrap_or(PAGE_BYTES_LOG2)
                        .min(PAGE_BYTES_LOG2);
                    bytes = bytes.saturating_add(memory.initial.saturating_mul(1 << page));
                }
            }
            // Sections after the code contain neither.
            Ok(Payload::CodeSectionStart { .. }) | Err(_) => break,
            Ok(_) => {}
        }
    }
    over("", "tables", tables, limits.tables.into(), "limits.tables")?;
    over(
        "",
        "memories",
        memories,
        limits.memories.into(),
        "limits.memories",
    )?;
    over(
        "memories of",
        "bytes",
        bytes,
        limits.memory_bytes as u64,
        "limits.memory",
    )
}

/// Whether a module that is imported from is that of wasm-bindgen.
pub(super) fn is_of_browsers(module: &str) -> bool {
    module.starts_with(BROWSER_IMPORTS)
}

fn over(
    what: &'static str,
    unit: &'static str,
    found: u64,
    limit: u64,
    key: &'static str,
) -> Result<(), LoadError> {
    if found <= limit {
        return Ok(());
    }
    let space = if what.is_empty() { "" } else { " " };
    Err(LoadError::TooMuch {
        what: format!("{what}{space}{found} {unit}"),
        limit,
        key,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> Option<String> {
        let limits = Limits {
            tables: 2,
            table_elements: 100,
            memories: 2,
            memory_bytes: 1 << 20,
            ..Limits::default()
        };
        let wasm = wat::parse_str(text).unwrap();
        check(&wasm, &limits).err().map(|e| e.to_string())
    }

    #[test]
    fn module_over_a_limit_names_limit_and_key() {
        let full = "(module (table 100 funcref) (table 0 externref) (memory 8) (memory 8))";
        assert_eq!(refusal(full), None);
        for (text, words) in [
            (
                "(module (table 101 funcref))",
                "a table of 101 elements; the limit is 100 (limits.table_elements)",
            ),
            (
                "(module (table 1 funcref) (table 1 funcref) (table 1 funcref))",
                "3 tables; the limit is 2 (limits.tables)",
            ),
            (
                "(module (memory 0) (memory 0) (memory 0))",
                "3 memories; the limit is 2 (limits.memories)",
            ),
            (
                "(module (memory 8) (memory 9))",
                "memories of 1114112 bytes; the limit is 1048576 (limits.memory)",
            ),
            ("(module (memory i64 0xffffffffffff))", "limits.memory"),
        ] {
            let found = refusal(text).unwrap_or_default();
            assert!(found.contains(words), "{text}: {found}");
        }
    }

    #[test]
    fn module_for_browsers_names_the_features_to_turn_off() {
        for module in ["__wbindgen_placeholder__", "__wbindgen_externref_xform__"] {
            let text = format!(
                r#"(module (import "kvasm_v1" "now_ms" (func (result i64)))
                    (import "{module}" "__wbindgen_describe" (func (param i32))))"#
            );
            let found = refusal(&text).unwrap_or_default();
            for words in [module, "chrono", "uuid", "getrandom", "instant"] {
                assert!(found.contains(words), "{words}: {found}");
            }
        }
        let other = r#"(module (import "env" "__wbindgen_placeholder__" (func)))"#;
        assert_eq!(refusal(other), None);
    }

    #[test]
    fn unparsable_module_is_left_to_the_compiler() {
        assert!(check(b"\0asm\x01\0\0\0\x04\xff", &Limits::default()).is_ok());
        assert!(check(b"", &Limits::default()).is_ok());
    }
}
