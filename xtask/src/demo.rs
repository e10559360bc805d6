//! `cargo xtask demo`: two apps run the same plugin over one store, and
//! neither sees an entry of the other.
//!
//! The demo checks what it shows: it fails when a page holds anything but the
//! app's own signatures.

use std::env;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::process::{step, workspace};
use crate::{guests, host};

/// As typed from the root of the workspace.
const PLUGIN: &str = "target/guests/guestbook.wasm";

/// Who signs which app's guestbook, in this order.
const SIGNATURES: [(&str, &str, &str); 4] = [
    ("alpha", "Ada", "The first entry of alpha"),
    ("beta", "Brian", "The first entry of beta"),
    ("alpha", "Cleo", "Still only alpha here"),
    ("beta", "Dora", "Still only beta here"),
];

/// Builds everything, then runs the demo on a fresh store that is removed at the end.
pub fn run() -> Result<()> {
    guests::build()?;
    let program = host::build()?;
    let folder = ScratchFolder::create()?;
    let demo = Demo {
        program,
        store: format!("sqlite:{}", folder.0.join("kvasm.db").display()),
    };

    step("two apps in one store");
    demo.kvasm(&["app", "create", "alpha"])?;
    demo.kvasm(&["app", "create", "beta"])?;

    step("one plugin writes for both");
    for (app, name, message) in SIGNATURES {
        demo.call(
            app,
            "sign",
            &format!(r#"{{"name":"{name}","message":"{message}"}}"#),
        )?;
    }

    step("each app sees its own entries and no other");
    demo.check_pages()?;

    step("the same from new processes: the entries are on disk");
    demo.check_pages()?;

    println!("\nalpha and beta ran one plugin over one store; each saw only its own entries.");
    println!("Every command was a process of its own, so what they read had survived the last.");
    Ok(())
}

struct Demo {
    program: PathBuf,
    store: String,
}

impl Demo {
    fn check_pages(&self) -> Result<()> {
        for app in ["alpha", "beta"] {
            let answer = self.call(app, "page", r#"{"limit":10}"#)?;
            check_page(app, &answer)?;
        }
        Ok(())
    }

    fn call(&self, app: &str, function: &str, input: &str) -> Result<String> {
        self.kvasm(&["run", PLUGIN, "--app", app, function, "--input", input])
    }

    /// Prints a command and its output, and returns the output. Log lines go
    /// to stderr as they come.
    fn kvasm(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.program);
        command
            .args(["--store", &self.store])
            .args(arguments)
            .current_dir(workspace());
        // The caller's own settings must not reach the demo, nor the demo their store.
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with("KVASM_") {
                command.env_remove(name);
            }
        }
        let typed = typed(&self.store, arguments);
        println!("$ {typed}");
        std::io::stdout().flush()?;
        let output = command
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        println!("{}", text.trim_end());
        if !output.status.success() {
            bail!(
                "`{typed}` failed ({}); what it printed is above",
                output.status
            );
        }
        Ok(text)
    }
}

/// Fails unless the page holds exactly the app's own signatures, the newest first.
fn check_page(app: &str, answer: &str) -> Result<()> {
    let answer: Value = serde_json::from_str(answer)
        .with_context(|| format!("the page of {app} is not JSON: {answer}"))?;
    let own: Vec<Value> = SIGNATURES
        .iter()
        .rev()
        .filter(|(owner, ..)| *owner == app)
        .map(|(_, name, message)| json!({ "name": name, "message": message }))
        .collect();
    let seen = answer.get("signatures");
    if seen != Some(&Value::Array(own.clone())) {
        bail!(
            "{app} must see its own entries and no other.\nIts own: {}\nSeen:    {answer}",
            json!(own)
        );
    }
    Ok(())
}

/// The command as a user types it.
fn typed(store: &str, arguments: &[&str]) -> String {
    let mut line = format!("kvasm --store {}", quoted(store));
    for argument in arguments {
        line.push(' ');
        line.push_str(&quoted(argument));
    }
    line
}

/// A word as a shell reads it back.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A folder that is removed when this is dropped.
struct ScratchFolder(PathBuf);

impl ScratchFolder {
    fn create() -> Result<Self> {
        let folder = env::temp_dir().join(format!("kvasm-demo-{}", process::id()));
        // Not `create_dir_all`: a folder that someone else made there is not ours to use.
        fs::create_dir(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(Self(folder))
    }
}

impl Drop for ScratchFolder {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

fn remove(folder: &Path) {
    if let Err(error) = fs::remove_dir_all(folder) {
        eprintln!("cannot remove {}: {error}", folder.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(signatures: &Value) -> String {
        json!({ "signatures": signatures }).to_string()
    }

    #[test]
    fn a_page_with_a_foreign_missing_or_unreadable_entry_fails() {
        let cleo = json!({ "name": "Cleo", "message": "Still only alpha here" });
        let ada = json!({ "name": "Ada", "message": "The first entry of alpha" });
        let brian = json!({ "name": "Brian", "message": "The first entry of beta" });
        assert!(check_page("alpha", &page(&json!([cleo, ada]))).is_ok());
        assert!(check_page("alpha", &page(&json!([cleo, brian, ada]))).is_err());
        assert!(check_page("alpha", &page(&json!([cleo]))).is_err());
        assert!(check_page("alpha", &page(&json!([]))).is_err());
        assert!(check_page("alpha", "{}").is_err());
        assert!(check_page("alpha", "").is_err());
        assert!(check_page("beta", &page(&json!([cleo, ada]))).is_err());
    }

    #[test]
    fn words_are_quoted_as_a_shell_needs_it() {
        assert_eq!(quoted("target/guests/a.wasm"), "target/guests/a.wasm");
        assert_eq!(quoted(r#"{"a":1}"#), r#"'{"a":1}'"#);
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
