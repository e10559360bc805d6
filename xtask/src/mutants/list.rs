//! The list of mutants, and how each changes its file.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::Deserialize;

/// The path of the list.
pub const LIST: &str = "tests/mutants.toml";
/// Where the crates are that mutants are of.
const HOST: &str = "host/";
/// With what the names of these crates begin; the rest is the name of the folder.
const CRATE: &str = "kvasm-";

/// The folder of a crate whose own tests a program of the list is, if it is no test program.
pub fn crate_folder(program: &str) -> Option<String> {
    let folder = program.strip_prefix(CRATE)?;
    Some(format!("{HOST}{folder}"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    mutant: Vec<Mutant>,
}

/// A mutant: a plausible mistake in one expression.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mutant {
    /// Its name, by which it is selected.
    pub name: String,
    /// The mistake that it represents.
    pub what: String,
    /// The file, relative to the root of the workspace.
    pub file: String,
    /// The expression to replace.
    code: String,
    /// The replacement: an expression of the same type.
    becomes: String,
    /// Text around `code` that occurs once, if `code` alone does not.
    within: Option<String>,
    /// The tests, at least one of which must fail.
    pub tests: Vec<Test>,
    /// Why no test can detect it, if none can.
    pub lives: Option<String>,
}

/// A test: its program and its path there.
#[derive(Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(try_from = "String")]
pub struct Test {
    pub program: String,
    pub path: String,
}

impl TryFrom<String> for Test {
    type Error = String;

    fn try_from(text: String) -> Result<Test, String> {
        match text.split_once(' ') {
            Some((program, path)) => Ok(Test {
                program: program.to_owned(),
                path: path.to_owned(),
            }),
            None => Err(format!("{text:?} must be a program, a space, and a test")),
        }
    }
}

impl Mutant {
    /// The change, for display.
    pub fn change(&self) -> String {
        let line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        format!("`{}` becomes `{}`", line(&self.code), line(&self.becomes))
    }

    /// The position of its code in the text of its file.
    ///
    /// # Errors
    /// Fails if the code is missing or occurs more than once.
    pub fn place(&self, text: &str) -> Result<usize> {
        let once = |what: &str, text: &str| match text.match_indices(what).count() {
            1 => text.find(what).context("it occurs once"),
            0 => Err(anyhow!("`{what}` does not occur")),
            count => Err(anyhow!("`{what}` occurs {count} times")),
        };
        let within = self.within.as_ref().unwrap_or(&self.code);
        let found = once(within, text).and_then(|at| Ok(at + once(&self.code, within)?));
        found.with_context(|| format!("the mutant {} does not apply to {}", self.name, self.file))
    }
}

/// The expression that selects among the mutants of one place and the original code.
fn switch(mutants: &[&Mutant], code: &str) -> String {
    let choice = |mutant: &&Mutant| {
        let (name, becomes) = (&mutant.name, &mutant.becomes);
        format!("if crate::mutant::is({name:?}) {{ {becomes} }} else ")
    };
    let choices: String = mutants.iter().map(choice).collect();
    format!("({choices}{{ {code} }})")
}

/// The text of a file with its mutants.
///
/// # Errors
/// Fails if a mutant does not apply, or if two overlap.
pub fn mutate(text: &str, mutants: &[&Mutant]) -> Result<String> {
    let mut places: BTreeMap<_, Vec<&Mutant>> = BTreeMap::new();
    for mutant in mutants {
        let place = (mutant.place(text)?, mutant.code.as_str());
        places.entry(place).or_default().push(mutant);
    }
    let (mut mutated, mut end) = (String::new(), 0);
    for ((at, code), mutants) in places {
        let before = text.get(end..at).with_context(|| {
            let names: Vec<_> = mutants.iter().map(|mutant| &mutant.name).collect();
            format!("{names:?} overlap another mutant with different code")
        })?;
        mutated.push_str(before);
        mutated.push_str(&switch(&mutants, code));
        end = at + code.len();
    }
    mutated.push_str(text.get(end..).unwrap_or_default());
    Ok(mutated)
}

/// Reads the list, and checks that each mutant applies to the sources in `root`.
pub fn read(root: &Path) -> Result<Vec<Mutant>> {
    let text =
        fs::read_to_string(root.join(LIST)).with_context(|| format!("cannot read {LIST}"))?;
    let list: List = toml::from_str(&text).with_context(|| format!("cannot parse {LIST}"))?;
    let mut names = HashSet::new();
    let mut wrong = Vec::new();
    for mutant in &list.mutant {
        let name = &mutant.name;
        ensure!(names.insert(name), "{LIST} has two mutants {name}");
        ensure!(
            !mutant.tests.is_empty(),
            "the mutant {name} must name a test"
        );
        if let Err(error) = applies(root, mutant) {
            wrong.push(format!("{error:#}"));
        }
    }
    if !wrong.is_empty() {
        bail!("{LIST} does not match the sources:\n{}", wrong.join("\n"));
    }
    Ok(list.mutant)
}

fn applies(root: &Path, mutant: &Mutant) -> Result<()> {
    let file = &mutant.file;
    let is_library = file.starts_with(HOST) && !file.starts_with("host/cli/");
    ensure!(is_library, "{file} is not in the library");
    let text =
        fs::read_to_string(root.join(file)).with_context(|| format!("cannot read {file}"))?;
    mutant.place(&text).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::workspace;

    fn mutant(name: &str, code: &str, within: Option<&str>) -> Mutant {
        Mutant {
            name: name.to_owned(),
            what: String::new(),
            file: "host/core/src/x.rs".to_owned(),
            code: code.to_owned(),
            becomes: "0".to_owned(),
            within: within.map(str::to_owned),
            tests: Vec::new(),
            lives: None,
        }
    }

    /// A change of the sources must be made in the list too.
    #[test]
    fn listed_mutants_apply_to_the_sources() {
        for mutant in read(&workspace()).unwrap() {
            for Test { program, path } in &mutant.tests {
                let (module, name) = path.rsplit_once("::").unwrap();
                let file = match crate_folder(program) {
                    Some(folder) => {
                        let module = module.trim_end_matches("::tests");
                        format!("{folder}/src/{}", module.replace("::", "/"))
                    }
                    None => format!("tests/tests/{program}/{}", module.replace("::", "/")),
                };
                let base = workspace().join(&file);
                // A property of the conformance suite, which each store runs.
                let properties = module.rsplit("::").next().unwrap();
                let suite = workspace().join("host/store-testing/src/conformance");
                let files = [
                    base.with_extension("rs"),
                    base.join("mod.rs"),
                    base.join("tests.rs"),
                    suite.join(properties).with_extension("rs"),
                ];
                let has = |file: &std::path::PathBuf| {
                    let text = fs::read_to_string(file).unwrap_or_default();
                    text.contains(&format!("fn {name}("))
                };
                assert!(files.iter().any(has), "no such test: {program} {path}");
            }
        }
    }

    #[test]
    fn each_mutant_is_inserted_at_its_expression() {
        let text = "a(1); b(1); c(2);";
        let (one, two) = (mutant("x", "1", Some("b(1)")), mutant("y", "2", None));
        let again = mutant("z", "2", None);
        assert_eq!(
            mutate(text, &[&two, &one, &again]).unwrap(),
            "a(1); b((if crate::mutant::is(\"x\") { 0 } else { 1 })); \
             c((if crate::mutant::is(\"y\") { 0 } else if crate::mutant::is(\"z\") { 0 } else { 2 }));"
        );
    }

    #[test]
    fn mutant_that_does_not_apply_is_an_error() {
        for (text, mutants) in [
            ("a(1); b(1);", vec![mutant("twice", "1", None)]),
            ("a(2);", vec![mutant("gone", "1", None)]),
            ("a(1);", vec![mutant("gone around", "1", Some("b(1)"))]),
            (
                "a(b(1));",
                vec![mutant("outer", "b(1)", None), mutant("inner", "1", None)],
            ),
        ] {
            let of_file: Vec<_> = mutants.iter().collect();
            assert!(mutate(text, &of_file).is_err(), "{}", mutants[0].name);
        }
    }
}
