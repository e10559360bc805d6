//! Rules for the source tree: layers, file sizes, SQL statements, and documents that match
//! the code.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

#[path = "layout/abi.rs"]
mod abi;
#[path = "layout/crates.rs"]
mod crates;
#[path = "layout/errors_page.rs"]
mod errors_page;
#[path = "layout/files.rs"]
mod files;
#[path = "layout/imports.rs"]
mod imports;
#[path = "layout/links.rs"]
mod links;
#[path = "layout/markdown.rs"]
mod markdown;
#[path = "layout/names.rs"]
mod names;
#[path = "layout/references.rs"]
mod references;
#[path = "layout/rust.rs"]
mod rust;
#[path = "layout/sources.rs"]
mod sources;
#[path = "layout/sql.rs"]
mod sql;

/// Fails and lists every finding on its own line.
fn assert_none(findings: &[String]) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}
