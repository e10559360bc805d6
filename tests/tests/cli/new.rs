//! `kvasm new`: what it makes is tested, built and deployed unchanged, with the real cargo.

use super::User;
use serde_json::json;
use std::path::{Path, PathBuf};

fn checkout() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap().to_path_buf()
}

/// The `kvasm new --help` and the page of the command line describe the templates in the same words.
#[test]
fn help_and_documentation_have_the_same_templates() {
    let page = std::fs::read_to_string(checkout().join("docs/cli.md")).unwrap();
    let (_, table) = page.split_once("| template |").unwrap();
    let (table, _) = table.split_once("\n\n").unwrap();
    let rows = table.lines().filter_map(|row| row.strip_prefix("| `"));
    let rows: Vec<String> = rows
        .map(|row| row.replace("` | ", ": ").replace(" |", ""))
        .collect();
    assert_eq!(rows.len(), 7, "{rows:?}");
    let help = User::new().ok(&["new", "--help"]);
    let help: Vec<&str> = help.split_whitespace().collect();
    let help = help.join(" ");
    for row in rows {
        assert!(help.contains(&row), "{row}: {help}");
    }
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
    for command in ["cargo test\n", "kvasm deploy APP\n"] {
        assert!(output.contains(command), "{command}: {output}");
    }
    let readme = std::fs::read_to_string(path.join("README.md")).unwrap();
    let file = format!("target/kvasm/my_{template}.wasm");
    assert!(readme.contains("kvasm deploy demo\n") && readme.contains(&file));
    user.passes_both(folder, 1);
    user.ok(&["app", "create", &name]);
    // In its folder, which is built.
    let mut command = user.command_with_cargo(&["deploy", &name]);
    let deployed = command.current_dir(folder).output().unwrap();
    let text = String::from_utf8_lossy(&deployed.stderr);
    assert!(deployed.status.success(), "{text}");
    let module = checkout().join("target/new-plugins/kvasm");
    let module = module.join(format!("my_{template}.wasm"));
    assert!(
        text.contains(&format!("Built {}: ", module.display())),
        "{text}"
    );
    let text = String::from_utf8_lossy(&deployed.stdout);
    assert!(
        text.starts_with(&format!("Version 1 of {name} is active")),
        "{text}"
    );
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
    for (name, why) in [
        ("Notes", "a name for a plugin"),
        ("2x", "a name for a plugin"),
        ("a b", "a name for a plugin"),
        ("fn", "fn is a keyword of Rust"),
        ("serde", "serde is the name of a crate that the plugin uses"),
    ] {
        user.fails(&["new", &at(name), "--sdk", sdk], 2, why);
        assert!(!Path::new(&at(name)).exists());
    }
    user.fails(
        &["new", &at("kvasm"), "--template", "go"],
        2,
        "another Go module",
    );
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
