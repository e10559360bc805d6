//! Modules that cannot be plugins, and the errors for them; the cache on disk.

use kvasm::{Blame, Call, CallError, LoadError};
use kvasm_tests::guests::{TestHost, manifest, module, module_with};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

pub async fn load_error(wasm: Vec<u8>) -> LoadError {
    let bench = TestHost::new().await;
    let error = bench.host.load(&bench.app, wasm).await.err().unwrap();
    assert_eq!(error.blame(), Blame::Guest);
    error
}

fn wat(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

#[tokio::test]
async fn invalid_module_is_rejected() {
    let good = module("", "(i32.const 0)");
    for wasm in [
        Vec::new(),
        b"\x7fELF\x02\x01\x01".to_vec(),
        b"(module)".to_vec(),
        good[..good.len() - 1].to_vec(),
        wat("(component)"),
    ] {
        let error = load_error(wasm).await;
        assert!(matches!(error, LoadError::NotWasm(_)), "{error}");
    }
}

#[tokio::test]
async fn unknown_import_is_reported_by_name() {
    for (module, name, words) in [
        (
            "kvasm_v1",
            "kv_drop_all",
            "of Kvasm 0.1.0, does not have: the plugin was built for a newer host",
        ),
        (
            "kvasm_v2",
            "kv_get",
            "the plugin was built for the ABI \"kvasm_v2\"; this host, of Kvasm 0.1.0, has kvasm_v1",
        ),
        ("env", "abort", "which this host does not provide"),
    ] {
        let error = load_error(wat(&format!(
            "(module (import \"{module}\" \"{name}\" (func)) (memory (export \"memory\") 1))"
        )))
        .await;
        assert!(
            matches!(&error, LoadError::UnknownImport { module: m, name: n } if m == module && n == name),
            "{error}"
        );
        assert!(error.to_string().contains(words), "{error}");
    }
    let mismatch = load_error(wat(
        "(module (import \"kvasm_v1\" \"kv_has\" (func (param i64))) (memory (export \"memory\") 1))",
    ))
    .await;
    assert!(mismatch.to_string().contains("kv_has"), "{mismatch}");
}

#[tokio::test]
async fn module_must_export_its_memory() {
    for text in [
        "(module (func (export \"run\") (result i32) (i32.const 0)))",
        "(module (memory 1))",
        "(module (func (export \"memory\")))",
    ] {
        let error = load_error(wat(text)).await;
        assert!(matches!(error, LoadError::NoMemory), "{error}");
    }
}

/// A module that exports a function under each of these names.
fn exporting(names: impl IntoIterator<Item = String>, section: &str) -> Vec<u8> {
    let exports: String = names
        .into_iter()
        .map(|name| format!("(export \"{name}\" (func $f))"))
        .collect();
    wat(&format!(
        "(module {section} (memory (export \"memory\") 1)
         (func $f (result i32) (i32.const 0)) {exports})"
    ))
}

