//! One table for the ABI: the host's linker, the SDKs of all languages and `docs/abi.md` must each
//! match `kvasm_abi::IMPORTS`, import by import.
//!
//! The host cannot link a name that is not in the table: it counts calls by the import's index
//! there, and a name without an index does not compile.

use super::files;
use super::markdown::{plain, table};
use super::{assert_none, rust};
use kvasm::Host;
use kvasm::model::AppName;
use kvasm_abi::{IMPORTS, Import, MODULE, Status, level};
use std::collections::BTreeMap;

const SDK: &str = "guest-sdk/src/sys/wasm.rs";
const HEADER: &str = "guest-sdk/c/kvasm.h";
const GO: &str = "guest-sdk/go/host_wasm.go";
const ASSEMBLYSCRIPT: &str = "guest-sdk/assemblyscript/host.ts";
const ZIG: &str = "guest-sdk/zig/host.zig";

/// The name and signature of each function, in order, as `f(i32 i64) -> i64`.
type Declared = Vec<String>;

fn shown(name: &str, params: &str, result: &str) -> String {
    format!("{name}({params}) -> {result}")
}

/// The functions in the first `extern` block of the SDK.
fn of_sdk(text: &str) -> Declared {
    let code = rust::read(text).code;
    let (_, block) = code.split_once("extern ").expect("an extern block");
    let (block, _) = block.split_once("\n    }").expect("its end");
    let functions = block.split(" fn ").skip(1).map(|function| {
        let (name, rest) = function.split_once('(').expect("parameters");
        let (params, rest) = rest.split_once(')').expect("their end");
        let result = rest.split(';').next().unwrap_or_default();
        let types = params.split(',').filter_map(|param| param.split_once(':'));
        let types: Vec<_> = types.map(|(_, kind)| of_rust(kind.trim())).collect();
        let result = result.trim().trim_start_matches("-> ");
        shown(name, &types.join(" "), of_rust(result))
    });
    functions.collect()
}

/// The wasm32 type of a Rust type.
fn of_rust(kind: &str) -> &'static str {
    match kind {
        "i64" | "u64" => "i64",
        "i32" | "u32" | "usize" => "i32",
        _ if kind.starts_with('*') => "i32",
        other => panic!("unknown type {other} in {SDK}"),
    }
}

/// The functions of a header after `KVASM_IMPORT(name)`.
fn of_header(text: &str) -> Declared {
    let code = without_comments(text);
    let functions = code.split("\nKVASM_IMPORT(").skip(1).map(|function| {
        let (import, rest) = function.split_once(')').expect("a name");
        let (head, rest) = rest.split_once('(').expect("parameters");
        let (params, _) = rest.split_once(')').expect("their end");
        let (result, name) = head.trim().split_once(' ').expect("a result");
        assert_eq!(name, format!("kvasm_{import}"), "the function of {import}");
        let params = params.split(',').map(str::trim);
        let params = params.filter(|param| *param != "void" && !param.is_empty());
        let types: Vec<_> = params.map(of_c).collect();
        shown(import, &types.join(" "), of_c(result))
    });
    functions.collect()
}

/// The wasm32 type of a C parameter, with or without a name.
fn of_c(param: &str) -> &'static str {
    if param.contains('*') {
        return "i32";
    }
    match param.split(' ').next() {
        Some("int64_t" | "uint64_t") => "i64",
        Some("int32_t" | "uint32_t" | "size_t") => "i32",
        _ => panic!("unknown type {param} in {HEADER}"),
    }
}

/// Functions that each follow `mark`, the name of the import and `after`, such as
/// `//go:wasmimport kvasm_v1 kv_get\nfunc hostKvGet(out unsafe.Pointer) int64`.
fn after_marks(text: &str, mark: &str, after: &str, kind_of: fn(&str) -> &'static str) -> Declared {
    let functions = text.split(mark).skip(1).map(|function| {
        let (name, _) = function.split_once(after).expect("a name");
        let (_, rest) = function[name.len() + after.len() - 1..]
            .split_once('(')
            .expect("parameters");
        let (params, rest) = rest.split_once(')').expect("their end");
        let params = params.split(',').map(str::trim).filter(|p| !p.is_empty());
        let types: Vec<_> = params.map(kind_of).collect();
        let result = rest.split(['\n', ';']).next().unwrap_or_default();
        shown(name, &types.join(" "), kind_of(&format!("result:{result}")))
    });
    functions.collect()
}

/// The wasm32 type of a parameter whose type is its last word, in Go, AssemblyScript and Zig.
fn of_last_word(param: &str) -> &'static str {
    match param.rsplit([' ', ':']).next() {
        Some("int64" | "i64") => "i64",
        Some(
            "int32" | "uint32" | "i32" | "usize" | "unsafe.Pointer" | "anyopaque" | "?*anyopaque",
        ) => "i32",
        _ => panic!("unknown type {param}"),
    }
}

