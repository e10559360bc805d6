//! Patterns of paths.

use super::percent;
use std::cmp::Ordering;

/// A valid pattern.
#[derive(Clone, Copy)]
pub(super) struct Pattern<'p>(&'p str);

/// A part of a pattern between slashes. They are in the order of preference.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Segment<'p> {
    Literal(&'p str),
    Param(&'p str),
    /// The rest of the path.
    Rest(&'p str),
}

impl<'p> Segment<'p> {
    fn parse(text: &'p str) -> Segment<'p> {
        let name = text.strip_prefix('{').and_then(|t| t.strip_suffix('}'));
        match name.map(|name| name.strip_prefix('*').ok_or(name)) {
            None => Segment::Literal(text),
            Some(Ok(rest)) => Segment::Rest(rest),
            Some(Err(name)) => Segment::Param(name),
        }
    }

    fn name(self) -> Option<&'p str> {
        match self {
            Segment::Literal(_) => None,
            Segment::Param(name) | Segment::Rest(name) => Some(name),
        }
    }

    fn rank(self) -> u8 {
        match self {
            Segment::Literal(_) => 0,
            Segment::Param(_) => 1,
            Segment::Rest(_) => 2,
        }
    }
}

impl<'p> Pattern<'p> {
    /// Returns the pattern, or what is wrong with it.
    pub(super) fn parse(text: &'p str) -> Result<Pattern<'p>, &'static str> {
        let pattern = Pattern(text);
        if !text.starts_with('/') {
            return Err("does not begin with a slash");
        }
        let mut rest = pattern.segments();
        while let Some(segment) = rest.next() {
            let text = match segment {
                Segment::Literal(text) => text,
                Segment::Param(name) | Segment::Rest(name) => name,
            };
            if text.contains(['{', '}']) {
                return Err("has a brace that does not enclose a whole segment");
            }
            let Some(name) = segment.name() else {
                continue;
            };
            if name.is_empty() {
                return Err("has a parameter without a name");
            }
            if rest.clone().any(|later| later.name() == Some(name)) {
                return Err("has two parameters of the same name");
            }
            if segment.rank() == 2 && rest.clone().next().is_some() {
                return Err("continues after the rest of the path");
            }
        }
        Ok(pattern)
    }

    pub(super) fn text(self) -> &'p str {
        self.0
    }

    fn segments(self) -> impl Iterator<Item = Segment<'p>> + Clone {
        parts(self.0).map(Segment::parse)
    }

    /// Whether a path has the pattern's shape. Its parameters may still be malformed.
    pub(super) fn matches(self, path: &str) -> bool {
        self.bind(path, |_, _| true)
    }

    /// Returns the names and values of the parameters of a path that matches, or `None` if one is
    /// malformed.
    pub(super) fn params(self, path: &str) -> Option<Vec<(String, String)>> {
        let mut params = Vec::new();
        let mut push = |name: &str, value: &str| {
            let value = percent::decode_strictly(value);
            value
                .map(|value| params.push((name.to_owned(), value)))
                .is_some()
        };
        self.bind(path, &mut push).then_some(params)
    }

    /// Whether a path has the pattern's shape, and `accept` returns true for the name and the text
    /// of each parameter.
    fn bind(self, path: &str, mut accept: impl FnMut(&str, &str) -> bool) -> bool {
        let mut rest = Some(path.strip_prefix('/').unwrap_or(path));
        for segment in self.segments() {
            let Some(left) = rest else {
                return false;
            };
            let (part, after) = match left.split_once('/') {
                Some((part, after)) => (part, Some(after)),
                None => (left, None),
            };
            rest = after;
            let fits = match segment {
                Segment::Literal(text) => is_literal(part, text),
                Segment::Param(name) => !part.is_empty() && accept(name, part),
                Segment::Rest(name) => {
                    rest = None;
                    accept(name, left)
                }
            };
            if !fits {
                return false;
            }
        }
        rest.is_none()
    }
}

