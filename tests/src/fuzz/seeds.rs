//! The seeds of `fuzz/corpus`: small inputs that are valid or almost valid.

use kvasm::model::{Collection, Cursor, CursorKey, Key, KeyRange};
use kvasm_abi::{
    Address, Applied, Batch, BatchCheck, BatchOp, DeleteOptions, EntryHeader, ListOptions, Range32,
    Record, SetOptions, Slot, encode_records,
};

type Seeds = Vec<(&'static str, Vec<u8>)>;

/// The seeds of a target: the name and the bytes of each file.
pub fn seeds(target: &str) -> Seeds {
    match target {
        "batch" => batches(),
        "cursor" => cursors(),
        "fetch" => fetches(),
        "http_frame" => frames(),
        "http_text" => texts(HTTP_TEXTS),
        "import_lines" => texts(IMPORT_LINES),
        "json" => texts(JSON),
        "manifest" => manifests(),
        "options" => options(),
        "page" => pages(),
        "records" => records(),
        "trace_context" => texts(TRACE_CONTEXTS),
        other => panic!("no seeds for {other}"),
    }
}

/// Frames of `http_fetch`.
fn fetches() -> Seeds {
    let heads = [
        ("least", r#"{"method":"GET","url":"http://a.test"}"#),
        (
            "full",
            r#"{"method":"PUT","url":"https://b\u00fccher.test:8443/a b?c=%20#d","headers":[["x-a","1"],["accept","*/*"]],"timeout_ms":5}"#,
        ),
        ("address", r#"{"method":"GET","url":"http://0x7f.1/"}"#),
        ("user", r#"{"method":"GET","url":"http://a.test@b.test/"}"#),
        (
            "split",
            r#"{"method":"GET","url":"http://a.test/","headers":[["x","1\r\nhost: b.test"]]}"#,
        ),
        (
            "host",
            r#"{"method":"GET","url":"http://a.test/","headers":[["Host","b.test"]]}"#,
        ),
        (
            "length",
            r#"{"method":"POST","url":"http://a.test/","headers":[["content-length","1"],["transfer-encoding","chunked"]]}"#,
        ),
        ("tunnel", r#"{"method":"CONNECT","url":"http://a.test/"}"#),
        (
            "method",
            r#"{"method":"GET / HTTP/1.1\r\n","url":"http://a.test/"}"#,
        ),
    ];
    let frame = |(name, head): (&'static str, &str)| {
        let prefix = kvasm_abi::http::prefix(head.len()).unwrap_or_default();
        (name, [&prefix, head.as_bytes(), b"body"].concat())
    };
    heads.into_iter().map(frame).collect()
}

fn texts(texts: &[(&'static str, &str)]) -> Seeds {
    let texts = texts.iter();
    texts
        .map(|(name, text)| (*name, text.as_bytes().to_vec()))
        .collect()
}

fn at<'a>(collection: &'a str, key: &'a str) -> Address<'a> {
    Address {
        collection: collection.as_bytes(),
        key: key.as_bytes(),
    }
}

fn sequence<'a, R: Record<'a>>(records: &[R]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_records(records, &mut |piece: &[u8]| bytes.extend_from_slice(piece));
    bytes
}

fn batch(checks: &[BatchCheck<'_>], ops: &[BatchOp<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Batch::encode(checks, ops, &mut |piece: &[u8]| {
        bytes.extend_from_slice(piece)
    });
    bytes
}

fn set<'a>(address: Address<'a>, format: u32, value: &'a [u8]) -> BatchOp<'a> {
    BatchOp::Set {
        address,
        format,
        ttl_ms: 60_000,
        value,
    }
}

fn batches() -> Seeds {
    let check = |version| BatchCheck {
        address: at("notes", "today"),
        version,
    };
    let increment = |delta| BatchOp::Increment {
        address: at("counts", "visits"),
        delta,
    };
    let delete = BatchOp::Delete {
        address: at("notes", "é"),
    };
    vec![
        ("empty", batch(&[], &[])),
        ("checks", batch(&[check(0), check(u64::MAX)], &[])),
        (
            "set_json",
            batch(&[], &[set(at("c", "k"), 0, b"{\"n\":[1,2.5e3]}")]),
        ),
        ("set_bytes", batch(&[], &[set(at("c", "k"), 1, b"\0\xff")])),
        ("unknown_format", batch(&[], &[set(at("c", "k"), 9, b"")])),
        ("delete", batch(&[], &[delete])),
        (
            "increment",
            batch(&[], &[increment(1), increment(i64::MIN)]),
        ),
        (
            "all",
            batch(
                &[check(7)],
                &[set(at("c", "k"), 0, b"1"), delete, increment(-1)],
            ),
        ),
        (
            "no_names",
            batch(
                &[],
                &[BatchOp::Delete {
                    address: at("", ""),
                }],
            ),
        ),
        (
            "count_of_4_gi",
            [0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff].to_vec(),
        ),
    ]
}

fn records() -> Seeds {
    let header = EntryHeader {
        version: 3,
        expires_at_ms: 0,
        format: 1,
    };
    let applied = Applied {
        result: 1 << 62,
        value: -5,
    };
    vec![
        ("none", sequence::<u32>(&[])),
        ("positions", sequence(&[0u32, 7, u32::MAX])),
        (
            "addresses",
            sequence(&[at("c", "k"), at("", ""), at("notes", "é")]),
        ),
        (
            "slots",
            sequence(&[
                Slot(None),
                Slot(Some((header, b""))),
                Slot(Some((header, b"v"))),
            ]),
        ),
        ("applied", sequence(&[applied, applied])),
        (
            "count_of_4_gi",
            [0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0].to_vec(),
        ),
    ]
}

fn pages() -> Seeds {
    let header = EntryHeader {
        version: u64::MAX - 1,
        expires_at_ms: -5,
        format: 0,
    };
    let key = |key: &[u8]| [&(key.len() as u32).to_le_bytes(), key].concat();
    let head = |count: u32, cursor: &[u8]| [&count.to_le_bytes()[..], &key(cursor)].concat();
    let with_value = |k: &[u8], v: &[u8]| [key(k), header.encode().to_vec(), key(v)].concat();
    vec![
        ("empty", head(0, b"")),
        ("keys", [head(2, b""), key(b"a"), key(b"b")].concat()),
        ("keys_and_cursor", [head(1, b"cursor"), key(b"a")].concat()),
        (
            "values",
            [head(2, b""), with_value(b"a", b"1"), with_value(b"b", b"")].concat(),
        ),
        (
            "key_of_4_gib",
            [head(1, b""), vec![0xff, 0xff, 0xff, 0xff, b'a']].concat(),
        ),
    ]
}

fn options() -> Seeds {
    let set = SetOptions {
        ttl_ms: Some(60_000),
        if_version: Some(0),
    };
    let delete = DeleteOptions {
        if_version: Some(7),
    };
    let range = Some(Range32 { ptr: 64, len: 8 });
    let list = ListOptions {
        prefix: range,
        start: range,
        end: range,
        cursor: range,
        limit: Some(100),
        reverse: true,
        values: true,
    };
    let mut longer = set.encode().to_vec();
    longer[0] = 64;
    let mut unknown = set.encode().to_vec();
    unknown[7] = 0x80;
    vec![
        ("set", set.encode().to_vec()),
        ("set_none", SetOptions::default().encode().to_vec()),
        ("delete", delete.encode().to_vec()),
        ("list", list.encode().to_vec()),
        ("list_none", ListOptions::default().encode().to_vec()),
        ("size_past_the_bytes", longer),
        ("unknown_bit", unknown),
    ]
}

fn cursors() -> Seeds {
    let secret = CursorKey::new([7; CursorKey::BYTES]);
    let notes = Collection::parse("notes").unwrap();
    let key = Key::parse("today").unwrap();
    let seal = |reverse| {
        let cursor = Cursor::seal(&secret, &notes, &KeyRange::ALL, reverse, &key);
        cursor.as_bytes().to_vec()
    };
    let mut edited = seal(false);
    edited[3] ^= 1;
    vec![
        ("forward", seal(false)),
        ("reverse", seal(true)),
        ("edited", edited),
        ("key", b"today".to_vec()),
        ("other_format", vec![2; 20]),
        ("too_long", vec![1; Cursor::BYTES_MAX + 1]),
    ]
}

fn frames() -> Seeds {
    let frame = |head: &str, body: &[u8]| {
        let prefix = (head.len() as u32).to_le_bytes();
        [&prefix, head.as_bytes(), body].concat()
    };
    vec![
        ("plain", frame(r#"{"status":200}"#, b"body")),
        (
            "headers",
            frame(
                r#"{"status":201,"headers":[["x-a","1"],["x-a","2"],["content-length","9"]]}"#,
                b"",
            ),
        ),
        (
            "cookies",
            frame(
                r#"{"status":200,"headers":[["set-cookie","a=1; Path=/"],["set-cookie","b=2; Path=/a/fuzz/x; path=/a/other/"],["set-cookie","__Host-c=3"],["set-cookie","=__host-d=4"]]}"#,
                b"",
            ),
        ),
        (
            "of_the_host",
            frame(
                r#"{"status":599,"headers":[["connection","close"],["clear-site-data","*"]]}"#,
                b"",
            ),
        ),
        (
            "line_break",
            frame(r#"{"status":200,"headers":[["a","1\r\nb: 2"]]}"#, b""),
        ),
        ("status_100", frame(r#"{"status":100}"#, b"")),
        ("no_head", vec![0, 0, 0, 0]),
        ("head_of_4_gib", b"\xff\xff\xff\xff{}".to_vec()),
    ]
}

const HTTP_TEXTS: &[(&str, &str)] = &[
    ("any_tag", "*"),
    ("tags", "\"7\", W/\"8\" ,\"\""),
    ("open_quote", "\"7"),
    ("path", "/notes/a%20b/%C3%A9"),
    ("query", "a+b%2Bc=%26"),
    ("broken_escape", "%4"),
    ("escape_of_no_text", "%ff"),
    ("addresses", "203.0.113.7, 127.0.0.2"),
    ("url", "https://B\u{fc}cher.example:8443/a b/../%7E?c=d#e"),
    ("origin", "http://0x7f.1:80"),
    ("origin_pattern", "https://*.api.example.com"),
    ("address_and_port", "[2001:db8::7]:4711, 203.0.113.7:80"),
    (
        "forwarded",
        "for=203.0.113.7;proto=https, for=\"[2001:db8::7]\"",
    ),
];

/// A `traceparent`, and one `tracestate` in each line after it.
const TRACE_CONTEXTS: &[(&str, &str)] = &[
    (
        "parent",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    ),
    (
        "state",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00\na=1,t1@b= 2, ,c/d=~\na=3",
    ),
    (
        "later_version",
        "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-09-more\na=1",
    ),
    (
        "nil",
        "00-00000000000000000000000000000000-0000000000000000-01\na=1",
    ),
    (
        "upper_case",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00F067AA0BA902B7-01",
    ),
    (
        "invalid_state",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\na=1,@b=2",
    ),
    (
        "33_members",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\na=1,b=1,c=1,d=1,e=1,f=1,g=1,\
         h=1,i=1,j=1,k=1,l=1,m=1,n=1,o=1,p=1,q=1,r=1,s=1,t=1,u=1,v=1,w=1,x=1,y=1,z=1,aa=1,ab=1,\
         ac=1,ad=1,ae=1,af=1,ag=1",
    ),
];

const IMPORT_LINES: &[(&str, &str)] = &[
    (
        "json",
        "{\"collection\":\"c\",\"key\":\"k\",\"json\":{\"n\":[1,2.50,\"\\u00e9\"]}}\n",
    ),
    ("null", "{\"collection\":\"c\",\"key\":\"k\",\"json\":null}"),
    (
        "bytes",
        "{\"collection\":\"c\",\"key\":\"k\",\"bytes\":\"AAEC/w==\"}\n",
    ),
    (
        "expiry",
        "{\"collection\":\"c\",\"key\":\"a\",\"json\":1,\"expires_at\":1}\n{\"collection\":\"c\",\"key\":\"b\",\"json\":2,\"expires_at\":9000000000000}\n",
    ),
    (
        "exported",
        "{\"collection\":\"c\",\"key\":\"k\",\"json\":1,\"version\":7,\"created_at\":1,\"updated_at\":2}\r\n\n \n",
    ),
    (
        "both",
        "{\"collection\":\"c\",\"key\":\"k\",\"json\":1,\"bytes\":\"\"}\n",
    ),
    ("neither", "{\"collection\":\"c\",\"key\":\"k\"}\n"),
    ("no_collection", "{\"key\":\"k\",\"json\":1}\n"),
    (
        "bad_line",
        "{\"collection\":\"c\",\"key\":\"k\",\"json\":1}\nx\n",
    ),
    ("empty", ""),
];

const JSON: &[(&str, &str)] = &[
    ("object", "{\"a\":[1,-2.5,true,null,\"text\"],\"b\":{}}"),
    ("blanks", " \n[ 1 ,\t2 ]\r\n"),
    ("integer", "9223372036854775807"),
    ("past_64_bits", "9223372036854775808"),
    ("exponent", "1.5e1"),
    ("exponent_at_the_limit", "0e400"),
    ("exponent_past_the_limit", "0e401"),
    ("largest", "-1e308"),
    ("too_large", "1.1e308"),
    (
        "escapes",
        "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\ud83d\\ude00\"",
    ),
    ("nul", "\"\\u0000\""),
    ("lone_surrogate", "\"\\ud800\""),
    ("nested", "[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]"),
    ("duplicate_names", "{\"a\":1,\"a\":2}"),
];

const MANIFEST: &str = r#"{"kind":"function","name":"visit","transaction":true}
{"kind":"http","name":"handle"}
{"kind":"on_change","name":"changed","collection":"notes","prefix":"a/","on":["set","delete"]}
{"kind":"cron","name":"nightly","schedule":"0 3 * * *"}"#;

const NEEDS: &str = r#"{"kind":"http_origin","origin":"https://*.example.com:8443"}
{"kind":"config","name":"retries","type":"integer","default":3,"description":"How often"}
{"kind":"config","name":"rules","type":"json","default":{"a":[1]}}
{"kind":"secret","name":"key","required":true}
{"kind":"timers"}"#;

fn manifests() -> Seeds {
    let module = r#"(module (@custom "x" "no")
        (@custom "kvasm.plugin.v1" "{\"kind\":\"http\",\"name\":\"h\"}"))"#;
    let mut seeds = texts(&[
        ("every_kind", MANIFEST),
        ("needs", NEEDS),
        (
            "contradictory_needs",
            r#"{"kind":"secret","name":"a"}{"kind":"secret","name":"a","required":true}"#,
        ),
        (
            "default_of_another_type",
            r#"{"kind":"config","name":"a","type":"boolean","default":1}"#,
        ),
        ("blank", " \n"),
        ("unknown_kind", r#"{"kind":"timer","name":"a"}"#),
        ("unknown_field", r#"{"kind":"http","name":"a","x":1}"#),
        (
            "bad_schedule",
            r#"{"kind":"cron","name":"t","schedule":"never"}"#,
        ),
        (
            "no_collection",
            r#"{"kind":"on_change","name":"f","prefix":"a"}"#,
        ),
        (
            "no_kinds",
            r#"{"kind":"on_change","name":"f","collection":"c","on":[]}"#,
        ),
    ]);
    seeds.push(("module", wat::parse_str(module).unwrap()));
    seeds.push((
        "section_of_32_gib",
        b"\0asm\x01\0\0\0\x00\xff\xff\xff\xff\x7f".to_vec(),
    ));
    seeds
}
