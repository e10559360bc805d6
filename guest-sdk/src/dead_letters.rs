//! Dead letters: deliveries to this app's handlers that failed permanently.
//!
//! A delivery becomes a dead letter when it has failed as often as its trigger allows. The
//! change itself stays in effect. A plugin can list and [`replay`] dead letters; an operator can also
//! discard them. A principal needs `script:read` to list them, and `script:write` to replay one.
//!
//! ```
//! use kvasm_guest::dead_letters;
//!
//! for letter in dead_letters::list().take(100) {
//!     let letter = letter?;
//!     log::warn!("{} gave up on {:?}: {}", letter.function, letter.key, letter.error);
//!     if letter.reason == "attempts" {
//!         dead_letters::replay(&letter.id)?;
//!     }
//! }
//! # Ok::<(), kvasm_guest::Error>(())
//! ```
//!
//! In native tests they are those that a `testing::Harness` has given up, and those added with
//! `testing::add_dead_letter`.

use crate::{Error, sys};
use serde::{Deserialize, Serialize};
use std::{fmt, vec};

/// The kind of event of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Kind {
    /// An entry was written.
    Set,
    /// An entry was deleted.
    Delete,
    /// A schedule was due.
    Schedule,
    /// A kind that this version of the SDK does not know.
    #[serde(other)]
    Unknown,
}

/// A delivery that failed permanently.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeadLetter {
    /// Identifies the dead letter. Later ones have greater ids.
    pub id: String,
    /// Identifies the event; the same in every attempt and replay.
    pub event_id: String,
    /// The trigger's name.
    pub trigger: String,
    /// The handler.
    pub function: String,
    /// The kind of event.
    pub kind: Kind,
    /// The collection of the entry that changed; `None` for a schedule.
    #[serde(default)]
    pub collection: Option<String>,
    /// The key of the entry that changed; `None` for a schedule.
    #[serde(default)]
    pub key: Option<String>,
    /// The version that was written or deleted; `None` for a schedule.
    #[serde(default)]
    pub version: Option<u64>,
    /// Why the host stopped retrying: `attempts`, `age`, `deterministic` (the same input would
    /// fail again) or `depth`.
    pub reason: String,
    /// The error message of the last attempt.
    pub error: String,
    /// The number of attempts.
    pub attempts: u32,
    /// The time of the event, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// The time of the last failure, in milliseconds since the Unix epoch.
    pub dead_at_ms: i64,
}

/// One page of dead letters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Page {
    /// Newest first.
    pub letters: Vec<DeadLetter>,
    /// Pass it to [`page`] as `before` for the next page; `None` at the end.
    pub next: Option<String>,
}

/// Returns one page of dead letters, newest first: those before the given one, or from the
/// newest; at most 1,000.
///
/// # Errors
/// [`Error::Invalid`] for a limit of 0 or over 1,000, or a `before` that is not the id of a
/// dead letter; [`Error::Denied`] if the caller lacks `script:read`.
///
/// ```
/// let page = kvasm_guest::dead_letters::page(None, 10)?;
/// assert_eq!((page.letters.len(), page.next), (0, None));
/// # Ok::<(), kvasm_guest::Error>(())
/// ```
pub fn page(before: Option<&str>, limit: usize) -> Result<Page, Error> {
    if limit == 0 {
        // For the host, 0 stands for its default.
        return Err(Error::Invalid(
            "the limit is 0; it must be from 1 to 1000".to_owned(),
        ));
    }
    // A limit over i32 exceeds every host's limit; the host reports that.
    fetch(before, i32::try_from(limit).unwrap_or(i32::MAX))
}

