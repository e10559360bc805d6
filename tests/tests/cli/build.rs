//! `kvasm build`, with the real cargo.

use super::{CommandOutput, User};
use serde_json::json;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn checkout() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap().to_path_buf()
}

const MANIFEST: &str = "[package]\nname = \"tiny-plugin\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\
     [lib]\ncrate-type = [\"cdylib\"]\n[workspace]\n";
const SOURCE: &str = "#[unsafe(no_mangle)]\npub extern \"C\" fn hello() -> i32 { 0 }\n";

impl User {
    /// Runs `kvasm build`.
    fn build(&self, arguments: &[&str]) -> CommandOutput {
        let mut command = self.command_with_cargo(&[&["build"], arguments].concat());
        let output = command.output().unwrap();
        CommandOutput {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// A command that finds cargo, with a target folder that all of these tests share.
    pub fn command_with_cargo(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(arguments);
        // What cargo and rustup need of the real user.
        for name in [
            "PATH",
            "CARGO",
            "CARGO_HOME",
            "RUSTUP_HOME",
            "RUSTUP_TOOLCHAIN",
        ] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        for (name, folder) in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")] {
            if std::env::var_os(name).is_none()
                && let Some(home) = std::env::var_os("HOME")
            {
                command.env(name, Path::new(&home).join(folder));
            }
        }
        command.env("CARGO_TARGET_DIR", checkout().join("target/new-plugins"));
        // A test program that is not run by `cargo test` has no chosen toolchain. Rustup's `rustc` would then
        // read the `rust-toolchain.toml` of each dependency, install what it names, and update the user's
        // toolchain to do so.
        if std::env::var_os("RUSTUP_TOOLCHAIN").is_none() {
            let toolchain = Path::new(env!("CARGO")).ancestors().nth(2);
            command.env("RUSTUP_TOOLCHAIN", toolchain.unwrap());
        }
        command.env("RUSTUP_AUTO_INSTALL", "0");
        command
    }

    /// Makes a plugin from the template with functions. Returns its folder.
    pub fn new_plugin(&self, name: &str) -> String {
        let folder = self.home.path().join(name);
        let folder = folder.to_str().unwrap();
        let sdk = checkout().join("guest-sdk");
        self.ok(&["new", folder, "--sdk", sdk.to_str().unwrap()]);
        folder.to_owned()
    }

    /// Makes a plugin without dependencies.
    fn tiny(&self) -> PathBuf {
        self.tiny_named("tiny-plugin")
    }

    /// The same with a name of its own, which a test needs that builds it while others do: the files
    /// in the shared target folder have the package's name.
    pub fn tiny_named(&self, name: &str) -> PathBuf {
        let folder = self.home.path().join("tiny");
        std::fs::create_dir_all(folder.join("src")).unwrap();
        let manifest = MANIFEST.replace("tiny-plugin", name);
        std::fs::write(folder.join("Cargo.toml"), manifest).unwrap();
        std::fs::write(folder.join("src/lib.rs"), SOURCE).unwrap();
        folder
    }
}

#[test]
fn plugin_from_a_template_is_built_and_deployed() {
    let user = User::with_app();
    let folder = &user.new_plugin("my-build");
    let built = user.build(&[folder, "--json"]);
    assert_eq!(built.code, 0, "{}", built.stderr);
    let built = built.json();
    let path = built["path"].as_str().unwrap();
    assert!(
        path.ends_with("target/new-plugins/kvasm/my_build.wasm"),
        "{path}"
    );
    let bytes = std::fs::metadata(path).unwrap().len();
    assert_eq!(built["bytes"], json!(bytes));
    assert!(built["unstripped_bytes"].as_u64().unwrap() > bytes);
    let largest = built["largest"].as_array().unwrap();
    assert_eq!(largest.len(), 5);
    let has = |name: &str| largest.iter().any(|part| part["name"] == name);
    assert!(has("serde_json") && has("data"), "{largest:?}");
    let inspected = user.json(&["inspect", path]);
    let sections = inspected["custom_sections"].as_array().unwrap();
    let names = sections.iter().map(|section| section["name"].to_string());
    // The order of Kvasm's is the linker's.
    let names = names.collect::<BTreeSet<_>>();
    let names: Vec<&str> = names.iter().map(|name| name.trim_matches('"')).collect();
    assert_eq!(names, ["kvasm.plugin.v1", "kvasm.types.v1", "name"]);
    let functions = inspected["functions"].as_array().unwrap();
    let of = |name: &str| functions.iter().find(|f| f["name"] == name).unwrap();
    assert_eq!(of("names")["output"], "Result<Json<Vec<String>>, Error>");
    assert_eq!(of("add_tag")["input"], "Json<Tag>");
    user.ok(&["plugin", "deploy", "demo", path]);
    let output = user.file("stripped.wasm", b"");
    let stripped = user.build(&[folder, "--strip-names", "--output", &output]);
    assert_eq!(stripped.code, 0, "{}", stripped.stderr);
    let inspected = user.json(&["inspect", &output]);
    assert_eq!(inspected["custom_sections"][0]["name"], "kvasm.plugin.v1");
    assert_eq!(inspected["custom_sections"].as_array().unwrap().len(), 1);
    let input = r#"{"name":"ada","tag":"kind"}"#;
    let tagged = user.ok(&["call", "demo", "add_tag", "--input", input]);
    assert_eq!(tagged.trim(), r#"["kind"]"#);
    // The module of a language that writes its own declarations takes no others.
    std::fs::write(Path::new(folder).join("kvasm.json"), "[]").unwrap();
    let twice = user.build(&[folder]);
    assert_eq!(twice.code, 2, "{}", twice.stderr);
    assert!(
        twice.stderr.contains("already has a section"),
        "{}",
        twice.stderr
    );
}

#[test]
fn declarations_beside_the_source_are_added() {
    let user = User::with_app();
    let folder = user.tiny();
    let at = folder.to_str().unwrap();
    let module = user.home.path().join("out/tiny.wasm");
    let module = module.to_str().unwrap();
    let build = |more: &[&str]| user.build(&[&[at, "--output", module], more].concat());
    let declaration = r#"[{"kind":"function","name":"hello","transaction":true}]"#;
    std::fs::write(folder.join("kvasm.json"), declaration).unwrap();
    for more in [
        &[][..],
        &["--target", "wasm32-unknown-unknown"],
        &["--strip-names"],
        &["--debug"],
    ] {
        let built = build(more);
        assert_eq!(built.code, 0, "{more:?}: {}", built.stderr);
        let first = built.stdout.lines().next().unwrap();
        assert!(first.starts_with(module), "{first}");
        let inspected = user.json(&["inspect", module]);
        let function = json!({"name": "hello", "kind": "transaction", "callable": true});
        assert_eq!(inspected["functions"], json!([function]), "{more:?}");
        let sections = inspected["custom_sections"].to_string();
        let keeps_names = !more.contains(&"--strip-names");
        assert_eq!(
            sections.contains("\"name\":\"name\""),
            keeps_names,
            "{sections}"
        );
    }
    assert_eq!(user.ok(&["run", module, "hello"]), "");
    // What is declared and not there is refused, as a deployment would.
    let declaration = r#"[{"kind":"function","name":"bye"}]"#;
    std::fs::write(folder.join("kvasm.json"), declaration).unwrap();
    let refused = build(&[]);
    assert_eq!(refused.code, 3, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("declares \"bye\""),
        "{}",
        refused.stderr
    );
    std::fs::write(folder.join("kvasm.json"), "{}").unwrap();
    let malformed = build(&[]);
    assert_eq!(malformed.code, 2, "{}", malformed.stderr);
    assert!(
        malformed
            .stderr
            .contains("kvasm.json: expected a JSON array"),
        "{}",
        malformed.stderr
    );
}

#[test]
fn project_that_makes_no_module_is_explained() {
    let user = User::new();
    let folder = user.tiny();
    let at = folder.to_str().unwrap();
    let refuses = |words: &str| {
        let built = user.build(&[at]);
        assert_eq!(built.code, 2, "{words}: {}", built.stderr);
        assert!(built.stderr.contains(words), "{words}: {}", built.stderr);
        assert!(built.stdout.is_empty(), "{}", built.stdout);
    };
    std::fs::write(folder.join("src/lib.rs"), "fn broken( {").unwrap();
    refuses("cargo could not build the plugin");
    std::fs::write(folder.join("src/lib.rs"), SOURCE).unwrap();
    let library = MANIFEST.replace("cdylib", "rlib");
    std::fs::write(folder.join("Cargo.toml"), library).unwrap();
    refuses("its library has the crate-type \"rlib\". Add to its Cargo.toml");
    std::fs::write(folder.join("Cargo.toml"), "[package").unwrap();
    refuses("cargo cannot read the project");
    std::fs::write(
        folder.join("Cargo.toml"),
        "[workspace]\nmembers = [\"a\"]\n",
    )
    .unwrap();
    std::fs::create_dir_all(folder.join("a/src")).unwrap();
    std::fs::write(folder.join("a/src/lib.rs"), SOURCE).unwrap();
    let member = MANIFEST.replace("[workspace]\n", "");
    std::fs::write(folder.join("a/Cargo.toml"), member).unwrap();
    refuses("this is a workspace; name the folder of a plugin");
    std::fs::remove_file(folder.join("Cargo.toml")).unwrap();
    refuses("has no Cargo.toml, go.mod");
    user.fails(&["build", "/nonexistent"], 2, "is not a folder");
}

const TRAPS: &str = "#[unsafe(no_mangle)]
pub extern \"C\" fn hello() -> i32 {
    outer(0)
}

#[inline(never)]
fn outer(divisor: i32) -> i32 {
    inner::divide(std::hint::black_box(divisor)) + 1
}

mod inner {
    #[inline(never)]
    pub fn divide(divisor: i32) -> i32 {
        assert!(divisor != 0, \"cannot divide\");
        1 / divisor
    }
}
";

/// Names are in every backtrace, source lines in that of a debug build, also from the cache folder.
#[test]
fn backtrace_has_names_and_source_lines() {
    let user = User::new();
    let folder = user.tiny_named("trapping");
    std::fs::write(folder.join("src/lib.rs"), TRAPS).unwrap();
    let at = folder.to_str().unwrap();
    let module = user.home.path().join("tiny.wasm");
    let module = module.to_str().unwrap();
    for (more, has_names, has_lines) in [
        (&[][..], true, false),
        (&["--strip-names"], false, false),
        (&["--debug"], true, true),
    ] {
        let built = user.build(&[&[at, "--output", module], more].concat());
        assert_eq!(built.code, 0, "{more:?}: {}", built.stderr);
        // The second time it is not compiled.
        for _ in 0..2 {
            let trapped = user.run(&["run", module, "hello"]);
            assert_eq!(trapped.code, 3, "{}", trapped.stderr);
            let has = |text: &str| trapped.stderr.contains(text);
            let shown = (has("trapping::outer"), has("outer at src/lib.rs:8"));
            assert_eq!(shown, (has_names, has_lines), "{}", trapped.stderr);
            let shown = (has("inner::divide"), has("inner::divide at src/lib.rs:14"));
            assert_eq!(shown, (has_names, has_lines), "{}", trapped.stderr);
            assert!(has("unreachable"), "{}", trapped.stderr);
        }
    }
}

impl User {
    /// Runs `kvasm build` with a compiler that has no library for a target, and without rustup.
    fn build_lacking(&self, lacking: &[&str], arguments: &[&str]) -> CommandOutput {
        use std::os::unix::fs::PermissionsExt;
        let tools = self.home.path().join("tools");
        std::fs::create_dir_all(tools.join("empty")).unwrap();
        let script = |name: &str, text: String| {
            let path = tools.join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        script("rustup", "exit 1".to_owned());
        let empty = tools.join("empty");
        let path = std::env::var_os("PATH").unwrap();
        // By its path: the script is not to call itself.
        let real = std::env::split_paths(&path).map(|folder| folder.join("rustc"));
        let real = { real }.find(|path| path.is_file()).unwrap();
        let lacks = |target: &&str| format!("*target-libdir*{target}) echo {} ;;", empty.display());
        let cases: Vec<String> = lacking.iter().map(lacks).collect();
        let cases = cases.join(" ");
        let text = format!(
            "case \"$*\" in {cases} *) exec {} \"$@\" ;; esac",
            real.display()
        );
        let rustc = script("rustc", text);
        let mut command = self.command_with_cargo(&[&["build"], arguments].concat());
        let paths = std::iter::once(tools.clone()).chain(std::env::split_paths(&path));
        command.env("PATH", std::env::join_paths(paths).unwrap());
        let output = command.env("RUSTC", &rustc).output().unwrap();
        CommandOutput {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// The default is wasm32-wasip1, unless the project says otherwise; without its library, and without
/// a network to fetch it, it is the other, and says so.
#[test]
fn target_is_what_the_project_says_or_what_is_there() {
    const WASIP1: &str = "wasm32-wasip1";
    const UNKNOWN: &str = "wasm32-unknown-unknown";
    let user = User::new();
    let folder = user.tiny_named("targets");
    let at = folder.to_str().unwrap();
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    let says = |target: &str| {
        let more = format!("[package.metadata.kvasm]\ntarget = {target}\n");
        std::fs::write(folder.join("Cargo.toml"), format!("{manifest}{more}")).unwrap();
    };
    let built = |lacking: &[&str], arguments: &[&str]| {
        let module = checkout().join("target/new-plugins");
        let module = |target: &str| module.join(target).join("release/targets.wasm");
        for target in [WASIP1, UNKNOWN] {
            let _ = std::fs::remove_file(module(target));
        }
        let built = user.build_lacking(lacking, &[&[at], arguments].concat());
        let made = [WASIP1, UNKNOWN].map(|target| module(target).exists());
        (built, made)
    };
    let (plain, made) = built(&[], &[]);
    assert_eq!((plain.code, made), (0, [true, false]), "{}", plain.stderr);
    let (fallback, made) = built(&[WASIP1], &[]);
    assert_eq!(
        (fallback.code, made),
        (0, [false, true]),
        "{}",
        fallback.stderr
    );
    let note = "Add it with `rustup target add wasm32-wasip1`.";
    assert!(fallback.stderr.contains(note), "{}", fallback.stderr);
    let (asked, _) = built(&[WASIP1], &["--target", WASIP1]);
    assert_eq!(asked.code, 2, "{}", asked.stderr);
    let why = "has no standard library for wasm32-wasip1: run `rustup target add wasm32-wasip1`\n";
    assert!(asked.stderr.contains(why), "{}", asked.stderr);
    says("\"wasm32-unknown-unknown\"");
    let (said, made) = built(&[], &[]);
    assert_eq!((said.code, made), (0, [false, true]), "{}", said.stderr);
    let (asked, made) = built(&[], &["--target", WASIP1]);
    assert_eq!((asked.code, made), (0, [true, false]), "{}", asked.stderr);
    says("\"wasm32-wasip1\"");
    let (said, _) = built(&[WASIP1], &[]);
    assert_eq!(said.code, 2, "{}", said.stderr);
    for target in ["\"wasm64\"", "1", "[]"] {
        says(target);
        let (said, _) = built(&[], &[]);
        assert_eq!(said.code, 2, "{}", said.stderr);
        let why = "it can be wasm32-wasip1 or wasm32-unknown-unknown";
        assert!(said.stderr.contains(why), "{}", said.stderr);
    }
}

/// Without a toolchain the message says what to install.
#[test]
fn missing_tools_are_named() {
    let user = User::new();
    let folder = user.tiny();
    let at = folder.to_str().unwrap();
    let mut command = user.command(&["build", at]);
    let output = command.env("PATH", user.home.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("cargo is not installed"), "{stderr}");
}

/// What a host would refuse is refused when the plugin is compiled, at the line of its author.
#[test]
fn impossible_declarations_do_not_compile() {
    let user = User::new();
    let folder = user.new_plugin("impossible-declarations");
    let source = Path::new(&folder).join("src/lib.rs");
    let handler = "#[kvasm_guest::http]\nfn NAME(_: kvasm_guest::http::Request) {}\n";
    let (first, second) = (handler.replace("NAME", "a"), handler.replace("NAME", "b"));
    let schedule = "#[kvasm_guest::cron(\"SCHEDULE\")]\nfn run(_: kvasm_guest::ScheduledRun) {}\n";
    let of = |text: &str| schedule.replace("SCHEDULE", text);
    for (declared, line, words) in [
        (
            first + &second,
            3,
            "symbol `kvasm_http_handler` is already defined",
        ),
        (of("0 0 31 2 *"), 1, "its months do not have its days"),
        (of("*/0 * * * *"), 1, "the minute has a step of 0"),
        (of("30-10 * * * *"), 1, "the range 30-10, which ends before"),
    ] {
        std::fs::write(&source, declared).unwrap();
        let built = user.build(&[&folder]);
        assert_eq!(built.code, 2, "{words}: {}", built.stderr);
        let place = format!("src/lib.rs:{line}:");
        for expected in [words, &place] {
            assert!(
                built.stderr.contains(expected),
                "{expected}: {}",
                built.stderr
            );
        }
    }
}
