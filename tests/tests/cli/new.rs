//! `kvasm new`: what it makes is tested, built and deployed unchanged, with the real cargo.

use super::User;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;

fn checkout() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap().to_path_buf()
}

/// Runs cargo for a plugin, with a target folder that all of them share.
#[track_caller]
fn cargo(plugin: &Path, arguments: &[&str]) {
    let target = checkout().join("target/new-plugins");
    let mut command = Command::new(env!("CARGO"));
    command.args(arguments).current_dir(plugin);
    command.env("CARGO_TARGET_DIR", target);
    // Set for the workspace, if at all.
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
        command.env_remove(name);
    }
    let done = command.output().unwrap();
    let text = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "cargo {arguments:?}: {text}");
}

/// Makes a plugin, tests and builds it, and deploys it to an app of its own. Returns its module's
/// size.
fn made(user: &User, template: &str) -> u64 {
    let name = format!("my-{template}");
    let path = user.home.path().join(&name);
    let folder = path.to_str().unwrap();
    let sdk = checkout().join("guest-sdk");
    let new = ["new", folder, "--template", template, "--sdk"];
    let new = [&new, &[sdk.to_str().unwrap()][..]].concat();
    let output = user.ok(&new);
    assert!(output.contains("cargo test"), "{output}");
    cargo(&path, &["test"]);
    let build = ["build", "--release", "--target", "wasm32-unknown-unknown"];
    cargo(&path, &build);
    let target = checkout().join("target/new-plugins/wasm32-unknown-unknown/release");
    let module = target.join(format!("my_{template}.wasm"));
    user.ok(&["app", "create", &name]);
    user.ok(&["plugin", "deploy", &name, module.to_str().unwrap()]);
    // It does not overwrite what is there.
    user.fails(&new, 2, "is not empty; nothing was written");
    std::fs::metadata(module).unwrap().len()
}

#[test]
fn each_template_is_tested_built_and_deployed_unchanged() {
    let user = User::with_app();
    let sizes = ["function", "http", "trigger"].map(|template| made(&user, template));
    println!("sizes: {sizes:?}");
    assert!(sizes.iter().all(|size| *size < 200 * 1024), "{sizes:?}");
    let input = r#"{"name":"ada","tag":"kind"}"#;
    let tagged = user.ok(&["call", "my-function", "add_tag", "--input", input]);
    assert_eq!(tagged.trim(), r#"["kind"]"#);
    let offered = user.json(&["plugin", "functions", "my-http"]);
    assert_eq!(offered["http"], "handle");
    let order = r#"{"customer":"ada","cents":5}"#;
    user.ok(&["call", "my-trigger", "place", "--input", order]);
    let deliveries = user.json(&["delivery", "list", "my-trigger"]);
    assert_eq!(deliveries["deliveries"][0]["function"], "add_up");
}

#[test]
fn new_refuses_what_it_cannot_make() {
    let user = User::with_app();
    let sdk = checkout().join("guest-sdk");
    let sdk = sdk.to_str().unwrap();
    let at = |name: &str| user.home.path().join(name).to_str().unwrap().to_owned();
    for name in ["Notes", "2x", "a b", "fn", "serde"] {
        user.fails(&["new", &at(name), "--sdk", sdk], 2, "a name for a plugin");
        assert!(!Path::new(&at(name)).exists());
    }
    let path = at("notes");
    user.fails(&["new", &path, "--sdk", "/nowhere"], 2, "guest-sdk");
    user.fails(
        &["new", &path, "--template", "cobol"],
        2,
        "function, http, trigger",
    );
    std::fs::write(at("file"), "x").unwrap();
    user.fails(&["new", &at("file"), "--sdk", sdk], 2, "cannot use");
    assert!(!Path::new(&path).exists());
    // An empty folder is used.
    std::fs::create_dir(&path).unwrap();
    let made = user.json(&["new", &path, "--sdk", sdk]);
    assert_eq!(made["name"], json!("notes"));
    assert!(Path::new(&path).join("src/lib.rs").exists());
}
