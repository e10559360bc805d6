//! Finds a standard library for `wasm32-unknown-unknown`.
//!
//! Most machines have it, or can get it with rustup. Where rustup's server cannot be reached,
//! Debian's `rustc-web` builds it from source. The order is fixed and the choice is printed.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::apt;
use crate::process::{cargo, find_program, probe, probe_bounded, step};

pub const TARGET: &str = "wasm32-unknown-unknown";
/// The target with clocks, randomness and output.
pub const WASIP1: &str = "wasm32-wasip1";

const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_STD: &str = "/usr/lib/rustlib/src/rust/library/std/Cargo.toml";
const DEBIAN_PACKAGES: [&str; 2] = ["rustc-web", "rust-web-src"];
/// A machine behind a silent firewall must not wait for minutes in each build.
const RUSTUP_LIMIT: Duration = Duration::from_secs(60);

/// The caller's settings for host builds, which would break or redirect guest builds.
const HOST_SETTINGS: [&str; 14] = [
    "CARGO_BUILD_RUSTC",
    "CARGO_BUILD_RUSTC_WRAPPER",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_BUILD_TARGET_DIR",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_TARGET_DIR",
    "RUSTC",
    "RUSTC_BOOTSTRAP",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTDOC",
    "RUSTDOCFLAGS",
    "RUSTFLAGS",
];

/// The source of the standard library.
pub enum WasmStd {
    /// The active toolchain has the target.
    Toolchain,
    /// Debian's compiler builds it from its sources; `linker` links it.
    Debian { linker: PathBuf },
}

impl WasmStd {
    /// Finds or installs the library. An error names commands that the user can run.
    pub fn find() -> Result<Self> {
        let not_there = match in_toolchain(TARGET) {
            Ok(folder) => {
                step(&format!(
                    "standard library for wasm32: {}",
                    folder.display()
                ));
                return Ok(Self::Toolchain);
            }
            Err(why) => why,
        };
        let no_rustup = match add_with_rustup(TARGET) {
            Ok(()) => {
                step("standard library for wasm32: added with rustup");
                return Ok(Self::Toolchain);
            }
            Err(why) => why,
        };
        let no_debian = match with_debian() {
            Ok(linker) => {
                step("standard library for wasm32: built from Debian's rust-web-src by rustc-web");
                return Ok(Self::Debian { linker });
            }
            Err(why) => why,
        };
        Err(anyhow!(
            "no standard library for {TARGET}:\n  \
             the active toolchain: {not_there}\n  \
             rustup target add: {no_rustup}\n  \
             Debian's {}: {no_debian}\n\
             Run one of these, then try again:\n  \
             rustup target add {TARGET}\n  \
             sudo apt-get update && sudo apt-get install {}",
            DEBIAN_PACKAGES.join(" and "),
            DEBIAN_PACKAGES.join(" "),
        ))
    }

    /// A `cargo build --release` command for the guest workspace in `folder`.
    pub fn cargo_build(&self, folder: &Path) -> Command {
        let mut command = guest_cargo(folder);
        command.args(["build", "--release", "--target", TARGET]);
        if let Self::Debian { linker } = self {
            command
                .arg("-Zbuild-std=std,panic_abort")
                .env("RUSTC", DEBIAN_RUSTC)
                .env("RUSTC_BOOTSTRAP", "1")
                .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker)
                // It refers to libraries of the outer toolchain, not to Debian's.
                .env_remove("LD_LIBRARY_PATH");
        }
        command
    }
}

/// A cargo command for the guest workspace in `folder`, without the caller's settings for host
/// builds. It starts there because cargo looks for `.cargo/config.toml` from the current
/// folder, and that of the guests must be used.
pub fn guest_cargo(folder: &Path) -> Command {
    let mut command = cargo();
    command.current_dir(folder);
    for name in HOST_SETTINGS {
        command.env_remove(name);
    }
    command
}

/// Finds or installs the library for `wasm32-wasip1`, which Debian does not have.
///
/// # Errors
/// The command that the user can run.
pub fn find_wasip1() -> Result<()> {
    let found = in_toolchain(WASIP1).map(drop);
    let found = found.or_else(|_| add_with_rustup(WASIP1));
    found.map_err(|why| {
        anyhow!("no standard library for {WASIP1}: {why}; run `rustup target add {WASIP1}`")
    })
}

fn in_toolchain(target: &str) -> Result<PathBuf, String> {
    let mut rustc = Command::new("rustc");
    rustc.args(["--print", "target-libdir", "--target", target]);
    let folder = PathBuf::from(probe(&mut rustc)?);
    let files = folder
        .read_dir()
        .map_err(|_| format!("{} does not exist", folder.display()))?;
    let has_std = files
        .flatten()
        .any(|file| file.file_name().to_string_lossy().starts_with("libstd-"));
    if has_std {
        Ok(folder)
    } else {
        Err(format!("{} has no libstd", folder.display()))
    }
}

fn add_with_rustup(target: &str) -> Result<(), String> {
    if find_program("rustup").is_none() {
        return Err("rustup is not installed".to_owned());
    }
    step(&format!("rustup target add {target}"));
    let mut rustup = Command::new("rustup");
    rustup.args(["target", "add", target]);
    probe_bounded(&mut rustup, RUSTUP_LIMIT)?;
    in_toolchain(target).map(|_| ())
}

fn with_debian() -> Result<PathBuf, String> {
    if !debian_is_installed() {
        apt::install(&DEBIAN_PACKAGES)?;
    }
    if !Path::new(DEBIAN_STD).is_file() {
        return Err(format!("{DEBIAN_STD} does not exist"));
    }
    let needed = minor_version(env!("CARGO_PKG_RUST_VERSION"));
    let version = probe(
        Command::new(DEBIAN_RUSTC)
            .arg("--version")
            .env_remove("LD_LIBRARY_PATH"),
    )?;
    let present = version.split_whitespace().nth(1).and_then(minor_version);
    if present < needed {
        return Err(format!(
            "{DEBIAN_RUSTC} is `{version}`, and {} is needed",
            env!("CARGO_PKG_RUST_VERSION")
        ));
    }
    linker()
}

fn debian_is_installed() -> bool {
    Path::new(DEBIAN_RUSTC).is_file() && Path::new(DEBIAN_STD).is_file()
}

/// The linker of the active toolchain: rustc-web brings none for wasm32.
fn linker() -> Result<PathBuf, String> {
    let sysroot = PathBuf::from(probe(Command::new("rustc").args(["--print", "sysroot"]))?);
    let host = probe(Command::new("rustc").args(["--print", "host-tuple"]))?;
    let rust_lld = sysroot.join("lib/rustlib").join(host).join("bin/rust-lld");
    if rust_lld.is_file() {
        return Ok(rust_lld);
    }
    ["wasm-ld", "wasm-ld-19"]
        .into_iter()
        .find_map(find_program)
        .ok_or_else(|| {
            format!(
                "neither {} nor wasm-ld (package lld) is available for linking",
                rust_lld.display()
            )
        })
}

/// Maps `1.96.0` and `1.95` to 96 and 95.
fn minor_version(version: &str) -> Option<u32> {
    version
        .strip_prefix("1.")?
        .split(['.', '-'])
        .next()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::minor_version;

    #[test]
    fn versions_are_compared_numerically() {
        assert_eq!(minor_version("1.96.0"), Some(96));
        assert_eq!(minor_version("1.95"), Some(95));
        assert_eq!(minor_version("1.100.0-nightly"), Some(100));
        assert_eq!(minor_version("2.0.0"), None);
        assert!(minor_version("1.9.0") < minor_version("1.95"));
    }
}
