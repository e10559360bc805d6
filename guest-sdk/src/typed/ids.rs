//! Keys of times and unique keys.

use super::KeyPart;
use crate::{Error, now_ms, random_fill};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

/// A time as a key: milliseconds since the Unix epoch, negative before it. In JSON and as text it is
/// that number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TimeMs(pub i64);

impl TimeMs {
    /// Returns the host's time.
    pub fn now() -> TimeMs {
        TimeMs(now_ms())
    }
}

impl fmt::Display for TimeMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for TimeMs {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<TimeMs, ParseIntError> {
        text.parse().map(TimeMs)
    }
}

crate::key_newtype!(TimeMs(i64));

/// A UUID. It displays as 36 characters in lower case, which it also is in JSON, and sorts by its
/// bytes. Upper case is read too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// Returns a new UUIDv7, which sorts by the host's time in milliseconds, then at random.
    ///
    /// # Errors
    /// As [`random_fill`].
    pub fn now_v7() -> Result<Uuid, Error> {
        let mut random = [0; 16];
        random_fill(&mut random)?;
        Ok(Uuid::v7(now_ms(), random))
    }

    fn v7(ms: i64, mut bytes: [u8; 16]) -> Uuid {
        let [_, _, time @ ..] = u64::try_from(ms).unwrap_or(0).to_be_bytes();
        for (byte, time) in bytes.iter_mut().zip(time) {
            *byte = time;
        }
        let [_, _, _, _, _, _, version, _, variant, ..] = &mut bytes;
        *version = *version & 0x0f | 0x70;
        *variant = *variant & 0x3f | 0x80;
        Uuid(bytes)
    }

    /// Returns its text. It needs no formatting, whose code is large.
    pub(crate) fn text(&self) -> String {
        let mut text = String::with_capacity(36);
        for (index, byte) in self.0.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                text.push('-');
            }
            for digit in [byte >> 4, byte & 0x0f] {
                text.push(char::from_digit(digit.into(), 16).unwrap_or_default());
            }
        }
        text
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

/// A text that is not a UUID of 36 characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseUuidError(());

impl fmt::Display for ParseUuidError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a UUID is 36 characters, such as 017f22e2-79b0-7cc3-98c4-dc0c0c07398f")
    }
}

impl std::error::Error for ParseUuidError {}

impl FromStr for Uuid {
    type Err = ParseUuidError;

    fn from_str(text: &str) -> Result<Uuid, ParseUuidError> {
        // Longer texts are not copied.
        let text = text.get(..36).filter(|start| start.len() == text.len());
        let uuid = text.and_then(|text| Uuid::read_part(&text.to_ascii_lowercase()));
        uuid.ok_or(ParseUuidError(()))
    }
}

impl Serialize for Uuid {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text())
    }
}

impl<'de> Deserialize<'de> for Uuid {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Uuid, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl KeyPart for Uuid {
    fn write_part(&self, out: &mut String) {
        out.push_str(&self.text());
    }

    fn read_part(text: &str) -> Option<Uuid> {
        let bytes = <[u8; 16]>::read_part(&text.replace('-', ""))?;
        // Only its own text, so that each UUID has one key.
        Some(Uuid(bytes)).filter(|uuid| uuid.text() == text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 9562, appendix A.6.
    #[test]
    fn v7_has_the_layout_of_the_rfc() {
        let random = [
            0, 0, 0, 0, 0, 0, 0x0c, 0xc3, 0x18, 0xc4, 0xdc, 0x0c, 0x0c, 0x07, 0x39, 0x8f,
        ];
        let uuid = Uuid::v7(0x017f_22e2_79b0, random);
        assert_eq!(uuid.to_string(), "017f22e2-79b0-7cc3-98c4-dc0c0c07398f");
    }

    #[test]
    fn ids_are_read_from_text_and_json() {
        let text = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f";
        let uuid: Uuid = text.to_ascii_uppercase().parse().unwrap();
        assert_eq!(uuid.to_string(), text);
        let json = serde_json::to_string(&(uuid, TimeMs(-5))).unwrap();
        assert_eq!(json, format!("[\"{text}\",-5]"));
        assert_eq!(
            serde_json::from_str::<(Uuid, TimeMs)>(&json).unwrap(),
            (uuid, TimeMs(-5))
        );
        assert_eq!("-5".parse(), Ok(TimeMs(-5)));
        for bad in [
            "",
            "x",
            &text[1..],
            &format!("{text}0"),
            &text.replace('-', ""),
        ] {
            assert_eq!(bad.parse::<Uuid>(), Err(ParseUuidError(())), "{bad}");
            let json = serde_json::to_string(bad).unwrap();
            let error = serde_json::from_str::<Uuid>(&json).unwrap_err();
            assert!(
                error.to_string().starts_with("a UUID is 36 characters"),
                "{error}"
            );
        }
    }
}
