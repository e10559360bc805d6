//! Lists: key ranges and pages.

use super::key::bound;
use super::{Collection, Entry, Invalid, Key, Subject};
use kvasm_abi::names::after_prefix;
use std::ops::Bound;

/// A range of keys, compared bytewise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    /// The lower bound.
    pub lower: Bound<String>,
    /// The upper bound.
    pub upper: Bound<String>,
}

impl KeyRange {
    /// Every key.
    pub const ALL: KeyRange = KeyRange {
        lower: Bound::Unbounded,
        upper: Bound::Unbounded,
    };

    /// Returns whether it contains `key`.
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

    /// Returns the range of keys that start with `prefix`, are at or after `start`, and before
    /// `end`.
    ///
    /// # Errors
    /// [`Invalid`] if one exceeds the key limit, is not UTF-8, or contains a NUL.
    pub fn parse(
        prefix: Option<Vec<u8>>,
        start: Option<Vec<u8>>,
        end: Option<Vec<u8>>,
    ) -> Result<KeyRange, Invalid> {
        let mut range = KeyRange::ALL;
        if let Some(prefix) = prefix {
            let prefix = bound(prefix, Subject::Prefix)?;
            if let Some((head, last)) = after_prefix(&prefix) {
                range.upper = Bound::Excluded(format!("{head}{last}"));
            }
            range.lower = Bound::Included(prefix);
        }
        if let Some(start) = start {
            range.raise(Bound::Included(bound(start, Subject::Bound)?));
        }
        if let Some(end) = end {
            range.lower_end(Bound::Excluded(bound(end, Subject::Bound)?));
        }
        Ok(range)
    }

    /// Returns the rest of the range after `key`.
    pub fn after(mut self, key: &Key, reverse: bool) -> KeyRange {
        let bound = Bound::Excluded(key.as_str().to_owned());
        if reverse {
            self.lower_end(bound);
        } else {
            self.raise(bound);
        }
        self
    }

    /// Returns whether it cannot contain a key. The bounds of such a range may be crossed, which a
    /// `BTreeMap` does not accept.
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

/// A request for one page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListQuery {
    /// The collection.
    pub collection: Collection,
    /// The range of keys.
    pub range: KeyRange,
    /// Whether keys are in descending order.
    pub reverse: bool,
    /// Whether values are read too.
    pub with_values: bool,
    /// The maximum number of entries; at least 1.
    pub limit: u32,
    /// The page ends with the entry that reaches this many bytes of keys and values.
    pub bytes_max: usize,
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListPage {
    /// The keys in order, with their entries if requested.
    pub entries: Vec<(Key, Option<Entry>)>,
    /// Whether the list may continue after the last entry.
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
    fn prefix_range_ends_before_its_successor() {
        for (prefix, after) in [
            ("a", Some("b")),
            ("az\u{10ffff}", Some("a{")),
            ("\u{d7ff}", Some("\u{e000}")),
            ("\u{7f}", Some("\u{80}")),
            ("\u{10ffff}\u{10ffff}", None),
            ("", None),
        ] {
            let found = after_prefix(prefix).map(|(head, last)| format!("{head}{last}"));
            assert_eq!(found.as_deref(), after, "{prefix:?}");
        }
    }

    #[test]
    fn range_is_the_intersection_of_its_bounds() {
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
    fn range_with_crossed_bounds_is_empty() {
        assert!(range(None, Some("b"), Some("a")).is_empty());
        assert!(range(None, Some("a"), Some("a")).is_empty());
        assert!(!range(None, Some("a"), Some("b")).is_empty());
        assert!(!KeyRange::ALL.is_empty());
    }
}
