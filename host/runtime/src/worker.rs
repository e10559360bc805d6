//! The other side of [`compiler`](super::compiler): the process that compiles one module and
//! exits.
//!
//! The request on standard input: [`MAGIC`], the engine's fingerprint (32 bytes), CPU seconds,
//! memory in bytes and the module's length (8 bytes each, little-endian), and the module. The
//! response on standard output: a byte for its kind, a length, and that many bytes.

use super::compiler::{self, CompileLimits};
use super::engine;
use sha2::{Digest as _, Sha256};
use std::any::Any;
use std::hash::{Hash, Hasher};
use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::ExitCode;
use wasmtime::Engine;

const MAGIC: &[u8; 8] = b"kvasmcw1";
const REQUEST_HEAD_BYTES: usize = 8 + 32 + 3 * 8;
/// Maximum module size that a worker accepts.
const MODULE_BYTES_MAX: u64 = 1 << 30;
/// Kind and length.
pub(super) const ANSWER_HEAD_BYTES: u64 = 9;
const CODE: u8 = 0;
const REFUSED: u8 = 1;
const OTHER_BUILD: u8 = 2;
const OUT_OF_MEMORY: u8 = 3;
/// Exit code of a worker that cannot work: the request is malformed, limits or engine cannot be
/// set up, or the response cannot be written. The module is not to blame.
pub(super) const EXIT_CANNOT_WORK: u8 = 2;
/// Niceness of the compiler.
#[cfg(unix)]
const NICE: i32 = 10;

/// The version of the format of a compiled module, apart from wasmtime's.
const FORMAT: u32 = 2;

/// The response of a worker.
pub(super) enum WorkerAnswer {
    /// The compiled module.
    Code(Vec<u8>),
    /// The module is invalid, with the reason.
    Refused(String),
    /// The worker compiles for another engine.
    OtherBuild,
    /// The module needs too much memory.
    OutOfMemory,
}

/// Identifies this build of wasmtime with these settings, and the format of a compiled module.
pub(super) fn fingerprint(engine: &Engine) -> [u8; 32] {
    let mut hasher = DigestHasher(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut hasher);
    FORMAT.hash(&mut hasher);
    hasher.0.finalize().into()
}

/// Hashes with SHA-256, which is stable across builds of Rust, unlike the default hasher.
struct DigestHasher(Sha256);

impl Hasher for DigestHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        0
    }
}

/// Builds the request head, which precedes the module.
pub(super) fn request(engine: &Engine, limits: CompileLimits, len: usize) -> Vec<u8> {
    let mut head = Vec::with_capacity(REQUEST_HEAD_BYTES);
    head.extend_from_slice(MAGIC);
    head.extend_from_slice(&fingerprint(engine));
    // The kernel counts whole seconds.
    let seconds = limits.cpu_time.as_secs() + u64::from(limits.cpu_time.subsec_nanos() > 0);
    head.extend_from_slice(&seconds.max(1).to_le_bytes());
    head.extend_from_slice(&limits.memory_bytes.to_le_bytes());
    head.extend_from_slice(&(len as u64).to_le_bytes());
    head
}

/// Parses a response, if it is complete.
pub(super) fn answer(mut bytes: Vec<u8>) -> Option<WorkerAnswer> {
    let (head, body) = bytes.split_first_chunk::<9>()?;
    let [kind, len @ ..] = *head;
    if u64::from_le_bytes(len) != body.len() as u64 {
        return None;
    }
    match kind {
        CODE => {
            bytes.drain(..head.len());
            Some(WorkerAnswer::Code(bytes))
        }
        REFUSED => Some(WorkerAnswer::Refused(
            String::from_utf8_lossy(body).into_owned(),
        )),
        OTHER_BUILD => Some(WorkerAnswer::OtherBuild),
        OUT_OF_MEMORY => Some(WorkerAnswer::OutOfMemory),
        _ => None,
    }
}

/// Compiles the module on standard input and exits. The program of
/// [`Compiler::Process`](super::Compiler) must call this first, before it starts threads or
/// prints anything.
///
/// Sets CPU time and memory limits for the whole process, and exits immediately when the host
/// does.
pub fn compile_worker() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(EXIT_CANNOT_WORK),
    }
}

