//! Answers of idempotent calls, which are kept for repeats.

use super::{App, Invalid, Subject, Timestamp, TokenId};
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::sync::Arc;

/// The maximum size of the output of an answer that is kept, in bytes. A larger answer is kept
/// without it.
pub const ANSWER_OUTPUT_BYTES_MAX: usize = 256 * 1024;

/// The bytes that an answer counts against its app's quota in addition to its output, for its other
/// columns and index entries.
pub const ANSWER_BYTES: u64 = 256;

/// The maximum number of answers in a range of [`AnswerId::range`].
pub const ANSWERS_OF_RANGE_MAX: u64 = 128;

/// The maximum number of answers of an app: those of its 1,024 ranges. Identities are pseudorandom,
/// so that the first range is full at about 100,000.
pub const ANSWERS_MAX: u64 = 1_024 * ANSWERS_OF_RANGE_MAX;

/// The key that makes repeats of a call recognisable: 1 to 255 visible ASCII characters.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(Arc<str>);

impl IdempotencyKey {
    /// The maximum length of a key.
    pub const CHARACTERS_MAX: usize = 255;

    /// Parses the value of an `Idempotency-Key` header. A value that begins with a quotation mark
    /// is a string of RFC 9651, in which `\"` and `\\` stand for `"` and `\`; any other is the key
    /// itself. So `"a"` and `a` are the same key.
    ///
    /// # Errors
    /// [`Invalid`] if it is empty, too long, has another character than visible ASCII, or is not
    /// such a string.
    pub fn parse(value: &str) -> Result<IdempotencyKey, Invalid> {
        let key = match value.strip_prefix('"') {
            Some(rest) => unquote(rest)?,
            None => value.to_owned(),
        };
        let subject = Subject::IdempotencyKey;
        if key.is_empty() {
            return Err(Invalid::Empty(subject));
        }
        if let Some(found) = key.chars().find(|c| !c.is_ascii_graphic()) {
            return Err(Invalid::Character {
                subject,
                found,
                allowed: "visible ASCII characters",
            });
        }
        if key.len() > IdempotencyKey::CHARACTERS_MAX {
            return Err(Invalid::TooLarge {
                subject,
                len: key.len() as u64,
                limit: IdempotencyKey::CHARACTERS_MAX as u64,
            });
        }
        Ok(IdempotencyKey(key.into()))
    }

    /// Returns the key, without quotation marks.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the value of its header, as a string of RFC 9651.
    pub fn to_header(&self) -> String {
        format!("\"{}\"", self.0.replace('\\', "\\\\").replace('"', "\\\""))
    }
}

/// A key can be guessable by what it is derived from, so it is not for logs.
impl fmt::Debug for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdempotencyKey(..)")
    }
}

/// Returns the content of a string after its opening quotation mark.
fn unquote(rest: &str) -> Result<String, Invalid> {
    let malformed = |why| Invalid::Malformed {
        subject: Subject::IdempotencyKey,
        why,
    };
    let mut key = String::with_capacity(rest.len());
    let mut characters = rest.chars();
    loop {
        match characters.next() {
            None => return Err(malformed("it lacks the closing quotation mark")),
            Some('"') if characters.as_str().is_empty() => return Ok(key),
            Some('"') => return Err(malformed("it continues after the closing quotation mark")),
            Some('\\') => match characters.next() {
                Some(escaped @ ('"' | '\\')) => key.push(escaped),
                _ => return Err(malformed("a backslash must precede \" or \\")),
            },
            Some(other) => key.push(other),
        }
    }
}

/// The caller on whose account an answer is kept. Callers never get each other's answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnswerScope {
    /// All callers without a token.
    Public,
    /// The holder of a token.
    Token(TokenId),
    /// A caller that the embedder or the operator has named.
    Named(Arc<str>),
}

/// The identity of an answer within its app. It reveals neither the key nor the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AnswerId(pub [u8; 32]);

