//! Compiling in a separate process, with limits.
//!
//! A compiler processes untrusted input and cannot be interrupted from outside. A process
//! can be: the kernel measures CPU time and memory, and a signal ends it. Its output is machine
//! code and is trusted like the program itself.

use super::error::LoadError;
use super::source_lines::SourceLines;
use super::worker::{self, WorkerAnswer};
use crate::abi::printable;
use bytes::Bytes;
use parking_lot::Mutex;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use wasmtime::Engine;

/// CPU time after which a compilation counts as slow.
const SLOW_AFTER: Duration = Duration::from_secs(1);
/// Wall time after which it counts as slow, if the CPU time is unknown or the process gets no
/// CPU.
const SLOW_AFTER_WALL: Duration = Duration::from_secs(10);
/// Time for a process to exit after it has responded.
const END_TIME: Duration = Duration::from_secs(5);
const END_POLL: Duration = Duration::from_millis(2);

/// Where modules are compiled.
#[derive(Debug, Clone, Default)]
pub enum Compiler {
    /// In the host's own process, on all its cores. A compilation cannot be aborted: after a
    /// timeout it keeps its permit until it ends. For embedders that trust their modules.
    #[default]
    InProcess,
    /// In a process of this program, one per module, on one core at low priority, with limits of
    /// CPU time, memory and wall time. The program calls
    /// [`compile_worker`](crate::compile_worker). Its output is run as machine code in the host,
    /// so it must be the same build and as trusted as the host.
    Process {
        /// The program.
        program: PathBuf,
        /// Its arguments.
        arguments: Vec<OsString>,
    },
}