/// Turns a dead letter back into a delivery of the same event, which is then attempted as if it were
/// new, behind the others of its key. Returns whether there was such a letter: the id of another app's
/// letter is one of none.
///
/// In a transaction, which each run of a handler is, the letter is replayed by the commit. Lists show
/// it until then, and the transaction runs again if it is gone by then. A failed run replays nothing.
///
/// A handler may replay as many letters as deliveries may follow from its event, at most 10,000 with
/// all that follows. So a handler that replays what it can comes to an end, except if a timer, a
/// schedule or a call repeats it.
///
/// # Errors
/// [`Error::Invalid`] if the id is not that of a dead letter, or for more than 1,000 parts of a
/// transaction; [`Error::Denied`] if the caller lacks `script:write`; [`Error::Quota`] if the app has
/// too many outstanding deliveries.
///
/// ```
/// use kvasm_guest::{dead_letters, testing};
///
/// testing::add_dead_letter(dead_letters::DeadLetter::example("1"));
/// assert!(dead_letters::replay("1")?);
/// assert!(!dead_letters::replay("0198c1d3-0d52-7a31-8f6e-5b1f0f2f7c02")?);
/// assert_eq!(dead_letters::list().count(), 0);
/// # Ok::<(), kvasm_guest::Error>(())
/// ```
pub fn replay(id: &str) -> Result<bool, Error> {
    sys::dead_letter_replay(id)
}

fn fetch(before: Option<&str>, limit: i32) -> Result<Page, Error> {
    let json = sys::dead_letters(before.unwrap_or_default(), limit)?;
    serde_json::from_slice(&json)
        .map_err(|e| Error::Internal(format!("the host's dead letters are malformed: {e}")))
}

/// Iterates over all dead letters, newest first. Pages are fetched as needed; an error while
/// fetching ends the iteration.
pub fn list() -> Letters {
    Letters {
        page: Vec::new().into_iter(),
        next: None,
        ended: false,
    }
}

/// An iterator over dead letters that fetches them page by page.
#[must_use = "iterators do nothing unless they are consumed"]
pub struct Letters {
    page: vec::IntoIter<DeadLetter>,
    next: Option<String>,
    ended: bool,
}

impl Iterator for Letters {
    type Item = Result<DeadLetter, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(letter) = self.page.next() {
                return Some(Ok(letter));
            }
            if self.ended {
                return None;
            }
            match fetch(self.next.as_deref(), 0) {
                Ok(page) => {
                    self.ended = page.next.is_none();
                    self.next = page.next;
                    self.page = page.letters.into_iter();
                }
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
            }
        }
    }
}

impl std::iter::FusedIterator for Letters {}

impl fmt::Debug for Letters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Letters")
            .field("buffered", &self.page.len())
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

/// Dead letters for tests.
impl DeadLetter {
    /// Returns a dead letter of a written entry, with placeholder contents in public fields.
    /// `testing::add_dead_letter` adds it to the in-process host.
    pub fn example(id: &str) -> DeadLetter {
        DeadLetter {
            id: id.to_owned(),
            event_id: format!("event-of-{id}"),
            trigger: "test".to_owned(),
            function: "test".to_owned(),
            kind: Kind::Set,
            collection: Some("test".to_owned()),
            key: Some(id.to_owned()),
            version: Some(1),
            reason: "attempts".to_owned(),
            error: "it failed".to_owned(),
            attempts: 12,
            at_ms: 0,
            dead_at_ms: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn dead_letter_page_is_decoded() {
        let json = r#"{"letters":[{"id":"2","event_id":"e","trigger":"t","function":"f",
            "kind":"schedule","collection":null,"key":null,"version":null,"reason":"deterministic",
            "error":"x","attempts":3,"at_ms":1,"dead_at_ms":2,"more":0}],"next":null}"#;
        let page: Page = serde_json::from_str(json).unwrap();
        let letter = &page.letters[0];
        assert_eq!((letter.kind, &letter.key), (Kind::Schedule, &None));
        let absent = json.replace(r#""collection":null,"key":null,"version":null,"#, "");
        assert_eq!(serde_json::from_str::<Page>(&absent).unwrap(), page);
    }

    #[test]
    fn dead_letters_are_iterated_newest_first() {
        for n in 0..250 {
            testing::add_dead_letter(DeadLetter::example(&format!("{n:03}")));
        }
        let first = page(None, 2).unwrap();
        let ids: Vec<_> = first.letters.iter().map(|l| l.id.as_str()).collect();
        assert_eq!(ids, ["249", "248"]);
        let second = page(first.next.as_deref(), 1).unwrap();
        assert_eq!(second.letters[0].id, "247");
        assert_eq!(page(Some("001"), 1000).unwrap().next, None);
        let all: Result<Vec<_>, _> = list().collect();
        assert_eq!(all.unwrap().len(), 250);
        for limit in [0, 1001, usize::MAX] {
            assert!(matches!(page(None, limit), Err(Error::Invalid(_))));
        }
    }
}
