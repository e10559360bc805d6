//! `cargo xtask demo`: a server with two apps that run the same plugin, queried with curl.
//!
//! The demo checks what it shows: it fails if an app returns anything but its own links. With
//! `--check` it then exits; otherwise the server keeps running.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Value, json};

use crate::process::{find_program, step, workspace};
use crate::{apt, guests, host};

/// As typed from the root of the workspace.
const PLUGIN: &str = "target/guests/shortener.wasm";
/// Each app and its link.
const LINKS: [(&str, &str, &str); 2] = [
    ("alpha", "rust", "https://www.rust-lang.org/"),
    ("beta", "wasm", "https://webassembly.org/"),
];

/// Builds everything, starts a server on a new store, and shows two apps.
pub fn run(check: bool) -> Result<()> {
    if find_program("curl").is_none() {
        let installed = apt::install(&["curl"]);
        installed.map_err(|why| anyhow!("the demo needs curl, which is not available: {why}"))?;
    }
    guests::build()?;
    let program = host::build()?;
    let folder = ScratchFolder::create()?;

    step("a server with an empty store");
    // A check may run alongside other servers.
    let ports = if check { ["0", "0"] } else { ["7180", "7181"] };
    let server = Server::start(&program, &folder.0, ports)?;

    step("two apps run one plugin");
    for (app, _, _) in LINKS {
        server.kvasm(&["app", "create", app, "--public"])?;
        server.kvasm(&["deploy", app, PLUGIN])?;
    }

    step("each app has its own links, and sees no others");
    for (app, slug, url) in LINKS {
        server.curl(&["-X", "PUT", "--data", url], &format!("/a/{app}/{slug}"))?;
    }
    for (app, slug, url) in LINKS {
        let links = server.curl(&[], &format!("/a/{app}/"))?;
        check_links(app, slug, url, &links)?;
    }
    let answer = server.curl(&["-i"], "/a/alpha/rust")?;
    ensure!(
        answer.contains("location: https://www.rust-lang.org/"),
        "alpha does not redirect"
    );

    println!("\nalpha and beta ran one plugin on one server; each saw only its own links.");
    if check {
        return Ok(());
    }
    println!("The server keeps running at {} until Ctrl-C.", server.url);
    println!("Its API and console are at {}.", server.admin_url);
    println!("Its admin token: {}", server.token);
    server.wait()
}

/// A running server.
struct Server {
    process: Child,
    program: PathBuf,
    /// Where plugins answer.
    url: String,
    /// Where the API is.
    admin_url: String,
    token: String,
}

impl Server {
    fn start(program: &Path, folder: &Path, ports: [&str; 2]) -> Result<Server> {
        let [listen, admin] = ports.map(|port| format!("127.0.0.1:{port}"));
        let store = format!("sqlite:{}", folder.join("kvasm.db").display());
        let cache = folder.join("compiled");
        let token_file = folder.join("admin-token");
        println!("$ kvasm serve --listen {listen} --admin-listen {admin}");
        let mut process = clean(program)
            .args([
                "serve",
                "--listen",
                &listen,
                "--admin-listen",
                &admin,
                "--store",
                &store,
                "--cache-dir",
            ])
            .arg(cache)
            .arg("--token-file")
            .arg(&token_file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let (mut url, mut admin_url) = (None, None);
        if let Some(stdout) = process.stdout.take() {
            for line in BufReader::new(stdout).lines() {
                let line = line?;
                println!("{line}");
                if let Some(text) = line.strip_prefix("Administration on ") {
                    admin_url = Some(text.to_owned());
                }
                // The last line.
                if let Some(text) = line.strip_prefix("Listening on ") {
                    url = Some(text.to_owned());
                    break;
                }
            }
        }
        let (Some(url), Some(admin_url)) = (url, admin_url) else {
            let _ = process.kill();
            bail!("the server did not start; are {listen} and {admin} in use?");
        };
        // Written before the server listens.
        let token = fs::read_to_string(&token_file)
            .with_context(|| format!("cannot read {}", token_file.display()))?;
        let token = token.trim_end().to_owned();
        Ok(Server {
            process,
            program: program.to_owned(),
            url,
            admin_url,
            token,
        })
    }

    /// Runs a command of the program against the server.
    fn kvasm(&self, arguments: &[&str]) -> Result<()> {
        println!("$ kvasm {}", typed(arguments));
        let mut command = clean(&self.program);
        command
            .args(["--server", &self.admin_url])
            .args(arguments)
            .env("KVASM_TOKEN", &self.token);
        show(&mut command).map(drop)
    }

    /// Runs curl on a path of the server, and returns its output.
    fn curl(&self, arguments: &[&str], path: &str) -> Result<String> {
        let url = format!("{}{path}", self.url);
        let arguments: Vec<&str> = [arguments, &[&url]].concat();
        println!("$ curl {}", typed(&arguments));
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--fail", "--max-time", "30"]);
        show(command.args(&arguments)).context("the demo needs curl")
    }

    fn wait(mut self) -> Result<()> {
        let status = self.process.wait()?;
        ensure!(status.success(), "the server ended with {status}");
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The program without the caller's settings, which must not affect the demo.
fn clean(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(workspace());
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("KVASM_") {
            command.env_remove(name);
        }
    }
    command
}

/// Runs a command, prints its output and returns it.
fn show(command: &mut Command) -> Result<String> {
    std::io::stdout().flush()?;
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {:?}", command.get_program()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{}", text.trim_end());
    ensure!(
        output.status.success(),
        "the command failed ({})",
        output.status
    );
    Ok(text)
}

/// Fails unless the response contains the app's own link and nothing else.
fn check_links(app: &str, slug: &str, url: &str, answer: &str) -> Result<()> {
    let answer: Value = serde_json::from_str(answer)
        .with_context(|| format!("the links of {app} are not JSON: {answer}"))?;
    let own = json!([{ "slug": slug, "url": url, "visits": 0 }]);
    ensure!(
        answer.get("links") == Some(&own),
        "{app} must see its own links and no other.\nIts own: {own}\nSeen:    {answer}"
    );
    Ok(())
}

/// The arguments as typed in a shell.
fn typed(arguments: &[&str]) -> String {
    let words: Vec<String> = arguments.iter().map(|word| quoted(word)).collect();
    words.join(" ")
}

/// Quotes a word for a shell.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A folder that is removed on drop.
struct ScratchFolder(PathBuf);

impl ScratchFolder {
    fn create() -> Result<Self> {
        let folder = env::temp_dir().join(format!("kvasm-demo-{}", process::id()));
        // Not `create_dir_all`: a folder created there by someone else is not ours to use.
        fs::create_dir(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(Self(folder))
    }
}

impl Drop for ScratchFolder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_missing_or_invalid_links_fail_the_demo() {
        let own = r#"{"slug":"a","url":"u","visits":0}"#;
        let check = |answer: &str| check_links("alpha", "a", "u", answer);
        assert!(check(&format!(r#"{{"links":[{own}]}}"#)).is_ok());
        assert!(check(&format!(r#"{{"links":[{own},{own}]}}"#)).is_err());
        assert!(check(r#"{"links":[]}"#).is_err());
        assert!(check("{}").is_err());
        assert!(check("").is_err());
    }

    #[test]
    fn arguments_are_shell_quoted() {
        assert_eq!(quoted("target/guests/a.wasm"), "target/guests/a.wasm");
        assert_eq!(quoted(r#"{"a":1}"#), r#"'{"a":1}'"#);
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
