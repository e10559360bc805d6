//! `cargo xtask console`: updates the libraries of the console from the npm registry.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::process::{find_program, probe_bounded, step, workspace};

/// The timeout of a download.
const PATIENCE: Duration = Duration::from_secs(120);

/// A package, and the files of it that the console embeds.
struct Library {
    name: &'static str,
    version: &'static str,
    files: &'static [(&'static str, &'static str)],
}

const LIBRARIES: [Library; 3] = [
    Library {
        name: "preact",
        version: "11.2.0",
        files: &[
            ("dist/preact.mjs", "preact.js"),
            ("hooks/dist/hooks.mjs", "hooks.js"),
            ("LICENSE", "preact.LICENSE.txt"),
        ],
    },
    Library {
        name: "htm",
        version: "3.1.1",
        files: &[("dist/htm.mjs", "htm.js"), ("LICENSE", "htm.LICENSE.txt")],
    },
    Library {
        name: "uplot",
        version: "1.6.32",
        files: &[
            // Its module is not minified, and has three times the size.
            ("dist/uPlot.iife.min.js", "uplot.js"),
            ("dist/uPlot.min.css", "uplot.css"),
            ("LICENSE", "uplot.LICENSE.txt"),
        ],
    },
];

/// Downloads the pinned versions into `host/server/console/vendor`.
pub fn run() -> Result<()> {
    let npm = find_program("npm").context("npm is not installed")?;
    let vendor = workspace().join("host/server/console/vendor");
    let scratch = workspace().join("target/console");
    for library in &LIBRARIES {
        step(&format!("fetching {} {}", library.name, library.version));
        let folder = scratch.join(library.name);
        fs::create_dir_all(&folder)?;
        let mut pack = Command::new(&npm);
        pack.args(["pack", "--silent"])
            .arg(format!("{}@{}", library.name, library.version))
            .current_dir(&folder);
        probe_bounded(&mut pack, PATIENCE).map_err(|why| anyhow!(why))?;
        let mut unpack = Command::new("tar");
        unpack
            .arg("xzf")
            .arg(format!("{}-{}.tgz", library.name, library.version))
            .current_dir(&folder);
        probe_bounded(&mut unpack, PATIENCE).map_err(|why| anyhow!(why))?;
        library.write(&folder.join("package"), &vendor)?;
    }
    Ok(())
}

impl Library {
    fn write(&self, package: &Path, vendor: &Path) -> Result<()> {
        for (from, to) in self.files {
            let text =
                fs::read_to_string(package.join(from)).with_context(|| (*from).to_owned())?;
            let text = match to.rsplit('.').next() {
                Some("js") => self.adapt(&text),
                Some("css") => format!("/* {} */\n{}\n", self.origin(), text.trim_end()),
                _ => text,
            };
            fs::write(vendor.join(to), text).with_context(|| (*to).to_owned())?;
        }
        Ok(())
    }

    fn origin(&self) -> String {
        let Library { name, version, .. } = self;
        format!(
            "{name} {version}, unchanged but for this line, imports and exports; licence: \
             {name}.LICENSE.txt"
        )
    }

    /// Adds the origin and the licence, and makes imports relative: a page with a strict policy
    /// has no import map. A script that defines a variable becomes a module.
    fn adapt(&self, text: &str) -> String {
        let code = text.lines().filter(|line| !line.starts_with("//# source"));
        let code: Vec<&str> = code.collect();
        let code = code
            .join("\n")
            .replace(r#"from"preact""#, r#"from"./preact.js""#);
        let export = match self.name {
            "uplot" => "export default uPlot;\n",
            _ => "",
        };
        format!("// {}\n{}\n{export}", self.origin(), code.trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Code that was changed by hand, or that is of another version, is not what `run` wrote.
    #[test]
    fn kept_files_name_the_pinned_versions() {
        let vendor = workspace().join("host/server/console/vendor");
        for library in &LIBRARIES {
            for (_, to) in library.files {
                let text = fs::read_to_string(vendor.join(to)).unwrap();
                if to.ends_with(".css") {
                    let head = format!("/* {} {}, ", library.name, library.version);
                    assert!(text.starts_with(&head), "{to}: run `cargo xtask console`");
                } else if to.ends_with(".js") {
                    let head = format!("// {} {}, ", library.name, library.version);
                    assert!(text.starts_with(&head), "{to}: run `cargo xtask console`");
                    assert!(!text.contains(r#"from"preact""#), "{to}");
                } else {
                    assert!(text.len() > 500, "{to} has no licence");
                }
            }
        }
    }
}
