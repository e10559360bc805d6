//! Runs every fuzz target with the committed corpus and with mutations of it.
//!
//! Each target runs a fixed number of mutations, or for 30 s with `KVASM_FUZZ_SECONDS=30`.
//! `KVASM_TEST_SEED` repeats the choices of a run, and a failure prints its input.
//! `KVASM_UPDATE=1` writes the corpus.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    unsafe_code
)]

mod memory;

use kvasm_store_testing::conformance::SEED_VARIABLE;
use kvasm_store_testing::conformance::rng::{self, Rng};
use kvasm_tests::fuzz::{TARGETS, Target, mutate, seeds};
use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The number of mutations of each target in one run.
const MUTATIONS: usize = 20_000;
/// The memory limit of a target: `BYTES`, plus `TIMES` the input. It covers an error's text and
/// the largest value that a few bytes can encode.
const MEMORY_BASE: usize = 64 * 1024;
const MEMORY_FACTOR: usize = 64;

fn fuzz_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz")
}

fn corpus_folder(target: &str) -> PathBuf {
    fuzz_folder().join("corpus").join(target)
}

/// The committed inputs of a target, by name.
fn corpus(target: &str) -> BTreeMap<String, Vec<u8>> {
    let folder = corpus_folder(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let file = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (name, fs::read(path).unwrap())
    };
    entries.map(file).collect()
}

/// Runs a target with an input, and checks its peak memory.
fn run(target: &Target, bytes: &[u8], of: &str) {
    let ran = catch_unwind(AssertUnwindSafe(|| memory::peak(|| (target.run)(bytes))));
    let shown = bytes.escape_ascii();
    let name = target.name;
    let Ok(peak) = ran else {
        panic!("{name} fails with {of}, bytes b\"{shown}\"; keep them in fuzz/corpus/{name}");
    };
    let limit = MEMORY_BASE + MEMORY_FACTOR * bytes.len();
    assert!(
        peak <= limit,
        "{name} takes {peak} bytes for {}, the limit is {limit}: {of}, bytes b\"{shown}\"",
        bytes.len()
    );
}

fn replay(target: &Target) {
    for (name, bytes) in corpus(target.name) {
        run(
            target,
            &bytes,
            &format!("fuzz/corpus/{}/{name}", target.name),
        );
    }
}

fn with_mutations(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    replay(target);
    let known: Vec<Vec<u8>> = corpus(name).into_values().collect();
    let seed = rng::seed();
    println!("{name}: {SEED_VARIABLE}={seed}");
    let mut rng = Rng::new(seed);
    let time = std::env::var("KVASM_FUZZ_SECONDS").ok();
    let time = time.map(|seconds| Duration::from_secs(seconds.parse().expect("seconds")));
    let begun = Instant::now();
    let mut ran = 0;
    while time.map_or(ran < MUTATIONS, |time| begun.elapsed() < time) {
        let bytes = mutate(&mut rng, &known);
        run(
            target,
            &bytes,
            &format!("{SEED_VARIABLE}={seed}, mutation {ran}"),
        );
        ran += 1;
    }
    println!("{name}: {ran} mutations");
}

/// Generates a test for each target, so that they run in parallel.
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                with_mutations(stringify!($name));
            }
        )*

        #[test]
        fn every_fuzz_target_has_a_test() {
            let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
        }
    };
}

tests![
    batch,
    cursor,
    fetch,
    http_frame,
    http_text,
    import_lines,
    json,
    manifest,
    options,
    page,
    records,
    trace_context,
];

/// cargo-fuzz finds the programs in its manifest.
#[test]
fn every_fuzz_target_has_a_program() {
    let manifest = fs::read_to_string(fuzz_folder().join("Cargo.toml")).unwrap();
    let named = manifest.matches("[[bin]]").count();
    assert_eq!(named, TARGETS.len(), "programs in fuzz/Cargo.toml");
    for target in TARGETS {
        let name = target.name;
        let path = format!("fuzz_targets/{name}.rs");
        assert!(manifest.contains(&format!("name = \"{name}\"\npath = \"{path}\"")));
        let program = fs::read_to_string(fuzz_folder().join(&path)).unwrap();
        let call = format!("kvasm_tests::fuzz::{name}(bytes)");
        assert!(program.contains(&call), "{path} does not call {call}");
    }
}

/// The corpus follows the formats: the generated seeds are committed. Inputs found by fuzzing
/// are kept in addition.
#[test]
fn corpus_contains_every_seed() {
    for target in TARGETS {
        let folder = corpus_folder(target.name);
        let update = std::env::var_os("KVASM_UPDATE").is_some();
        for (name, bytes) in seeds(target.name) {
            let path = folder.join(name);
            if update {
                fs::create_dir_all(&folder).unwrap();
                fs::write(&path, &bytes).unwrap();
            }
            let committed = fs::read(&path).ok();
            assert!(
                committed.as_ref() == Some(&bytes),
                "fuzz/corpus/{}/{name} is not what tests/src/fuzz/seeds.rs makes; \
                 write it with KVASM_UPDATE=1 cargo test --workspace --test fuzz -- every_seed",
                target.name
            );
        }
    }
}

/// A run with the same seed makes the same choices, and most of its inputs are new.
#[test]
fn mutations_are_reproducible_from_the_seed() {
    let known: Vec<Vec<u8>> = seeds("batch").into_iter().map(|(_, bytes)| bytes).collect();
    let made = |seed| {
        let mut rng = Rng::new(seed);
        (0..200)
            .map(|_| mutate(&mut rng, &known))
            .collect::<Vec<_>>()
    };
    assert_eq!(made(1), made(1));
    assert_ne!(made(1), made(2));
    let new = made(1)
        .iter()
        .filter(|bytes| !known.contains(bytes))
        .count();
    assert!(new > 150, "{new} of 200");
}

/// A target that uses too much memory is detected, and so is one that panics, with its input.
#[test]
fn fuzzing_detects_a_faulty_decoder() {
    fn greedy(bytes: &[u8]) {
        drop(vec![1u8; MEMORY_BASE + (MEMORY_FACTOR + 1) * bytes.len()]);
    }
    fn fails(_: &[u8]) {
        panic!("as asked");
    }
    for target in [greedy, fails] {
        let target = Target {
            name: "fault",
            run: target,
        };
        let found = catch_unwind(|| run(&target, b"\x01in", "a test"));
        let text = *found.unwrap_err().downcast::<String>().unwrap();
        assert!(text.contains("a test, bytes b\"\\x01in\""), "{text}");
    }
}
