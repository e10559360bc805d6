//! Lists of entity tags in `If-Match` and `If-None-Match` (RFC 9110, section 8.8.3).

use crate::Malformed;

const SEPARATORS: [char; 3] = [' ', '\t', ','];

/// An entity tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntityTag<'h> {
    /// Whether it is weak: `W/"7"`.
    pub is_weak: bool,
    /// The tag without its quotes.
    pub opaque: &'h str,
}

/// The entity tags of a header that is not `*`; of several lines, joined with commas. After one that
/// is malformed it ends.
#[derive(Debug, Clone)]
pub struct EntityTags<'h> {
    rest: &'h str,
}

impl<'h> EntityTags<'h> {
    /// Reads the value of a header.
    pub fn new(list: &'h str) -> EntityTags<'h> {
        EntityTags { rest: list }
    }

    /// Splits off the first tag.
    fn split(list: &'h str) -> Option<(EntityTag<'h>, &'h str)> {
        let (is_weak, quoted) = match list.strip_prefix("W/") {
            Some(quoted) => (true, quoted),
            None => (false, list),
        };
        let (opaque, after) = quoted.strip_prefix('"')?.split_once('"')?;
        let is_separate = after.is_empty() || after.starts_with(SEPARATORS);
        is_separate.then_some((EntityTag { is_weak, opaque }, after))
    }
}

impl<'h> Iterator for EntityTags<'h> {
    type Item = Result<EntityTag<'h>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let list = self.rest.trim_start_matches(SEPARATORS);
        if list.is_empty() {
            return None;
        }
        let (tag, rest) = match EntityTags::split(list) {
            Some((tag, rest)) => (Ok(tag), rest),
            None => (Err(Malformed), ""),
        };
        self.rest = rest;
        Some(tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_read_in_order_until_one_is_malformed() {
        let tag = |is_weak, opaque| Ok(EntityTag { is_weak, opaque });
        for (list, expected) in [
            ("\"7\"", &[tag(false, "7")][..]),
            (", W/\"a b\",\t\"\" ", &[tag(true, "a b"), tag(false, "")]),
            ("", &[]),
            (" , ", &[]),
            ("7", &[Err(Malformed)]),
            ("\"7", &[Err(Malformed)]),
            ("\"7\"\"8\"", &[Err(Malformed)]),
            ("\"7\", w/\"8\", \"9\"", &[tag(false, "7"), Err(Malformed)]),
            ("*, \"7\"", &[Err(Malformed)]),
        ] {
            assert!(EntityTags::new(list).eq(expected.iter().copied()), "{list}");
        }
    }
}
