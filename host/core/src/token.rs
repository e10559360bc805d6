//! Tokens, which authenticate callers.

use super::{AppId, Principal, Scope, Timestamp};
use sha2::{Digest, Sha256};
use std::fmt;
use subtle::ConstantTimeEq;
use uuid::Uuid;

/// The maximum number of tokens bound to one app. Tokens for all apps are not limited: only
/// operators of the instance create them.
pub const TOKENS_MAX: u64 = 1_000;

/// A token's public identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct TokenId(pub Uuid);

impl TokenId {
    /// The token that is created with a store. Its identity is fixed, so that only one of several
    /// hosts that start at once creates it.
    pub const BOOTSTRAP: TokenId =
        TokenId(Uuid::from_u128(0x018c_c251_f400_7000_8000_6b76_6173_6d31));
    /// The same for stores that an older version created.
    pub const OLD_BOOTSTRAP: TokenId = TokenId(Uuid::nil());
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.simple().fmt(f)
    }
}

/// The secret half of a token: 256 random bits.
///
/// It is shown once, when the token is created, and never stored. Debug output does not show it.
#[derive(Clone)]
pub struct TokenSecret([u8; 32]);

impl TokenSecret {
    /// Creates a secret from bytes, which must be random.
    pub fn new(bytes: [u8; 32]) -> TokenSecret {
        TokenSecret(bytes)
    }

    /// Returns the hash that the store keeps. A plain SHA-256 is enough: 256 random bits cannot be
    /// guessed, so a slow hash would add nothing.
    pub fn hash(&self) -> SecretHash {
        SecretHash(Sha256::digest(self.0).into())
    }
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSecret(..)")
    }
}

/// The SHA-256 of a token's secret.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretHash(pub [u8; 32]);

impl SecretHash {
    /// Compares it with the hash of a secret, in constant time.
    pub fn is_of(&self, secret: &TokenSecret) -> bool {
        self.0.ct_eq(&secret.hash().0).into()
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(..)")
    }
}

/// A token as its holder sees it: `kvasm_<identity>_<secret>`, in hexadecimal.
#[derive(Debug, Clone)]
pub struct BearerToken {
    /// The identity that it claims.
    pub id: TokenId,
    /// The secret that proves it.
    pub secret: TokenSecret,
}

impl BearerToken {
    const PREFIX: &str = "kvasm_";

    /// Parses the text of a token. Returns `None` if it is malformed.
    pub fn parse(text: &str) -> Option<BearerToken> {
        let (id, secret) = text.strip_prefix(Self::PREFIX)?.split_once('_')?;
        let mut id_bytes = [0; 16];
        let mut secret_bytes = [0; 32];
        hex::decode_to_slice(id, &mut id_bytes).ok()?;
        hex::decode_to_slice(secret, &mut secret_bytes).ok()?;
        Some(BearerToken {
            id: TokenId(Uuid::from_bytes(id_bytes)),
            secret: TokenSecret(secret_bytes),
        })
    }

    /// Returns the text, which is secret: show it to the holder only, once.
    pub fn reveal(&self) -> String {
        format!("{}{}_{}", Self::PREFIX, self.id, hex::encode(self.secret.0))
    }
}

/// A token, as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its identity.
    pub id: TokenId,
    /// The hash of its secret.
    pub secret_hash: SecretHash,
    /// Its name, for people.
    pub name: String,
    /// The scopes that it grants.
    pub scopes: Vec<Scope>,
    /// The only app that it is valid for; `None` for every app.
    pub app: Option<AppId>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it expires, if ever.
    pub expires_at: Option<Timestamp>,
    /// When it was revoked, if it was.
    pub revoked_at: Option<Timestamp>,
}

impl Token {
    /// The maximum length of a name, in bytes.
    pub const NAME_BYTES_MAX: usize = 128;

    /// Returns whether it is neither expired nor revoked.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|at| at > now)
    }

    /// Returns whether it currently lets its holder administer the instance.
    pub fn administers(&self, now: Timestamp) -> bool {
        self.app.is_none() && self.scopes.contains(&Scope::InstanceAdmin) && self.is_valid(now)
    }

    /// Returns the principal that it authenticates.
    pub fn principal(&self) -> Principal {
        match self.app {
            Some(app) => Principal::for_app(app, self.scopes.clone()),
            None => Principal::for_all_apps(self.scopes.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_round_trips_through_text() {
        let token = BearerToken {
            id: TokenId(Uuid::now_v7()),
            secret: TokenSecret::new([7; 32]),
        };
        let text = token.reveal();
        let read = BearerToken::parse(&text).unwrap();
        assert_eq!(read.id, token.id);
        assert!(token.secret.hash().is_of(&read.secret));
        assert!(!token.secret.hash().is_of(&TokenSecret::new([8; 32])));
        for bad in ["", "kvasm_", "kvasm_1_2", &text[1..], &format!("{text}0")] {
            assert!(BearerToken::parse(bad).is_none(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn debug_output_hides_token_secrets() {
        let token = BearerToken::parse(&format!("kvasm_{:032}_{}", 0, "ab".repeat(32))).unwrap();
        let shown = format!("{token:?} {:?}", token.secret.hash());
        assert!(!shown.contains("abab"), "{shown}");
    }
}
