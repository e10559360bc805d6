//! Links between the documents resolve.

use super::files::{self, File};
use super::{assert_none, markdown};

/// The broken links of a document. `read` returns the text of a file, or `None` for a folder;
/// it fails for a missing path.
fn broken(file: &File, read: impl Fn(&str) -> Result<Option<String>, ()>) -> Vec<String> {
    let mut found = Vec::new();
    for link in markdown::links(&file.text) {
        let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
        let target = match path {
            "" => Ok(Some(file.text.clone())),
            path => resolve(&file.path, path)
                .ok_or(())
                .and_then(|path| read(&path)),
        };
        let is_there = match target {
            Err(()) => false,
            Ok(Some(text)) if !anchor.is_empty() => {
                markdown::anchors(&text).iter().any(|known| known == anchor)
            }
            Ok(_) => anchor.is_empty(),
        };
        if !is_there {
            found.push(format!("{} links to {link}, which is not there", file.path));
        }
    }
    found
}

/// A link's path from the root; `None` if it leaves the workspace.
fn resolve(from: &str, link: &str) -> Option<String> {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

fn from_disk(path: &str) -> Result<Option<String>, ()> {
    let path = files::root().join(path);
    if path.is_dir() {
        return Ok(None);
    }
    // Files that are not text, such as pictures, have no anchors.
    let bytes = std::fs::read(path).map_err(|_| ())?;
    Ok(String::from_utf8(bytes).ok())
}

#[test]
fn document_links_resolve() {
    let documents = files::all("", ".md");
    assert!(documents.iter().any(|file| file.path == "README.md"));
    let findings = documents.iter().flat_map(|file| broken(file, from_disk));
    assert_none(&findings.collect::<Vec<_>>());
}

#[test]
fn broken_link_is_detected() {
    let read = |path: &str| match path {
        "docs/a.md" => Ok(Some("# Here".to_owned())),
        "docs" => Ok(None),
        _ => Err(()),
    };
    let broken_in = |text: &str| {
        let file = File {
            path: "docs/b.md".to_owned(),
            text: text.to_owned(),
        };
        broken(&file, read).len()
    };
    assert_eq!(
        broken_in("[x](a.md) [x](./a.md#here) [x](../docs/a.md) [x](../docs)"),
        0
    );
    assert_eq!(broken_in("# Mine\n[x](#mine) [x](https://nowhere)"), 0);
    for bad in [
        "c.md",
        "a.md#there",
        "#mine",
        "../../docs/a.md",
        "../a.md",
        "../docs#x",
    ] {
        assert_eq!(broken_in(&format!("[x]({bad})")), 1, "{bad}");
    }
}