/// Returns the parts of a path between slashes; one empty part for `/`.
fn parts(path: &str) -> impl Iterator<Item = &str> + Clone {
    path.strip_prefix('/').unwrap_or(path).split('/')
}

/// Whether a part of a path is a text, with or without escapes.
fn is_literal(part: &str, text: &str) -> bool {
    part == text
        || (part.contains('%') && percent::decode_strictly(part).is_some_and(|part| part == text))
}

/// Orders patterns that match one path: the preferred one is less.
pub(super) fn by_preference(a: &Pattern<'_>, b: &Pattern<'_>) -> Ordering {
    let ranks = |pattern: &Pattern<'_>| pattern.segments().map(Segment::rank).collect::<Vec<_>>();
    ranks(a).cmp(&ranks(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(pattern: &str, path: &str) -> Option<Vec<(String, String)>> {
        let pattern = Pattern::parse(pattern).unwrap();
        pattern
            .matches(path)
            .then(|| pattern.params(path))
            .flatten()
    }

    #[test]
    fn patterns_match_whole_paths() {
        for (pattern, path, values) in [
            ("/", "/", Some(&[][..])),
            ("/", "/a", None),
            ("/a", "/a", Some(&[])),
            ("/a", "/%61", Some(&[])),
            ("/a", "/%6", None),
            ("/a", "/a/", None),
            ("/a/", "/a", None),
            ("/a/", "/a/", Some(&[])),
            ("/é", "/%C3%A9", Some(&[])),
            ("/{x}", "/a%2Fb", Some(&["a/b"])),
            ("/{x}", "/a+b", Some(&["a+b"])),
            ("/{x}", "/", None),
            ("/{x}", "/a/b", None),
            ("/{x}/b/{y}", "/a/b/c", Some(&["a", "c"])),
            ("/{x}/b/{y}", "/a/c/b", None),
            ("/f/{*x}", "/f/a//b%20c", Some(&["a//b c"])),
            ("/f/{*x}", "/f/", Some(&[""])),
            ("/{*x}", "/", Some(&[""])),
            ("/f/{*x}", "/f", None),
        ] {
            let found = params(pattern, path);
            let found = found.map(|found| found.into_iter().map(|(_, value)| value));
            let found: Option<Vec<_>> = found.map(Iterator::collect);
            let values = values.map(<[&str]>::to_vec);
            assert_eq!(
                found,
                values.map(|v| v.iter().map(|v| (*v).to_owned()).collect()),
                "{path}"
            );
        }
        // The shape fits, and the value is malformed.
        for path in ["/%", "/%4", "/%zz", "/%ff", "/a%C3"] {
            let pattern = Pattern::parse("/{x}").unwrap();
            assert!(
                pattern.matches(path) && pattern.params(path).is_none(),
                "{path}"
            );
        }
    }

    #[test]
    fn invalid_pattern_has_a_reason() {
        for (pattern, why) in [
            ("", "begin with a slash"),
            ("a", "begin with a slash"),
            ("/{", "a whole segment"),
            ("/a{x}", "a whole segment"),
            ("/{x}{y}", "a whole segment"),
            ("/{}", "without a name"),
            ("/{*}", "without a name"),
            ("/{x}/{x}", "the same name"),
            ("/{*x}/a", "continues after"),
        ] {
            let error = Pattern::parse(pattern).err().unwrap_or_default();
            assert!(error.contains(why), "{pattern}: {error}");
        }
    }

    #[test]
    fn literal_is_preferred_from_left_to_right() {
        let patterns = ["/a/b", "/a/{x}", "/a/{*x}", "/{x}/b", "/{x}/{y}", "/{*x}"];
        let patterns = patterns.map(|pattern| Pattern::parse(pattern).unwrap());
        assert!(patterns.is_sorted_by(|a, b| by_preference(a, b) == Ordering::Less));
    }
}