impl AnswerId {
    /// Returns the identity of the answers to calls of an app by a caller, with a key.
    pub fn new(app: &App, scope: &AnswerScope, key: &IdempotencyKey) -> AnswerId {
        // HMAC takes keys of any length, so this never fails.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(app.cursor_key.as_bytes()) else {
            return AnswerId([0; 32]);
        };
        // Cursors, under the same secret, begin with another byte.
        mac.update(b"idempotency-key\0");
        mac.update(app.id.uuid().as_bytes());
        match scope {
            AnswerScope::Public => mac.update(b"public\0"),
            AnswerScope::Token(token) => {
                mac.update(b"token\0");
                mac.update(token.0.as_bytes());
            }
            AnswerScope::Named(name) => {
                mac.update(b"named\0");
                mac.update(&(name.len() as u64).to_be_bytes());
                mac.update(name.as_bytes());
            }
        }
        mac.update(key.0.as_bytes());
        AnswerId(mac.finalize().into_bytes().into())
    }

    /// Returns the first and the last identity of its range, one of 1,024. A range has at most
    /// [`ANSWERS_OF_RANGE_MAX`] answers.
    pub fn range(&self) -> (AnswerId, AnswerId) {
        let [first, second, ..] = self.0;
        let end = |fill: u8| {
            let mut id = [fill; 32];
            let [a, b, ..] = &mut id;
            *a = first;
            *b = (second & 0xC0) | (fill & 0x3F);
            AnswerId(id)
        };
        (end(0), end(0xFF))
    }
}

/// The SHA-256 of what makes two requests the same: the function, or the method, path and query; and
/// the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHash(pub [u8; 32]);

/// Computes a [`RequestHash`].
pub struct RequestHasher(Sha256);

impl RequestHasher {
    /// Begins with the names of a request: of the function, or the method, path and query.
    pub fn new(names: &[&str]) -> RequestHasher {
        let mut hasher = RequestHasher(Sha256::new());
        hasher.update(&(names.len() as u64).to_be_bytes());
        for name in names {
            hasher.update(&(name.len() as u64).to_be_bytes());
            hasher.update(name.as_bytes());
        }
        hasher
    }

    /// Adds a part of the body.
    pub fn update(&mut self, body: &[u8]) {
        self.0.update(body);
    }

    /// Returns the hash of everything that was added.
    pub fn finish(self) -> RequestHash {
        RequestHash(self.0.finalize().into())
    }
}

/// The answer to a call that has taken effect, for its repeats.
#[derive(Clone, PartialEq, Eq)]
pub struct KeptAnswer {
    /// Its identity.
    pub id: AnswerId,
    /// The request that it answers.
    pub request: RequestHash,
    /// The output of the function; `None` if it exceeded [`ANSWER_OUTPUT_BYTES_MAX`].
    pub output: Option<Bytes>,
    /// When it expires.
    pub expires_at: Timestamp,
}

impl KeptAnswer {
    /// Returns the bytes that it counts against its app's quota.
    pub fn bytes(&self) -> u64 {
        let output = self.output.as_ref().map_or(0, Bytes::len);
        output as u64 + ANSWER_BYTES
    }
}

