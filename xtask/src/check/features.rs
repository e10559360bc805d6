//! Checks each feature alone, and no features at all.
//!
//! `cargo check -p kvasm --no-default-features` would rebuild wasmtime, because features of
//! shared dependencies would differ. Instead, cargo builds the workspace as usual, and this
//! program wraps the compiler for workspace members (`RUSTC_WORKSPACE_WRAPPER`, like clippy).
//! It removes the disabled features and their optional dependencies. It does not detect a
//! feature of a dependency that is enabled only for another member.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::process::{cargo, output, run as run_command, step, workspace};

/// The environment variable with the plan for the wrapper.
const VARIABLE: &str = "KVASM_XTASK_FEATURES";

/// Features that are not checked alone: every test build has them, and they only expose code
/// that another feature provides, or another crate always needs them.
const WITH_OTHERS: &[&str] = &["fuzzing", "json"];

/// What is disabled in each crate that is checked, by crate name. Other workspace crates are
/// compiled as empty crates.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Plan(BTreeMap<String, DisabledFeatures>);

/// What is disabled in a crate.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct DisabledFeatures {
    features: BTreeSet<String>,
    dependencies: BTreeSet<String>,
    /// Whether warnings are errors.
    strict: bool,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    features: BTreeMap<String, Vec<String>>,
    dependencies: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    name: String,
    rename: Option<String>,
    path: Option<PathBuf>,
    kind: Option<String>,
    #[serde(default)]
    features: Vec<String>,
}

/// Checks each choice of features.
pub fn run() -> Result<()> {
    let text = output(cargo().args(["metadata", "--no-deps", "--format-version=1"]))?;
    let metadata: Metadata = serde_json::from_str(&text).context("reading cargo's metadata")?;
    for feature in choices(&metadata) {
        let shown = feature.as_deref().unwrap_or("no features");
        step(&format!("check of {shown} alone"));
        check(feature.as_deref(), &plan(&metadata, feature.as_deref()))
            .with_context(|| format!("with {shown}"))?;
    }
    Ok(())
}

/// No feature, then each one that is not a default: those are already built.
fn choices(metadata: &Metadata) -> Vec<Option<String>> {
    let names = metadata.packages.iter().flat_map(|package| {
        let default = package.features.get("default").cloned().unwrap_or_default();
        let names = package.features.keys().cloned();
        let is_built = move |name: &String| name == "default" || default.contains(name);
        names.filter(move |name| !is_built(name) && !WITH_OTHERS.contains(&name.as_str()))
    });
    let names: BTreeSet<String> = names.collect();
    std::iter::once(None)
        .chain(names.into_iter().map(Some))
        .collect()
}

/// What is disabled when only `feature` is enabled, in the packages with features and the
/// packages they depend on. What one of these needs of another stays enabled.
fn plan(metadata: &Metadata, feature: Option<&str>) -> Plan {
    let mut plan = BTreeMap::new();
    let with_features = metadata.packages.iter().filter(|p| !p.features.is_empty());
    for package in with_features.clone() {
        plan.insert(crate_name(&package.name), DisabledFeatures::default());
        need(metadata, package, &mut plan);
    }
    let checked = metadata.packages.iter();
    let checked: Vec<_> = checked
        .filter(|package| plan.contains_key(&crate_name(&package.name)))
        .collect();
    for package in with_features {
        let needed = checked.iter().flat_map(|by| &by.dependencies);
        let needed = needed.filter(|d| d.kind.is_none() && d.name == package.name);
        let on = needed.flat_map(|d| &d.features).map(String::as_str);
        plan.insert(
            crate_name(&package.name),
            off(package, on.chain(feature).collect()),
        );
    }
    Plan(plan)
}

fn need(metadata: &Metadata, package: &Package, plan: &mut BTreeMap<String, DisabledFeatures>) {
    let needed = package.dependencies.iter();
    let needed = needed.filter(|needed| needed.kind.is_none() && needed.path.is_some());
    for needed in needed {
        plan.entry(crate_name(&needed.name)).or_default();
        if let Some(package) = metadata.packages.iter().find(|p| p.name == needed.name) {
            need(metadata, package, plan);
        }
    }
}

