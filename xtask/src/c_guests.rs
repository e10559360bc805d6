//! Builds plugins in C: each folder with `.c` files becomes one module with the folder's name.
//!
//! A folder whose name begins with `wasi` is built as a WASI reactor with wasi-libc; any other
//! one is freestanding, without a libc.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::apt;
use crate::process::{find_program, probe, run, step, workspace};

const DEBIAN_CLANG: [&str; 2] = ["clang-19", "lld-19"];
const DEBIAN_WASI: [&str; 2] = ["wasi-libc", "libclang-rt-19-dev-wasm32"];
const WASI_TARGET: &str = "wasm32-wasi";

/// Builds every C folder directly in `parent` into `out`, and returns the modules.
pub fn build(parent: &Path, out: &Path) -> Result<Vec<PathBuf>> {
    let mut modules = Vec::new();
    for folder in subfolders(parent)? {
        let sources = sources(&folder)?;
        if sources.is_empty() {
            continue;
        }
        let name = folder
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        step(&format!("building the C plugin {name}"));
        let clang = find_clang()?;
        let module = out.join(format!("{name}.wasm"));
        let mut command = Command::new(&clang);
        if name.starts_with("wasi") {
            command.args(["--target=wasm32-wasi", "-mexec-model=reactor"]);
            command.arg(format!("--sysroot={}", wasi_sysroot(&clang)?));
        } else {
            command.args([
                "--target=wasm32",
                "-ffreestanding",
                "-nostdlib",
                "-Wl,--no-entry",
            ]);
        }
        // Without bulk memory, copies become calls of memcpy, which freestanding C does not
        // have.
        command.args(["-Oz", "-std=c11", "-Wall", "-Wextra", "-mbulk-memory"]);
        command.arg("-Wl,--strip-debug").arg("-I").arg(&folder);
        command.arg("-I").arg(workspace().join("guest-sdk/c"));
        command
            .arg("-o")
            .arg(&module)
            .args(&sources)
            .stdin(Stdio::null());
        run(&mut command).with_context(|| format!("building {}", folder.display()))?;
        modules.push(module);
    }
    Ok(modules)
}

/// Returns the folders directly in `parent`, except for build output, in order.
pub fn subfolders(parent: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(parent).with_context(|| format!("cannot list {}", parent.display()))?;
    let mut folders = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let is_build_output = path.file_name().is_some_and(|name| name == "target");
        if path.is_dir() && !is_build_output {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}

fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut sources = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "c") {
            sources.push(path);
        }
    }
    sources.sort();
    Ok(sources)
}

fn find_clang() -> Result<PathBuf> {
    if let Some(clang) = usable_clang() {
        return Ok(clang);
    }
    let why = match apt::install(&DEBIAN_CLANG) {
        Ok(()) => "they are installed, but have no wasm32 support".to_owned(),
        Err(why) => why,
    };
    if let Some(clang) = usable_clang() {
        return Ok(clang);
    }
    bail!(
        "the C plugins need a clang that compiles to wasm32, and its wasm-ld ({why}).\n\
         On Debian: sudo apt-get update && sudo apt-get install {}",
        DEBIAN_CLANG.join(" ")
    )
}

/// The first clang that can compile to wasm32 and finds a linker for it.
fn usable_clang() -> Option<PathBuf> {
    let newest_first = (14..=24).rev().map(|major| format!("clang-{major}"));
    let names = ["clang-19".to_owned(), "clang".to_owned()]
        .into_iter()
        .chain(newest_first);
    names.filter_map(|name| find_program(&name)).find(|clang| {
        let targets = probe(Command::new(clang).arg("--print-targets"));
        targets.is_ok_and(|targets| targets.contains("wasm32")) && has_linker(clang)
    })
}

fn has_linker(clang: &Path) -> bool {
    // Clang prints a path if it finds the program next to itself or in PATH, otherwise the bare
    // name.
    probe(Command::new(clang).args(["--target=wasm32", "--print-prog-name=wasm-ld"]))
        .is_ok_and(|linker| Path::new(&linker).is_file())
}

/// The sysroot with wasi-libc's headers and libraries, if clang's runtime is present too.
fn wasi_sysroot(clang: &Path) -> Result<&'static str> {
    if wasi_is_installed(clang) {
        return Ok("/usr");
    }
    let why = match apt::install(&DEBIAN_WASI) {
        Ok(()) => format!("they are installed, but not for {}", clang.display()),
        Err(why) => why,
    };
    if wasi_is_installed(clang) {
        return Ok("/usr");
    }
    bail!(
        "the WASI plugin of the tests needs wasi-libc and clang's runtime for wasm32 ({why}).\n\
         On Debian: sudo apt-get update && sudo apt-get install {} {}",
        DEBIAN_CLANG.join(" "),
        DEBIAN_WASI.join(" ")
    )
}

fn wasi_is_installed(clang: &Path) -> bool {
    let libc = Path::new("/usr/lib").join(WASI_TARGET).join("libc.a");
    let runtime =
        probe(Command::new(clang).args(["--target=wasm32-wasi", "--print-libgcc-file-name"]));
    libc.is_file() && runtime.is_ok_and(|file| Path::new(&file).is_file())
}
