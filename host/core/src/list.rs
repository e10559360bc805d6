//! Lists: a range of keys, and a page of what is in it.

use super::key::text;
use super::{Collection, Entry, Invalid, KEY_BYTES_MAX, Key, Subject};
use std::ops::Bound;

/// A range of keys, compared bytewise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    /// Where it begins.
    pub lower: Bound<String>,
    /// Where it ends.
    pub upper: Bound<String>,
}

impl KeyRange {
    /// Every key.
    pub const ALL: KeyRange = KeyRange {
        lower: Bound::Unbounded,
        upper: Bound::Unbounded,
    };

    /// Whether a key is in it.
    pub fn contains(&self, key: &Key) -> bool {
        let above = match &self.lower {
            Bound::Unbounded => true,
            Bound::Included(lower) => key.as_str() >= lower.as_str(),
            Bound::Excluded(lower) => key.as_str() > lower.as_str(),
        };
        let below = match &self.upper {
            Bound::Unbounded => true,
            Bound::Included(upper) => key.as_str() <= upper.as_str(),
            Bound::Excluded(upper) => key.as_str() < upper.as_str(),
        };
        above && below
    }

    /// The keys that start with `prefix`, are at or after `start`, and before `end`.
    ///
    /// # Errors
    /// [`Invalid`] when one is over a key's limit, not UTF-8, or has a NUL.
    pub fn parse(
        prefix: Option<Vec<u8>>,
        start: Option<Vec<u8>>,
        end: Option<Vec<u8>>,
    ) -> Result<KeyRange, Invalid> {
        let mut range = KeyRange::ALL;
        if let Some(prefix) = prefix {
            let prefix = text(prefix, Subject::Prefix, KEY_BYTES_MAX)?;
            if let Some(after) = after_prefix(&prefix) {
                range.upper = Bound::Excluded(after);
            }
            range.lower = Bound::Included(prefix);
        }
        if let Some(start) = start {
            range.raise(Bound::Included(text(start, Subject::Bound, KEY_BYTES_MAX)?));
        }
        if let Some(end) = end {
            range.lower_end(Bound::Excluded(text(end, Subject::Bound, KEY_BYTES_MAX)?));
        }
        Ok(range)
    }

    /// The part of the range that a list goes on with after `key`.
    pub fn after(mut self, key: &Key, reverse: bool) -> KeyRange {
        let bound = Bound::Excluded(key.as_str().to_owned());
        if reverse {
            self.lower_end(bound);
        } else {
            self.raise(bound);
        }
        self
    }

    /// Whether no key can be in it. Such a range may have its bounds crossed,
    /// which a `BTreeMap` does not take.
    pub fn is_empty(&self) -> bool {
        match (&self.lower, &self.upper) {
            (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
            (Bound::Included(low), Bound::Included(high)) => low > high,
            (
                Bound::Included(low) | Bound::Excluded(low),
                Bound::Included(high) | Bound::Excluded(high),
            ) => low >= high,
        }
    }

    fn raise(&mut self, bound: Bound<String>) {
        let higher = match (&self.lower, &bound) {
            (_, Bound::Unbounded) => false,
            (Bound::Unbounded, _) => true,
            (Bound::Excluded(old), Bound::Included(new)) => new > old,
            (Bound::Included(old), Bound::Excluded(new)) => new >= old,
            (Bound::Included(old), Bound::Included(new))
            | (Bound::Excluded(old), Bound::Excluded(new)) => new > old,
        };
        if higher {
            self.lower = bound;
        }
    }

    fn lower_end(&mut self, bound: Bound<String>) {
        let lower = match (&self.upper, &bound) {
            (_, Bound::Unbounded) => false,
            (Bound::Unbounded, _) => true,
            (Bound::Excluded(old), Bound::Included(new)) => new < old,
            (Bound::Included(old), Bound::Excluded(new)) => new <= old,
            (Bound::Included(old), Bound::Included(new))
            | (Bound::Excluded(old), Bound::Excluded(new)) => new < old,
        };
        if lower {
            self.upper = bound;
        }
    }
}

/// The least text above every text that starts with `prefix`; none if there is
/// none. UTF-8 sorts as its code points do, so the last character that has a
/// successor gets it, and what follows is cut.
fn after_prefix(prefix: &str) -> Option<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        let next = match last {
            char::MAX => continue,
            '\u{d7ff}' => '\u{e000}',
            other => char::from_u32(u32::from(other) + 1)?,
        };
        chars.push(next);
        return Some(chars.into_iter().collect());
    }
    None
}

/// One page of a list, as a store is asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListQuery {
    /// The collection.
    pub collection: Collection,
    /// The keys.
    pub range: KeyRange,
    /// Descending keys.
    pub reverse: bool,
    /// Read the values too.
    pub with_values: bool,
    /// The most entries; at least 1.
    pub limit: u32,
    /// The page ends with the entry that reaches this many bytes of keys and values.
    pub bytes_max: usize,
}

/// One page of a list, as a store answers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// The keys in order, with their entries if they were asked for.
    pub entries: Vec<(Key, Option<Entry>)>,
    /// Whether the list may go on after the last of them.
    pub more: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(prefix: Option<&str>, start: Option<&str>, end: Option<&str>) -> KeyRange {
        let bytes = |text: Option<&str>| text.map(|text| text.as_bytes().to_vec());
        KeyRange::parse(bytes(prefix), bytes(start), bytes(end)).unwrap()
    }

    #[test]
    fn a_prefix_ends_before_its_successor() {
        for (prefix, after) in [
            ("a", Some("b")),
            ("az\u{10ffff}", Some("a{")),
            ("\u{d7ff}", Some("\u{e000}")),
            ("\u{7f}", Some("\u{80}")),
            ("\u{10ffff}\u{10ffff}", None),
            ("", None),
        ] {
            assert_eq!(after_prefix(prefix).as_deref(), after, "{prefix:?}");
        }
    }

    #[test]
    fn the_narrowest_bounds_win() {
        let found = range(Some("b"), Some("a"), Some("z"));
        assert_eq!(found, range(Some("b"), None, None));
        let found = range(Some("b"), Some("bx"), Some("bz"));
        assert_eq!(found.lower, Bound::Included("bx".into()));
        assert_eq!(found.upper, Bound::Excluded("bz".into()));
        let key = Key::parse("bx").unwrap();
        let rest = found.clone().after(&key, false);
        assert_eq!(rest.lower, Bound::Excluded("bx".into()));
        assert_eq!(found.after(&key, true).upper, Bound::Excluded("bx".into()));
    }

    #[test]
    fn crossed_bounds_are_empty() {
        assert!(range(None, Some("b"), Some("a")).is_empty());
        assert!(range(None, Some("a"), Some("a")).is_empty());
        assert!(!range(None, Some("a"), Some("b")).is_empty());
        assert!(!KeyRange::ALL.is_empty());
    }
}
