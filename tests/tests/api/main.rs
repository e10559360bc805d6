//! The API that plugins compile against: the public items of `kvasm-guest` and `kvasm-abi`, as
//! declared in their sources, match `guest-sdk/api/*.txt`. So no release changes them
//! unnoticed.
//!
//! The test reads sources, not compiler output: it does not find a lost auto trait, or a change
//! of another crate whose types are in a signature.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod items;
mod source;
mod text;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The removed lines and the added ones.
fn differences<'a>(stored: &'a str, built: &'a str) -> [Vec<&'a str>; 2] {
    let lines = |text: &'a str| text.lines().collect::<BTreeSet<_>>();
    let (stored, built) = (lines(stored), lines(built));
    let only = |a: &BTreeSet<&'a str>, b: &BTreeSet<&'a str>| a.difference(b).copied().collect();
    [only(&stored, &built), only(&built, &stored)]
}

fn check_snapshot(package: &str, folder: &str) {
    let built = items::public(
        &package.replace('-', "_"),
        &root().join(folder).join("src/lib.rs"),
    );
    let path = format!("guest-sdk/api/{package}.txt");
    let file = root().join(&path);
    if std::env::var_os("KVASM_UPDATE").is_some() {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, &built).unwrap();
    }
    let stored = fs::read_to_string(&file).unwrap_or_default();
    let [gone, new] = differences(&stored, &built);
    assert!(
        gone.is_empty() && new.is_empty() && stored == built,
        "the public items of {package} do not match {path}.\n\
         Removed or changed (breaks plugins; needs a new 0.x version):\n  {}\n\
         Added (needs a line in CHANGELOG.md):\n  {}\n\
         If this is intended, run: KVASM_UPDATE=1 cargo test --workspace --test api",
        gone.join("\n  "),
        new.join("\n  ")
    );
}

#[test]
fn kvasm_guest_public_api_matches_the_snapshot() {
    check_snapshot("kvasm-guest", "guest-sdk");
}

#[test]
fn kvasm_abi_public_api_matches_the_snapshot() {
    check_snapshot("kvasm-abi", "guest-sdk/abi");
}

#[test]
fn api_diff_separates_removed_and_added_items() {
    let [gone, new] = differences("a\nb\nc\n", "a\nB\nc\nd\n");
    assert_eq!(gone, ["b"]);
    assert_eq!(new, ["B", "d"]);
}

/// Covers each kind of item, and each way to make it public.
#[test]
fn public_items_are_parsed_from_the_source() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write(
        "lib.rs",
        "mod inner; pub mod open { pub use crate::inner::Thing; #[doc(hidden)] pub fn no() {} }
         pub use inner::{Thing as Renamed, Shape}; pub use log; pub(crate) use inner::hidden;
         pub const N: u32 = 2 * 3; fn private() {}
         #[cfg(test)] mod tests { pub fn no() {} }",
    );
    write(
        "inner.rs",
        "#[derive(Debug, Clone)] pub struct Thing { pub a: Vec<u8>, b: u32 }
         impl Thing { pub fn new(mut a: &str) -> Option<Thing> { None } fn no(&self) {} }
         impl From<u8> for Thing { fn from(n: u8) -> Thing { loop {} } }
         pub trait Shape: Sized { const X: u8; fn area(&self) -> f64; fn twice(&self) -> f64 { 2.0 } }
         impl Shape for u32 {} impl<T> Clone for Other<T> {} pub struct Other<T>(T);
         pub enum Unused { A } pub fn hidden() {}",
    );
    let built = items::public("it", &folder.path().join("lib.rs"));
    let lines: Vec<_> = built.lines().collect();
    assert_eq!(
        lines,
        [
            "it::N: const N: u32 = 2*3",
            "it::Renamed: derive Clone",
            "it::Renamed: derive Debug",
            "it::Renamed: field a: Vec<u8>",
            "it::Renamed: fn new(a: &str) -> Option<Thing>",
            "it::Renamed: impl From<u8> for Thing",
            "it::Renamed: struct Thing { .. }",
            "it::Shape: const X: u8",
            "it::Shape: fn area(&self) -> f64",
            "it::Shape: impl Shape for u32",
            "it::Shape: provided fn twice(&self) -> f64",
            "it::Shape: trait Shape: Sized",
            "it::log: use log",
            "it::open: mod",
            "it::open::Thing: is it::Renamed",
        ]
    );
}