impl fmt::Debug for KeptAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeptAnswer")
            .field("output_bytes", &self.output.as_ref().map(Bytes::len))
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AppId, AppLimits, AppName, CursorKey};
    use uuid::Uuid;

    #[test]
    fn quoted_and_bare_keys_are_the_same() {
        let key = |value: &str| IdempotencyKey::parse(value).map(|key| key.as_str().to_owned());
        assert_eq!(key("a-1"), Ok("a-1".to_owned()));
        assert_eq!(key("\"a-1\""), key("a-1"));
        assert_eq!(key(r#""a\"b\\c""#), Ok(r#"a"b\c"#.to_owned()));
        assert_eq!(key(r#"a"b\c"#), Ok(r#"a"b\c"#.to_owned()));
        let longest = "k".repeat(IdempotencyKey::CHARACTERS_MAX);
        assert_eq!(key(&format!("\"{longest}\"")), Ok(longest.clone()));
        for bad in [
            "",
            "\"\"",
            "\"",
            "\"a",
            "\"a\\\"",
            "\"a\"b",
            "\"a\";p=1",
            "\"a\\n\"",
            "a b",
            "\"a b\"",
            "a\tb",
            "\u{7f}",
            "\u{e9}",
            &format!("{longest}k"),
            &format!("\"{longest}k\""),
        ] {
            assert!(key(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn key_round_trips_through_its_header() {
        for key in ["a", r#""\"""#, r"\", r#"a"b\"#] {
            let key = IdempotencyKey::parse(key).unwrap();
            assert_eq!(IdempotencyKey::parse(&key.to_header()), Ok(key));
        }
    }

    fn app() -> App {
        App {
            id: AppId::generate(),
            name: AppName::parse("shop").unwrap(),
            created_at: Timestamp(0),
            cursor_key: CursorKey::new([7; CursorKey::BYTES]),
            public: true,
            limits: AppLimits::default(),
            active: None,
            settings: None,
        }
    }

    #[test]
    fn apps_and_callers_share_no_identity() {
        let token = TokenId(Uuid::now_v7());
        let scopes = [
            AnswerScope::Public,
            AnswerScope::Token(token),
            AnswerScope::Token(TokenId(Uuid::now_v7())),
            AnswerScope::Named("public".into()),
            AnswerScope::Named("a".into()),
            AnswerScope::Named("ab".into()),
        ];
        let keys = ["k", "bk"].map(|key| IdempotencyKey::parse(key).unwrap());
        let mut ids = std::collections::HashSet::new();
        for app in [app(), app()] {
            for scope in &scopes {
                for key in &keys {
                    assert!(ids.insert(AnswerId::new(&app, scope, key)));
                }
            }
            assert!(!ids.insert(AnswerId::new(&app, &scopes[1], &keys[0])));
        }
    }

    #[test]
    fn requests_that_differ_in_any_part_have_different_hashes() {
        let hash = |names: &[&str], body: &[u8]| {
            let mut hasher = RequestHasher::new(names);
            hasher.update(body);
            hasher.finish().0
        };
        let requests: [(&[&str], &[u8]); 7] = [
            (&["f"], b""),
            (&["f"], b"g"),
            (&["fg"], b""),
            (&["f", "g", ""], b""),
            (&["f", "", "g"], b""),
            (&["f", "g", ""], b"x"),
            (&[], b"f"),
        ];
        let hashes: std::collections::HashSet<_> = requests
            .iter()
            .map(|(names, body)| hash(names, body))
            .collect();
        assert_eq!(hashes.len(), requests.len());
    }

    #[test]
    fn ranges_partition_the_identities() {
        let id = AnswerId([0b1010_1010; 32]);
        let (first, last) = id.range();
        assert!(first <= id && id <= last);
        assert_eq!(&first.0[..3], &[0b1010_1010, 0b1000_0000, 0]);
        assert_eq!(&last.0[..3], &[0b1010_1010, 0b1011_1111, 0xFF]);
        assert_eq!(first.range(), (first, last));
        assert_eq!(last.range(), (first, last));
        assert_eq!(AnswerId([0xFF; 32]).range().1, AnswerId([0xFF; 32]));
    }

    #[test]
    fn debug_output_has_no_key_and_no_answer() {
        let answer = KeptAnswer {
            id: AnswerId([0; 32]),
            request: RequestHash([0; 32]),
            output: Some(Bytes::from_static(b"the output")),
            expires_at: Timestamp(1),
        };
        let key = IdempotencyKey::parse("the-key").unwrap();
        let text = format!("{answer:?} {key:?}");
        assert!(!text.contains("the-key") && !text.contains("the output"));
        assert!(!text.contains("116, 104"), "{text}");
        assert_eq!(answer.bytes(), ANSWER_BYTES + 10);
    }
}
