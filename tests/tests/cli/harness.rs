//! `kvasm test`: the tests of plugins, natively and against the built module on a host.

use super::{CommandOutput, User};
use std::path::{Path, PathBuf};

const MANIFEST: &str = "[package]\nname = \"NAME\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\
     [lib]\ncrate-type = [\"cdylib\"]\n\
     [dependencies]\nkvasm-guest = { path = \"SDK\" }\nserde_json = \"1\"\n[workspace]\n";

fn checkout() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap().to_path_buf()
}

impl User {
    /// Makes a plugin of this source. Returns its folder.
    fn plugin_of(&self, name: &str, source: &str) -> String {
        let folder = self.home.path().join(name);
        std::fs::create_dir_all(folder.join("src")).unwrap();
        let sdk = checkout().join("guest-sdk");
        let manifest = MANIFEST
            .replace("NAME", name)
            .replace("SDK", sdk.to_str().unwrap());
        std::fs::write(folder.join("Cargo.toml"), manifest).unwrap();
        std::fs::write(folder.join("src/lib.rs"), source).unwrap();
        folder.to_str().unwrap().to_owned()
    }

    /// Runs `kvasm test`. Its output is stdout, then stderr.
    pub fn test(&self, arguments: &[&str]) -> CommandOutput {
        let mut command = self.command_with_cargo(&[&["test"], arguments].concat());
        for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
            command.env_remove(name);
        }
        let output = command.output().unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        CommandOutput {
            code: output.status.code().unwrap(),
            stdout: format!("{stdout}{stderr}"),
            stderr,
        }
    }

    /// Checks that the tests pass natively and in the module, which `count` of them run.
    #[track_caller]
    pub fn passes_both(&self, folder: &str, count: usize) {
        let native = self.test(&[folder]);
        assert_eq!(native.code, 0, "{}", native.stdout);
        let module = self.test(&[folder, "--wasm"]);
        assert_eq!(module.code, 0, "{}", module.stdout);
        let note = format!("The module ran in {count} test");
        assert!(module.stdout.contains(&note), "{}", module.stdout);
    }
}

/// All that a harness offers, with the same results natively and in the module.
#[test]
fn harness_does_the_same_natively_and_in_the_module() {
    let user = User::new();
    let source = include_str!("harness/all.rs");
    let folder = user.plugin_of("harness-all", source);
    user.passes_both(&folder, source.matches("#[kvasm_guest::test]").count());
}

/// Their tests try each place of a fault and of a crash, conflicts, pages, schedules and expiry.
#[test]
fn tests_of_the_examples_pass_in_the_module() {
    let user = User::new();
    for (example, count) in [("inbox", 5), ("flags", 5), ("leaderboard", 4)] {
        let folder = checkout().join("examples").join(example);
        let tested = user.test(&[folder.to_str().unwrap(), "--wasm"]);
        assert_eq!(tested.code, 0, "{example}: {}", tested.stdout);
        let note = format!("The module ran in {count} tests");
        assert!(tested.stdout.contains(&note), "{}", tested.stdout);
    }
}

/// What passes natively and fails in WebAssembly is a failed test, with the line of the source; the
/// tests beside it pass.
#[test]
fn failure_of_the_module_alone_is_shown() {
    let user = User::new();
    let source = include_str!("harness/only_wasm.rs");
    let folder = user.plugin_of("harness-only-wasm", source);
    let native = user.test(&[&folder]);
    assert_eq!(native.code, 0, "{}", native.stdout);
    let module = user.test(&[&folder, "--wasm"]);
    assert_eq!(module.code, 3, "{}", module.stdout);
    let line_of = |text: &str| {
        let at = source.lines().position(|line| line.contains(text)).unwrap();
        format!("src/lib.rs:{}", at + 1)
    };
    for expected in [
        "test tests::size_overflows ... FAILED",
        "attempt to multiply with overflow",
        &line_of("count * 1_000_000"),
        "test tests::there_is_a_clock ... ok",
        "test tests::there_are_no_threads ... FAILED",
        "Unsupported",
        "test tests::trap_names_its_line ... FAILED",
        &line_of("unreachable()"),
        "test tests::endless_loop_ends ... FAILED",
        "test tests::neighbour_passes ... ok",
        "error: the tests failed",
    ] {
        assert!(
            module.stdout.contains(expected),
            "{expected}: {}",
            module.stdout
        );
    }
    // The arguments choose tests.
    let one = user.test(&[&folder, "--wasm", "--", "neighbour"]);
    assert_eq!(one.code, 0, "{}", one.stdout);
}

/// What a real host does not have fails the test, with the reason.
#[test]
fn what_a_real_host_cannot_do_fails_the_test() {
    let user = User::new();
    let source = include_str!("harness/refused.rs");
    let folder = user.plugin_of("harness-refused", source);
    let native = user.test(&[&folder]);
    assert_eq!(native.code, 0, "{}", native.stdout);
    let module = user.test(&[&folder, "--wasm"]);
    assert_eq!(module.code, 3, "{}", module.stdout);
    for expected in [
        "a real host sets the context of a call",
        "testing::fire_timers is not possible under `kvasm test --wasm`",
        "testing::add_dead_letter is not possible",
        "no real host fails an operation of the store with Error::Remote",
        "this plugin version needs what the app lacks",
        "test result: FAILED. 0 passed; 5 failed",
    ] {
        assert!(
            module.stdout.contains(expected),
            "{expected}: {}",
            module.stdout
        );
    }
}

#[test]
fn tests_without_a_module_to_run_are_an_error() {
    let user = User::new();
    let plain = "#[kvasm_guest::function]\nfn one() -> String { \"1\".to_owned() }\n\
                 #[test]\nfn is_one() { assert_eq!(one(), \"1\"); }\n";
    let folder = user.plugin_of("harness-none", plain);
    let tested = user.test(&[&folder, "--wasm"]);
    assert_eq!(tested.code, 2, "{}", tested.stdout);
    assert!(
        tested.stderr.contains("no test has run the module"),
        "{}",
        tested.stderr
    );
    // It does not compile for WebAssembly, or not at all; or there is nothing to compile.
    let broken = format!("{plain}#[cfg(target_arch = \"wasm32\")]\ncompile_error!(\"no wasm\");\n");
    let folder = user.plugin_of("harness-broken", &broken);
    let tested = user.test(&[&folder, "--wasm"]);
    assert_eq!(tested.code, 2, "{}", tested.stdout);
    assert!(tested.stderr.contains("no wasm"), "{}", tested.stderr);
    let failing = plain.replace("assert_eq!(one(), \"1\")", "assert_eq!(one(), \"2\")");
    let folder = user.plugin_of("harness-failing", &failing);
    let tested = user.test(&[&folder]);
    assert_eq!(tested.code, 3, "{}", tested.stdout);
    assert!(
        tested.stdout.contains("is_one ... FAILED"),
        "{}",
        tested.stdout
    );
    let empty = user.home.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let tested = user.test(&[empty.to_str().unwrap()]);
    assert_eq!(tested.code, 2);
    assert!(
        tested.stderr.contains("has no Cargo.toml"),
        "{}",
        tested.stderr
    );
}
