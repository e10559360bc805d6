//! One name for one thing: names of types and of files in the crates of `host/`.

use super::files::{self, File};
use super::{assert_none, rust};
use std::collections::BTreeMap;

/// File names that say what a file is to its folder, not what it has.
const CONVENTIONAL: &[&str] = &["lib.rs", "main.rs", "mod.rs", "tests.rs"];

fn sources() -> impl Iterator<Item = File> {
    let files = files::all("host", ".rs").into_iter();
    // A suite of tests has modules after its subjects.
    files.filter(|file| !file.path.starts_with("host/store-testing/"))
}

/// The types that a file declares outside of its tests.
fn types(text: &str) -> Vec<String> {
    let code = rust::read(text).code;
    let code = code
        .split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or_default();
    let words: Vec<_> = rust::words(code)
        .into_iter()
        .map(|(_, word)| word)
        .collect();
    let is_kind = |word: &str| matches!(word, "struct" | "enum" | "trait");
    let declared = words.windows(2).filter(|pair| is_kind(pair[0]));
    declared.map(|pair| pair[1].to_owned()).collect()
}

fn repeated(named: impl Iterator<Item = (String, String)>) -> Vec<String> {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, place) in named {
        let places = places.entry(name).or_default();
        // Variants of one type for different systems stand in one file.
        if !places.contains(&place) {
            places.push(place);
        }
    }
    let repeated = places.into_iter().filter(|(_, places)| places.len() > 1);
    repeated
        .map(|(name, places)| format!("{name}: {}", places.join(", ")))
        .collect()
}

#[test]
fn type_names_are_unique_in_the_host() {
    let is_test = |file: &File| file.path.contains("/tests/") || file.path.ends_with("/tests.rs");
    let files = sources().filter(|file| !is_test(file));
    let named = files.flat_map(|file| {
        let names = types(&file.text);
        names.into_iter().map(move |name| (name, file.path.clone()))
    });
    assert_none(&repeated(named));
}

#[test]
fn file_names_are_unique_in_each_crate() {
    let named = sources().filter_map(|file| {
        let (folder, name) = file.path.rsplit_once('/')?;
        let of_crate = folder.split("/src").next()?;
        let is_own = !CONVENTIONAL.contains(&name);
        is_own.then(|| (format!("{of_crate} {name}"), file.path.clone()))
    });
    assert_none(&repeated(named));
}

#[test]
fn declared_types_are_found() {
    let text = "pub struct A<T>(T);\n// struct B\nenum C { D }\nlet s = \"trait E\";\n\
        #[cfg(test)]\nmod tests {\n struct F; }";
    assert_eq!(types(text), ["A", "C"]);
    let named = [("A", "x.rs"), ("A", "y.rs"), ("B", "x.rs"), ("B", "x.rs")];
    let named = named.map(|(name, place)| (name.to_owned(), place.to_owned()));
    assert_eq!(repeated(named.into_iter()), ["A: x.rs, y.rs"]);
}
