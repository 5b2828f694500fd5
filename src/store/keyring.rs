//! Encrypted files whose keys lie in the keyring of the operating system.
//!
//! Secrets of this size belong into files: some keyrings take a few kilobytes at most, and each
//! access may ask the user. So the keyring holds a key of 32 bytes and the tokens lie, encrypted
//! with it, in files.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use futures::future::BoxFuture;
use keyring_core::Error as KeyringError;
use zeroize::{Zeroize, Zeroizing};

use super::{
    EncryptionKey, FileStore, StoreKey, Stored, TokenStore, TryLock, blocking::Turn, cipher::Cipher,
};
use crate::error::{Error, ErrorKind};

/// A [`FileStore`] that encrypts, with a random key for each account that lies in the keyring of the operating system:
/// the Secret Service (GNOME Keyring, KWallet), the macOS Keychain or the Windows Credential Manager.
///
/// ```no_run
/// use apivideo_auth::{ApiVideoAuthLayer, store::KeyringStore};
///
/// let layer = ApiVideoAuthLayer::builder().store(KeyringStore::in_user_folder()?).build()?;
/// # Ok::<(), apivideo_auth::Error>(())
/// ```
///
/// # What protects what
///
/// The tokens lie in files, as [`FileStore`] describes, encrypted as
/// [`EncryptedStore`](super::EncryptedStore) describes. Backups and copies of the files are worth nothing without the
/// keyring, which is locked while its user is logged out. On Linux and Windows every program of the user can ask an
/// unlocked keyring for the key; macOS asks the user first when another program does. Root can read this process's
/// memory.
///
/// The key is asked for when it is first needed, and kept in memory. A keyring that is locked, or is not there, is
/// [`ErrorKind::StoreUnavailable`]; it is asked again next time, but not while a prompt is open. A pair whose key is no
/// longer in the keyring is [`ErrorKind::StoreUnreadable`]: it is left alone, in case the key comes back.
///
/// Which [seeds](super#seeds) are spent is not encrypted: their fingerprints tell nothing of them.
///
/// The key is the entry with the service `apivideo-auth` and the account's [`StoreKey::name`]. It is never deleted.
#[derive(Clone, Debug)]
pub struct KeyringStore {
    files: FileStore,
    /// What was asked for before, by account.
    ciphers: Arc<Mutex<HashMap<StoreKey, Arc<Cipher>>>>,
    /// One question at a time: a prompt may be open for long after its caller has given up.
    turn: Turn,
}

/// The service under which the entries are found in the keyring's own program.
const SERVICE: &str = "apivideo-auth";
/// What is under way, for the message of a keyring that does not answer.
const ASKING: &str = "asking the keyring";

impl KeyringStore {
    /// A store whose files lie in this folder. Nothing is touched before the first use.
    ///
    /// It may be the folder of a [`FileStore`]: a pair that one of them wrote in the clear is then
    /// [`ErrorKind::StoreUnreadable`] to this one.
    #[must_use]
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        Self {
            files: FileStore::in_folder(folder),
            ciphers: Arc::default(),
            turn: Turn::default(),
        }
    }

    /// A store whose files lie where [`FileStore::in_user_folder`] has them.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] if this user has no home folder.
    pub fn in_user_folder() -> Result<Self, Error> {
        FileStore::in_user_folder().map(|files| Self::in_folder(files.folder()))
    }

    /// The key of an account that was asked for before.
    fn known(&self, key: &StoreKey) -> Option<Arc<Cipher>> {
        self.ciphers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(key)
            .cloned()
    }

    /// Keeps a key in memory, so that the user is asked once.
    fn learn(&self, key: &StoreKey, found: EncryptionKey) -> Arc<Cipher> {
        let cipher = Arc::new(Cipher::new(found));
        self.ciphers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key.clone(), cipher.clone());
        cipher
    }

    /// Asks for the key of an account that has a pair.
    ///
    /// Where there is none, none is made: a new key could not open the pair, and would hide that
    /// the old one is missing.
    async fn ask(&self, key: &StoreKey) -> Result<Arc<Cipher>, Error> {
        let (store, key) = (self.clone(), key.clone());
        self.turn.run(ASKING, move || {
            let found = fetch(&key)?.ok_or_else(|| {
                let message = format!(
                    "the keyring has no key for the stored pair of account `{}`; restore the keyring's entry `{}` of \
                     `{SERVICE}`, or remove {} and log in again",
                    key.account(),
                    key.name(),
                    store.files.folder().join(format!("{}.json", key.name())).display()
                );
                Error::new(ErrorKind::StoreUnreadable, message)
            })?;
            Ok(store.learn(&key, found))
        })
        .await
    }
}

impl TokenStore for KeyringStore {
    fn load<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<Option<Stored>, Error>> {
        Box::pin(async move {
            let Some(stored) = self.files.load(key).await? else {
                return Ok(None);
            };
            if stored.record.is_none() || key.is_of_spent_seeds() {
                return Ok(Some(stored));
            }
            if let Some(known) = self.known(key)
                && let Ok(opened) = known.open(key, &stored)
            {
                return Ok(Some(opened));
            }
            // The keyring may have another key by now.
            self.ask(key).await?.open(key, &stored).map(Some)
        })
    }