fn off<'a>(package: &'a Package, mut left: Vec<&'a str>) -> DisabledFeatures {
    let (mut on, mut with) = (BTreeSet::new(), BTreeSet::new());
    while let Some(name) = left.pop() {
        for part in package.features.get(name).into_iter().flatten() {
            match part.strip_prefix("dep:") {
                Some(dependency) => drop(with.insert(dependency)),
                None if part.contains('/') => {}
                None => left.push(part),
            }
        }
        on.insert(name);
    }
    let optional = package.features.values().flatten();
    let optional = optional.filter_map(|part| part.strip_prefix("dep:"));
    let names = |name: &str| {
        let renamed = package.dependencies.iter().find(|d| d.name == name);
        crate_name(renamed.and_then(|d| d.rename.as_deref()).unwrap_or(name))
    };
    let features = package.features.keys();
    DisabledFeatures {
        features: features
            .filter(|name| !on.contains(name.as_str()))
            .cloned()
            .collect(),
        dependencies: optional
            .filter(|name| !with.contains(name))
            .map(names)
            .collect(),
        strict: true,
    }
}

fn crate_name(package: &str) -> String {
    package.replace('-', "_")
}

fn check(feature: Option<&str>, plan: &Plan) -> Result<()> {
    // Cargo tells the builds of different wrappers apart by the wrapper's path.
    let folder = workspace().join("target/xtask-features");
    let folder = folder.join(feature.unwrap_or("none"));
    let wrapper = folder
        .join("rustc")
        .with_extension(env::consts::EXE_EXTENSION);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let xtask = env::current_exe().context("cannot determine the path of this program")?;
    put(&xtask, &wrapper).with_context(|| format!("cannot write {}", wrapper.display()))?;
    let mut command = cargo();
    command.args(["check", "--quiet", "--workspace", "--lib"]);
    command.env("RUSTC_WORKSPACE_WRAPPER", &wrapper);
    run_command(command.env(VARIABLE, serde_json::to_string(plan)?))
}

/// Copies a program, unless the copy is already there.
fn put(from: &Path, to: &Path) -> std::io::Result<()> {
    let is_same = |to: fs::Metadata, from: fs::Metadata| {
        to.len() == from.len() && to.modified().ok() >= from.modified().ok()
    };
    if let (Ok(to), Ok(from)) = (fs::metadata(to), fs::metadata(from))
        && is_same(to, from)
    {
        return Ok(());
    }
    // A running program cannot be written to.
    let new = to.with_extension("new");
    fs::copy(from, &new)?;
    fs::rename(new, to)
}

/// Acts as the compiler, if cargo has started this program as the wrapper.
pub fn as_compiler() -> Option<ExitCode> {
    let plan = env::var(VARIABLE).ok()?;
    let compiled = compile(&plan).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    });
    Some(compiled)
}

