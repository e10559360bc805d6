//! The golden vectors of the packed records, `guest-sdk/vectors.txt`, which the tests of every
//! language read. `KVASM_UPDATE=1` writes the file; a line that is there must not change, since plugins
//! with that layout are deployed.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use kvasm_abi::{
    Address, Applied, Batch, BatchCheck, BatchOp, DeleteOptions, EntryHeader, Page, Record,
    Records, SetOptions, Slot, encode_records, http,
};
use std::fmt::Write;
use std::path::{Path, PathBuf};

const HEAD: &str = "\
# The packed records of kvasm_v1. Each line has the kind of a record, its bytes in hexadecimal (- if there
# are none), and what it means. In the meaning texts are hexadecimal too, and integers decimal.
#
# page, page-values: of kv_list. cursor=C entries=KEY,.. or KEY/VERSION/EXPIRES/FORMAT/VALUE,..
# slots: of kv_get_many. - for an absent entry, or VERSION/EXPIRES/FORMAT/VALUE
# applied: of kv_commit. RESULT/VALUE,..
# request: the input of an HTTP handler. METHOD PATH QUERY BODY NAME:VALUE,..
# delivery: the input of a handler. KIND COLLECTION KEY VERSION BODY
# keys, batch, response, set-options, delete-options: written by plugins. The tests of each language build
# the same and compare the bytes.
";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn packed<'a, R: Record<'a>>(records: &[R]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_records(records, &mut |piece: &[u8]| bytes.extend_from_slice(piece));
    bytes
}

fn sized(bytes: &mut Vec<u8>, text: &[u8]) {
    bytes.extend_from_slice(&u32::try_from(text.len()).unwrap().to_le_bytes());
    bytes.extend_from_slice(text);
}

fn header(version: u64, expires_at_ms: i64, format: u32) -> EntryHeader {
    EntryHeader {
        version,
        expires_at_ms,
        format,
    }
}

/// A page as the host packs it.
fn page(cursor: &[u8], entries: &[(&str, EntryHeader, &[u8])], values: bool) -> Vec<u8> {
    let mut bytes = u32::try_from(entries.len()).unwrap().to_le_bytes().to_vec();
    sized(&mut bytes, cursor);
    for (key, header, value) in entries {
        sized(&mut bytes, key.as_bytes());
        if values {
            bytes.extend_from_slice(&header.encode());
            sized(&mut bytes, value);
        }
    }
    bytes
}

