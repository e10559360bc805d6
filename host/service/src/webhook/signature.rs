//! Signatures of webhooks, as [Standard Webhooks] say.
//!
//! [Standard Webhooks]: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md

use crate::OpenedSecret;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use thiserror::Error;
use zeroize::Zeroizing;

/// What a signing key begins with.
const PREFIX: &str = "whsec_";
/// The minimum and maximum size of a key, in bytes.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// The maximum number of keys of a secret.
const KEYS_MAX: usize = 4;

/// Why a secret cannot sign webhooks. The text shows nothing of the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SigningKeyError {
    /// There is no secret of this name.
    #[error("it is not set")]
    Unset,
    /// It has no line.
    #[error("it is empty")]
    Empty,
    /// It has too many lines.
    #[error("it has more than {KEYS_MAX} lines, each of which is a key")]
    TooMany,
    /// A line does not begin with the prefix of signing keys.
    #[error("line {0} does not begin with {PREFIX}")]
    Prefix(usize),
    /// The rest of a line is not base64.
    #[error("line {0} is not base64 after {PREFIX}")]
    Base64(usize),
    /// A key is too short or too long.
    #[error("the key in line {line} has {len} bytes, but needs {} to {}", KEY_BYTES.start(), KEY_BYTES.end())]
    Length {
        /// The line, from 1.
        line: usize,
        /// The size of its key, in bytes.
        len: usize,
    },
}

/// The keys that sign a webhook: one, or several while the receiver changes from one to another.
pub(crate) struct SigningKeys(Vec<Zeroizing<Vec<u8>>>);

impl SigningKeys {
    /// Reads the keys of a secret that may be set.
    ///
    /// # Errors
    /// [`SigningKeyError`].
    pub(crate) fn of(secret: Option<&OpenedSecret>) -> Result<SigningKeys, SigningKeyError> {
        SigningKeys::parse(secret.ok_or(SigningKeyError::Unset)?.bytes())
    }

    /// Reads the keys of a secret: lines of `whsec_` and 24 to 64 bytes in base64.
    ///
    /// # Errors
    /// [`SigningKeyError`].
    fn parse(secret: &[u8]) -> Result<SigningKeys, SigningKeyError> {
        let text = secret.trim_ascii();
        if text.is_empty() {
            return Err(SigningKeyError::Empty);
        }
        let lines = text.split(|byte| *byte == b'\n');
        let keys = (1..).zip(lines).map(|(line, text)| key(line, text));
        // One more than allowed, so that it is seen.
        let keys: Vec<_> = keys.take(KEYS_MAX + 1).collect::<Result<_, _>>()?;
        match keys.len() > KEYS_MAX {
            true => Err(SigningKeyError::TooMany),
            false => Ok(SigningKeys(keys)),
        }
    }

    /// Returns the value of the header `webhook-signature`: a signature by each key.
    pub(crate) fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let signatures = self.0.iter().filter_map(|key| {
            // Any size is accepted.
            let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
            mac.update(format!("{id}.{timestamp}.").as_bytes());
            mac.update(body);
            Some(format!(
                "v1,{}",
                STANDARD.encode(mac.finalize().into_bytes())
            ))
        });
        signatures.collect::<Vec<_>>().join(" ")
    }
}

fn key(line: usize, text: &[u8]) -> Result<Zeroizing<Vec<u8>>, SigningKeyError> {
    let text = text.trim_ascii();
    let encoded = text.strip_prefix(PREFIX.as_bytes());
    let encoded = encoded.ok_or(SigningKeyError::Prefix(line))?;
    let key = STANDARD.decode(encoded);
    let key = Zeroizing::new(key.map_err(|_| SigningKeyError::Base64(line))?);
    match KEY_BYTES.contains(&key.len()) {
        true => Ok(key),
        false => Err(SigningKeyError::Length {
            line,
            len: key.len(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Result<SigningKeys, SigningKeyError> {
        SigningKeys::parse(text.as_bytes())
    }

    /// The example of the specification's reference libraries.
    #[test]
    fn signature_is_that_of_the_reference() {
        let keys = keys("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
        let signature = keys.sign(id, 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn each_line_signs() {
        let key = |byte: u8| format!("whsec_{}", STANDARD.encode([byte; 32]));
        let (one, two) = (key(1), key(2));
        let alone = [&one, &two].map(|key| keys(key).unwrap().sign("i", 1, b"{}"));
        let both = keys(&format!("{one}\r\n{two}\n")).unwrap();
        assert_eq!(both.sign("i", 1, b"{}"), alone.join(" "));
    }

    #[test]
    fn malformed_key_is_named_by_its_line() {
        let good = format!("whsec_{}", STANDARD.encode([1; 24]));
        let short = format!("whsec_{}", STANDARD.encode([1; 23]));
        let long = format!("whsec_{}", STANDARD.encode([1; 65]));
        for (text, error) in [
            (String::new(), SigningKeyError::Empty),
            (" \n".to_owned(), SigningKeyError::Empty),
            ("hunter2".to_owned(), SigningKeyError::Prefix(1)),
            (format!("{good}\nhunter2"), SigningKeyError::Prefix(2)),
            ("whsec_!!".to_owned(), SigningKeyError::Base64(1)),
            (short, SigningKeyError::Length { line: 1, len: 23 }),
            (long, SigningKeyError::Length { line: 1, len: 65 }),
            ([good.as_str(); 5].join("\n"), SigningKeyError::TooMany),
        ] {
            let found = keys(&text).err();
            assert_eq!(found, Some(error), "{text}");
            assert!(!error.to_string().contains("hunter2"));
        }
    }
}