fn serve() -> io::Result<()> {
    let mut input = io::stdin().lock();
    let mut head = [0; REQUEST_HEAD_BYTES];
    input.read_exact(&mut head)?;
    let mut rest = &head[..];
    let mut magic = [0; 8];
    let mut print = [0; 32];
    rest.read_exact(&mut magic)?;
    rest.read_exact(&mut print)?;
    let mut number = || -> io::Result<u64> {
        let mut bytes = [0; 8];
        rest.read_exact(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    };
    let (seconds, memory, len) = (number()?, number()?, number()?);
    if &magic != MAGIC || len > MODULE_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    limit(seconds, memory)?;
    let mut wasm = Vec::new();
    input.take(len).read_to_end(&mut wasm)?;
    if wasm.len() as u64 != len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    end_with_the_host()?;

    let engine = Engine::new(&engine::compiler_config()).map_err(io::Error::other)?;
    if fingerprint(&engine) != print {
        return send(OTHER_BUILD, &[]);
    }
    match catch_unwind(AssertUnwindSafe(|| compiler::compile(&engine, &wasm))) {
        Ok(Ok(code)) => send(CODE, &code),
        Ok(Err(why)) => send(REFUSED, why.as_bytes()),
        Err(panic) if is_out_of_memory(&*panic) => send(OUT_OF_MEMORY, &[]),
        Err(panic) => resume_unwind(panic),
    }
}

/// Detects panics due to lack of memory. Most failed allocations abort the process, but in some
/// places the compiler panics instead, and only the message identifies it. The blame is the same
/// either way; this only improves the error.
fn is_out_of_memory(panic: &(dyn Any + Send)) -> bool {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.is_some_and(|text| text.contains("out of memory"))
}

fn send(kind: u8, body: &[u8]) -> io::Result<()> {
    // Bypasses the library's buffer, which would copy the code again.
    let mut out = io::stdout().lock();
    out.write_all(&[kind])?;
    out.write_all(&(body.len() as u64).to_le_bytes())?;
    out.write_all(body)?;
    out.flush()
}

/// Exits when the host closes the pipe, which it keeps open while it waits for the response.
fn end_with_the_host() -> io::Result<()> {
    let watch = || {
        let mut byte = [0];
        // No more input follows: this returns when the other end is closed.
        let _ = io::stdin().lock().read(&mut byte);
        std::process::exit(EXIT_CANNOT_WORK.into());
    };
    std::thread::Builder::new().spawn(watch).map(drop)
}

#[cfg(target_os = "linux")]
const MEMORY: rustix::process::Resource = rustix::process::Resource::Data;
#[cfg(all(unix, not(target_os = "linux")))]
const MEMORY: rustix::process::Resource = rustix::process::Resource::As;

#[cfg(unix)]
fn limit(seconds: u64, memory: u64) -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, nice, setrlimit};
    let limit = |resource, soft: u64, hard: u64| {
        // An unprivileged process cannot raise its hard limit.
        let most = getrlimit(resource).maximum.unwrap_or(u64::MAX);
        setrlimit(
            resource,
            Rlimit {
                current: Some(soft.min(most)),
                maximum: Some(hard.min(most)),
            },
        )
    };
    // The soft limit sends a signal that identifies the cause; the hard limit kills.
    limit(Resource::Cpu, seconds, seconds.saturating_add(1))?;
    // Writable memory. On other systems this covers only the heap, or is not supported, and only
    // address space can be limited.
    let bounded = limit(MEMORY, memory, memory);
    if cfg!(target_os = "linux") {
        bounded?;
    }
    // It must not write any files, including core dumps.
    limit(Resource::Fsize, 0, 0)?;
    limit(Resource::Core, 0, 0)?;
    let _ = nice(NICE);
    Ok(())
}

#[cfg(not(unix))]
fn limit(_seconds: u64, _memory: u64) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvasm_core::Limits;

    /// A process without a pool compiles the same code as the host.
    #[test]
    fn pooling_does_not_change_compiled_code() {
        let pooled = engine::engine_config(&Limits::default(), 2, 1 << 30);
        let pooled = Engine::new(&pooled).unwrap();
        let bare = Engine::new(&engine::compiler_config()).unwrap();
        assert_eq!(fingerprint(&pooled), fingerprint(&bare));
    }

    #[test]
    fn truncated_compiler_response_is_none() {
        let mut whole = vec![CODE];
        whole.extend_from_slice(&3_u64.to_le_bytes());
        whole.extend_from_slice(b"abc");
        for len in 0..whole.len() {
            assert!(answer(whole[..len].to_vec()).is_none(), "{len}");
        }
        assert!(matches!(answer(whole.clone()), Some(WorkerAnswer::Code(code)) if code == b"abc"));
        whole.push(0);
        assert!(answer(whole).is_none());
    }
}
