//! Builds plugins in Rust with cargo.

use super::{BuildOptions, BuildProcess, Compiled, WasmTarget};
use crate::failure::Failure;
use crate::{input, output};
use clap::ValueEnum;
use parking_lot::Mutex;
use serde_json::Value;
use std::ffi::OsString;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_STD: &str = "/usr/lib/rustlib/src/rust/library/std/Cargo.toml";

/// Compiles the plugin in a folder with a `Cargo.toml`.
///
/// # Errors
/// A user error: it makes no module, it does not compile, or the target is not installed.
pub(crate) fn compile(folder: &Path, options: &BuildOptions) -> Result<Compiled, Failure> {
    let plugin = PluginPackage::find(folder)?;
    let (target, toolchain) = Toolchain::choose(folder, options.target.or(plugin.target))?;
    let mut cargo = toolchain.cargo(folder, target);
    cargo
        .args(["build", "--lib", "--target", target.name()])
        .args(["--message-format", "json-render-diagnostics"]);
    if !options.debug {
        // Names tell what makes the module large; they are stripped afterwards.
        cargo
            .arg("--release")
            .env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo");
    }
    let artifact = run(cargo, &plugin, &options.child)?;
    let suffix = if options.debug {
        ".debug.wasm"
    } else {
        ".wasm"
    };
    let file = format!("{}{suffix}", plugin.library);
    Ok(Compiled {
        wasm: input::file(&artifact)?,
        output: plugin.target_folder.join("kvasm").join(file),
    })
}

/// The packages that a plugin is built from, other than those of a registry.
pub(crate) struct LocalPackages {
    /// The folder with the lock file.
    pub(crate) workspace: PathBuf,
    /// The folders of the packages that are not in the plugin's.
    pub(crate) folders: Vec<PathBuf>,
}

/// Returns the local packages that the plugin in a folder depends on; `None` if it is not in Rust, or
/// cargo cannot tell, which a build explains.
pub(crate) fn local_packages(folder: &Path) -> Option<LocalPackages> {
    if !folder.join("Cargo.toml").is_file() {
        return None;
    }
    let own = folder.canonicalize().ok()?;
    let mut cargo = cargo(folder);
    cargo.args(["metadata", "--format-version", "1"]);
    let output = cargo.output().ok()?;
    let metadata: Value = serde_json::from_slice(&output.stdout).ok()?;
    // Other members of its workspace are among them: a change there only costs a build of nothing.
    let packages = list(&metadata, "packages").iter();
    let is_local = |package: &&Value| package.get("source").is_some_and(Value::is_null);
    let manifests = packages
        .filter(is_local)
        .filter_map(|package| text(package, "manifest_path"));
    let folders = manifests.filter_map(|path| Some(Path::new(&path).parent()?.to_owned()));
    Some(LocalPackages {
        workspace: text(&metadata, "workspace_root")?.into(),
        folders: folders.filter(|folder| !folder.starts_with(&own)).collect(),
    })
}

/// A package that makes a module.
struct PluginPackage {
    /// Cargo's id of the package.
    id: String,
    /// The name of its library, which is that of the module.
    library: String,
    /// What its manifest says.
    target: Option<WasmTarget>,
    target_folder: PathBuf,
}

impl PluginPackage {
    fn find(folder: &Path) -> Result<PluginPackage, Failure> {
        let mut cargo = cargo(folder);
        cargo.args(["metadata", "--no-deps", "--format-version", "1"]);
        let output = cargo.output().map_err(|error| not_started(&error))?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            return Err(Failure::user(format!(
                "cargo cannot read the project: {}",
                why.trim()
            )));
        }
        let metadata: Value = serde_json::from_slice(&output.stdout)
            .map_err(|error| Failure::host(format!("cargo metadata: {error}")))?;
        find_plugin(&metadata, folder)
    }
}

