//! Programs of others that do the same, where they are installed: `wasmtime serve` and
//! `workerd`.

use super::child::Child;
use super::guests::ACCOUNTS;
use super::load::Load;
use super::servers::{self, KEY, VALUE};
use crate::Effort;
use crate::report::{Row, Target};
use anyhow::Result;
use std::process::Command;
use std::time::Duration;
use tokio::runtime::Runtime;

const CONNECTIONS: usize = 64;

/// A program, and what is said when it is not there.
struct Peer {
    name: &'static str,
    variable: &'static str,
    /// What its version begins with.
    version: &'static str,
    install: &'static str,
}

const WASMTIME: Peer = Peer {
    name: "wasmtime",
    variable: "KVASM_WASMTIME",
    version: "wasmtime 48.",
    install: "cargo install wasmtime-cli --version ^48 --locked",
};

const WORKERD: Peer = Peer {
    name: "workerd",
    variable: "KVASM_WORKERD",
    version: "workerd ",
    install: "npm install workerd",
};

impl Peer {
    /// The program and its version; says so aloud if it is not there.
    fn find(&self) -> Option<(String, String)> {
        let program = std::env::var(self.variable).unwrap_or_else(|_| self.name.to_owned());
        let output = Command::new(&program).arg("--version").output();
        let said = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        if let Ok(version) = said
            && version.starts_with(self.version)
        {
            return Some((program, version));
        }
        eprintln!(
            "SKIPPED: the rows beside {}, as there is no {:?} on the PATH nor in {}; `{}` installs it",
            self.name,
            self.version.trim(),
            self.variable,
            self.install
        );
        None
    }
}

/// `wasmtime serve` with a component that reads an entry from memory, if it is there.
pub fn wasmtime() -> Result<Option<Child>> {
    let Some((program, _)) = WASMTIME.find() else {
        return Ok(None);
    };
    let child = Child::peer("wasmtime serve", |folder, address| {
        let component = folder.join("keyvalue.wat");
        std::fs::write(&component, include_str!("keyvalue.wat"))?;
        let mut command = Command::new(program);
        command
            .args(["serve", "--addr", &address.to_string(), "-S", "keyvalue"])
            .arg("-S")
            .arg(format!("keyvalue-in-memory-data={KEY}={VALUE}"))
            .arg(&component);
        Ok(command)
    });
    child.map(Some)
}

fn workerd(program: String) -> Result<Child> {
    Child::peer("workerd", |folder, address| {
        let disk = folder.join("disk");
        std::fs::create_dir(&disk)?;
        let config = include_str!("worker.capnp")
            .replace("FOLDER", &disk.display().to_string())
            .replace("ADDRESS", &address.to_string());
        let file = folder.join("worker.capnp");
        std::fs::write(&file, config)?;
        std::fs::write(folder.join("worker.js"), include_str!("worker.js"))?;
        let mut command = Command::new(program);
        command.arg("serve").arg(file);
        Ok(command)
    })
}

/// Functions of the plugin of the SDK, beside a Durable Object that does the same.
pub fn measure(runtime: &Runtime, effort: Effort) -> Result<Vec<Row>> {
    eprintln!(
        "SKIPPED: the rows beside SpacetimeDB and `wasmtime serve` with a P3 component, \
         which this program does not start"
    );
    let Some((program, version)) = WORKERD.find() else {
        return Ok(Vec::new());
    };
    let time = Duration::from_millis((1500 / effort.divisor as u64).max(100));
    let kvasm = Child::own(servers::GUESTS)?;
    let peer = workerd(program)?;
    runtime.block_on(async {
        Load::post(peer.address, "/fill").burst(1).await?;
        let mut rows = Vec::new();
        for function in ["noop", "get", "set", "transfer"] {
            let path = format!("/v1/apps/sdk/call/{function}");
            let body = match function {
                "transfer" => ACCOUNTS.to_string(),
                _ => String::new(),
            };
            let ours = Load::post_with(kvasm.address, &path, &body);
            let other = Load::post(peer.address, &format!("/{function}"));
            let mut pairs = Vec::new();
            for _ in 0..effort.rounds.min(5) {
                let rate = ours.rate(CONNECTIONS, time).await?;
                pairs.push((rate, other.rate(CONNECTIONS, time).await?));
            }
            let name = format!("{function}, {CONNECTIONS} connections, beside {version}");
            let row = Row::pair(&name, "calls/s", &pairs, Some(Target::AtLeast(4.0)));
            let writes = matches!(function, "set" | "transfer");
            rows.push(if writes { row.durable() } else { row });
        }
        Ok(rows)
    })
}