fn of_go(text: &str) -> Declared {
    after_marks(text, "\n//go:wasmimport kvasm_v1 ", "\n", of_last_word)
}

fn of_assemblyscript(text: &str) -> Declared {
    after_marks(text, "\n@external(\"kvasm_v1\", \"", "\")\n", of_last_word)
}

fn of_zig(text: &str) -> Declared {
    let text = text.replace("fn ", "");
    after_marks(&text, "\npub extern \"kvasm_v1\" ", "(", of_last_word)
}

fn without_comments(text: &str) -> String {
    let mut parts = text.split("/*");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |code, part| {
        code + part.split_once("*/").map_or("", |(_, rest)| rest)
    })
}

/// The rows of the table of imports.
fn of_docs(text: &str) -> Declared {
    let rows = table(text, &["import", "signature"]).into_iter();
    let row = |row: Vec<String>| format!("{}{}", plain(&row[0]), plain(&row[1]));
    rows.map(row).collect()
}

fn differences(place: &str, declared: &Declared, table: &Declared) -> Vec<String> {
    let extra = declared.iter().filter(|f| !table.contains(f));
    let extra = extra.map(|f| format!("{place} has {f}, which kvasm_abi::IMPORTS has not"));
    let missing = table.iter().filter(|f| !declared.contains(f));
    let missing = missing.map(|f| format!("{place} lacks {f} of kvasm_abi::IMPORTS"));
    let mut found: Vec<_> = extra.chain(missing).collect();
    if found.is_empty() && declared != table {
        found.push(format!("{place} has the imports in another order"));
    }
    found
}

