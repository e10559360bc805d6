//! WASI preview 1, for modules whose toolchain needs it: no files, sockets, arguments or
//! environment; real clocks and randomness; standard output and error go to the guest's log,
//! line by line.

use super::invocation::Invocation;
use crate::abi::{GuestLog, RANDOM_BYTES_MAX};
use bytes::Bytes;
use kvasm_core::Level;
use parking_lot::Mutex;
use std::sync::Arc;
use wasmtime::Linker;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};
use wasmtime_wasi::{WasiCtxBuilder, async_trait};

const WASI: &str = "wasi_snapshot_preview1";
const SLEEP: &str = "poll_oneoff";

/// Links the functions of WASI. Only `poll_oneoff` counts as sleeping: in the others the guest
/// does not choose to wait.
pub(super) fn link(linker: &mut Linker<Invocation>) -> wasmtime::Result<()> {
    // Functions are distinguished by how they get their context, so they are linked twice,
    // keeping only one function of the first set. A linker cannot remove names, so a guest that
    // imports this alias gets the same function.
    const ASIDE: &str = "kvasm_sleep";
    wasmtime_wasi::p1::add_to_linker_async(linker, Invocation::wasi_to_sleep)?;
    linker.alias(WASI, SLEEP, ASIDE, SLEEP)?;
    linker.allow_shadowing(true);
    wasmtime_wasi::p1::add_to_linker_async(linker, Invocation::wasi)?;
    linker.alias(ASIDE, SLEEP, WASI, SLEEP)?;
    linker.allow_shadowing(false);
    Ok(())
}

/// Creates the context of one invocation. Called for the first WASI function: most plugins never
/// call one.
pub(super) fn context(log: &Arc<Mutex<GuestLog>>) -> WasiP1Ctx {
    let stream = |level| LogStream {
        level,
        log: Arc::clone(log),
    };
    WasiCtxBuilder::new()
        .stdout(stream(Level::Info))
        .stderr(stream(Level::Warn))
        .max_random_size(RANDOM_BYTES_MAX.into())
        .build_p1()
}

#[derive(Clone)]
struct LogStream {
    level: Level,
    log: Arc<Mutex<GuestLog>>,
}

impl IsTerminal for LogStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LogStream {
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        // Preview 1 only writes through `p2_stream`.
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(LineWriter {
            stream: self.clone(),
            line: Vec::new(),
        })
    }
}

/// Splits output into lines.
struct LineWriter {
    stream: LogStream,
    line: Vec<u8>,
}

/// Maximum length of a line; longer ones are split.
const LINE_BYTES_MAX: usize = 8 * 1024;

impl LineWriter {
    fn log(&mut self) {
        let line = std::mem::take(&mut self.line);
        self.stream.log.lock().push(self.stream.level, &line);
    }
}

impl OutputStream for LineWriter {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        for &byte in &bytes {
            if byte == b'\n' {
                self.log();
            } else {
                self.line.push(byte);
                if self.line.len() >= LINE_BYTES_MAX {
                    self.log();
                }
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(LINE_BYTES_MAX)
    }
}

#[async_trait]
impl Pollable for LineWriter {
    async fn ready(&mut self) {}
}

impl Drop for LineWriter {
    fn drop(&mut self) {
        if !self.line.is_empty() {
            self.log();
        }
    }
}
