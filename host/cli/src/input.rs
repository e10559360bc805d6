//! The input of commands, from arguments, files and stdin. It is read whole or not at all.

use super::failure::Failure;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The maximum size of one input. The limits that matter are the server's, which enforces them.
pub(super) const BYTES_MAX: u64 = 1 << 30;

const UTF8_BOM: &[u8] = b"\xef\xbb\xbf";

/// Reads an argument: literal text, `@FILE`, or `-` for stdin.
///
/// # Errors
/// A user error: a file that cannot be read, or an input of more than 1 GiB.
pub(super) fn argument(argument: &str) -> Result<Vec<u8>, Failure> {
    if argument == "-" {
        return stdin();
    }
    match argument.strip_prefix('@') {
        Some(path) => file(Path::new(path)),
        None => Ok(argument.as_bytes().to_vec()),
    }
}

/// Reads all of stdin.
pub(super) fn stdin() -> Result<Vec<u8>, Failure> {
    read_limited("standard input", Ok(std::io::stdin().lock()), BYTES_MAX)
}

/// Reads a whole file.
pub(super) fn file(path: &Path) -> Result<Vec<u8>, Failure> {
    file_up_to(path, BYTES_MAX)
}

/// Reads a whole file, if it has at most this many bytes.
pub(super) fn file_up_to(path: &Path, bytes_max: u64) -> Result<Vec<u8>, Failure> {
    read_limited(&path.display().to_string(), File::open(path), bytes_max)
}

fn read_limited(
    name: &str,
    from: std::io::Result<impl Read>,
    bytes_max: u64,
) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = from.and_then(|from| from.take(bytes_max + 1).read_to_end(&mut bytes));
    let read = read.map_err(|e| Failure::user(format!("{name}: {e}")))?;
    if read as u64 > bytes_max {
        return Err(Failure::user(format!(
            "{name}: too large (limit {bytes_max} bytes)"
        )));
    }
    Ok(bytes)
}

/// Prepares JSON for sending: removes a byte order mark, and the final line break that editors and
/// `kvasm kv get` add.
///
/// # Errors
/// A user error: text in UTF-16.
pub(super) fn json(mut bytes: Vec<u8>) -> Result<Vec<u8>, Failure> {
    if is_utf16(&bytes) {
        return Err(Failure::user(UTF16));
    }
    if bytes.starts_with(UTF8_BOM) {
        bytes.drain(..UTF8_BOM.len());
    }
    if bytes.ends_with(b"\n") {
        bytes.pop();
        if bytes.ends_with(b"\r") {
            bytes.pop();
        }
    }
    Ok(bytes)
}

/// Decodes a text file, without its byte order mark.
pub(super) fn text(bytes: Vec<u8>) -> Result<String, String> {
    if is_utf16(&bytes) {
        return Err(UTF16.to_owned());
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text.strip_prefix('\u{feff}').unwrap_or(&text).to_owned()),
        Err(e) => {
            let at = e.utf8_error().valid_up_to();
            Err(format!("invalid UTF-8 at byte {at}"))
        }
    }
}

/// The first part of a text that arrives in parts, without a byte order mark.
pub(super) fn strip_bom(part: &[u8]) -> Result<&[u8], &'static str> {
    match is_utf16(part) {
        true => Err(UTF16),
        false => Ok(part.strip_prefix(UTF8_BOM).unwrap_or(part)),
    }
}

const UTF16: &str = "the text is UTF-16; save it as UTF-8";

fn is_utf16(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_is_read_completely_or_rejected() {
        let read = |bytes_max| read_limited("x", Ok(&b"12345"[..]), bytes_max);
        assert_eq!(read(5).ok().unwrap(), b"12345");
        assert!(read(4).is_err());
    }

    #[test]
    fn bom_and_trailing_newline_are_stripped_from_json() {
        let json = |bytes: &[u8]| json(bytes.to_vec()).ok();
        assert_eq!(json(b"\xef\xbb\xbf{}\r\n").unwrap(), b"{}");
        assert_eq!(json(b"{}\n\n").unwrap(), b"{}\n");
        assert_eq!(json(b"{} ").unwrap(), b"{} ");
        assert_eq!(json(b"\n").unwrap(), b"");
        assert!(json(b"\xff\xfe{\0}\0").is_none());
        assert_eq!(text(b"\xef\xbb\xbfa = 1".to_vec()).unwrap(), "a = 1");
        assert!(text(b"a = \xff".to_vec()).unwrap_err().contains("byte 4"));
    }
}
