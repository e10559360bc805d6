//! A minimal Rust lexer that separates code from comments and strings.

/// A parsed source file.
pub struct Source {
    /// The code, with comments and the contents of strings blanked; line numbers are preserved.
    pub code: String,
    /// The contents of the string literals, in order, as written.
    pub strings: Vec<String>,
}

/// Parses a source file.
pub fn read(text: &str) -> Source {
    let chars: Vec<char> = text.chars().collect();
    let mut source = Source {
        code: String::with_capacity(text.len()),
        strings: Vec::new(),
    };
    let mut at = 0;
    while at < chars.len() {
        let end = match chars[at] {
            '/' if chars.get(at + 1) == Some(&'/') => line_comment(&chars, at),
            '/' if chars.get(at + 1) == Some(&'*') => block_comment(&chars, at),
            '"' => string(&chars, at, &mut source.strings),
            'r' if !is_within_word(&chars, at) => raw_string(&chars, at, &mut source.strings),
            '\'' => character(&chars, at),
            _ => at,
        };
        if end == at {
            source.code.push(chars[at]);
            at += 1;
            continue;
        }
        let blank = |c: &char| if *c == '\n' { '\n' } else { ' ' };
        source.code.extend(chars[at..end].iter().map(blank));
        at = end;
    }
    source
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether the `r` here ends a longer word than `r`, `br` or `cr`, the prefixes of a raw
/// string.
fn is_within_word(chars: &[char], at: usize) -> bool {
    let word = chars[..at].iter().rev().take_while(|c| is_word(**c));
    !matches!(word.collect::<Vec<_>>().as_slice(), [] | ['b' | 'c'])
}

fn line_comment(chars: &[char], at: usize) -> usize {
    let len = chars[at..].iter().take_while(|c| **c != '\n').count();
    at + len
}

fn block_comment(chars: &[char], at: usize) -> usize {
    let (mut depth, mut end) = (0, at);
    while end < chars.len() {
        let pair = (chars[end], chars.get(end + 1));
        match pair {
            ('/', Some('*')) => (depth, end) = (depth + 1, end + 2),
            ('*', Some('/')) => (depth, end) = (depth - 1, end + 2),
            _ => end += 1,
        }
        if depth == 0 {
            break;
        }
    }
    end
}

fn string(chars: &[char], at: usize, strings: &mut Vec<String>) -> usize {
    let mut end = at + 1;
    while end < chars.len() && chars[end] != '"' {
        end += if chars[end] == '\\' { 2 } else { 1 };
    }
    let end = end.min(chars.len());
    strings.push(chars[at + 1..end].iter().collect());
    (end + 1).min(chars.len())
}

/// `r"..."` or `r#"..."#`; anything else that begins with `r` is unchanged.
fn raw_string(chars: &[char], at: usize, strings: &mut Vec<String>) -> usize {
    let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
    let start = at + 1 + hashes;
    if chars.get(start) != Some(&'"') {
        return at;
    }
    let mut end = start + 1;
    while end < chars.len() {
        let closed = chars[end] == '"'
            && chars[end + 1..]
                .iter()
                .take(hashes)
                .filter(|c| **c == '#')
                .count()
                == hashes;
        if closed {
            break;
        }
        end += 1;
    }
    let end = end.min(chars.len());
    strings.push(chars[start + 1..end].iter().collect());
    (end + 1 + hashes).min(chars.len())
}

/// A character literal; lifetimes are unchanged.
fn character(chars: &[char], at: usize) -> usize {
    match (chars.get(at + 1), chars.get(at + 2)) {
        (Some('\\'), Some(_)) => {
            let rest = chars[at + 3..].iter().position(|c| *c == '\'');
            rest.map_or(at, |len| at + 3 + len + 1)
        }
        (Some(_), Some('\'')) => at + 3,
        _ => at,
    }
}

/// The words of code (identifiers and keywords) and their byte offsets.
pub fn words(code: &str) -> Vec<(usize, &str)> {
    let mut words = Vec::new();
    let mut start = None;
    for (at, c) in code.char_indices().chain([(code.len(), ' ')]) {
        match (start, is_word(c)) {
            (None, true) => start = Some(at),
            (Some(from), false) => {
                words.push((from, &code[from..at]));
                start = None;
            }
            _ => {}
        }
    }
    words
}

/// The line number of a byte offset in `text`, from 1.
pub fn line(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

#[test]
fn comments_and_strings_are_not_code() {
    let text = "let a = \"todo \\\" x\"; // todo\n/* todo /* todo */ */ b('\"', 'x', '\\'');\n\
                c::<'static>(r#\"todo \" x\"#, br\"todo\", b\"todo\");";
    let source = read(text);
    assert!(!source.code.contains("todo"), "{}", source.code);
    assert!(!source.code.contains('x'), "{}", source.code);
    assert_eq!(read("crate::br(r)").code, "crate::br(r)");
    assert_eq!(source.code.lines().count(), 3);
    for code in ["let a =", "b(", "c::<'static>("] {
        assert!(
            source.code.contains(code),
            "{code} is not in {}",
            source.code
        );
    }
    assert_eq!(source.strings, ["todo \\\" x", "todo \" x", "todo", "todo"]);
}

#[test]
fn only_whole_words_match() {
    let found: Vec<_> = words("a.sqlx_x::sqlx!(r)")
        .into_iter()
        .map(|(_, w)| w)
        .collect();
    assert_eq!(found, ["a", "sqlx_x", "sqlx", "r"]);
    assert_eq!(line("a\nb\nc", 4), 3);
}
