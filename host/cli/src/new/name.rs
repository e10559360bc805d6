//! Names of new plugins.

use crate::failure::Failure;
use std::path::Path;

/// The maximum length of a name: with the suffix of the module it is a file name.
const NAME_BYTES_MAX: usize = 64;

/// Names that a plugin cannot have, and why.
pub(super) struct ReservedNames {
    names: &'static [&'static str],
    why: &'static str,
}

/// Names that a package in Rust cannot have.
pub(super) const OF_RUST: [ReservedNames; 3] = [
    ReservedNames {
        names: &["kvasm-guest", "kvasm_guest", "log", "serde"],
        why: "is the name of a crate that the plugin uses",
    },
    ReservedNames {
        names: &[
            "alloc",
            "build",
            "core",
            "deps",
            "examples",
            "incremental",
            "std",
            "test",
        ],
        why: "is a name that cargo or Rust's library uses",
    },
    ReservedNames {
        names: &KEYWORDS,
        why: "is a keyword of Rust",
    },
];

/// Names that a module in Go cannot have.
pub(super) const OF_GO: [ReservedNames; 1] = [ReservedNames {
    names: &["cmd", "kvasm", "std"],
    why: "is the name of another Go module that the plugin uses",
}];

const KEYWORDS: [&str; 45] = [
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate",
    "do", "dyn", "else", "enum", "extern", "false", "final", "fn", "for", "if", "impl", "in",
    "let", "loop", "macro", "match", "mod", "move", "mut", "override", "priv", "pub", "ref",
    "return", "self", "static", "struct", "super", "trait", "true", "try", "type", "typeof",
    "unsafe", "use",
];

/// Returns the name of a plugin in this folder.
///
/// # Errors
/// A user error with the reason.
pub(super) fn checked_name<'p>(
    path: &'p Path,
    reserved: &[ReservedNames],
) -> Result<&'p str, Failure> {
    let name = path.file_name().and_then(|name| name.to_str());
    let is_valid = |name: &&str| {
        let mut characters = name.chars();
        name.len() <= NAME_BYTES_MAX
            && characters.next().is_some_and(|c| c.is_ascii_lowercase())
            && characters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c))
    };
    let Some(name) = name.filter(is_valid) else {
        return Err(Failure::user(format!(
            "{} does not end with a name for a plugin: a letter, then letters, digits, '-' and '_', all \
             in lower case, at most {NAME_BYTES_MAX}",
            path.display()
        )));
    };
    match reserved.iter().find(|kind| kind.names.contains(&name)) {
        None => Ok(name),
        Some(ReservedNames { why, .. }) => Err(Failure::user(format!(
            "{name} {why}; choose another name, such as my-{name}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_is_that_of_a_crate() {
        let check = |name: &str| {
            let checked = checked_name(Path::new(name), &OF_RUST);
            checked
                .map_err(|failure| failure.text().to_owned())
                .map(drop)
        };
        for good in ["notes", "a/b/my-plugin_2", "./x"] {
            assert_eq!(check(good), Ok(()));
        }
        let long = "n".repeat(65);
        for (bad, why) in [
            ("", "a letter, then"),
            ("..", "a letter, then"),
            ("/", "a letter, then"),
            ("Notes", "a letter, then"),
            ("2x", "a letter, then"),
            ("a b", "a letter, then"),
            ("é", "a letter, then"),
            (&long, "at most 64"),
            (
                "a/fn",
                "fn is a keyword of Rust; choose another name, such as my-fn",
            ),
            ("test", "test is a name that cargo"),
            ("serde", "serde is the name of a crate that the plugin uses"),
        ] {
            let found = check(bad).unwrap_err();
            assert!(found.contains(why), "{bad}: {found}");
        }
        // Other languages have other names.
        assert!(checked_name(Path::new("serde"), &OF_GO).is_ok());
        assert!(checked_name(Path::new("kvasm"), &OF_GO).is_err());
    }
}
