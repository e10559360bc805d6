//! What a plugin declares: the custom section `kvasm.plugin.v1`.

use serde::Deserialize;

/// The largest section, in bytes.
const SECTION_BYTES_MAX: usize = 256 * 1024;

/// One declaration. Kinds that this host does not know are refused, so that a
/// plugin never runs without a part that it counts on.
#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Declaration {
    /// An export that can be called by its name.
    Function {
        /// The export's name.
        name: String,
    },
    /// The export that answers HTTP requests. At most one.
    Http {
        /// The export's name.
        name: String,
    },
}

/// Reads JSON objects that stand one after another.
pub(super) fn parse(section: &[u8]) -> Result<Vec<Declaration>, String> {
    if section.len() > SECTION_BYTES_MAX {
        return Err(format!(
            "it is {} bytes; the limit is {SECTION_BYTES_MAX}",
            section.len()
        ));
    }
    serde_json::Deserializer::from_slice(section)
        .into_iter()
        .collect::<Result<_, _>>()
        .map_err(|e| e.to_string())
}

/// The custom section of a module, if it has one. The module is valid; this
/// walks over its section headers alone.
pub(super) fn section(wasm: &[u8]) -> Option<&[u8]> {
    const CUSTOM: u8 = 0;
    let mut rest = wasm.get(8..)?;
    while let Some((&id, tail)) = rest.split_first() {
        let (body, after) = sized(tail)?;
        if id == CUSTOM {
            let (name, content) = sized(body)?;
            if name == kvasm_abi::MANIFEST_SECTION.as_bytes() {
                return Some(content);
            }
        }
        rest = after;
    }
    None
}

/// Splits off what a LEB128 length says.
fn sized(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut len: u64 = 0;
    for (at, &byte) in bytes.iter().enumerate().take(5) {
        len |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return bytes
                .get(at + 1..)?
                .split_at_checked(usize::try_from(len).ok()?);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declarations_stand_one_after_another() {
        let section =
            b"{\"kind\":\"function\",\"name\":\"a\"}\n{\"kind\":\"function\",\"name\":\"b\"}";
        let name = |name: &str| Declaration::Function { name: name.into() };
        assert_eq!(parse(section), Ok(vec![name("a"), name("b")]));
        assert!(parse(b"{\"kind\":\"cron\",\"name\":\"a\"}").is_err());
        assert!(parse(b"{\"kind\":\"function\",\"name\":\"a\",\"x\":1}").is_err());
        assert!(parse(b"{").is_err());
        assert_eq!(parse(b" \n"), Ok(vec![]));
    }

    #[test]
    fn the_section_is_found_among_others() {
        let wasm =
            wat::parse_str(r#"(module (@custom "x" "no") (@custom "kvasm.plugin.v1" "yes"))"#);
        assert_eq!(section(&wasm.unwrap()), Some(&b"yes"[..]));
        let none = wat::parse_str("(module)").unwrap();
        assert_eq!(section(&none), None);
        assert_eq!(section(b"\0asm\x01\0\0\0\x00\xff\xff\xff\xff\x7f"), None);
    }
}
