//! SpacetimeDB with the module of `benches/peers/spacetimedb`, whose reducers are called over
//! its HTTP API. It responds before the write is on disk.

use super::child::Child;
use super::load::Load;
use super::peers::{Functions, Peer};
use crate::target;
use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use tokio::runtime::Runtime;

const SPACETIMEDB: Peer = Peer {
    name: "spacetimedb-standalone",
    variable: "KVASM_SPACETIMEDB",
    // `--version` prints more than the version.
    version_argument: "-V",
    version: "spacetimedb 1.2.0",
    install: "cargo install spacetimedb-standalone@1.2.0 --locked",
};

/// The variable with the path of the module, if it is not at [`BUILT`].
const MODULE: &str = "KVASM_SPACETIMEDB_MODULE";
/// The path of the module in the target folder, if built as docs/benchmarks.md says.
const BUILT: &str = "peers/wasm32-unknown-unknown/release/kvasm_peer_spacetimedb.wasm";

/// Without a log line per call, like Kvasm.
const CONFIG: &str = "[logs]\nlevel = \"error\"\n";

/// Calls have no token, as those to Kvasm: here too, that is faster than a token to verify.
const JSON: &str = "Content-Type: application/json\r\n";

/// Starts the server and publishes the module, if both are available.
pub fn start(_: &Runtime) -> Result<Option<Functions>> {
    let Some((program, _)) = SPACETIMEDB.find() else {
        return Ok(None);
    };
    let file = std::env::var_os(MODULE).map_or_else(|| target().join(BUILT), PathBuf::from);
    let Ok(module) = std::fs::read(&file) else {
        eprintln!(
            "SKIPPED: comparison with SpacetimeDB: its module is not in {file:?} and {MODULE} \
             names no other file; docs/benchmarks.md says how to build it"
        );
        return Ok(None);
    };
    let child = Child::peer("SpacetimeDB", |folder, address| {
        let data = folder.join("data");
        std::fs::create_dir(&data)?;
        std::fs::write(data.join("config.toml"), CONFIG)?;
        let mut command = Command::new(program);
        command
            .args(["start", "--listen-addr", &address.to_string()])
            .arg("--data-dir")
            .arg(data)
            .arg("--jwt-key-dir")
            .arg(folder);
        Ok(command)
    })?;
    publish(child.address, &module)?;
    let call = |(function, least)| {
        let path = format!("/v1/database/bench/call/{function}");
        let load = Load::post_as(child.address, &path, JSON, "[]");
        (function, load, least)
    };
    let calls = [("noop", 2.5), ("set", 2.0), ("transfer", 1.5)];
    Ok(Some(Functions {
        calls: calls.map(call).into(),
        name: "SpacetimeDB 1.2.0 (not durable)".to_owned(),
        _child: child,
    }))
}

/// Publishes the module as the database `bench`, for a new identity.
fn publish(address: SocketAddr, module: &[u8]) -> Result<()> {
    let identity = ask(address, "POST /v1/identity", "", b"")?;
    let identity: serde_json::Value = serde_json::from_str(&identity)?;
    let token = identity.get("token").and_then(|token| token.as_str());
    let token = token.context("an identity without a token")?;
    let headers = format!("Authorization: Bearer {token}\r\n");
    ask(address, "PUT /v1/database/bench", &headers, module)?;
    Ok(())
}

/// Sends one request on a new connection. Returns the body of the response.
fn ask(address: SocketAddr, line: &str, headers: &str, body: &[u8]) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    let length = body.len();
    let head = format!(
        "{line} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n{headers}\
         Content-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    let ok = head.starts_with("HTTP/1.1 200");
    ensure!(ok, "SpacetimeDB responded to {line:?} with {answer}");
    Ok(body.to_owned())
}
