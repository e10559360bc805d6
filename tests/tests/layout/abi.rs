//! `docs/abi.md` matches `kvasm-abi` exactly.

use super::assert_none;
use super::files;
use super::markdown::{plain, table};
use kvasm_abi::{
    DeleteOptions, ENTRY_HEADER_BYTES, EXIT_FAILED, EXIT_LATER, EXIT_OK, EXIT_PERMANENT,
    EXIT_REFUSED, EntryHeader, FORMAT_BYTES, FORMAT_JSON, GET_WITH_HEADER, ListOptions,
    MANIFEST_SECTION, MEMORY, MODULE, Range32, SetOptions, Status, TYPES_SECTION, level,
};

/// Table rows in comparable form.
type Rows = Vec<Vec<String>>;

fn row<const N: usize>(cells: [String; N]) -> Vec<String> {
    cells.to_vec()
}

/// Rows that only one side has or, for the same rows in another order, the first that differs.
fn differences(documented: &Rows, built: &Rows) -> Vec<String> {
    let mut found = Vec::new();
    for row in documented.iter().filter(|row| !built.contains(row)) {
        found.push(format!("docs/abi.md has {row:?}, the code does not"));
    }
    for row in built.iter().filter(|row| !documented.contains(row)) {
        found.push(format!("the code has {row:?}, docs/abi.md does not"));
    }
    if found.is_empty() && documented != built {
        found.push(format!("the rows are in another order than {built:?}"));
    }
    found
}

/// The first cells of a table's rows, without backticks.
fn documented(text: &str, head: &[&str]) -> Rows {
    let rows = table(text, head).into_iter();
    let cells = |row: Vec<String>| {
        row.iter()
            .take(head.len())
            .map(|c| plain(c).to_owned())
            .collect()
    };
    rows.map(cells).collect()
}

fn assert_documented(head: &[&str], built: Rows) {
    let text = files::one("docs/abi.md").text;
    assert_none(&differences(&documented(&text, head), &built));
}

/// An option struct's field, derived from its encoding: the bytes of a struct in which only
/// this field is set, with all its bits set where possible.
fn option_field(name: &str, is_flag: bool, bytes: &[u8]) -> Vec<String> {
    let mask = u32::from_le_bytes(bytes[4..8].try_into().unwrap());
    assert_eq!(mask.count_ones(), 1, "{name} is one field");
    let offset = bytes.iter().skip(8).position(|b| *b != 0).unwrap() + 8;
    let width = bytes.iter().skip(8).filter(|b| **b != 0).count();
    let kind = match (width, is_flag, name) {
        (1, true, _) | (4, false, _) => "u32",
        (8, false, "ttl_ms" | "if_version") => "u64",
        (8, false, _) => "u32 ptr, u32 len",
        other => panic!("an unknown kind of field: {other:?}"),
    };
    let bit = mask.trailing_zeros().to_string();
    row([name.to_owned(), bit, offset.to_string(), kind.to_owned()])
}

const ALL_BITS: Range32 = Range32 {
    ptr: u32::MAX,
    len: u32::MAX,
};

#[test]
fn documented_statuses_match_the_abi() {
    let built = Status::ALL
        .iter()
        .map(|status| row([status.name().to_owned(), status.code().to_string()]));
    assert_documented(&["status", "value"], built.collect());
}

#[test]
fn documented_exit_codes_match_the_abi() {
    let codes = [
        EXIT_OK,
        EXIT_FAILED,
        EXIT_PERMANENT,
        EXIT_REFUSED,
        EXIT_LATER,
    ];
    let built = codes.map(|code| row([code.to_string()]));
    assert_documented(&["exit code"], built.to_vec());
}

#[test]
fn documented_set_options_match_the_abi() {
    // Without `..`, a new field does not compile until it is listed here.
    let none = SetOptions {
        ttl_ms: None,
        if_version: None,
    };
    let ttl_ms = SetOptions {
        ttl_ms: Some(u64::MAX),
        ..none
    };
    let if_version = SetOptions {
        if_version: Some(u64::MAX),
        ..none
    };
    let built = vec![
        option_field("ttl_ms", false, &ttl_ms.encode()),
        option_field("if_version", false, &if_version.encode()),
    ];
    assert_documented(&["field of `kv_set`", "bit", "offset", "type"], built);
}

#[test]
fn documented_delete_options_match_the_abi() {
    let if_version = DeleteOptions {
        if_version: Some(u64::MAX),
    };
    let built = vec![option_field("if_version", false, &if_version.encode())];
    assert_documented(&["field of `kv_delete`", "bit", "offset", "type"], built);
}

#[test]
fn documented_list_options_match_the_abi() {
    let none = ListOptions {
        prefix: None,
        start: None,
        end: None,
        cursor: None,
        limit: None,
        reverse: false,
        values: false,
    };
    let range = Some(ALL_BITS);
    let structs = [
        (
            "prefix",
            ListOptions {
                prefix: range,
                ..none
            },
        ),
        (
            "start",
            ListOptions {
                start: range,
                ..none
            },
        ),
        ("end", ListOptions { end: range, ..none }),
        (
            "cursor",
            ListOptions {
                cursor: range,
                ..none
            },
        ),
        (
            "limit",
            ListOptions {
                limit: Some(u32::MAX),
                ..none
            },
        ),
        (
            "reverse",
            ListOptions {
                reverse: true,
                ..none
            },
        ),
        (
            "values",
            ListOptions {
                values: true,
                ..none
            },
        ),
    ];
    let field = |(name, options): (&str, ListOptions)| {
        let is_flag = options.reverse || options.values;
        option_field(name, is_flag, &options.encode())
    };
    let built = structs.into_iter().map(field).collect();
    assert_documented(&["field of `kv_list`", "bit", "offset", "type"], built);
}