/// Finds the package of a folder in the output of `cargo metadata`.
fn find_plugin(metadata: &Value, folder: &Path) -> Result<PluginPackage, Failure> {
    let absolute = folder
        .canonicalize()
        .map_err(|error| Failure::user(format!("{}: {error}", folder.display())))?;
    let manifest = |package: &Value| text(package, "manifest_path").map(PathBuf::from);
    let packages = list(metadata, "packages");
    let is_here = |package: &&Value| {
        let manifest = manifest(package).and_then(|path| path.canonicalize().ok());
        manifest.is_some_and(|path| path.parent() == Some(&absolute))
    };
    let Some(package) = packages.iter().find(is_here) else {
        let plugins = packages.iter().filter(|package| cdylib(package).is_some());
        let folders = plugins.filter_map(|package| Some(manifest(package)?.parent()?.to_owned()));
        let folders: Vec<String> = folders.map(|path| path.display().to_string()).collect();
        return Err(Failure::user(match folders.as_slice() {
            [] => "no package of this workspace makes a module: none has the crate-type \"cdylib\""
                .to_owned(),
            folders => format!(
                "this is a workspace; name the folder of a plugin: {}",
                folders.join(", ")
            ),
        }));
    };
    let name = text(package, "name").unwrap_or_default();
    let Some(library) = cdylib(package) else {
        return Err(Failure::user(no_module(package, &name)));
    };
    Ok(PluginPackage {
        id: text(package, "id").unwrap_or_default(),
        // The file has the name of the crate.
        library: library.replace('-', "_"),
        target: target_of(package)?,
        target_folder: text(metadata, "target_directory")
            .unwrap_or_default()
            .into(),
    })
}

/// Returns the target in a package's `[package.metadata.kvasm]`.
fn target_of(package: &Value) -> Result<Option<WasmTarget>, Failure> {
    let Some(target) = package.pointer("/metadata/kvasm/target") else {
        return Ok(None);
    };
    let known = target.as_str().and_then(|name| {
        let mut all = WasmTarget::value_variants().iter();
        all.find(|target| target.name() == name)
    });
    known.copied().map(Some).ok_or_else(|| {
        let names = WasmTarget::value_variants().iter();
        let names: Vec<&str> = names.map(|target| target.name()).collect();
        Failure::user(format!(
            "the target in [package.metadata.kvasm] of Cargo.toml is {target}; it can be {}",
            names.join(" or ")
        ))
    })
}

/// Says why a package makes no module.
fn no_module(package: &Value, name: &str) -> String {
    let targets = list(package, "targets");
    let is_library = |target: &&Value| {
        let kinds = list(target, "kind");
        kinds.iter().any(|kind| kind == "lib" || kind == "rlib")
    };
    let library = targets.iter().find(is_library);
    let found = match library {
        Some(library) => {
            let kinds = list(library, "kind").iter();
            let kinds: Vec<String> = kinds.map(ToString::to_string).collect();
            format!("its library has the crate-type {}", kinds.join(", "))
        }
        None => "it has no library".to_owned(),
    };
    format!(
        "the package {name} makes no module: {found}. Add to its Cargo.toml:\n\
         [lib]\n\
         crate-type = [\"cdylib\"]"
    )
}

/// Returns the name of the library that becomes a module.
fn cdylib(package: &Value) -> Option<String> {
    let is_cdylib = |target: &&Value| list(target, "kind").iter().any(|kind| kind == "cdylib");
    text(list(package, "targets").iter().find(is_cdylib)?, "name")
}

fn text(value: &Value, member: &str) -> Option<String> {
    value.get(member)?.as_str().map(str::to_owned)
}

fn list<'v>(value: &'v Value, member: &str) -> &'v [Value] {
    let list = value.get(member).and_then(Value::as_array);
    list.map_or(&[], Vec::as_slice)
}

/// Runs the build, which prints its progress and errors, and returns the module.
fn run(
    mut cargo: Command,
    plugin: &PluginPackage,
    child: &BuildProcess,
) -> Result<PathBuf, Failure> {
    let stdout = child
        .start(&mut cargo)
        .map_err(|error| not_started(&error))?;
    let mut module = None;
    if let Some(stdout) = stdout {
        for line in std::io::BufReader::new(stdout).lines() {
            module = artifact(&line?, plugin).or(module);
        }
    }
    if !child.wait()?.is_some_and(|status| status.success()) {
        return Err(Failure::user(
            "cargo could not build the plugin; its messages are above",
        ));
    }
    module.ok_or_else(|| Failure::host("cargo named no module that it has built"))
}