/// Every log line contains the name of its function, and every version list contains all of
/// them.
#[tokio::test]
async fn exported_function_names_are_limited() {
    let longest = "f".repeat(256);
    let bench = TestHost::new().await;
    bench.load(exporting([longest.clone()], "")).await;

    let long = format!("{longest}f");
    for kind in ["function", "http", "on_change"] {
        let section = manifest(&[&format!(r#"{{"kind":"{kind}","name":"{long}"}}"#)]);
        let error = load_error(exporting([long.clone()], &section)).await;
        assert!(
            matches!(error, LoadError::LongName { len: 257, .. }),
            "{error}"
        );
    }
    let error = load_error(exporting([long], "")).await;
    assert!(matches!(error, LoadError::LongName { .. }), "{error}");

    let many = |count| (0..count).map(|at: usize| format!("{at:0256}"));
    bench.load(exporting(many(256), "")).await;
    let error = load_error(exporting(many(257), "")).await;
    assert!(
        error.to_string().contains("65792 bytes in total"),
        "{error}"
    );
}

#[tokio::test]
async fn oversized_module_is_rejected() {
    let wasm = module("", "(i32.const 0)");
    let len = wasm.len();
    let bench = TestHost::with_limits(|limits| limits.module_bytes = len).await;
    bench.run(wasm.clone()).await.unwrap();
    let bench = TestHost::with_limits(|limits| limits.module_bytes = len - 1).await;
    let error = bench.host.load(&bench.app, wasm).await.err().unwrap();
    let expected = format!("the module is {len} bytes; the limit is {} bytes", len - 1);
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn module_memory_over_the_limit_is_rejected() {
    let error = load_error(wat("(module (memory (export \"memory\") 1025))")).await;
    assert!(error.to_string().contains("memory"), "{error}");
    // Each memory is within the limit; together they are not.
    let error = load_error(wat(
        "(module (memory (export \"memory\") 600) (memory 600) (func (export \"run\") (result i32) (i32.const 0)))",
    ))
    .await;
    let words = "memories of 78643200 bytes; the limit is 67108864 (limits.memory)";
    assert!(error.to_string().contains(words), "{error}");
}

/// Instance limits are reported with the limit and its key, not in the engine's own words.
#[tokio::test]
async fn table_and_memory_limits_are_reported_by_key() {
    let with = |fields: &str| module_with("", fields, "(i32.const 0)");
    let memories = |count: usize| with(&"(memory 1)".repeat(count - 1));
    let cases = [
        (
            with("(table 65537 funcref)"),
            "a table of 65537 elements; the limit is 65536 (limits.table_elements)",
        ),
        (
            with(&"(table 1 funcref)".repeat(5)),
            "5 tables; the limit is 4 (limits.tables)",
        ),
        (memories(9), "9 memories; the limit is 8 (limits.memories)"),
    ];
    for (wasm, words) in cases {
        let error = load_error(wasm).await.to_string();
        assert!(error.contains(words), "{error}");
        assert!(!error.contains("pool"), "{error}");
    }
    // A module that can be deployed also runs, even on the smallest host.
    let full = with(&format!(
        "{} {}",
        "(memory 1)".repeat(7),
        "(table 65536 funcref)".repeat(4)
    ));
    for wasm in [
        with("(table 25000 funcref)"),
        with("(table 1 funcref) (table 1 funcref)"),
        full,
    ] {
        for set_up in [
            (|b| b.instances(1)) as fn(kvasm::HostBuilder) -> kvasm::HostBuilder,
            |b| b.unpooled(),
        ] {
            let bench = TestHost::with(set_up).await;
            bench.run(wasm.clone()).await.unwrap();
        }
    }
    // Operators can raise and lower the limits.
    let wasm = with("(table 70000 funcref)");
    let bench = TestHost::with_limits(|limits| limits.table_elements = 70_000).await;
    bench.run(wasm.clone()).await.unwrap();
    // A growing table is subject to the same limit.
    for (set_up, name) in [(true, "pooled"), (false, "unpooled")] {
        let bench = TestHost::with(|b| if set_up { b } else { b.unpooled() }).await;
        let grow = "(i32.add (table.grow 0 (ref.null func) (i32.const 65537)) (table.grow 0 (ref.null func) (i32.const 65536)))";
        let wasm = module_with(
            "",
            "(table 0 funcref)",
            &format!("(i32.add {grow} (i32.const 1))"),
        );
        bench
            .run(wasm)
            .await
            .unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

#[tokio::test]
async fn too_many_globals_or_functions_are_reported() {
    let globals = "(global (mut i64) (i64.const 0))".repeat(300_000);
    let error = load_error(module_with("", &globals, "(i32.const 0)")).await;
    assert!(matches!(error, LoadError::InstanceTooLarge), "{error}");
    assert!(!error.to_string().contains("pool"), "{error}");
}

/// A 64-bit memory is accepted and limited like any other.
#[tokio::test]
async fn memory64_works_below_4_gib() {
    let bench = TestHost::new().await;
    let wasm = wat(r#"(module
          (import "kvasm_v1" "output_write" (func $write (param i32 i32) (result i64)))
          (memory (export "memory") i64 1)
          (data (i64.const 65531) "hello")
          (func (export "run") (result i32)
            (drop (call $write (i32.const 65531) (i32.const 5)))
            (i32.wrap_i64 (i64.add (i64.const 1) (memory.grow (i64.const 1024)))))
          (func (export "past") (result i32)
            (drop (call $write (i32.const 65532) (i32.const 5))) (i32.const 0)))"#);
    assert_eq!(bench.run(wasm.clone()).await.unwrap().output, b"hello");
    let plugin = bench.load(wasm).await;
    let past = bench.host.call(&plugin, Call::function("past")).await;
    assert!(matches!(past.unwrap_err().error, CallError::Trap { .. }));
}

#[tokio::test]
async fn manifest_declarations_must_match_exports() {
    let fields = |json: &str| {
        module_with(
            "",
            &format!("(@custom \"kvasm.plugin.v1\" \"{json}\")"),
            "(i32.const 0)",
        )
    };
    let quote = |json: &str| json.replace('"', "\\22");
    let missing = load_error(fields(&quote(r#"{"kind":"function","name":"walk"}"#))).await;
    assert!(matches!(&missing, LoadError::MissingFunction(name) if name == "walk"));
    let unknown = load_error(fields(&quote(r#"{"kind":"timer","name":"run"}"#))).await;
    for (export, kind) in [
        (
            r#"(func (export "walk") (param i32 i64) (result i32 f64) unreachable)"#,
            "(i32 i64) -> i32 f64",
        ),
        (r#"(func (export "walk"))"#, "() -> ()"),
        (
            r#"(func (export "walk") (result i64) unreachable)"#,
            "() -> i64",
        ),
        (r#"(global (export "walk") i32 (i32.const 0))"#, "a global"),
        (r#"(table (export "walk") 0 funcref)"#, "a table"),
    ] {
        let section = quote(r#"{"kind":"http","name":"walk"}"#);
        let section = format!("(@custom \"kvasm.plugin.v1\" \"{section}\") {export}");
        let wrong = load_error(module_with("", &section, "(i32.const 0)")).await;
        assert!(
            matches!(&wrong, LoadError::WrongType { name, found } if name == "walk" && found == kind),
            "{wrong}"
        );
    }
    assert!(unknown.to_string().contains("timer"), "{unknown}");
    // With declarations, only declared functions can be called.
    let bench = TestHost::new().await;
    let plugin = bench.load(fields("")).await;
    assert_eq!(plugin.functions().count(), 0);
    let failure = bench
        .host
        .call(&plugin, Call::function("run"))
        .await
        .unwrap_err();
    assert!(matches!(failure.error, CallError::UnknownFunction { .. }));
    assert_eq!(failure.error.blame(), Blame::Caller);
}

#[tokio::test]
async fn trap_backtrace_names_functions() {
    let bench = TestHost::new().await;
    let fields = "(func $inner_most unreachable) (func $outer (call $inner_most))";
    let failure = bench
        .run(module_with("", fields, "(call $outer) (i32.const 0)"))
        .await
        .unwrap_err();
    let CallError::Trap { reason, backtrace } = &failure.error else {
        panic!("{failure}");
    };
    assert!(reason.contains("unreachable"), "{reason}");
    let names: Vec<_> = backtrace.lines().map(str::trim).collect();
    assert_eq!(names[..2], ["0: inner_most", "1: outer"]);
}

/// Most languages have a stack in linear memory, which ends at address 0.
#[tokio::test]
async fn overflow_of_a_stack_in_memory_is_called_that() {
    let bench = TestHost::new().await;
    let reason_at = async |address: i32| {
        let store = format!("(i32.store (i32.const {address}) (i32.const 1)) (i32.const 0)");
        let failure = bench.run(module("", &store)).await.unwrap_err();
        let CallError::Trap { reason, .. } = failure.error else {
            panic!("{failure}");
        };
        reason
    };
    let below = reason_at(-32).await;
    assert!(below.contains("probably a stack overflow"), "{below}");
    let beyond = reason_at(i32::MAX).await;
    assert!(beyond.contains("out of bounds"), "{beyond}");
    assert!(!beyond.contains("stack"), "{beyond}");
}

/// Cached modules that are modified, swapped or truncated are compiled again, with the same
/// result.
#[tokio::test]
async fn modified_cache_file_is_recompiled() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("cache");
    let one = module(
        "",
        "(drop (call $output_write (i32.const 0) (i32.const 1))) (i32.const 0)",
    );
    let two = module("", "(i32.const 7)");
    let run = async |wasm: &Vec<u8>| {
        let bench = TestHost::with(|builder| builder.cache_dir(&dir)).await;
        bench.run(wasm.clone()).await
    };
    run(&one).await.unwrap();
    run(&two).await.unwrap_err();
    let files = || {
        let mut files: Vec<_> = std::fs::read_dir(&dir)
            .unwrap()
            .map(|file| file.unwrap().path())
            .filter(|path| !path.ends_with("key"))
            .collect();
        files.sort();
        files
    };
    let [first, second] = files().try_into().unwrap();
    let mode = std::fs::metadata(&first).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    // Each module's code under the other's name.
    let (a, b) = (
        std::fs::read(&first).unwrap(),
        std::fs::read(&second).unwrap(),
    );
    std::fs::write(&first, &b).unwrap();
    std::fs::write(&second, &a).unwrap();
    let both_run_as_ever = async || {
        assert_eq!(run(&one).await.unwrap().output, [0]);
        run(&two).await.unwrap_err();
    };
    both_run_as_ever().await;
    // A flipped bit, a truncated file, an empty file; each time the file is written again.
    for damage in [0, a.len() / 2, a.len() - 1] {
        for path in files() {
            let mut bytes = std::fs::read(&path).unwrap();
            let at = damage.min(bytes.len() - 1);
            bytes[at] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
        }
        both_run_as_ever().await;
        for path in files() {
            std::fs::write(&path, &a[..damage.min(40)]).unwrap();
        }
        both_run_as_ever().await;
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(dir).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

/// A host whose cache folder is unusable runs without one and writes nothing.
#[tokio::test]
async fn cache_folder_accessible_to_others_is_rejected() {
    for mode in [0o755, 0o770, 0o707] {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("cache");
        std::fs::create_dir(&dir).unwrap();
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(mode)).unwrap();
        let bench = TestHost::with(|b| b.cache_dir(&dir)).await;
        bench.run(module("", "(i32.const 0)")).await.unwrap();
        assert_eq!(files(&dir), Vec::<PathBuf>::new());
    }
}

#[tokio::test]
async fn cache_folder_owned_by_another_user_is_rejected() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("cache");
    std::fs::create_dir(&dir).unwrap();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).unwrap();
    // Only root can change a folder's owner.
    if std::os::unix::fs::chown(&dir, Some(12_345), None).is_err() {
        return;
    }
    let bench = TestHost::with(|b| b.cache_dir(&dir)).await;
    bench.run(module("", "(i32.const 0)")).await.unwrap();
    assert_eq!(files(&dir), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn host_runs_without_a_cache_folder() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    for dir in [file.join("cache"), "/proc/cache".into(), file] {
        let bench = TestHost::with(|b| b.cache_dir(&dir)).await;
        bench.run(module("", "(i32.const 0)")).await.unwrap();
    }
    // The same when it is removed while the host runs.
    let dir = folder.path().join("cache");
    let bench = TestHost::with(|b| b.cache_dir(&dir)).await;
    std::fs::remove_dir_all(&dir).unwrap();
    bench.run(module("", "(i32.const 0)")).await.unwrap();
}

#[tokio::test]
async fn damaged_cache_key_is_replaced_and_files_removed() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("cache");
    let run = async || {
        let bench = TestHost::with(|b| b.cache_dir(&dir)).await;
        bench.run(module("", "(i32.const 0)")).await.unwrap();
    };
    run().await;
    let before = files(&dir);
    assert_eq!(before.len(), 2);
    let key = std::fs::read(dir.join("key")).unwrap();
    for damage in [&b""[..], b"short", &[0; 33]] {
        std::fs::write(dir.join("key"), damage).unwrap();
        run().await;
        assert_eq!(files(&dir), before);
        let new = std::fs::read(dir.join("key")).unwrap();
        assert!(new.len() == 32 && new != key);
    }
}

/// Rejected modules leave no files, and the folder stays within its limits.
#[tokio::test]
async fn cache_folder_is_limited_and_holds_only_accepted_modules() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("cache");
    let bench = TestHost::with(|b| b.cache_dir(&dir)).await;
    for text in [
        "(module)",
        r#"(module (import "env" "abort" (func)) (memory (export "memory") 1))"#,
        r#"(module (memory (export "memory") 1) (@custom "kvasm.plugin.v1" "{"))"#,
    ] {
        bench.host.load(&bench.app, wat(text)).await.err().unwrap();
        assert_eq!(files(&dir), [dir.join("key")]);
    }

    let variant = |number: usize| module("", &format!("(i32.const {number})"));
    bench.load(variant(0)).await;
    let one = std::fs::metadata(&files(&dir)[0]).unwrap().len();
    let limits = [
        kvasm::CacheLimits {
            bytes: one * 3 + one / 2,
            files: 100,
        },
        kvasm::CacheLimits {
            bytes: one * 100,
            files: 3,
        },
    ];
    for limits in limits {
        let bench = TestHost::with(|b| b.cache_dir(&dir).cache_limits(limits)).await;
        for number in 1..10 {
            bench.load(variant(number)).await;
            let files = files(&dir);
            let modules = files.iter().filter(|path| !path.ends_with("key"));
            let bytes: u64 = modules
                .map(|path| std::fs::metadata(path).unwrap().len())
                .sum();
            assert!(bytes <= limits.bytes && files.len() as u64 <= limits.files + 1);
            assert!(files.len() > 1, "the last one is there");
        }
    }
}
