//! A key that seals secrets: XChaCha20-Poly1305.

use super::SecretsError;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use kvasm_core::{AppId, KeyId, SealedSecret, SettingName};
use sha2::{Digest, Sha256};
use std::fmt;
use zeroize::{Zeroize, Zeroizing};

/// The format of sealed bytes: this byte, the nonce, the ciphertext with its tag.
const FORMAT: u8 = 1;
const NONCE_BYTES: usize = 24;

/// A key of 256 random bits. It is zeroed when dropped, and Debug output does not show it.
#[derive(Clone)]
pub(super) struct SecretsKey([u8; SecretsKey::BYTES]);

impl Drop for SecretsKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for SecretsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretsKey({})", self.id())
    }
}

/// An opened secret. It is zeroed when dropped, and Debug output does not show it.
pub struct OpenedSecret(Zeroizing<Vec<u8>>);

impl OpenedSecret {
    /// Returns the secret's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for OpenedSecret {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

impl fmt::Debug for OpenedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpenedSecret(..)")
    }
}

/// What the seal covers besides the secret: a secret that is moved to another app or name cannot be
/// opened.
fn associated(app: AppId, name: &SettingName) -> Vec<u8> {
    [
        &[FORMAT],
        app.uuid().as_bytes().as_slice(),
        name.as_str().as_bytes(),
    ]
    .concat()
}

impl SecretsKey {
    /// Its length in bytes.
    pub(super) const BYTES: usize = 32;

    pub(super) fn new(bytes: [u8; SecretsKey::BYTES]) -> SecretsKey {
        SecretsKey(bytes)
    }

    pub(super) fn generate() -> Result<SecretsKey, SecretsError> {
        let mut key = SecretsKey([0; SecretsKey::BYTES]);
        getrandom::fill(&mut key.0).map_err(|_| SecretsError::Random)?;
        Ok(key)
    }

    /// Returns the key in hexadecimal, for its file.
    pub(super) fn hex(&self) -> Zeroizing<String> {
        Zeroizing::new(hex::encode(self.0))
    }

    /// Returns its identity, from which the key cannot be derived.
    pub(super) fn id(&self) -> KeyId {
        let hash = Sha256::new()
            .chain_update(b"kvasm secrets key id")
            .chain_update(self.0)
            .finalize();
        let mut id = [0; KeyId::BYTES];
        for (to, from) in id.iter_mut().zip(hash) {
            *to = from;
        }
        KeyId(id)
    }

    pub(super) fn seal(
        &self,
        app: AppId,
        name: &SettingName,
        secret: &[u8],
    ) -> Result<SealedSecret, SecretsError> {
        // 192 random bits do not repeat.
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(|_| SecretsError::Random)?;
        let aad = associated(app, name);
        let payload = Payload {
            msg: secret,
            aad: &aad,
        };
        let cipher = XChaCha20Poly1305::new(&self.0.into());
        let sealed = cipher.encrypt(&XNonce::from(nonce), payload);
        // Fails only beyond 256 GiB.
        let sealed = sealed.map_err(|_| SecretsError::Damaged { name: name.clone() })?;
        Ok(SealedSecret {
            key: self.id(),
            bytes: [&[FORMAT], nonce.as_slice(), &sealed].concat().into(),
        })
    }

    pub(super) fn open(
        &self,
        app: AppId,
        name: &SettingName,
        sealed: &SealedSecret,
    ) -> Result<OpenedSecret, SecretsError> {
        let opened = sealed.bytes.split_first().and_then(|(format, rest)| {
            let (nonce, sealed) = rest.split_first_chunk::<NONCE_BYTES>()?;
            let aad = associated(app, name);
            let payload = Payload {
                msg: sealed,
                aad: &aad,
            };
            let cipher = XChaCha20Poly1305::new(&self.0.into());
            let opened = cipher.decrypt(&XNonce::from(*nonce), payload).ok()?;
            (*format == FORMAT).then_some(opened)
        });
        match opened {
            Some(secret) => Ok(OpenedSecret(Zeroizing::new(secret))),
            None => Err(SecretsError::Damaged { name: name.clone() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn name(name: &str) -> SettingName {
        SettingName::parse(name).unwrap()
    }

    #[test]
    fn sealed_secret_opens_only_for_its_app_and_name() {
        let key = SecretsKey::generate().unwrap();
        let (app, other) = (AppId::generate(), AppId::generate());
        for secret in [b"".as_slice(), b"hunter2", &[0; 20_000]] {
            let sealed = key.seal(app, &name("a"), secret).unwrap();
            let opened = key.open(app, &name("a"), &sealed).unwrap();
            assert_eq!(opened.bytes(), secret);
            assert!(key.open(other, &name("a"), &sealed).is_err());
            assert!(key.open(app, &name("b"), &sealed).is_err());
            let other_key = SecretsKey::generate().unwrap();
            assert!(other_key.open(app, &name("a"), &sealed).is_err());
        }
    }

    #[test]
    fn changed_sealed_bytes_do_not_open() {
        let (key, app) = (SecretsKey::generate().unwrap(), AppId::generate());
        let sealed = key.seal(app, &name("a"), b"hunter2").unwrap();
        let opens = |bytes: &[u8]| {
            let sealed = SealedSecret {
                key: sealed.key,
                bytes: Bytes::copy_from_slice(bytes),
            };
            key.open(app, &name("a"), &sealed).is_ok()
        };
        assert!(opens(&sealed.bytes));
        for at in 0..sealed.bytes.len() {
            let mut changed = sealed.bytes.to_vec();
            changed[at] ^= 1;
            assert!(!opens(&changed), "byte {at}");
            assert!(!opens(&sealed.bytes[..at]), "{at} bytes");
        }
    }

    #[test]
    fn same_secret_is_sealed_differently_each_time() {
        let (key, app) = (SecretsKey::generate().unwrap(), AppId::generate());
        let seal = || key.seal(app, &name("a"), b"hunter2").unwrap();
        assert_ne!(seal().bytes, seal().bytes);
    }

    #[test]
    fn debug_output_shows_neither_keys_nor_secrets() {
        let key = SecretsKey::new([0x5a; 32]);
        let sealed = key.seal(AppId::generate(), &name("a"), b"hunter2").unwrap();
        let app = AppId::generate();
        let sealed = (sealed, key.seal(app, &name("a"), b"hunter2").unwrap());
        let opened = key.open(app, &name("a"), &sealed.1).unwrap();
        let shown = format!("{key:?} {sealed:?} {opened:?}");
        for hidden in ["hunter2", "5a5a", "90, 90", "104, 117"] {
            assert!(!shown.contains(hidden), "{shown}");
        }
    }
}
