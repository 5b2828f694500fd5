//! Sealing records, and opening them.
//!
//! What is authenticated together with a record, but not stored in it, is the place where it
//! belongs: API, account and version. A record that was moved or renumbered can't be opened.

use std::{fmt, sync::Arc};

use chacha20poly1305::{
    AeadInOut, KeyInit, XChaCha20Poly1305, XNonce,
    aead::{self, Generate},
};
use futures::future::BoxFuture;
use zeroize::{Zeroize, Zeroizing};

use super::{Record, StoreKey, StoreLock, Stored, Version, form::refuse_newer, record::SEALED};
use crate::error::{Error, ErrorKind};

/// The 32 bytes that an [`EncryptedStore`](super::EncryptedStore) encrypts with. They are wiped when dropped, and never printed.
///
/// They have to be random: a passphrase is not a key.
///
/// A random value from a secret manager or a key management service, or `openssl rand 32`. All who
/// share a store need the same one.
pub struct EncryptionKey(Box<Zeroizing<[u8; 32]>>);

impl EncryptionKey {
    /// Takes a key over. This copy is wiped; the caller's own is the caller's to wipe.
    #[must_use]
    pub fn from_bytes(mut bytes: [u8; 32]) -> Self {
        let key = Self(Box::new(Zeroizing::new(bytes)));
        bytes.zeroize();
        key
    }

    /// A new key from the operating system's random numbers.
    #[cfg(feature = "keyring-store")]
    pub(super) fn random() -> Result<Self, Error> {
        Ok(Self::from_bytes(random()?))
    }

    /// For the keyring, which keeps it as text.
    #[cfg(feature = "keyring-store")]
    pub(super) fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for EncryptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EncryptionKey(..)")
    }
}

/// Seals records, and opens them.
#[derive(Debug)]
pub(super) struct Cipher {
    key: EncryptionKey,
}

/// The extended nonce of XChaCha20: so long that a random one never comes twice, in any number of
/// processes that share a key.
const NONCE: usize = 24;
/// The tag of Poly1305, by which every change of a record is found.
const TAG: usize = 16;

/// The form written here, after [`SEALED`].
const FORM: u8 = b'1';

impl Cipher {
    /// The cipher itself is made anew for each use: it is cheap, and so the key lies in one place
    /// only.
    pub(super) fn new(key: EncryptionKey) -> Self {
        Self { key }
    }

    /// Opens what was loaded. A header without a record has nothing to open; it is as little
    /// protected as any header.
    pub(super) fn open(&self, key: &StoreKey, stored: &Stored) -> Result<Stored, Error> {
        let unseal = |record: &Record| {
            let associated = associated(key, stored.header.version);
            self.unseal(&associated, record.expose()).map(Record)
        };
        let record = stored.record.as_ref().map(unseal).transpose()?;
        Ok(Stored::new(stored.header, record))
    }

    /// Puts a lock of the inner store behind one that seals what it saves.
    pub(super) fn guard(
        self: &Arc<Self>,
        key: &StoreKey,
        lock: Box<dyn StoreLock>,
    ) -> Box<dyn StoreLock> {
        Box::new(Lock {
            lock,
            key: key.clone(),
            cipher: self.clone(),
        })
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new((&**self.key.0).into())
    }

    /// Seals a record: the word, the form, a nonce, the sealed bytes and their tag. Sealed in
    /// place, so that no copy of the tokens is left behind.
    fn seal(&self, associated: &[u8], record: &[u8]) -> Result<Vec<u8>, Error> {
        let nonce: [u8; NONCE] = random()?;
        let mut sealed = Vec::with_capacity(SEALED.len() + 1 + NONCE + record.len() + TAG);
        sealed.extend_from_slice(SEALED);
        sealed.push(FORM);
        sealed.extend_from_slice(&nonce);
        let start = sealed.len();
        sealed.extend_from_slice(record);
        let tag = self
            .cipher()
            .encrypt_inout_detached(
                &XNonce::from(nonce),
                associated,
                (&mut sealed[start..]).into(),
            )
            .map_err(|aead::Error| {
                Error::new(
                    ErrorKind::StoreUnavailable,
                    "a pair is too long to be encrypted",
                )
            })?;
        sealed.extend_from_slice(&tag);
        Ok(sealed)
    }

