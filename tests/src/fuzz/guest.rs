//! Other input from guests: option structs, cursors, JSON values, manifests.

use kvasm::fuzzing;
use kvasm::model::{Collection, Cursor, CursorKey, Integer, Invalid, JsonText, Key, KeyRange};
use kvasm_abi::limits::VALUE_BYTES;
use kvasm_abi::{DeleteOptions, ListOptions, MANIFEST_SECTION, SetOptions};
use kvasm_guest::Error;
use serde_json::value::RawValue;

/// The option structs. A decoded struct encodes to an equivalent one.
pub fn options(bytes: &[u8]) {
    if let Ok(read) = SetOptions::decode(bytes) {
        assert_eq!(SetOptions::decode(&read.encode()), Ok(read));
    }
    if let Ok(read) = DeleteOptions::decode(bytes) {
        assert_eq!(DeleteOptions::decode(&read.encode()), Ok(read));
    }
    if let Ok(read) = ListOptions::decode(bytes) {
        assert_eq!(ListOptions::decode(&read.encode()), Ok(read));
    }
}

/// A cursor. Bytes that the host has not sealed are rejected. A sealed cursor is accepted, but
/// not with any byte changed.
pub fn cursor(bytes: &[u8]) {
    let secret = CursorKey::new([7; CursorKey::BYTES]);
    let notes = Collection::parse("notes").unwrap();
    let all = KeyRange::ALL;
    match Cursor::parse(bytes.to_vec()) {
        Ok(cursor) => {
            assert!(bytes.len() <= Cursor::BYTES_MAX);
            assert_eq!(cursor.as_bytes(), bytes);
            for reverse in [false, true] {
                let opened = cursor.open(&secret, &notes, &all, reverse);
                let sealed = opened
                    .is_ok_and(|key| Cursor::seal(&secret, &notes, &all, reverse, &key) == cursor);
                let refused = cursor.open(&secret, &notes, &all, reverse);
                assert!(sealed || refused == Err(Invalid::ForeignCursor));
            }
        }
        Err(_) => assert!(bytes.len() > Cursor::BYTES_MAX),
    }
    let Ok(key) = Key::parse(bytes) else { return };
    let sealed = Cursor::seal(&secret, &notes, &all, false, &key);
    let edited = |at: usize| {
        let mut edited = sealed.as_bytes().to_vec();
        edited[at] ^= 1;
        Cursor::parse(edited).unwrap()
    };
    assert_eq!(sealed.open(&secret, &notes, &all, false), Ok(key));
    for at in [0, 1, sealed.as_bytes().len() - 1] {
        let opened = edited(at).open(&secret, &notes, &all, false);
        assert_eq!(opened, Err(Invalid::ForeignCursor));
    }
}

/// A JSON value. Text that the host accepts is accepted again unchanged, and the SDK's native
/// host accepts and rejects the same text, with the same messages.
pub fn json(bytes: &[u8]) {
    let taken = JsonText::parse(bytes.to_vec(), VALUE_BYTES);
    if let Ok(text) = &taken {
        assert_eq!(text.as_str().as_bytes(), bytes);
        integer(text);
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        assert!(taken.is_err());
        return;
    };
    // A `RawValue` is how a plugin writes JSON as text; it has no surrounding whitespace.
    let Ok(raw) = serde_json::from_str::<&RawValue>(text) else {
        assert!(taken.is_err(), "{text:?} is not JSON, but was accepted");
        return;
    };
    let host = JsonText::parse(raw.get().as_bytes().to_vec(), VALUE_BYTES);
    let sdk = kvasm_guest::kv::collection("c").set("k", raw);
    match (host, sdk) {
        (Ok(_), Ok(_)) => {}
        (Err(host), Err(Error::Invalid(sdk) | Error::TooLarge(sdk))) => {
            assert_eq!(host.to_string(), sdk, "{text:?}");
        }
        other => panic!("{text:?}: {other:?}"),
    }
}

fn integer(text: &JsonText) {
    if let Integer::Value(value) = text.as_integer() {
        assert_eq!(JsonText::integer(value).as_integer(), Integer::Value(value));
        // Below 2^53 a float is exact, so it must be the same number.
        let float: f64 = text.as_str().trim().parse().unwrap();
        if value.unsigned_abs() < 1 << 53 {
            assert_eq!(float, value as f64, "{text:?}");
        }
    }
}

/// The declarations of a plugin, and a module that contains them. Two valid sections are also
/// valid when concatenated, as linkers do; a section is found in its module.
pub fn manifest(bytes: &[u8]) {
    // Also treats the bytes as a module: they may contain a section.
    if let Some(section) = fuzzing::section(bytes) {
        assert!(section.len() < bytes.len());
        declarations(section);
    }
    assert_eq!(fuzzing::section(&module(bytes)), Some(bytes));
    if let Some(read) = declarations(bytes) {
        let twice = [bytes, b"\n", bytes].concat();
        let twice = fuzzing::declarations(&twice).unwrap();
        assert_eq!(twice, [read.as_slice(), read.as_slice()].concat());
    }
}

type Declarations = Vec<Result<Option<kvasm::model::DeclaredTrigger>, String>>;

fn declarations(section: &[u8]) -> Option<Declarations> {
    let read = fuzzing::declarations(section).ok()?;
    assert!(section.len() <= 256 * 1024);
    let least = br#"{"kind":"timers"}"#.len();
    assert!(read.len() <= section.len() / least);
    Some(read)
}

/// A module with a custom section.
fn module(section: &[u8]) -> Vec<u8> {
    let name = MANIFEST_SECTION.as_bytes();
    let content = [&leb128(name.len())[..], name, section].concat();
    let head = b"\0asm\x01\0\0\0\0";
    [&head[..], &leb128(content.len()), &content].concat()
}

fn leb128(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}
