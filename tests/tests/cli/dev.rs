//! `kvasm dev`, with the real cargo and changes of real files.

use super::User;
use kvasm_tests::program::process::eventually;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Cargo may build for some minutes on a busy machine.
const BUILD_TIME: Duration = Duration::from_secs(300);

/// A running `kvasm dev`. Dropping it kills it.
struct Dev {
    child: Child,
    stdin: ChildStdin,
    printed: Arc<Mutex<String>>,
}

impl Dev {
    fn start(user: &User, arguments: &[&str]) -> Dev {
        let mut command = user.command_with_cargo(&[&["dev"], arguments].concat());
        let temporary = user.home.path().join("tmp");
        std::fs::create_dir_all(&temporary).unwrap();
        command.env("TMPDIR", temporary).stdin(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let printed = Arc::<Mutex<String>>::default();
        collect(child.stdout.take().unwrap(), &printed);
        collect(child.stderr.take().unwrap(), &printed);
        let stdin = child.stdin.take().unwrap();
        Dev {
            child,
            stdin,
            printed,
        }
    }

    fn write(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").unwrap();
    }

    /// Waits until it has printed a text, for which it may have to build.
    #[track_caller]
    fn prints(&mut self, words: &str) {
        let start = Instant::now();
        loop {
            let printed = self.printed.lock().unwrap().clone();
            if printed.contains(words) {
                return;
            }
            let ended = self.child.try_wait().unwrap();
            let is_late = start.elapsed() > BUILD_TIME;
            assert!(!is_late && ended.is_none(), "no {words:?}: {printed}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Interrupts it, as Ctrl-C does, and returns the exit code.
    fn interrupt(&mut self) -> Option<i32> {
        let kill = ["-s", "INT", &self.child.id().to_string()];
        let sent = std::process::Command::new("kill").args(kill).status();
        assert!(sent.unwrap().success());
        eventually("the end of kvasm dev", || {
            self.child.try_wait().unwrap().map(|status| status.code())
        })
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(mut from: impl Read + Send + 'static, into: &Arc<Mutex<String>>) {
    let into = Arc::clone(into);
    std::thread::spawn(move || {
        let mut part = vec![0; 64 * 1024];
        while let Ok(len @ 1..) = from.read(&mut part) {
            let text = String::from_utf8_lossy(&part[..len]);
            into.lock().unwrap().push_str(&text);
        }
    });
}

const ADDED: &str = r#"
#[kvasm_guest::function]
fn added() -> Result<String, Error> {
    Ok("it was added".to_owned())
}

#[kvasm_guest::function]
fn boom() -> Result<(), Error> {
    panic!("it went wrong")
}
"#;

/// A change is served without losing data, and a failed build changes nothing.
#[test]
fn changes_are_built_and_swapped_in() {
    let user = User::new();
    let folder = user.new_plugin("my-dev");
    let source = Path::new(&folder).join("src/lib.rs");
    let original = std::fs::read_to_string(&source).unwrap();
    let input = r#"{"name":"ada","tag":"kind"}"#;
    let arguments = [&folder, "--release", "--call", "add_tag", "--input", input];
    let mut dev = Dev::start(&user, &arguments);
    dev.prints("Serving the app my-dev on http://127.0.0.1:");
    dev.prints("/a/my-dev/, with its data in ");
    dev.prints("Version 1 is active");
    dev.prints("add_tag: [\"kind\"]");
    // The plugin's log.
    dev.prints("info  add_tag ada has 1 tags");

    std::fs::write(&source, format!("{original}{ADDED}")).unwrap();
    dev.prints("Version 2 is active");
    dev.write("added");
    dev.prints("added: it was added");
    dev.write("add_tag {\"name\":\"ada\",\"tag\":\"new\"}");
    dev.prints("add_tag: [\"kind\",\"new\"]");
    dev.write("boom");
    dev.prints("boom failed: ");
    dev.prints("it went wrong");

    std::fs::write(&source, format!("{original}{ADDED}fn broken( {{")).unwrap();
    dev.prints("Version 2 stays active.");
    dev.write("add_tag {\"name\":\"ada\",\"tag\":\"more\"}");
    dev.prints("add_tag: [\"kind\",\"new\",\"more\"]");
    // The last call is repeated after a swap.
    dev.write("added");
    let changed = ADDED.replace("it was added", "it was changed");
    std::fs::write(&source, format!("{original}{changed}")).unwrap();
    dev.prints("added: it was changed");

    assert_eq!(dev.interrupt(), Some(0));
    let left = std::fs::read_dir(user.home.path().join("tmp")).unwrap();
    assert_eq!(left.count(), 0);
}

/// A package in another folder is a source too, and traps have the lines of both.
#[test]
fn local_dependencies_are_watched() {
    let user = User::new();
    let folder = user.tiny_named("depending");
    let helper = user.home.path().join("helper");
    std::fs::create_dir_all(helper.join("src")).unwrap();
    let manifest = "[package]\nname = \"helper\"\nversion = \"0.1.0\"\nedition = \"2024\"\n";
    std::fs::write(helper.join("Cargo.toml"), manifest).unwrap();
    let source = helper.join("src/lib.rs");
    std::fs::write(&source, "pub fn status() -> i32 { 0 }\n").unwrap();
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    let manifest = format!("{manifest}[dependencies]\nhelper = {{ path = \"../helper\" }}\n");
    std::fs::write(folder.join("Cargo.toml"), manifest).unwrap();
    let plugin =
        "#[unsafe(no_mangle)]\npub extern \"C\" fn hello() -> i32 {\n    helper::status()\n}\n";
    std::fs::write(folder.join("src/lib.rs"), plugin).unwrap();

    let mut dev = Dev::start(&user, &[folder.to_str().unwrap(), "--call", "hello"]);
    dev.prints("Version 1 is active");
    dev.prints("hello: ");
    std::fs::write(&source, "\npub fn status() -> i32 { panic!() }\n").unwrap();
    dev.prints("Version 2 is active");
    dev.prints("hello failed: ");
    dev.prints("helper::status at src/lib.rs:2");
    dev.prints("hello at src/lib.rs:3");
    assert_eq!(dev.interrupt(), Some(0));
}

/// A module that needs what is not set is activated once it is, without another change; and a change
/// after a refusal is built.
#[test]
fn refused_module_is_activated_by_enter_or_by_a_change() {
    let user = User::new();
    let folder = user.tiny_named("needing");
    let declare = |setting: &str| {
        let lines = format!(
            r#"[{{"kind":"function","name":"hello"}},
                {{"kind":"config","name":"{setting}","type":"string","required":true}}]"#
        );
        std::fs::write(folder.join("kvasm.json"), lines).unwrap();
    };
    declare("mode");
    let store = format!("sqlite:{}", user.home.path().join("dev.db").display());
    let mut dev = Dev::start(&user, &[folder.to_str().unwrap(), "--store", &store]);
    dev.prints("this plugin version needs what the app lacks: ");
    let advice = format!("`kvasm --store {store} config set tiny NAME VALUE`");
    dev.prints(&advice);
    dev.prints("No version is active yet. Save a change, or press Enter");
    user.ok(&["--store", &store, "config", "set", "tiny", "mode", "x"]);
    dev.write("");
    dev.prints("is active, swapped in ");

    declare("other");
    dev.prints("stays active. Save a change, or press Enter");
    dev.write("hello");
    dev.prints("hello: ");
    declare("mode");
    dev.prints("Nothing has changed in the module.");
    std::fs::write(folder.join("src/lib.rs"), "fn broken( {").unwrap();
    dev.prints("stays active. Save a change to build again.");
    // What was refused before is not tried again.
    dev.write("");
    let source = "#[unsafe(no_mangle)]\npub extern \"C\" fn hello() -> i32 { panic!() }\n";
    std::fs::write(folder.join("src/lib.rs"), source).unwrap();
    dev.prints("hello failed: ");
    assert_eq!(dev.interrupt(), Some(0));
}

/// With a store, the data is there the next time.
#[test]
fn named_store_is_kept() {
    let user = User::new();
    let folder = user.new_plugin("my-kept");
    let store = format!("sqlite:{}", user.home.path().join("dev.db").display());
    for (tag, expected) in [("a", "[\"a\"]"), ("b", "[\"a\",\"b\"]")] {
        let input = format!("{{\"name\":\"ada\",\"tag\":\"{tag}\"}}");
        let arguments = [&folder, "--release", "--store", &store, "--call", "add_tag"];
        let mut dev = Dev::start(&user, &[&arguments[..], &["--input", &input]].concat());
        dev.prints(&format!("add_tag: {expected}"));
        assert_eq!(dev.interrupt(), Some(0));
    }
    let collections = user.ok(&["--store", &store, "kv", "collections", "my-kept"]);
    assert!(!collections.is_empty());
}

#[test]
fn what_is_no_plugin_is_refused() {
    let user = User::new();
    user.fails(&["dev", "/nonexistent"], 2, "/nonexistent");
    let home = user.home.path().to_str().unwrap();
    user.fails(&["dev", home], 2, "is not the folder of a plugin");
    user.fails(&["dev", "--input", "x"], 2, "--call");
}
