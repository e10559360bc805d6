//! `kvasm build`, with the real cargo.

use super::{CommandOutput, User};
use serde_json::{Value, json};
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
    let names: Vec<&Value> = sections.iter().map(|section| &section["name"]).collect();
    assert_eq!(names, ["kvasm.plugin.v1", "name"]);
    user.ok(&["plugin", "deploy", "demo", path]);
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
        &["--target", "wasm32-wasip1"],
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