#[test]
fn documented_option_sizes_match_the_abi() {
    let built = [
        ("kv_set", SetOptions::SIZE),
        ("kv_delete", DeleteOptions::SIZE),
        ("kv_list", ListOptions::SIZE),
    ];
    let built = built.map(|(name, size)| row([name.to_owned(), size.to_string()]));
    assert_documented(&["options of", "size"], built.to_vec());
}

#[test]
fn documented_formats_flags_and_levels_match_the_abi() {
    let number = |name: &str, number: i32| row([number.to_string(), name.to_owned()]);
    assert_documented(
        &["format", "name"],
        vec![number("JSON", FORMAT_JSON), number("bytes", FORMAT_BYTES)],
    );
    assert_documented(
        &["flag", "name"],
        vec![number("WITH_HEADER", GET_WITH_HEADER)],
    );
    assert_documented(
        &["level", "name"],
        vec![
            number("error", level::ERROR),
            number("warn", level::WARN),
            number("info", level::INFO),
            number("debug", level::DEBUG),
            number("trace", level::TRACE),
        ],
    );
}

#[test]
fn documented_entry_header_matches_the_abi() {
    let header = EntryHeader {
        version: u64::from_le_bytes([1; 8]),
        expires_at_ms: i64::from_le_bytes([2; 8]),
        format: u32::from_le_bytes([3; 4]),
    };
    let bytes = header.encode();
    let field = |name: &str, mark: u8, kind: &str| {
        let at = bytes.iter().position(|b| *b == mark).unwrap();
        row([name.to_owned(), at.to_string(), kind.to_owned()])
    };
    let built = vec![
        field("version", 1, "u64"),
        field("expires_at_ms", 2, "i64"),
        field("format", 3, "u32"),
        field("reserved", 0, "u32"),
    ];
    assert_documented(&["field of the header", "offset", "type"], built);
    let text = files::one("docs/abi.md").text;
    assert!(text.contains(&format!("{ENTRY_HEADER_BYTES} bytes")));
}

/// The tables against which plugins are compiled, by their heads.
const FROZEN: [&[&str]; 9] = [
    &["import", "signature"],
    &["status", "value"],
    &["exit code"],
    &["field of `kv_set`", "bit", "offset", "type"],
    &["field of `kv_delete`", "bit", "offset", "type"],
    &["field of `kv_list`", "bit", "offset", "type"],
    &["format", "name"],
    &["flag", "name"],
    &["field of the header", "offset", "type"],
];

/// The documented tables are those of the code, by the tests above.
#[test]
fn frozen_abi_has_only_additions() {
    let (now, frozen) = (
        files::one("docs/abi.md").text,
        files::one("tests/fixtures/kvasm_v1.md").text,
    );
    for head in FROZEN {
        let now = documented(&now, head);
        let frozen = documented(&frozen, head);
        assert!(!frozen.is_empty(), "{head:?}");
        let missing = frozen.iter().filter(|row| !now.contains(row));
        let missing: Vec<_> = missing.map(|row| format!("{row:?}")).collect();
        assert_none(&missing);
    }
}

#[test]
fn abi_module_and_section_names_are_documented() {
    let text = files::one("docs/abi.md").text;
    for name in [MODULE, MEMORY, MANIFEST_SECTION, TYPES_SECTION] {
        assert!(
            text.contains(&format!("`{name}`")),
            "{name} is not in docs/abi.md"
        );
    }
}

#[test]
fn comparison_finds_differences_on_either_side() {
    let rows = |names: &[&str]| -> Rows { names.iter().map(|n| row([(*n).to_owned()])).collect() };
    let built = rows(&["a", "b"]);
    assert!(differences(&rows(&["a", "b"]), &built).is_empty());
    for bad in [
        &["a"][..],
        &["a", "b", "c"],
        &["a", "c"],
        &["b", "a"],
        &["a", "b", "b"],
    ] {
        assert!(!differences(&rows(bad), &built).is_empty(), "{bad:?}");
    }
    let text = "| import | signature | x |\n|---|---|---|\n| `f` | `() -> i64` | y |\n";
    assert_eq!(
        documented(text, &["import", "signature"]),
        [["f", "() -> i64"]]
    );
}

#[test]
fn option_field_is_derived_from_its_encoding() {
    let mut bytes = [0; 24];
    bytes[4] = 2;
    bytes[16..24].fill(0xff);
    let fields = option_field("if_version", false, &bytes);
    assert_eq!(fields, ["if_version", "1", "16", "u64"]);
    bytes[4] = 3;
    assert!(std::panic::catch_unwind(|| option_field("if_version", false, &bytes)).is_err());
}
