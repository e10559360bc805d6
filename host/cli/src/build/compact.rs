//! Makes the code of a module shorter without changing it: linkers leave room of five bytes for each
//! index and address that they fill in, and most need one to three.

use super::section::malformed;
use crate::failure::Failure;
use wasm_encoder::reencode::{Error, Reencode, RoundtripReencoder};
use wasm_encoder::{CodeSection, Module, RawSection};
use wasmparser::{BinaryReader, CodeSectionReader, Parser, Payload};

/// Returns a module with the same instructions, written as short as possible. What refers to their
/// positions, which is debugging information, no longer fits. An instruction that this program does not
/// know leaves the code as it is: the host's check of the module names it.
///
/// # Errors
/// The plugin's fault: it is not a module.
pub(super) fn compact(wasm: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut module = Module::new();
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload.map_err(malformed)?;
        let Some((id, range)) = payload.as_section() else {
            continue;
        };
        let data = wasm.get(range).unwrap_or_default();
        match payload {
            Payload::CodeSectionStart { .. } if let Ok(code) = shortened(data) => {
                module.section(&code);
            }
            _ => {
                module.section(&RawSection { id, data });
            }
        }
    }
    Ok(module.finish())
}

fn shortened(section: &[u8]) -> Result<CodeSection, Error> {
    let mut code = CodeSection::new();
    let functions = CodeSectionReader::new(BinaryReader::new(section, 0))?;
    RoundtripReencoder.parse_code_section(&mut code, functions)?;
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Types, functions and the size of the code section, which is less than 128 bytes.
    fn module(body: &[u8]) -> Vec<u8> {
        let size = u8::try_from(body.len()).unwrap();
        let head = b"\0asm\x01\0\0\0\x01\x05\x01\x60\0\x01\x7f\x03\x02\x01\0\x0a";
        [&head[..], &[size + 2, 1, size], body, b"\0\x06\x04nameX"].concat()
    }

    #[test]
    fn code_is_the_same_and_shorter() {
        // A call of function 0, and address 1 of five bytes each.
        let padded = module(b"\0\x10\x80\x80\x80\x80\0\x1a\x41\x81\x80\x80\x80\0\x0b");
        let short = module(b"\0\x10\0\x1a\x41\x01\x0b");
        assert_eq!(compact(&padded).ok().unwrap(), short);
        assert_eq!(compact(&short).ok().unwrap(), short);
    }

    #[test]
    fn code_that_is_unknown_is_left_and_a_truncated_module_is_refused() {
        for body in [&b"\0\xff\x0b"[..], b"\0\x10\x80", b""] {
            let unknown = module(body);
            assert_eq!(compact(&unknown).ok(), Some(unknown.clone()), "{body:?}");
        }
        let whole = module(b"\0\x41\x01\x0b");
        assert!(compact(&whole[..whole.len() - 1]).is_err());
        assert!(compact(b"").is_err());
    }
}
