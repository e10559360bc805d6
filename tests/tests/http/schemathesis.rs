//! Schemathesis checks the server against its OpenAPI document.

use kvasm::model::Scope;
use kvasm_tests::guests::wasm;
use kvasm_tests::server::Server;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Where `cargo xtask test` installs Schemathesis. It reports a failed installation.
fn program() -> Option<PathBuf> {
    let given = std::env::var_os("KVASM_SCHEMATHESIS").map(PathBuf::from);
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let usual = root.join("target/schemathesis/bin/schemathesis");
    given.into_iter().chain([usual]).find(|path| path.is_file())
}

/// `KVASM_SCHEMATHESIS_ARGUMENTS`, such as `--max-time 600 --seed 7`, is appended to the usual
/// arguments: for a longer manual run, with `--nocapture` to see the output.
#[tokio::test(flavor = "multi_thread")]
async fn server_conforms_to_its_openapi_document() {
    let Some(program) = program() else {
        eprintln!("SKIPPED: Schemathesis is not installed; run `cargo xtask test`");
        return;
    };
    let server = Server::start().await;
    server.deployed("shop", wasm("counter")).await;
    for app in ["other", "gone"] {
        server.app(app, false).await;
    }
    // Not the first token, whose id is easily guessed.
    let secret = server.token(None, &Scope::ALL, None).await;
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("schemathesis");
    let extra = std::env::var("KVASM_SCHEMATHESIS_ARGUMENTS").unwrap_or_default();
    let mut command = Command::new(program);
    command
        .arg("--config-file")
        .arg(folder.join("schemathesis.toml"))
        .args(["run", "--no-color", "--seed", "20261127"])
        .args(["--request-timeout", "20"])
        .env("KVASM_TOKEN", secret)
        .env("SCHEMATHESIS_HOOKS", folder.join("hooks.py"))
        .args(extra.split_whitespace())
        .arg(format!("http://{}/v1/openapi.json", server.address))
        .current_dir(std::env::temp_dir())
        .stdin(Stdio::null());
    let run = tokio::task::spawn_blocking(move || command.output());
    let output = run.await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    if !extra.is_empty() {
        println!("{text}");
    }
    assert!(output.status.success(), "{text}");
}