    /// The reverse. Every failure is [`ErrorKind::StoreUnreadable`] and never damage: with the
    /// wrong key, everything looks damaged, and a quarantine would hide a pair that is sound.
    fn unseal(&self, associated: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        let unreadable = |message| Error::new(ErrorKind::StoreUnreadable, message);
        let unauthentic = "the stored pair can't be decrypted: this is not the key it was encrypted with, or somebody \
                           changed or moved it; use the right key, or remove what is stored and log in again";
        let Some(sealed) = sealed.strip_prefix(SEALED) else {
            return Err(unreadable(
                "the stored pair is not encrypted; remove it, or use its store without encryption",
            ));
        };
        let nonce = match sealed.split_first() {
            Some((&FORM, rest)) => rest.split_at_checked(NONCE),
            Some((&form, _)) => {
                refuse_newer("the stored pair", form, FORM)?;
                None
            }
            None => None,
        };
        let Some((nonce, sealed)) = nonce else {
            return Err(unreadable(unauthentic));
        };
        let nonce = XNonce::try_from(nonce).expect("24 bytes were split off");
        let mut record = Zeroizing::new(sealed.to_vec());
        self.cipher()
            .decrypt_in_place(&nonce, associated, &mut *record)
            .map_err(|aead::Error| unreadable(unauthentic))?;
        Ok(record)
    }
}

/// The operating system's random numbers, not `fastrand`: these keep secrets.
fn random<const N: usize>() -> Result<[u8; N], Error>
where
    [u8; N]: Generate,
{
    let failed = |error| {
        Error::with_source(
            ErrorKind::StoreUnavailable,
            "the system gives no random bytes",
            error,
        )
    };
    <[u8; N]>::try_generate().map_err(failed)
}

/// What a record belongs to. It is not stored with it, and has to be the same when it is opened.
/// Lengths stand before texts, so that no two places have the same bytes.
fn associated(key: &StoreKey, version: Version) -> Vec<u8> {
    let mut bytes = [SEALED, &[FORM]].concat();
    for text in [key.origin(), key.account()] {
        bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes.extend_from_slice(&version.family.to_le_bytes());
    bytes.extend_from_slice(&version.revision.to_le_bytes());
    bytes
}

/// Passes everything on to the inner lock, records sealed.
struct Lock {
    lock: Box<dyn StoreLock>,
    key: StoreKey,
    cipher: Arc<Cipher>,
}

impl StoreLock for Lock {
    fn save<'a>(
        &'a mut self,
        expected: Option<Version>,
        stored: Stored,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let Stored { header, record } = stored;
            let associated = associated(&self.key, header.version);
            let seal = |record: Record| {
                self.cipher
                    .seal(&associated, record.expose())
                    .map(Record::new)
            };
            let sealed = record.map(seal).transpose()?;
            self.lock
                .save(
                    expected,
                    Stored {
                        header,
                        record: sealed,
                    },
                )
                .await
        })
    }

    fn quarantine(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        self.lock.quarantine()
    }

    fn unlock(self: Box<Self>) -> BoxFuture<'static, ()> {
        self.lock.unlock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g19_a_record_is_bound_to_its_place_and_each_seal_has_a_nonce_of_its_own() {
        let cipher = Cipher::new(EncryptionKey::from_bytes([1; 32]));
        assert!(!format!("{cipher:?}").contains("1, 1"));
        let key = |origin: &str, account: &str| StoreKey::new(origin, account).expect("a good key");
        let version = Version {
            family: 1,
            revision: 2,
        };
        let place = associated(&key("https://a.example", "main"), version);
        let sealed = cipher.seal(&place, b"test-only").expect("sealing");
        assert_eq!(
            **cipher.unseal(&place, &sealed).expect("opening"),
            *b"test-only"
        );

        let others = [
            associated(&key("https://b.example", "main"), version),
            associated(&key("https://a.example", "other"), version),
            associated(&key("https://a.examplem", "ain"), version),
            associated(
                &key("https://a.example", "main"),
                Version {
                    revision: 3,
                    ..version
                },
            ),
            associated(
                &key("https://a.example", "main"),
                Version {
                    family: 2,
                    ..version
                },
            ),
        ];
        let refused = |cipher: &Cipher, place: &[u8], sealed: &[u8]| {
            let error = cipher.unseal(place, sealed).expect_err("not authentic");
            assert_eq!(error.kind(), ErrorKind::StoreUnreadable, "{error}");
        };
        for place in &others {
            refused(&cipher, place, &sealed);
        }
        for index in 0..sealed.len() {
            let mut tampered = sealed.clone();
            tampered[index] ^= 1;
            refused(&cipher, &place, &tampered);
            refused(&cipher, &place, &sealed[..index]);
        }
        refused(
            &Cipher::new(EncryptionKey::from_bytes([2; 32])),
            &place,
            &sealed,
        );
        refused(&cipher, &place, br#"{"form":1}"#);

        let nonces: std::collections::HashSet<_> = (0..1000)
            .map(|_| {
                cipher.seal(&place, b"test-only").expect("sealing")[SEALED.len() + 1..][..NONCE]
                    .to_vec()
            })
            .collect();
        assert_eq!(nonces.len(), 1000);
    }
}