fn compile(plan: &str) -> Result<ExitCode> {
    let plan: Plan = serde_json::from_str(plan).context(VARIABLE)?;
    let mut arguments = env::args().skip(1);
    let Some(compiler) = arguments.next() else {
        bail!("no compiler given");
    };
    let empty = env::current_exe()?.with_file_name("empty.rs");
    fs::write(&empty, "").with_context(|| format!("cannot write {}", empty.display()))?;
    let arguments = rewritten(arguments.collect(), &plan, &empty.to_string_lossy());
    let status = Command::new(&compiler).args(arguments).status();
    let status = status.with_context(|| format!("cannot start {compiler}"))?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The compiler's arguments without what is disabled.
fn rewritten(arguments: Vec<String>, plan: &Plan, empty: &str) -> Vec<String> {
    let name = value_of(&arguments, "--crate-name");
    // Cargo queries the compiler itself with a crate of this name.
    let Some(name) = name.filter(|name| name != "___") else {
        return arguments;
    };
    let Some(off) = plan.0.get(&name) else {
        let is_source = |argument: &str| argument.ends_with(".rs");
        let replace = |a: String| if is_source(&a) { empty.to_owned() } else { a };
        return arguments.into_iter().map(replace).collect();
    };
    let mut kept = Vec::new();
    let mut rest = arguments.into_iter().peekable();
    while let Some(argument) = rest.next() {
        let next = rest.peek().map(String::as_str).unwrap_or_default();
        if is_off(off, &argument, next) {
            rest.next();
        } else {
            kept.push(argument);
        }
    }
    if off.strict {
        kept.push("-Dwarnings".to_owned());
    }
    kept
}

fn is_off(off: &DisabledFeatures, option: &str, value: &str) -> bool {
    match option {
        "--cfg" => {
            let feature = value
                .strip_prefix("feature=\"")
                .and_then(|f| f.strip_suffix('"'));
            feature.is_some_and(|feature| off.features.contains(feature))
        }
        "--extern" => {
            let name = value.split('=').next().unwrap_or_default();
            off.dependencies
                .contains(name.rsplit(':').next().unwrap_or_default())
        }
        _ => false,
    }
}

fn value_of(arguments: &[String], option: &str) -> Option<String> {
    let at = arguments.iter().position(|argument| argument == option)?;
    arguments.get(at + 1).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata() -> Metadata {
        let json = r#"{"packages":[
            {"name":"a-b","features":{"default":["all"],"all":["some","dep:x-y"],"some":["dep:z","w/f"]},
             "dependencies":[{"name":"x-y","rename":null,"kind":null},{"name":"z","rename":"zed","kind":null},
                             {"name":"base","rename":null,"path":"/base","kind":null,"features":["least"]},
                             {"name":"kit","rename":null,"path":"/kit","kind":"dev"}]},
            {"name":"base","features":{"least":["dep:y"],"most":[]},
             "dependencies":[{"name":"y","rename":null,"kind":null}]},
            {"name":"kit","features":{},
             "dependencies":[{"name":"base","rename":null,"path":"/base","kind":null,"features":["most"]}]}]}"#;
        serde_json::from_str(json).unwrap()
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn enabling_a_feature_enables_its_dependencies() {
        let metadata = metadata();
        let some = ["least", "most", "some"].map(|name| Some(name.to_owned()));
        assert_eq!(choices(&metadata)[1..], some);
        assert_eq!(choices(&metadata)[0], None);
        let none = plan(&metadata, None).0;
        assert_eq!(none.keys().collect::<Vec<_>>(), ["a_b", "base"]);
        assert_eq!(none["a_b"].features, set(&["all", "default", "some"]));
        assert_eq!(none["a_b"].dependencies, set(&["x_y", "zed"]));
        let some = plan(&metadata, Some("some")).0;
        assert_eq!(some["a_b"].features, set(&["all", "default"]));
        assert_eq!(some["a_b"].dependencies, set(&["x_y"]));
    }

    #[test]
    fn features_that_a_checked_crate_needs_stay_enabled() {
        let none = plan(&metadata(), None).0;
        assert_eq!(none["base"].features, set(&["most"]));
        assert_eq!(none["base"].dependencies, set(&[]));
    }

    #[test]
    fn compiler_arguments_keep_only_enabled_features() {
        let plan = plan(&metadata(), Some("some"));
        let given = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let of = |text: &str| rewritten(given(text), &plan, "/empty.rs").join(" ");
        let rest = "--extern priv:zed=z.rlib --cfg feature=\"some\" a/lib.rs";
        assert_eq!(
            of(&format!(
                "--crate-name a_b --extern x_y=x.rlib --cfg feature=\"all\" {rest}"
            )),
            format!("--crate-name a_b {rest} -Dwarnings")
        );
        assert_eq!(
            of("--crate-name base --cfg feature=\"least\" b/lib.rs"),
            "--crate-name base --cfg feature=\"least\" b/lib.rs -Dwarnings"
        );
        assert_eq!(
            of("--crate-name kit k/lib.rs -C x"),
            "--crate-name kit /empty.rs -C x"
        );
        assert_eq!(of("-vV"), "-vV");
        assert_eq!(
            of("- --crate-name ___ --print=cfg"),
            "- --crate-name ___ --print=cfg"
        );
    }
}
