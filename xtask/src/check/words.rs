//! Finds words that have a plainer alternative, in Markdown and in the comments and strings of
//! Rust. Also runs `typos` if it is installed.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::{output, probe, run as run_command, step, workspace};

/// Banned words and their replacements. Only words that the tree no longer contains are listed.
const BANNED: &[(&str, &str)] = &[
    ("albeit", "though"),
    ("amidst", "among"),
    ("anew", "again"),
    ("as far as", "if, up to, where"),
    ("bears", "has, holds"),
    ("before its time", "truncated, too early"),
    ("by itself", "automatically, on its own"),
    ("for ever", "indefinitely"),
    ("goes on", "continues"),
    ("happening", "event"),
    ("hear of", "receive, be notified of"),
    ("hears of", "receives, is notified of"),
    ("heed", "follow"),
    ("hence", "so"),
    ("henceforth", "from now on"),
    ("lest", "so that ... not"),
    ("lies", "is"),
    ("mend", "fix"),
    ("mended", "fixed"),
    ("mends", "fixes"),
    ("nobody else", "no other call, process or app"),
    ("shall", "must, is to"),
    ("thereby", "so"),
    ("thereof", "of it"),
    ("throw away", "discard"),
    ("thrown away", "discarded"),
    ("throws away", "discards"),
    ("time is up", "times out"),
    ("told", "notified, reported, logged"),
    ("upon", "on"),
    ("what always holds", "invariants"),
    ("whatever it is", "name what it is"),
    ("whence", "from where"),
    ("wherein", "in which"),
    (
        "which of them is not said",
        "say what the reader does learn",
    ),
    ("whilst", "while"),
    ("whoever", "the caller, the reader, any host"),
];

/// Files that must contain the words.
const EXEMPT: &[&str] = &["xtask/src/check/words.rs"];

/// Fails if a banned word is found, and lists every occurrence.
pub fn run() -> Result<()> {
    step("words");
    let files = output(
        Command::new("git")
            .args(["ls-files"])
            .current_dir(workspace()),
    )?;
    let mut found = Vec::new();
    for path in files.lines().filter(|path| !EXEMPT.contains(path)) {
        let is_rust = path.ends_with(".rs");
        if !is_rust && !path.ends_with(".md") {
            continue;
        }
        // Listed by git, but deleted since.
        let Ok(text) = fs::read_to_string(workspace().join(path)) else {
            continue;
        };
        let prose = if is_rust { without_code(&text) } else { text };
        found.extend(banned(path, &prose));
    }
    if !found.is_empty() {
        bail!("words with a plainer alternative:\n{}", found.join("\n"));
    }
    typos()
}

fn typos() -> Result<()> {
    if let Err(why) = probe(Command::new("typos").arg("--version")) {
        step(&format!(
            "SKIPPED typos: {why}; `cargo install typos-cli --locked` installs it"
        ));
        return Ok(());
    }
    step("typos");
    let root: &Path = &workspace();
    run_command(Command::new("typos").current_dir(root)).context("exceptions go into _typos.toml")
}

/// Each banned word in a text, with its line. A phrase may span two lines.
fn banned(path: &str, prose: &str) -> Vec<String> {
    let words = words(prose);
    let mut found = Vec::new();
    for (phrase, instead) in BANNED {
        let phrase: Vec<&str> = phrase.split(' ').collect();
        for window in words.windows(phrase.len()) {
            if window.iter().map(|(_, word)| word).eq(&phrase) {
                let line = window.first().map_or(0, |(line, _)| *line);
                let phrase = phrase.join(" ");
                found.push(format!("{path}:{line}: {phrase:?}; write: {instead}"));
            }
        }
    }
    found
}

/// The words of a text in lower case, each with its 1-based line. An identifier with
/// underscores or digits is one word.
fn words(prose: &str) -> Vec<(usize, String)> {
    let mut words = Vec::new();
    for (at, line) in prose.lines().enumerate() {
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        let parts = line
            .split(|c: char| !is_part(c))
            .filter(|word| !word.is_empty());
        words.extend(parts.map(|word| (at + 1, word.to_lowercase())));
    }
    words
}

/// The comments and strings of a Rust source, on their original lines.
fn without_code(text: &str) -> String {
    let mut prose = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let end = end_of_prose(rest);
        if end > 0 {
            let (part, after) = rest.split_at(end);
            // Keeps consecutive ones separate.
            prose.push_str(part);
            prose.push(' ');
            rest = after;
        } else {
            prose.push(if next == '\n' { '\n' } else { ' ' });
            rest = rest.get(next.len_utf8()..).unwrap_or_default();
        }
    }
    prose
}

/// The length of the comment or string at the beginning of a text; 0 if there is none.
fn end_of_prose(text: &str) -> usize {
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return text.find("*/").map_or(text.len(), |at| at + 2);
    }
    if text.starts_with("'\"'") || text.starts_with("'\\\"'") {
        // A character literal is not a word.
        return text
            .get(1..)
            .and_then(|rest| rest.find('\''))
            .map_or(1, |at| at + 2);
    }
    if let Some(rest) = text.strip_prefix("r#\"") {
        return rest.find("\"#").map_or(text.len(), |at| at + 5);
    }
    let Some(rest) = text.strip_prefix('"') else {
        return 0;
    };
    let mut is_escaped = false;
    for (at, c) in rest.char_indices() {
        match c {
            '"' if !is_escaped => return at + 2,
            _ => is_escaped = c == '\\' && !is_escaped,
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn banned_words_are_found_only_in_prose() {
        let found = |text: &str| banned("a.rs", &without_code(text)).len();
        assert_eq!(
            found("// It starts anew.\nlet s = \"Whoever \\\" lies\";"),
            3
        );
        assert_eq!(found("/// It is of nobody\n/// else."), 1);
        assert_eq!(found("r#\"a \" anew\"#; '\"'; let anew = lies();"), 1);
        assert_eq!(
            found("let anew = told; // starts_anew, implies, belies\nfn lies() {}"),
            0
        );
        assert_eq!(
            banned("a.md", "Mended\n\nand upon"),
            [
                "a.md:1: \"mended\"; write: fixed",
                "a.md:3: \"upon\"; write: on",
            ]
        );
    }
}
