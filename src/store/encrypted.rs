//! Encryption in front of any store.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::{
    StoreKey, Stored, TokenStore, TryLock,
    cipher::{Cipher, EncryptionKey},
};
use crate::error::Error;

/// A store that encrypts what another store keeps (XChaCha20-Poly1305).
///
/// ```
/// use apivideo_auth::{
///     ApiVideoAuthLayer,
///     store::{EncryptedStore, EncryptionKey, MemoryStore},
/// };
///
/// # fn secret_manager() -> [u8; 32] { [7; 32] }
/// // 32 random bytes, the same for all who share the store, from wherever you keep secrets.
/// let key = EncryptionKey::from_bytes(secret_manager());
/// let store = EncryptedStore::new(MemoryStore::new(), key);
/// let layer = ApiVideoAuthLayer::builder().store(store).build()?;
/// # Ok::<(), apivideo_auth::Error>(())
/// ```
///
/// # What protects what
///
/// Anyone who reads the inner store sees no token, only the [`Header`](super::Header): how often a pair was renewed, and
/// when it expires. Anyone who writes to it can't make a pair, nor move one to another account, API or
/// [`Version`](super::Version): what was not encrypted with this key for this place is
/// [`StoreUnreadable`](crate::ErrorKind::StoreUnreadable). It is never taken for damage, never put into quarantine and never
/// written over. The wrong key is the same error.
///
/// Anyone who writes to the inner store can do four things:
///
/// - Remove a pair, or mark it as spent or expired. That costs a login, or keeps callers waiting.
/// - Put an older pair back. A process that holds a newer pair of the same family refuses it, and writes its own back:
///   see [`Version`](super::Version). A process that has just started can't know, and takes an older pair for the newest.
/// - Put a pair of an earlier login back. It is of another family, and between families the store decides.
/// - Add or remove the note that a [seed](super#seeds) is spent. It is not encrypted: a fingerprint tells nothing of the seed,
///   and who can remove the note can remove the pair.
///
/// The key lies in this process's memory, and so do the tokens.
///
/// # To change the key
///
/// A process that does not have the key of a pair can't use it, so all who share a store change in steps, each of which ends
/// when all have it:
///
/// 1. `EncryptedStore::new(store, old).second_key(new)`: all learn to read what the new key encrypts.
/// 2. `EncryptedStore::new(store, new).second_key(old)`: the new key encrypts. Wait until each account's pair was renewed,
///    which takes an hour where it is in use.
/// 3. `EncryptedStore::new(store, new)`.
#[derive(Clone, Debug)]
pub struct EncryptedStore<S> {
    store: S,
    cipher: Arc<Cipher>,
    /// Opens what `cipher` can't, and seals nothing.
    second: Option<Arc<Cipher>>,
}

impl<S> EncryptedStore<S> {
    /// What it encrypts for.
    pub(super) fn inner(&self) -> &S {
        &self.store
    }
}

impl<S: TokenStore> EncryptedStore<S> {
    /// Encrypts what `store` keeps.
    ///
    /// Order matters where stores are nested: what is inside sees sealed records only. Clones share
    /// the key.
    #[must_use]
    pub fn new(store: S, key: EncryptionKey) -> Self {
        Self {
            store,
            cipher: Arc::new(Cipher::new(key)),
            second: None,
        }
    }

    /// A second key, which opens pairs as well, but encrypts none: for a change of keys. See
    /// [below](Self#to-change-the-key).
    #[must_use]
    pub fn second_key(self, key: EncryptionKey) -> Self {
        let second = Some(Arc::new(Cipher::new(key)));
        Self { second, ..self }
    }
}

impl<S: TokenStore> TokenStore for EncryptedStore<S> {
    fn load<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<Option<Stored>, Error>> {
        Box::pin(async move {
            let Some(stored) = self.store.load(key).await? else {
                return Ok(None);
            };
            if key.is_of_spent_seeds() {
                return Ok(Some(stored));
            }
            let opened = self.cipher.open(key, &stored);
            let opened = match &self.second {
                Some(second) => {
                    opened.or_else(|error| second.open(key, &stored).map_err(|_| error))
                }
                None => opened,
            };
            opened.map(Some)
        })
    }

    fn try_lock<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<TryLock, Error>> {
        Box::pin(async move {
            Ok(match self.store.try_lock(key).await? {
                TryLock::Locked(lock) if !key.is_of_spent_seeds() => {
                    TryLock::Locked(self.cipher.guard(key, lock))
                }
                plain_or_busy => plain_or_busy,
            })
        })
    }

    fn place(&self) -> String {
        self.store.place()
    }
}
