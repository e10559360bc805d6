//! Modules that cannot be plugins, and how they are refused; the cache on disk.

use kvasm::{Blame, Call, CallError, LoadError};
use kvasm_tests::guests::{Bench, module, module_with};
use std::os::unix::fs::PermissionsExt;

async fn load_error(wasm: Vec<u8>) -> LoadError {
    let bench = Bench::new().await;
    let error = bench.host.load(&bench.app, wasm).await.err().unwrap();
    assert_eq!(error.blame(), Blame::Guest);
    error
}

fn wat(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

#[tokio::test]
async fn what_is_no_module_is_refused() {
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
async fn an_unknown_import_is_named() {
    for (module, name) in [
        ("kvasm_v1", "kv_drop_all"),
        ("kvasm_v2", "kv_get"),
        ("env", "abort"),
    ] {
        let error = load_error(wat(&format!(
            "(module (import \"{module}\" \"{name}\" (func)) (memory (export \"memory\") 1))"
        )))
        .await;
        assert!(
            matches!(&error, LoadError::UnknownImport { module: m, name: n } if m == module && n == name),
            "{error}"
        );
    }
    let mismatch = load_error(wat(
        "(module (import \"kvasm_v1\" \"kv_has\" (func (param i64))) (memory (export \"memory\") 1))",
    ))
    .await;
    assert!(mismatch.to_string().contains("kv_has"), "{mismatch}");
}

#[tokio::test]
async fn a_module_needs_a_memory_of_its_own() {
    for text in [
        "(module (func (export \"run\") (result i32) (i32.const 0)))",
        "(module (memory 1))",
        "(module (func (export \"memory\")))",
    ] {
        let error = load_error(wat(text)).await;
        assert!(matches!(error, LoadError::NoMemory), "{error}");
    }
}

#[tokio::test]
async fn one_byte_over_the_limit_is_refused() {
    let wasm = module("", "(i32.const 0)");
    let len = wasm.len();
    let bench = Bench::limited(|limits| limits.module_bytes = len).await;
    bench.run(wasm.clone()).await.unwrap();
    let bench = Bench::limited(|limits| limits.module_bytes = len - 1).await;
    let error = bench.host.load(&bench.app, wasm).await.err().unwrap();
    let expected = format!("the module is {len} bytes; the limit is {} bytes", len - 1);
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn a_memory_over_the_limit_is_refused() {
    let error = load_error(wat("(module (memory (export \"memory\") 1025))")).await;
    assert!(error.to_string().contains("memory"), "{error}");
    // Each memory fits; together they do not.
    let bench = Bench::new().await;
    let failure = bench
        .run(wat(
            "(module (memory (export \"memory\") 600) (memory 600) (func (export \"run\") (result i32) (i32.const 0)))",
        ))
        .await
        .unwrap_err();
    assert!(
        matches!(failure.error, CallError::Start { .. }),
        "{failure}"
    );
    assert!(failure.to_string().contains("67108864 bytes"), "{failure}");
}

#[tokio::test]
async fn declarations_must_hold() {
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
    assert!(unknown.to_string().contains("timer"), "{unknown}");
    // With declarations, what is not declared cannot be called.
    let bench = Bench::new().await;
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
async fn a_trap_tells_the_functions_by_name() {
    let bench = Bench::new().await;
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

/// A cache whose files are altered, swapped or cut is compiled anew, and the
/// result is the same.
#[tokio::test]
async fn a_cache_file_that_was_touched_is_never_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("cache");
    let one = module(
        "",
        "(drop (call $output_write (i32.const 0) (i32.const 1))) (i32.const 0)",
    );
    let two = module("", "(i32.const 7)");
    let run = async |wasm: &Vec<u8>| {
        let bench = Bench::with(|builder| builder.cache_dir(&dir)).await;
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
    // A bit, a cut, nothing at all; the file is made anew each time.
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

#[tokio::test]
async fn a_cache_folder_that_others_can_enter_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("cache");
    std::fs::create_dir(&dir).unwrap();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    let error = kvasm::Host::builder()
        .instances(1)
        .cache_dir(&dir)
        .build()
        .err()
        .unwrap();
    assert!(error.to_string().contains("chmod 700"), "{error}");
}