fn frame(head: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = http::prefix(head.len()).unwrap().to_vec();
    bytes.extend_from_slice(head.as_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn value(header: &EntryHeader, value: &[u8]) -> String {
    let EntryHeader {
        version,
        expires_at_ms,
        format,
    } = header;
    format!("{version}/{expires_at_ms}/{format}/{}", hex(value))
}

/// What a page means, by this crate's reader.
fn meaning_of_page(bytes: &[u8], values: bool) -> String {
    let Ok(page) = Page::decode(bytes, values) else {
        return "malformed".to_owned();
    };
    let cursor = hex(page.cursor.unwrap_or_default());
    let mut entries = Vec::new();
    for entry in page.entries {
        let Ok(entry) = entry else {
            return "malformed".to_owned();
        };
        entries.push(match entry.value {
            Some((header, text)) => format!("{}/{}", hex(entry.key), value(&header, text)),
            None => hex(entry.key),
        });
    }
    format!("cursor={cursor} entries={}", entries.join(","))
}

fn meaning_of_slots(bytes: &[u8]) -> String {
    let Ok(slots) = Records::<Slot<'_>>::decode(bytes) else {
        return "malformed".to_owned();
    };
    let slots = slots.map(|slot| slot.0.map_or("-".to_owned(), |(h, v)| value(&h, v)));
    slots.collect::<Vec<_>>().join(",")
}

fn meaning_of_applied(bytes: &[u8]) -> String {
    let Ok(applied) = Records::<Applied>::decode(bytes) else {
        return "malformed".to_owned();
    };
    let applied = applied.map(|a| format!("{}/{}", a.result, a.value));
    applied.collect::<Vec<_>>().join(",")
}

/// The batch that each language builds.
fn batch() -> Vec<u8> {
    let address = |collection: &'static str, key: &'static str| Address {
        collection: collection.as_bytes(),
        key: key.as_bytes(),
    };
    let checks = [BatchCheck {
        address: address("notes", "é"),
        version: 1 << 40,
    }];
    let ops = [
        BatchOp::Set {
            address: address("notes", "a"),
            format: 1,
            ttl_ms: 60_000,
            value: b"\0\xff",
        },
        BatchOp::Delete {
            address: address("notes", "b"),
        },
        BatchOp::Increment {
            address: address("stats", "c"),
            delta: -2,
        },
        BatchOp::TimerSet {
            address: address("", "t"),
            flags: 1,
            ms: 5_000,
            payload: b"p",
        },
        BatchOp::TimerCancel {
            address: address("", "u"),
        },
    ];
    let mut bytes = Vec::new();
    Batch::encode(&checks, &ops, &mut |piece: &[u8]| {
        bytes.extend_from_slice(piece)
    });
    bytes
}

fn vectors() -> String {
    let mut lines = HEAD.to_owned();
    let mut add = |kind: &str, bytes: &[u8], meaning: &str| {
        let bytes = if bytes.is_empty() {
            "-".to_owned()
        } else {
            hex(bytes)
        };
        writeln!(lines, "{kind} {bytes} {meaning}").unwrap();
    };
    let entries = [
        ("a", header(7, 0, 1), &b"\0\xff"[..]),
        ("é", header(u64::MAX >> 1, -5, 0), b"[]"),
        ("z", header(1, 1_767_225_600_000, 1), b""),
    ];
    for (kind, values) in [("page", false), ("page-values", true)] {
        let whole = page(b"next", &entries, values);
        let mut add = |bytes: &[u8]| add(kind, bytes, &meaning_of_page(bytes, values));
        add(&whole);
        add(&page(b"", &[], values));
        add(&page(b"", &entries[..1], values));
        add(&whole[..whole.len() - 1]);
        add(&[1, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, b'a']);
        add(&[]);
    }
    let slots = [
        Slot(None),
        Slot(Some((header(3, 0, 1), b""))),
        Slot(Some((header(4, 9, 0), b"1"))),
    ];
    let slots = packed(&slots);
    for bytes in [
        &slots[..],
        &[0; 4],
        &slots[..slots.len() - 1],
        &[1, 0, 0, 0],
    ] {
        add("slots", bytes, &meaning_of_slots(bytes));
    }
    let applied = packed(&[
        Applied {
            result: 1 << 62,
            value: 0,
        },
        Applied {
            result: 9,
            value: -5,
        },
    ]);
    for bytes in [&applied[..], &[0; 4], &applied[..applied.len() - 1]] {
        add("applied", bytes, &meaning_of_applied(bytes));
    }
    let request = frame(
        r#"{"method":"PUT","path":"/q\"\\\u0001\u00e9\ud83e\udd80","query":"a=1","headers":[["accept","*/*"],["x","a, b]"]],"later":{"a":["}",1]}}"#,
        b"\0body",
    );
    let meaning = [
        hex(b"PUT"),
        hex("/q\"\\\u{1}é🦀".as_bytes()),
        hex(b"a=1"),
        hex(b"\0body"),
        format!(
            "{}:{},{}:{}",
            hex(b"accept"),
            hex(b"*/*"),
            hex(b"x"),
            hex(b"a, b]")
        ),
    ];
    add("request", &request, &meaning.join(" "));
    add("request", &[9, 0, 0, 0, b'{', b'}'], "malformed");
    let delivery = frame(
        r#"{"kind":"set","event_id":"0198c1d2-7b3a-7c55-9c1e-2f6f6f0c9a11","trigger":"t","attempt":1,"depth":1,"collection":"orders","key":"eu/7","version":7,"at_ms":1767225600000,"format":0}"#,
        b"{}",
    );
    let meaning = [
        hex(b"set"),
        hex(b"orders"),
        hex(b"eu/7"),
        "7".to_owned(),
        hex(b"{}"),
    ];
    add("delivery", &delivery, &meaning.join(" "));
    let keys = [("notes", "a"), ("notes", "é")].map(|(collection, key)| Address {
        collection: collection.as_bytes(),
        key: key.as_bytes(),
    });
    add(
        "keys",
        &packed(&keys),
        "the keys \"a\" and \"é\" of \"notes\"",
    );
    add(
        "batch",
        &batch(),
        "of \"notes\": check \"é\" 2^40, set \"a\" to the bytes 00ff for 60 s, delete \"b\"; of \"stats\": increment \"c\" by -2; set the timer \"t\" in 5 s with \"p\"; cancel \"u\"",
    );
    let response = frame(
        r#"{"status":201,"headers":[["x-a","q\"\\\u0001é"]]}"#,
        b"\0",
    );
    add(
        "response",
        &response,
        "201, with x-a: q\"\\(byte 1)é, and the byte 00",
    );
    let set = SetOptions {
        ttl_ms: Some(60_000),
        if_version: Some(7),
    };
    add("set-options", &set.encode(), "ttl_ms 60000, if_version 7");
    let delete = DeleteOptions {
        if_version: Some(7),
    };
    add("delete-options", &delete.encode(), "if_version 7");
    lines
}

#[test]
fn golden_vectors_are_those_of_this_crate() {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vectors.txt");
    let vectors = vectors();
    if std::env::var_os("KVASM_UPDATE").is_some() {
        std::fs::write(&path, &vectors).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap(), vectors);
}
