//! The OpenAPI document against the server, by Schemathesis.

use kvasm_tests::guests::wasm;
use kvasm_tests::server::Server;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Where `cargo xtask test` has put Schemathesis.
fn program() -> Option<PathBuf> {
    let given = std::env::var_os("KVASM_SCHEMATHESIS").map(PathBuf::from);
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let usual = root.join("target/schemathesis/bin/schemathesis");
    given.into_iter().chain([usual]).find(|path| path.is_file())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_answers_as_its_document_says() {
    let Some(program) = program() else {
        eprintln!("SKIPPED: there is no Schemathesis; `cargo xtask test` installs it");
        return;
    };
    let server = Server::start().await;
    server.deployed("shop", wasm("counter")).await;
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let extra = std::env::var("KVASM_SCHEMATHESIS_ARGUMENTS").unwrap_or_default();
    let mut command = Command::new(program);
    command
        .arg("--config-file")
        .arg(root.join("tests/schemathesis/schemathesis.toml"))
        .args(["run", "--no-color", "--seed", "20261127"])
        .env("KVASM_TOKEN", server.root.secret())
        .args(extra.split_whitespace())
        .arg(format!("http://{}/v1/openapi.json", server.address))
        .current_dir(std::env::temp_dir())
        .stdin(Stdio::null());
    let run = tokio::task::spawn_blocking(move || command.output());
    let output = run.await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    if !extra.is_empty() { println!("{text}"); }
    assert!(output.status.success(), "{text}");
}
