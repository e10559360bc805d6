//! What a reader of the sources may count on: crates, sizes, statements, and
//! documents that say what the code says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

#[path = "layout/abi.rs"]
mod abi;
#[path = "layout/crates.rs"]
mod crates;
#[path = "layout/files.rs"]
mod files;
#[path = "layout/guide.rs"]
mod guide;
#[path = "layout/imports.rs"]
mod imports;
#[path = "layout/links.rs"]
mod links;
#[path = "layout/markdown.rs"]
mod markdown;
#[path = "layout/rust.rs"]
mod rust;
#[path = "layout/sources.rs"]
mod sources;
#[path = "layout/sql.rs"]
mod sql;

/// Fails with every finding, one on a line.
fn assert_none(findings: &[String]) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}
