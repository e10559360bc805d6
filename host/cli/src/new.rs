//! `kvasm new`: a plugin to start from.

mod name;
mod starters;

use super::failure::{CommandOutcome, Failure};
use super::{Global, output};
use clap::{Args, ValueEnum};
use name::checked_name;
use serde_json::json;
use starters::Starter;
use std::path::{Path, PathBuf};

const MANIFEST: &str = include_str!("../templates/Cargo.toml.in");
const README: &str = include_str!("../templates/README.md.in");
const CARGO_CONFIG: &str = include_str!("../templates/config.toml.in");

#[derive(Args)]
pub(super) struct NewArgs {
    /// Folder of the plugin, which must be absent or empty; its last part is the plugin's name
    path: PathBuf,
    /// What it starts with
    #[arg(long, value_enum, default_value_t = Template::Function)]
    template: Template,
    /// Folder of the crate kvasm-guest [default: that of a checkout of Kvasm around the current
    /// folder, or next to the plugin]
    #[arg(long, value_name = "FOLDER")]
    sdk: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Template {
    /// In Rust: functions that are called by name
    Function,
    /// In Rust: a handler of HTTP requests
    Http,
    /// In Rust: a handler of changes of entries
    Trigger,
    /// In C: functions, and handlers of requests and of changes
    C,
    /// In Go: functions, and handlers of requests and of changes
    Go,
    /// In AssemblyScript: functions, and handlers of requests and of changes
    Assemblyscript,
    /// In Zig: functions, and handlers of requests and of changes
    Zig,
}

/// A template in Rust.
struct RustTemplate {
    source: &'static str,
    /// The commands that try the plugin out.
    try_out: &'static str,
}

const FUNCTION: RustTemplate = RustTemplate {
    source: include_str!("../templates/function.rs.in"),
    try_out: "kvasm call demo add_tag --input '{\"name\":\"ada\",\"tag\":\"kind\"}'",
};
const HTTP: RustTemplate = RustTemplate {
    source: include_str!("../templates/http.rs.in"),
    try_out: "curl -X PUT --data milk http://127.0.0.1:7180/a/demo/shop\n\
              curl http://127.0.0.1:7180/a/demo/shop",
};
const TRIGGER: RustTemplate = RustTemplate {
    source: include_str!("../templates/trigger.rs.in"),
    try_out: "kvasm call demo place --input '{\"customer\":\"ada\",\"cents\":500}'\n\
              kvasm call demo total --input '\"ada\"'",
};

pub(super) fn run(global: &Global, arguments: &NewArgs) -> Result<CommandOutcome, Failure> {
    match arguments.template {
        Template::Function => make_rust(global, arguments, &FUNCTION),
        Template::Http => make_rust(global, arguments, &HTTP),
        Template::Trigger => make_rust(global, arguments, &TRIGGER),
        Template::C => make_other(global, arguments, Starter::C),
        Template::Go => make_other(global, arguments, Starter::Go),
        Template::Assemblyscript => make_other(global, arguments, Starter::AssemblyScript),
        Template::Zig => make_other(global, arguments, Starter::Zig),
    }
}

/// Makes a plugin in a language other than Rust.
fn make_other(
    global: &Global,
    arguments: &NewArgs,
    starter: Starter,
) -> Result<CommandOutcome, Failure> {
    if arguments.sdk.is_some() {
        return Err(Failure::user(
            "--sdk is for templates in Rust; the others contain all that they need".to_owned(),
        ));
    }
    let path = &arguments.path;
    let name = checked_name(path, starter.reserved_names())?;
    refuse_existing(path)?;
    write_all(path, &starter.files(name))?;
    let module = format!("build/{name}.wasm");
    let made = json!({ "name": name, "path": path, "module": module });
    output::object(global.json, &made, || {
        let shown = path.display();
        format!("Created {shown}. Next:\n  cd {shown}\n  kvasm deploy APP")
    })?;
    Ok(CommandOutcome::Done)
}

/// Writes files at paths below a folder.
fn write_all(folder: &Path, files: &[(&str, String)]) -> Result<(), Failure> {
    for (file, text) in files {
        let file = folder.join(file);
        let parent = file.parent().unwrap_or(folder);
        std::fs::create_dir_all(parent).map_err(|error| failed(parent, &error))?;
        std::fs::write(&file, text).map_err(|error| failed(&file, &error))?;
    }
    Ok(())
}

fn make_rust(
    global: &Global,
    arguments: &NewArgs,
    template: &RustTemplate,
) -> Result<CommandOutcome, Failure> {
    let path = &arguments.path;
    let name = checked_name(path, &name::OF_RUST)?;
    refuse_existing(path)?;
    let sdk = sdk(arguments.sdk.as_deref(), path)?;
    let module = format!("target/kvasm/{}.wasm", name.replace('-', "_"));
    let files = [
        (
            "Cargo.toml",
            fill(MANIFEST, &[("name", name), ("sdk", &sdk)]),
        ),
        (
            "README.md",
            fill(
                README,
                &[
                    ("name", name),
                    ("module", &module),
                    ("try", template.try_out),
                ],
            ),
        ),
        (".gitignore", "/target\n".to_owned()),
        (".cargo/config.toml", CARGO_CONFIG.to_owned()),
        ("src/lib.rs", template.source.to_owned()),
    ];
    write_all(path, &files)?;
    let made = json!({ "name": name, "path": path, "module": module });
    output::object(global.json, &made, || {
        let shown = path.display();
        format!("Created {shown}. Next:\n  cd {shown}\n  cargo test\n  kvasm deploy APP")
    })?;
    Ok(CommandOutcome::Done)
}

fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut text = template.to_owned();
    for (name, value) in values {
        text = text.replace(&format!("{{{{{name}}}}}"), value);
    }
    text
}