impl Compiler {
    /// Uses the current executable with these arguments.
    ///
    /// # Errors
    /// If the path of the current executable cannot be determined.
    pub fn this_program(
        arguments: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> io::Result<Compiler> {
        // This name refers to the running executable, even if its file was replaced since: an
        // upgrade does not mix two builds.
        let own = PathBuf::from("/proc/self/exe");
        let program = match own.exists() {
            true => own,
            false => std::env::current_exe()?,
        };
        Ok(Compiler::Process {
            program,
            arguments: arguments.into_iter().map(Into::into).collect(),
        })
    }
}

/// Limits of a compilation.
#[derive(Debug, Clone, Copy)]
pub(super) struct CompileLimits {
    /// CPU time of the process; wall time in the host's own process.
    pub(super) cpu_time: Duration,
    /// Memory of the process, in bytes.
    pub(super) memory_bytes: u64,
    /// Size of the output, in bytes.
    pub(super) code_bytes: u64,
}

impl CompileLimits {
    /// Returns the wall time limit. The process waits for nothing but a CPU, so this only
    /// matters on an overloaded machine.
    pub(super) fn wall_time(&self) -> Duration {
        self.cpu_time.saturating_mul(10)
    }
}

/// A compilation in progress.
pub(super) struct RunningCompilation {
    process: Option<Arc<CompilerProcess>>,
    started: Instant,
    /// Completes when the process has exited and was reaped.
    pub(super) ended: JoinHandle<Result<Vec<u8>, LoadError>>,
}

struct CompilerProcess {
    child: Mutex<Option<Child>>,
    id: u32,
}

impl Compiler {
    /// Starts to compile a module. `held` is dropped when the compilation has ended.
    pub(super) fn start(
        &self,
        engine: &Engine,
        wasm: Bytes,
        limits: CompileLimits,
        held: impl Send + 'static,
    ) -> Result<RunningCompilation, LoadError> {
        let started = Instant::now();
        let (program, arguments) = match self {
            Compiler::InProcess => {
                let engine = engine.clone();
                let ended = tokio::task::spawn_blocking(move || {
                    let _held = held;
                    compile(&engine, &wasm).map_err(LoadError::NotWasm)
                });
                return Ok(RunningCompilation {
                    process: None,
                    started,
                    ended,
                });
            }
            Compiler::Process { program, arguments } => (program, arguments),
        };
        let mut command = Command::new(program);
        command
            .args(arguments)
            // It needs nothing from the host's environment, least of all passwords.
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().map_err(LoadError::host)?;
        let id = child.id();
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let process = Arc::new(CompilerProcess {
            child: Mutex::new(Some(child)),
            id,
        });
        let request = worker::request(engine, limits, wasm.len());
        let watched = Arc::clone(&process);
        let ended = tokio::task::spawn_blocking(move || {
            let _held = held;
            let mut stdin = stdin.ok_or_else(|| LoadError::host(io::Error::other("no pipe")))?;
            let sent = stdin
                .write_all(&request)
                .and_then(|()| stdin.write_all(&wasm));
            drop(wasm);
            let mut answer = Vec::new();
            let bound = limits
                .code_bytes
                .saturating_add(worker::ANSWER_HEAD_BYTES + 1);
            let read = match stdout {
                Some(stdout) => stdout.take(bound).read_to_end(&mut answer),
                None => Ok(0),
            };
            let full = answer.len() as u64 == bound;
            // Kept open until here: its end signals the process that the host has exited.
            drop(stdin);
            let status = watched.end(full).map_err(LoadError::host)?;
            if full {
                return Err(LoadError::CodeTooLarge(limits.code_bytes));
            }
            if status.success() {
                sent.and(read).map_err(LoadError::host)?;
            }
            outcome(status, answer, limits)
        });
        Ok(RunningCompilation {
            process: Some(process),
            started,
            ended,
        })
    }
}

/// Compiles a module to its source lines, encoded, and the input of
/// [`wasmtime::Module::deserialize`].
pub(super) fn compile(engine: &Engine, wasm: &[u8]) -> Result<Vec<u8>, String> {
    // The text format is a convenience of the library that plugins must not rely on.
    if !wasm.starts_with(b"\0asm") {
        return Err("the wasm header is missing".to_owned());
    }
    let code = engine
        .precompile_module(wasm)
        .map_err(|error| printable(&format!("{error:#}")))?;
    let mut compiled = Vec::new();
    SourceLines::read(wasm).encode(&mut compiled);
    compiled.extend_from_slice(&code);
    Ok(compiled)
}

fn outcome(
    status: ExitStatus,
    answer: Vec<u8>,
    limits: CompileLimits,
) -> Result<Vec<u8>, LoadError> {
    if status.success() {
        return match worker::answer(answer) {
            Some(WorkerAnswer::Code(code)) => Ok(code),
            Some(WorkerAnswer::Refused(why)) => Err(LoadError::NotWasm(printable(&why))),
            Some(WorkerAnswer::OutOfMemory) => Err(LoadError::CompilerMemory(limits.memory_bytes)),
            Some(WorkerAnswer::OtherBuild) => Err(LoadError::host(io::Error::other(
                "the compiler and the host are different builds",
            ))),
            None => Err(LoadError::host(io::Error::other(
                "the compiler's output was truncated",
            ))),
        };
    }
    if status.code() == Some(worker::EXIT_CANNOT_WORK.into()) {
        return Err(LoadError::host(io::Error::other(
            "the compiler could not start or respond",
        )));
    }
    #[cfg(unix)]
    {
        use rustix::process::Signal;
        use std::os::unix::process::ExitStatusExt;
        let signal = status.signal();
        let is = |other: Signal| signal == Some(other.as_raw());
        if is(Signal::XCPU) {
            return Err(LoadError::TooSlow(limits.cpu_time));
        }
        // Rust aborts when an allocation fails.
        if is(Signal::ABORT) {
            return Err(LoadError::CompilerMemory(limits.memory_bytes));
        }
        // Killed by someone else, such as the system when it is out of memory.
        if is(Signal::KILL) || is(Signal::TERM) || is(Signal::INT) || is(Signal::HUP) {
            return Err(LoadError::host(io::Error::other(
                "the compiler was killed externally",
            )));
        }
    }
    tracing::warn!(%status, "the compiler failed");
    Err(LoadError::CompilerFailed)
}

impl RunningCompilation {
    /// Whether it has computed for so long that others should not wait for it.
    pub(super) fn is_slow(&self) -> bool {
        let known = self
            .process
            .as_ref()
            .and_then(|process| cpu_time(process.id));
        known.is_some_and(|time| time >= SLOW_AFTER) || self.started.elapsed() >= SLOW_AFTER_WALL
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn can_be_stopped(&self) -> bool {
        self.process.is_some()
    }

    /// Kills the process, if there is one.
    pub(super) fn kill(&self) {
        if let Some(process) = &self.process {
            process.kill();
        }
    }
}

impl Drop for RunningCompilation {
    fn drop(&mut self) {
        self.kill();
    }
}

impl CompilerProcess {
    /// Kills the process and its children.
    fn kill(&self) {
        if let Some(child) = &mut *self.child.lock() {
            kill(child);
        }
    }

    /// Waits for the process to exit, and kills it if it takes too long after its response.
    fn end(&self, at_once: bool) -> io::Result<ExitStatus> {
        let start = Instant::now();
        loop {
            {
                let mut place = self.child.lock();
                let child = place.as_mut().ok_or(io::ErrorKind::NotFound)?;
                if at_once || start.elapsed() > END_TIME {
                    kill(child);
                }
                // Once it is reaped, its pid may be reused.
                if let Some(status) = child.try_wait()? {
                    *place = None;
                    return Ok(status);
                }
            }
            std::thread::sleep(END_POLL);
        }
    }
}

fn kill(child: &mut Child) {
    #[cfg(unix)]
    if let Some(group) = i32::try_from(child.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw)
    {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    let _ = child.kill();
}

/// Returns the CPU time of a process's first thread, if the system reports it.
fn cpu_time(id: u32) -> Option<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{id}/schedstat")).ok()?;
    let time = text.split_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(time))
}