    fn try_lock<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<TryLock, Error>> {
        Box::pin(async move {
            let lock = match self.files.try_lock(key).await? {
                TryLock::Locked(lock) if !key.is_of_spent_seeds() => lock,
                plain_or_busy => return Ok(plain_or_busy),
            };
            let in_use = match self.files.load(key).await {
                Ok(found) => found.is_some_and(|stored| stored.record.is_some()),
                // It will be quarantined.
                Err(error) if error.kind() == ErrorKind::StoreCorrupt => false,
                Err(error) => return Err(error),
            };
            if in_use {
                let cipher = match self.known(key) {
                    Some(known) => known,
                    None => self.ask(key).await?,
                };
                return Ok(TryLock::Locked(cipher.guard(key, lock)));
            }
            // The work keeps the lock: no other process makes a key in the meantime, however long a prompt takes.
            let (store, key) = (self.clone(), key.clone());
            self.turn
                .run(ASKING, move || {
                    let found = match fetch(&key)? {
                        Some(found) => found,
                        None => make(&key)?,
                    };
                    Ok(TryLock::Locked(store.learn(&key, found).guard(&key, lock)))
                })
                .await
        })
    }

    fn place(&self) -> String {
        format!("the keyring store in {}", self.files.whole_path().display())
    }
}

/// The key of an account in the keyring; `None` if the keyring has none. Anything that is not 32
/// bytes in Base64 is an error: it is somebody else's entry, and is not written over.
fn fetch(key: &StoreKey) -> Result<Option<EncryptionKey>, Error> {
    let text = match entry(key).and_then(|entry| entry.get_password()) {
        Ok(text) => Zeroizing::new(text),
        Err(KeyringError::NoEntry) => return Ok(None),
        Err(error) => return Err(explain(key, error)),
    };
    let unreadable = || explain(key, KeyringError::BadStoreFormat(String::new()));
    let mut bytes = Zeroizing::new([0; 33]);
    match BASE64.decode_slice(text.as_bytes(), &mut *bytes) {
        Ok(32) => {}
        _ => return Err(unreadable()),
    }
    let mut found = [0; 32];
    found.copy_from_slice(&bytes[..32]);
    let made = EncryptionKey::from_bytes(found);
    found.zeroize();
    Ok(Some(made))
}

/// Makes a key, and gives back what the keyring has then.
///
/// Read back rather than trusted: another process may have made one at the same moment, and a
/// keyring that forgets is found out before a pair depends on it.
fn make(key: &StoreKey) -> Result<EncryptionKey, Error> {
    // As text: KWallet keeps nothing else.
    let text = Zeroizing::new(BASE64.encode(EncryptionKey::random()?.expose()));
    entry(key)
        .and_then(|entry| entry.set_password(&text))
        .map_err(|error| explain(key, error))?;
    fetch(key)?.ok_or_else(|| explain(key, KeyringError::BadStoreFormat(String::new())))
}

/// Connects anew each time, so that a keyring that is started later is found.
///
/// The keyring crates have one store each; which one is known when this is compiled.
fn entry(key: &StoreKey) -> keyring_core::Result<keyring_core::Entry> {
    use keyring_core::api::CredentialStoreApi as _;
    #[cfg(target_os = "macos")]
    let keyring = apple_native_keyring_store::keychain::Store::new()?;
    #[cfg(windows)]
    let keyring = windows_native_keyring_store::Store::new()?;
    #[cfg(all(
        unix,
        not(any(target_os = "macos", target_os = "ios", target_os = "android"))
    ))]
    let keyring = zbus_secret_service_keyring_store::Store::new()?;
    #[cfg(any(windows, all(unix, not(any(target_os = "ios", target_os = "android")))))]
    return keyring.build(SERVICE, &key.name(), None);
    #[cfg(not(any(windows, all(unix, not(any(target_os = "ios", target_os = "android"))))))]
    return Err(KeyringError::NotSupportedByStore(
        "this platform".to_owned(),
    ));
}

/// Keeps the cause only where it holds no secret: some quote what they found.
fn explain(key: &StoreKey, error: KeyringError) -> Error {
    let unavailable =
        |message, cause| Error::with_source(ErrorKind::StoreUnavailable, message, cause);
    match error {
        KeyringError::NoStorageAccess(cause) => {
            unavailable("the keyring is locked; unlock it", cause)
        }
        KeyringError::PlatformFailure(cause) => {
            let message = "the keyring can't be used; on Linux it takes a Secret Service such as GNOME Keyring or \
                           KWallet in this user's session";
            unavailable(message, cause)
        }
        KeyringError::NotSupportedByStore(_) | KeyringError::NoDefaultStore => Error::new(
            ErrorKind::Configuration,
            "this platform has no keyring; use another store",
        ),
        _ => {
            let message = format!(
                "the keyring's entry `{}` of `{SERVICE}` is not a key that this crate made; restore it, or remove it \
                 together with the stored pair and log in again",
                key.name()
            );
            Error::new(ErrorKind::StoreUnreadable, message)
        }
    }
}
