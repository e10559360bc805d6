//! Peer programs that do the same work, if they are installed: `wasmtime serve`, `workerd` and
//! SpacetimeDB.

use super::child::Child;
use super::guests::ACCOUNTS;
use super::load::Load;
use super::servers::{self, KEY, VALUE};
use super::spacetimedb;
use crate::Effort;
use crate::report::{Row, Target};
use anyhow::Result;
use std::process::Command;
use std::time::Duration;
use tokio::runtime::Runtime;

const CONNECTIONS: usize = 64;

/// A peer's program, and how to install it.
pub struct Peer {
    pub name: &'static str,
    pub variable: &'static str,
    /// The argument that prints its version.
    pub version_argument: &'static str,
    /// The prefix of the version that it prints.
    pub version: &'static str,
    pub install: &'static str,
}

/// A peer that serves requests, for the rows of `http`.
pub struct Serving {
    pub child: Child,
    /// Its name in rows, with its version.
    pub name: String,
    /// The target ratio.
    pub least: f64,
}

/// A peer with the functions of the SDK plugin.
pub struct Functions {
    /// The server process, which stops on drop.
    pub _child: Child,
    /// Its name in rows, with its version.
    pub name: String,
    /// Each of its functions, with the load that calls it and the target ratio.
    pub calls: Vec<(&'static str, Load, f64)>,
}

const WASMTIME: Peer = Peer {
    name: "wasmtime",
    variable: "KVASM_WASMTIME",
    version_argument: "--version",
    version: "wasmtime 48.",
    install: "cargo install wasmtime-cli --version ^48 --locked",
};

const WORKERD: Peer = Peer {
    name: "workerd",
    variable: "KVASM_WORKERD",
    version_argument: "--version",
    version: "workerd ",
    install: "npm install workerd",
};

impl Peer {
    /// Returns the program and its version; prints a message if it is not installed.
    pub fn find(&self) -> Option<(String, String)> {
        let program = std::env::var(self.variable).unwrap_or_else(|_| self.name.to_owned());
        let output = Command::new(&program).arg(self.version_argument).output();
        let said = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let version = said.as_ref().ok().and_then(|said| said.lines().next());
        if let Some(version) = version
            && version.starts_with(self.version)
        {
            return Some((program, version.trim().to_owned()));
        }
        eprintln!(
            "SKIPPED: comparison with {}: no {:?} in PATH or {}; `{}` installs it",
            self.name,
            self.version.trim(),
            self.variable,
            self.install
        );
        None
    }
}

/// `wasmtime serve`, if it is installed, with a WASI 0.2 component that reads an entry from
/// memory, and with a WASI 0.3 component whose instances handle many requests.
pub fn wasmtime() -> Result<Vec<Serving>> {
    let Some((program, version)) = WASMTIME.find() else {
        return Ok(Vec::new());
    };
    let components = [
        ("P2", include_str!("keyvalue.wat"), 4.0),
        ("P3", include_str!("keyvalue-p3.wat"), 1.0),
    ];
    let mut serving = Vec::new();
    for (wasi, component, least) in components {
        serving.push(Serving {
            child: serve(&program, component)?,
            name: format!("{version} serve ({wasi})"),
            least,
        });
    }
    Ok(serving)
}

fn serve(program: &str, component: &str) -> Result<Child> {
    Child::peer("wasmtime serve", |folder, address| {
        let file = folder.join("keyvalue.wat");
        std::fs::write(&file, component)?;
        let mut command = Command::new(program);
        command
            .args(["serve", "--addr", &address.to_string(), "-S", "keyvalue"])
            .arg("-S")
            .arg(format!("keyvalue-in-memory-data={KEY}={VALUE}"))
            .arg(&file);
        Ok(command)
    })
}

/// `workerd` with a Durable Object, if it is installed.
fn workerd(runtime: &Runtime) -> Result<Option<Functions>> {
    let Some((program, name)) = WORKERD.find() else {
        return Ok(None);
    };
    let child = Child::peer("workerd", |folder, address| {
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
    })?;
    runtime.block_on(Load::post(child.address, "/fill").burst(1))?;
    let call = |function| {
        let load = Load::post(child.address, &format!("/{function}"));
        (function, load, 4.0)
    };
    let calls = ["noop", "get", "set", "transfer"].map(call).into();
    Ok(Some(Functions {
        _child: child,
        name,
        calls,
    }))
}

/// Functions of the SDK plugin, compared with a Durable Object and with reducers that do the
/// same.
pub fn measure(runtime: &Runtime, effort: Effort) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for start in [workerd, spacetimedb::start] {
        if let Some(peer) = start(runtime)? {
            let kvasm = Child::own(servers::GUESTS)?;
            rows.extend(runtime.block_on(beside(&kvasm, &peer, effort))?);
        }
    }
    Ok(rows)
}

async fn beside(kvasm: &Child, peer: &Functions, effort: Effort) -> Result<Vec<Row>> {
    let time = Duration::from_millis((1500 / effort.divisor as u64).max(100));
    let mut rows = Vec::new();
    for (function, other, least) in &peer.calls {
        let path = format!("/v1/apps/sdk/call/{function}");
        let body = match *function {
            "transfer" => ACCOUNTS.to_string(),
            _ => String::new(),
        };
        let ours = Load::post_with(kvasm.address, &path, &body);
        let mut pairs = Vec::new();
        for _ in 0..effort.rounds.min(5) {
            let rate = ours.rate(CONNECTIONS, time).await?;
            pairs.push((rate, other.rate(CONNECTIONS, time).await?));
        }
        let name = format!("{function}, {CONNECTIONS} connections, vs. {}", peer.name);
        let row = Row::pair(&name, "calls/s", &pairs, Some(Target::AtLeast(*least)));
        let writes = matches!(*function, "set" | "transfer");
        rows.push(if writes { row.durable() } else { row });
    }
    Ok(rows)
}