/// Returns the module that a message of cargo names, if it is the plugin's.
fn artifact(line: &str, plugin: &PluginPackage) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(line).ok()?;
    let is_plugin = text(&message, "reason")? == "compiler-artifact"
        && text(&message, "package_id")? == plugin.id;
    let files = list(&message, "filenames").iter();
    let mut files = files.filter_map(|file| file.as_str().map(PathBuf::from));
    let is_module = |file: &PathBuf| file.extension().is_some_and(|end| end == "wasm");
    files.find(is_module).filter(|_| is_plugin)
}

/// Cargo in a folder.
pub(crate) fn cargo(folder: &Path) -> Command {
    // Cargo sets it for programs that it runs, and it is then the one to use.
    let program = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(program);
    // Cargo looks for `.cargo/config.toml` from the current folder.
    command.current_dir(folder).stdin(Stdio::null());
    command
}

fn not_started(error: &std::io::Error) -> Failure {
    match error.kind() {
        std::io::ErrorKind::NotFound => Failure::user(
            "cargo is not installed, or is not in PATH; https://rustup.rs describes how to install it",
        ),
        _ => Failure::host(format!("cannot start cargo: {error}")),
    }
}

/// The source of the standard library for the target.
enum Toolchain {
    /// The active toolchain has it.
    Active,
    /// Debian's compiler builds it; `linker` links it.
    Debian { linker: PathBuf },
}

impl Toolchain {
    /// Finds the standard library of the target that is asked for. Without one it is that of the
    /// default, or else of the other, if it is there: a new author on a machine without network is
    /// to have a module.
    fn choose(
        folder: &Path,
        asked: Option<WasmTarget>,
    ) -> Result<(WasmTarget, Toolchain), Failure> {
        if let Some(target) = asked {
            let found = Toolchain::added(folder, target);
            let found = found.or_else(|| Toolchain::installed(folder, target));
            let found = found.ok_or_else(|| missing(target, target == WasmTarget::Unknown))?;
            return Ok((target, found));
        }
        let (default, other) = (WasmTarget::Wasip1, WasmTarget::Unknown);
        let may_ask = !NOT_ADDED.lock().contains(&default);
        if let Some(found) = Toolchain::added(folder, default) {
            return Ok((default, found));
        }
        let found = Toolchain::installed(folder, other).ok_or_else(|| missing(default, true))?;
        if may_ask {
            output::note(&format!(
                "The Rust toolchain has no {}, so the plugin is built for {}, where the standard library \
                 has no output and no clock. Add it with `rustup target add {}`.",
                default.name(),
                other.name(),
                default.name()
            ));
        }
        Ok((other, found))
    }

    /// Finds the standard library in the active toolchain, to which it is added if rustup can.
    fn added(folder: &Path, target: WasmTarget) -> Option<Toolchain> {
        let found = has_std(folder, target) || add_with_rustup(folder, target);
        found.then_some(Toolchain::Active)
    }

    /// Finds the standard library where it is: in the active toolchain, or Debian's source.
    fn installed(folder: &Path, target: WasmTarget) -> Option<Toolchain> {
        if has_std(folder, target) {
            return Some(Toolchain::Active);
        }
        if target != WasmTarget::Unknown {
            return None;
        }
        let linker = debian_linker(folder)?;
        output::note("The standard library is built from Debian's rust-web-src.");
        Some(Toolchain::Debian { linker })
    }

    fn cargo(&self, folder: &Path, target: WasmTarget) -> Command {
        let mut command = cargo(folder);
        if let Toolchain::Debian { linker } = self {
            let name = target.name().replace('-', "_").to_uppercase();
            command
                .env("CARGO_UNSTABLE_BUILD_STD", "std,panic_abort")
                .env("RUSTC", DEBIAN_RUSTC)
                .env("RUSTC_BOOTSTRAP", "1")
                .env(format!("CARGO_TARGET_{name}_LINKER"), linker)
                // It refers to libraries of the outer toolchain, not to Debian's.
                .env_remove("LD_LIBRARY_PATH");
        }
        command
    }
}

/// The failure that says what to install; also from Debian, where that helps.
fn missing(target: WasmTarget, or_debian: bool) -> Failure {
    let debian = match or_debian {
        true => ", or, on Debian, `sudo apt-get install rustc-web rust-web-src` and try again",
        false => "",
    };
    Failure::user(format!(
        "the Rust toolchain has no standard library for {name}: run `rustup target add {name}`{debian}",
        name = target.name()
    ))
}

