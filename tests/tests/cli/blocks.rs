//! The fenced blocks of a page of Markdown, with the comments that say what a test does with them.

use std::path::Path;

/// A fenced block.
pub struct Block {
    /// The path of the page and the line of the block, for messages.
    pub place: String,
    /// The heading above it.
    pub heading: String,
    /// The line of the fence, from 1.
    pub line: usize,
    /// The language after the fence; empty if there is none.
    pub language: String,
    pub text: String,
    /// Name and value of each comment `<!-- name: value -->` between the last prose and the block.
    comments: Vec<(String, String)>,
}

impl Block {
    /// Returns the value of a comment.
    pub fn comment(&self, name: &str) -> Option<&str> {
        let mut comments = self.comments.iter();
        let found = comments.find(|comment| comment.0 == name)?;
        Some(&found.1)
    }

    /// Fails the test if the block has a comment of another name than these.
    #[track_caller]
    pub fn allow(&self, names: &[&str]) {
        for (name, _) in &self.comments {
            assert!(names.contains(&name.as_str()), "{}: {name:?}", self.place);
        }
    }
}

/// The root of the checkout.
pub fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Reads the blocks of a page of the checkout.
pub fn read(page: &str) -> Vec<Block> {
    let text = std::fs::read_to_string(checkout().join(page)).unwrap();
    parse(page, &text)
}

fn parse(page: &str, text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut comments = Vec::new();
    let mut heading = "";
    let mut lines = text.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            let indent = line.len() - line.trim_start().len();
            let mut text = String::new();
            for (_, line) in lines.by_ref() {
                if line.trim() == "```" {
                    break;
                }
                text.push_str(line.get(indent..).unwrap_or_default());
                text.push('\n');
            }
            blocks.push(Block {
                place: format!("{page}:{}", at + 1),
                heading: heading.to_owned(),
                line: at + 1,
                language: language.to_owned(),
                text,
                comments: std::mem::take(&mut comments),
            });
        } else if let Some(comment) = comment(line) {
            comments.push(comment);
        } else if !line.trim().is_empty() {
            heading = line.strip_prefix("## ").unwrap_or(heading);
            comments.clear();
        }
    }
    blocks
}

/// Name and value of a comment that is a line.
fn comment(line: &str) -> Option<(String, String)> {
    let inner = line.trim().strip_prefix("<!--")?.strip_suffix("-->")?;
    let (name, value) = inner.split_once(':').unwrap_or((inner, ""));
    Some((name.trim().to_owned(), value.trim().to_owned()))
}

#[test]
fn blocks_have_their_comments() {
    let page = "## A b\n<!-- file: a -->\nprose\n<!-- until -->\n<!-- any: 7 8 -->\n\n```sh\nx\n```\n\
                - item\n\n  ```rust\n  y\n    z\n  ```\n";
    let blocks = parse("p", page);
    assert_eq!(blocks.len(), 2);
    assert_eq!((&*blocks[0].language, &*blocks[0].text), ("sh", "x\n"));
    assert_eq!(blocks[0].comment("any"), Some("7 8"));
    assert_eq!(blocks[0].comment("until"), Some(""));
    assert_eq!(blocks[0].comment("file"), None);
    assert_eq!(
        (&*blocks[1].language, &*blocks[1].text),
        ("rust", "y\n  z\n")
    );
    assert_eq!((blocks[1].comment("any"), blocks[1].line), (None, 12));
    assert_eq!(blocks[1].heading, "A b");
}
