//! The workspace's files.

use std::fs;
use std::path::{Path, PathBuf};

/// A file and its path relative to the workspace root, with `/` as the separator.
pub struct File {
    pub path: String,
    pub text: String,
}

pub fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("a workspace").to_path_buf()
}

/// Returns every file under `folder` with this extension, without build output.
pub fn all(folder: &str, ending: &str) -> Vec<File> {
    let mut files = Vec::new();
    walk(&root().join(folder), ending, &mut files);
    files.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!files.is_empty(), "no {ending} file under {folder:?}");
    files
}

pub fn one(path: &str) -> File {
    let text = fs::read_to_string(root().join(path));
    File {
        path: path.to_owned(),
        text: text.unwrap_or_else(|e| panic!("{path}: {e}")),
    }
}

fn walk(folder: &Path, ending: &str, files: &mut Vec<File>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    for entry in entries {
        let path = entry.expect("a folder's entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                walk(&path, ending, files);
            }
        } else if name.ends_with(ending) {
            let relative = path.strip_prefix(root()).expect("below the root");
            let parts: Vec<_> = relative.iter().map(|part| part.to_string_lossy()).collect();
            // A file that an editor has just removed needs no check.
            if let Ok(text) = fs::read_to_string(&path) {
                let path = parts.join("/");
                files.push(File { path, text });
            }
        }
    }
}