/// Targets that rustup could not add, so that `kvasm dev` tries it once.
static NOT_ADDED: Mutex<Vec<WasmTarget>> = Mutex::new(Vec::new());

/// Whether the active toolchain has the standard library.
fn has_std(folder: &Path, target: WasmTarget) -> bool {
    let arguments = ["--print", "target-libdir", "--target", target.name()];
    let libraries = rustc(folder, &arguments).map(PathBuf::from);
    let files = libraries.and_then(|folder| folder.read_dir().ok());
    files.is_some_and(|files| {
        let mut names = files.flatten().map(|file| file.file_name());
        names.any(|name| name.to_string_lossy().starts_with("libstd-"))
    })
}

fn add_with_rustup(folder: &Path, target: WasmTarget) -> bool {
    let mut not_added = NOT_ADDED.lock();
    if not_added.contains(&target) {
        return false;
    }
    let mut rustup = Command::new("rustup");
    rustup
        .current_dir(folder)
        .args(["target", "add", target.name()])
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    // Nothing is printed where there is no rustup.
    let is_added = rustup.spawn().is_ok_and(|mut child| {
        output::note(&format!("Running rustup target add {}.", target.name()));
        child.wait().is_ok_and(|status| status.success()) && has_std(folder, target)
    });
    if !is_added {
        not_added.push(target);
    }
    is_added
}

/// Returns a linker for Debian's compiler, if that and its sources are installed.
fn debian_linker(folder: &Path) -> Option<PathBuf> {
    if !Path::new(DEBIAN_RUSTC).is_file() || !Path::new(DEBIAN_STD).is_file() {
        return None;
    }
    let of_toolchain = || {
        let root = PathBuf::from(rustc(folder, &["--print", "sysroot"])?);
        let host = rustc(folder, &["--print", "host-tuple"])?;
        Some(root.join("lib/rustlib").join(host).join("bin/rust-lld"))
    };
    let of_path = |name: &str| {
        let path = std::env::var_os("PATH")?;
        let mut files = std::env::split_paths(&path).map(|folder| folder.join(name));
        files.find(|file| file.is_file())
    };
    of_toolchain()
        .filter(|linker| linker.is_file())
        .or_else(|| of_path("wasm-ld"))
        .or_else(|| of_path("wasm-ld-19"))
}

/// Returns what the active compiler prints.
fn rustc(folder: &Path, arguments: &[&str]) -> Option<String> {
    let program = std::env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc"));
    let mut command = Command::new(program);
    command.current_dir(folder).args(arguments);
    let output = command.stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn metadata(folder: &Path, kind: &str) -> Value {
        json!({
            "target_directory": folder.join("target"),
            "packages": [{
                "name": "my-notes",
                "id": "path+my-notes",
                "manifest_path": folder.join("Cargo.toml"),
                "targets": [{ "name": "my-notes", "kind": [kind] }],
            }],
        })
    }

    #[test]
    fn package_without_a_cdylib_is_explained() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        std::fs::write(folder.join("Cargo.toml"), "").unwrap();
        let found = find_plugin(&metadata(&folder, "cdylib"), &folder);
        assert_eq!(found.ok().unwrap().library, "my_notes");
        assert!(find_plugin(&metadata(&folder, "lib"), &folder).is_err());
        let why = |kind| {
            let metadata = metadata(&folder, kind);
            no_module(metadata.pointer("/packages/0").unwrap(), "my-notes")
        };
        assert!(why("lib").contains("its library has the crate-type \"lib\""));
        assert!(why("bin").contains("it has no library"));
    }

    #[test]
    fn module_of_the_plugin_is_found_among_messages() {
        let folder = Path::new("/nowhere");
        let plugin = PluginPackage {
            id: "path+a".to_owned(),
            library: "a".to_owned(),
            target: None,
            target_folder: folder.to_owned(),
        };
        let line = |id: &str| {
            format!(
                "{{\"reason\":\"compiler-artifact\",\"package_id\":\"{id}\",\
                 \"filenames\":[\"/t/a.rlib\",\"/t/a.wasm\"]}}"
            )
        };
        let found = artifact(&line("path+a"), &plugin);
        assert_eq!(found, Some(PathBuf::from("/t/a.wasm")));
        assert_eq!(artifact(&line("path+b"), &plugin), None);
        assert_eq!(artifact("not json", &plugin), None);
    }
}