fn failed(path: &Path, error: &std::io::Error) -> Failure {
    Failure::user(format!("cannot write {}: {error}", path.display()))
}

fn refuse_existing(path: &Path) -> Result<(), Failure> {
    let shown = path.display();
    match std::fs::read_dir(path).map(Iterator::count) {
        Ok(0) => Ok(()),
        Ok(_) => Err(Failure::user(format!(
            "{shown} is not empty; nothing was written"
        ))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Failure::user(format!("cannot use {shown}: {error}"))),
    }
}

/// Returns the absolute path of the crate `kvasm-guest`, as it is written in a manifest.
fn sdk(given: Option<&Path>, plugin: &Path) -> Result<String, Failure> {
    let found = match given {
        Some(folder) if is_sdk(folder) => Some(folder.to_owned()),
        Some(folder) => {
            return Err(Failure::user(format!(
                "{} is not the folder of the crate kvasm-guest: in a checkout of Kvasm it is guest-sdk",
                folder.display()
            )));
        }
        None => find_sdk(plugin),
    };
    let found = found.ok_or_else(|| {
        Failure::user(
            "found no checkout of Kvasm, which the plugin needs for the crate kvasm-guest; name its folder \
             guest-sdk with --sdk"
                .to_owned(),
        )
    })?;
    let absolute = found
        .canonicalize()
        .map_err(|error| Failure::user(format!("cannot use {}: {error}", found.display())))?;
    let text = absolute.to_str().filter(|text| is_plain(text));
    text.map(str::to_owned).ok_or_else(|| {
        Failure::user(format!(
            "cannot write the path {} into Cargo.toml: it has quotation marks, backslashes or control \
             characters, or is not UTF-8",
            absolute.display()
        ))
    })
}

/// Whether a text can be in quotation marks in TOML as it is.
fn is_plain(text: &str) -> bool {
    !text.contains(|c: char| c.is_control() || c == '"' || c == '\\')
}

fn is_sdk(folder: &Path) -> bool {
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml"));
    manifest.is_ok_and(|text| text.contains("name = \"kvasm-guest\""))
}

/// Looks for `guest-sdk` in the folders around the current one, and for `kvasm/guest-sdk` around the
/// plugin.
fn find_sdk(plugin: &Path) -> Option<PathBuf> {
    let here = std::env::current_dir().ok()?;
    let plugin = here.join(plugin);
    let around = here.ancestors().map(|folder| folder.join("guest-sdk"));
    let beside = plugin
        .ancestors()
        .map(|folder| folder.join("kvasm/guest-sdk"));
    around.chain(beside).find(|folder| is_sdk(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn template_is_filled_in() {
        assert_eq!(fill("{{a}}-{{b}}{{a}}", &[("a", "1"), ("b", "2")]), "1-21");
        for text in [MANIFEST, README] {
            let names = ["name", "sdk", "module", "try"].map(|name| (name, ""));
            assert!(!fill(text, &names).contains("{{"), "{text}");
        }
    }
}