/// A module that imports one function, and loads only if the host links it with this signature.
fn module(import: &Import, params: &str) -> Vec<u8> {
    let text = format!(
        "(module (import \"{MODULE}\" \"{}\" (func (param {params}) (result {})))
           (memory (export \"memory\") 1)
           (func (export \"run\") (result i32) (i32.const 0)))",
        import.name, import.result
    );
    wat::parse_str(text).unwrap()
}

/// Imports that the host does not link as the table says, or also links with another signature.
async fn of_linker() -> Vec<String> {
    let host = Host::builder().instances(1).build().unwrap();
    let app = host.create_app(AppName::parse("a").unwrap()).await.unwrap();
    let mut found = Vec::new();
    for import in IMPORTS {
        if let Err(error) = host.load(&app, module(import, import.params)).await {
            found.push(format!("the host does not link {}: {error}", import.name));
        }
        let other = format!("{} f32", import.params);
        if host.load(&app, module(import, &other)).await.is_ok() {
            found.push(format!("the host links {} for any module", import.name));
        }
    }
    found
}

#[tokio::test]
async fn linker_sdks_and_docs_agree_on_imports() {
    let imports = IMPORTS.iter();
    let built: Declared = imports
        .map(|import| shown(import.name, import.params, import.result))
        .collect();
    let text = |path| files::one(path).text;
    let mut found = differences(SDK, &of_sdk(&text(SDK)), &built);
    found.extend(differences(HEADER, &of_header(&text(HEADER)), &built));
    found.extend(differences(GO, &of_go(&text(GO)), &built));
    let declared = of_assemblyscript(&text(ASSEMBLYSCRIPT));
    found.extend(differences(ASSEMBLYSCRIPT, &declared, &built));
    found.extend(differences(ZIG, &of_zig(&text(ZIG)), &built));
    let docs = "docs/abi.md";
    found.extend(differences(docs, &of_docs(&text(docs)), &built));
    found.extend(of_linker().await);
    assert_none(&found);
}

/// The constants of the header's enumerations.
fn numbers(text: &str) -> BTreeMap<String, i64> {
    let code = without_comments(text);
    let mut found = BTreeMap::new();
    for list in code.split("enum").skip(1) {
        let list = list.split_once('{').expect("a list").1;
        let list = list.split_once('}').expect("its end").0;
        let mut next = 0;
        for constant in list.split(',').map(str::trim).filter(|c| !c.is_empty()) {
            let (name, number) = match constant.split_once('=') {
                None => (constant, next),
                Some((name, text)) => {
                    let factors = text.split('*').map(|factor| factor.trim().parse::<i64>());
                    (name.trim(), factors.map(Result::unwrap).product())
                }
            };
            found.insert(name.to_owned(), number);
            next = number + 1;
        }
    }
    found
}

#[test]
fn header_constants_match_the_abi() {
    let numbers_of_abi: &[(&str, i64)] = &[
        ("JSON", kvasm_abi::FORMAT_JSON.into()),
        ("BYTES", kvasm_abi::FORMAT_BYTES.into()),
        ("OK", kvasm_abi::EXIT_OK.into()),
        ("FAILED", kvasm_abi::EXIT_FAILED.into()),
        ("FAILED_FOR_GOOD", kvasm_abi::EXIT_PERMANENT.into()),
        ("REFUSED", kvasm_abi::EXIT_REFUSED.into()),
        ("LATER", kvasm_abi::EXIT_LATER.into()),
        ("OP_SET", kvasm_abi::OP_SET.into()),
        ("OP_DELETE", kvasm_abi::OP_DELETE.into()),
        ("OP_INCREMENT", kvasm_abi::OP_INCREMENT.into()),
        ("OP_TIMER_SET", kvasm_abi::OP_TIMER_SET.into()),
        ("OP_TIMER_CANCEL", kvasm_abi::OP_TIMER_CANCEL.into()),
        ("TIMER_AT", kvasm_abi::TIMER_AT.into()),
        ("TIMER_AFTER", kvasm_abi::TIMER_AFTER.into()),
        ("BATCH_OPS_MAX", kvasm_abi::BATCH_OPS_MAX as i64),
        ("BATCH_BYTES_MAX", kvasm_abi::BATCH_BYTES_MAX as i64),
        ("KEYS_MAX", kvasm_abi::KEYS_MAX as i64),
        ("LETTERS_MAX", kvasm_abi::LETTERS_MAX.into()),
        ("GET_WITH_HEADER", kvasm_abi::GET_WITH_HEADER.into()),
        ("ERROR", level::ERROR.into()),
        ("WARN", level::WARN.into()),
        ("INFO", level::INFO.into()),
        ("DEBUG", level::DEBUG.into()),
        ("TRACE", level::TRACE.into()),
    ];
    let statuses = Status::ALL.iter();
    let statuses = statuses.map(|status| (status.name(), status.code()));
    let all = numbers_of_abi.iter().copied().chain(statuses);
    let built: BTreeMap<_, _> = all
        .map(|(name, number)| (format!("KVASM_{name}"), number))
        .collect();
    assert_eq!(numbers(&files::one(HEADER).text), built);
}

#[test]
fn import_declarations_are_parsed() {
    let sdk = "unsafe extern \"C\" {\n  pub fn a(x: *const u8, n: i64, l: usize) -> i64;\n  // fn x();\n  pub safe fn b() -> i64;\n    }\nfn c() {}";
    assert_eq!(of_sdk(sdk), ["a(i32 i64 i32) -> i64", "b() -> i64"]);
    let header = "\n/* KVASM_IMPORT(x) */\nKVASM_IMPORT(a)\nint64_t kvasm_a(const void *x,\n int64_t n, size_t l);\nKVASM_IMPORT(b) int64_t kvasm_b(void);\n";
    assert_eq!(of_header(header), of_sdk(sdk));
    let go = "\n//go:wasmimport kvasm_v1 a\nfunc hostA(x unsafe.Pointer, n int64, l uint32) int64\n\n//go:wasmimport kvasm_v1 b\nfunc hostB() int64\n";
    assert_eq!(of_go(go), of_sdk(sdk));
    let script = "\n@external(\"kvasm_v1\", \"a\")\nexport declare function a(\n  x: usize, n: i64, l: i32,\n): i64;\n\n@external(\"kvasm_v1\", \"b\")\nexport declare function b(): i64;\n";
    assert_eq!(of_assemblyscript(script), of_sdk(sdk));
    let zig = "\npub extern \"kvasm_v1\" fn a(x: ?*anyopaque, n: i64, l: usize) i64;\npub extern \"kvasm_v1\" fn b() i64;\n";
    assert_eq!(of_zig(zig), of_sdk(sdk));
    let table = of_sdk(sdk);
    assert!(differences("x", &table, &table).is_empty());
    assert_eq!(differences("x", &table[1..].to_vec(), &table).len(), 1);
    let turned: Declared = table.iter().rev().cloned().collect();
    assert_eq!(differences("x", &turned, &table).len(), 1);
    let more = [table.as_slice(), &["c() -> i64".to_owned()]].concat();
    assert_eq!(differences("x", &more, &table).len(), 1);
    let constants = numbers("enum a { A = -1, /* B = 2, */ C = 2 * 3 };\nenum { D, E };");
    let constants: Vec<_> = constants.into_iter().collect();
    let expected = [("A", -1), ("C", 6), ("D", 0), ("E", 1)];
    assert_eq!(
        constants,
        expected.map(|(name, number)| (name.to_owned(), number))
    );
}
