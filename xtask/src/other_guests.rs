//! Builds plugins in Go, Zig and AssemblyScript: each folder with sources of one becomes a module
//! with the folder's name.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::c_guests::subfolders;
use crate::process::{run, step, workspace};
use crate::toolchains;

/// The custom section that declares a plugin.
const SECTION: &str = "kvasm.plugin.v1";
/// What a folder is built with, and the file by which it is recognised.
const LANGUAGES: [(&str, Build); 3] = [
    ("go.mod", build_go),
    ("plugin.zig", build_zig),
    ("asconfig.json", build_assemblyscript),
];

/// Builds the folder into the module.
type Build = fn(&Path, &Path) -> Result<()>;

/// Builds every such folder directly in `parent` into `out`, and returns the modules.
pub fn build(parent: &Path, out: &Path) -> Result<Vec<PathBuf>> {
    let mut modules = Vec::new();
    for folder in subfolders(parent)? {
        let mut languages = LANGUAGES.iter();
        let Some((_, build)) = languages.find(|(mark, _)| folder.join(mark).is_file()) else {
            continue;
        };
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        step(&format!("building the plugin {name}"));
        let module = out.join(format!("{name}.wasm"));
        build(&folder, &module).with_context(|| format!("building {}", folder.display()))?;
        modules.push(module);
    }
    Ok(modules)
}

fn build_go(folder: &Path, module: &Path) -> Result<()> {
    // A file of its own: Go leaves one that is up to date as it is, with what was appended to it.
    let built = module.with_extension("go");
    let mut command = Command::new(toolchains::go()?);
    command
        .args([
            "build",
            "-buildmode=c-shared",
            "-trimpath",
            "-ldflags=-s -w",
            "-o",
        ])
        .arg(&built)
        .arg(".")
        .current_dir(folder)
        .stdin(Stdio::null())
        .env("GOOS", "wasip1")
        .env("GOARCH", "wasm")
        .env("GOWORK", "off")
        // Nothing is downloaded: neither modules nor another version of Go.
        .env("GOPROXY", "off")
        .env("GOTOOLCHAIN", "local")
        .env("GOFLAGS", "-mod=mod")
        .env_remove("GOROOT");
    run(&mut command)?;
    add_declarations(folder, &built, module)
}

fn build_zig(folder: &Path, module: &Path) -> Result<()> {
    let sdk = workspace().join("guest-sdk/zig/kvasm.zig");
    let mut command = Command::new(toolchains::zig()?);
    command
        .args(["build-exe", "-target", "wasm32-freestanding"])
        .args(["-fno-entry", "-rdynamic", "-O", "ReleaseSmall"])
        .args(["--dep", "kvasm", "-Mroot=plugin.zig"])
        .arg(format!("-Mkvasm={}", sdk.display()))
        .arg(format!("-femit-bin={}", module.display()))
        .current_dir(folder)
        .stdin(Stdio::null());
    run(&mut command)
}

/// The options are in `asconfig.json` beside the source.
fn build_assemblyscript(folder: &Path, module: &Path) -> Result<()> {
    let mut command = toolchains::asc()?;
    command
        .arg("--outFile")
        .arg(module)
        .current_dir(folder)
        .stdin(Stdio::null());
    run(&mut command)
}

/// Appends the section that declares the plugin to what was built, from the file `kvasm.json` beside
/// its source.
fn add_declarations(folder: &Path, built: &Path, module: &Path) -> Result<()> {
    let file = folder.join("kvasm.json");
    let text = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let declarations: Vec<Value> = serde_json::from_slice(&text)
        .with_context(|| format!("{} is not an array of declarations", file.display()))?;
    let lines: String = declarations
        .iter()
        .map(|line| format!("{line}\n"))
        .collect();
    let mut bytes = fs::read(built)?;
    bytes.extend(custom_section(SECTION, lines.as_bytes())?);
    fs::write(module, bytes).with_context(|| format!("cannot write {}", module.display()))
}

/// Returns the bytes of a custom section, which can be the last one of a module.
fn custom_section(name: &str, contents: &[u8]) -> Result<Vec<u8>> {
    let mut body = leb(name.len())?;
    body.extend_from_slice(name.as_bytes());
    body.extend_from_slice(contents);
    let mut section = vec![0];
    section.extend(leb(body.len())?);
    section.extend(body);
    Ok(section)
}

/// Returns the LEB128 encoding of a length.
fn leb(length: usize) -> Result<Vec<u8>> {
    let mut rest = u32::try_from(length)?;
    let mut bytes = Vec::new();
    loop {
        let low = (rest & 0x7f) as u8;
        rest >>= 7;
        if rest == 0 {
            bytes.push(low);
            return Ok(bytes);
        }
        bytes.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn custom_section_is_encoded() {
        let section = custom_section("ab", &[7; 300]).unwrap();
        assert_eq!(section[..6], [0, 0xaf, 0x02, 2, b'a', b'b']);
        assert_eq!(section.len(), 3 + 3 + 300);
    }
}
