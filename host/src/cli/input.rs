//! What the user gives: text in an argument, a file, or stdin, each read no
//! further than it may be long.

use super::error::{Machine, Refused};
use anyhow::Result;
use kvasm::model::{Collection, Invalid, Key, Subject};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Reads an argument: `-` is stdin, `@PATH` is a file, all else is the text itself.
pub(super) fn argument(argument: &str, subject: Subject, limit: usize) -> Result<Vec<u8>> {
    match (argument, argument.strip_prefix('@')) {
        ("-", _) => stdin(subject, limit),
        (_, Some(path)) => file(Path::new(path), subject, limit),
        (text, None) => Ok(text.as_bytes().to_vec()),
    }
}

/// Reads a file of at most `limit` bytes.
pub(super) fn file(path: &Path, subject: Subject, limit: usize) -> Result<Vec<u8>> {
    let unreadable =
        |error: io::Error| Refused(format!("{} cannot be read: {error}", path.display()));
    let file = File::open(path).map_err(unreadable)?;
    // A pipe or a device has no length: `bounded` holds for those.
    let len = file.metadata().map_err(unreadable)?.len();
    if len > limit as u64 {
        return Err(Invalid::TooLarge { subject, len, limit: limit as u64 }.into());
    }
    let bytes = bounded(file, limit).map_err(unreadable)?;
    bytes.ok_or_else(|| over(subject, limit))
}

fn stdin(subject: Subject, limit: usize) -> Result<Vec<u8>> {
    let bytes = bounded(io::stdin().lock(), limit).map_err(Machine::of("stdin cannot be read"))?;
    bytes.ok_or_else(|| over(subject, limit))
}

fn over(subject: Subject, limit: usize) -> anyhow::Error {
    Refused(format!("the {subject} is over the limit of {limit} bytes")).into()
}

/// Everything that `source` has, unless it is over the limit.
fn bounded(source: impl Read, limit: usize) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    source.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() <= limit).then_some(bytes))
}

/// Parses a collection's name; an argument of clap.
pub(super) fn collection(name: &str) -> Result<Collection, Invalid> {
    Collection::parse(name)
}

/// Parses a key; an argument of clap.
pub(super) fn key(key: &str) -> Result<Key, Invalid> {
    Key::parse(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_read_no_further_than_its_limit() {
        assert_eq!(bounded(&b"abc"[..], 3).unwrap().as_deref(), Some(&b"abc"[..]));
        assert_eq!(bounded(&b"abcd"[..], 3).unwrap(), None);
        assert_eq!(bounded(io::repeat(b'x'), 1000).unwrap(), None);
    }
}
