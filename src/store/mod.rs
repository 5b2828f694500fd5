//! Keeping a pair of tokens beyond the life of the process.
//!
//! A [`TokenStore`] holds one record for each account: the pair, opaque to the store, and beside it a [`Header`]
//! that processes sharing the store read without opening the record. Any number of processes can share one: at most one
//! of them renews at a time, under the store's lock, and the others adopt what it saved.
//!
//! ```
//! use apivideo_auth::{ApiVideoAuthLayer, store::MemoryStore};
//!
//! // Two layers of one process as if they were two processes.
//! let store = MemoryStore::new();
//! let one = ApiVideoAuthLayer::builder().api_key("test-only-key").store(store.clone()).build()?;
//! let two = ApiVideoAuthLayer::builder().store(store).build()?;
//! # Ok::<(), apivideo_auth::Error>(())
//! ```
//!
//! # Writing a store
//!
//! The methods of [`TokenStore`] and [`StoreLock`] say what a store has to do. With the feature `test-util`,
//! `contract_suite` checks it. Times are given and returned as spans from now, so that a store shared
//! by several machines can count them by a clock of its own; [`Header::counted_down`] does the sum.
//!
//! # Which one
//!
//! | store | feature | for |
//! | --- | --- | --- |
//! | [`MemoryStore`] | none | tests, several layers of one program |
//! | `FileStore` | `file-store` | one machine |
//! | `KeyringStore` | `keyring-store` | one person's machine |
//! | `RedisStore` | `redis-store` | several machines |
//! | `EncryptedStore` | `encrypted-store` | in front of any of them |
//!
//! Without a store a pair ends with the process, and the next one needs the API key or a refresh
//! token.
//!
//! # What a renewal does with a store
//!
//! 1. It takes the lock, and reads what is stored. If that is newer than what this process holds,
//!    it adopts it and is done, without a call.
//! 2. It saves the [mark](InUseMark): from now on the refresh token may be spent.
//! 3. It makes the token call.
//! 4. It saves the new pair, under the next [revision](Version), then puts it to use, and unlocks.
//!
//! So a process that is killed at any of these points leaves a record from which the next one can
//! go on.
//!
//! # Seeds
//!
//! A refresh token that is given to the builder of a source with a store is a *seed*. What is stored goes before it. It is
//! taken up where nothing is stored, or what is stored was refused, and no API key can log in instead: then the store has
//! it, before it is presented. That it is spent is noted by a fingerprint (SHA-256, of the last eight seeds) in a record of
//! its own, under a second [`StoreKey`] whose account is `NAME@seeds`, in the clear. So a program that is started again with the same seed
//! presents it no more, also after the pair's record was deleted, refused or put into quarantine. A process that still holds
//! the pair writes it back where nothing is stored; where a pair was taken away ([`clear`](StoreLock#method.clear)) it does
//! not.
//!
//! Of a store that lost both records nobody can know. A program that is then started with an old seed and without an API
//! key presents a token that is spent, and the API may revoke all that came of it: take the seed out of the environment
//! after the first start.
//!
//! A pair that came of a seed does not say whose account it is of. A holder of an API key takes it for that of its own key,
//! and warns once.

use std::{any::Any, fmt, time::Duration};

use futures::future::BoxFuture;
use zeroize::Zeroizing;

use crate::error::Error;
#[cfg(doc)]
use crate::error::ErrorKind;

#[cfg(any(feature = "file-store", feature = "redis-store"))]
mod blocking;
#[cfg(feature = "encrypted-store")]
mod cipher;
#[cfg(feature = "test-util")]
mod contract;
#[cfg(feature = "encrypted-store")]
mod encrypted;
#[cfg(feature = "file-store")]
mod file;
mod form;
mod key;
#[cfg(feature = "keyring-store")]
mod keyring;
#[cfg(any(feature = "file-store", feature = "redis-store"))]
mod lock_owner;
mod memory;
mod record;
#[cfg(feature = "redis-store")]
mod redis;
mod spent_seeds;

#[cfg(feature = "test-util")]
pub use self::contract::contract_suite;
#[cfg(feature = "file-store")]
pub use self::file::FileStore;
pub use self::key::StoreKey;
#[cfg(feature = "keyring-store")]
pub use self::keyring::KeyringStore;
pub use self::memory::MemoryStore;
#[cfg(feature = "redis-store")]
pub use self::redis::{RedisStore, RedisStoreBuilder};
#[cfg(feature = "encrypted-store")]
pub use self::{cipher::EncryptionKey, encrypted::EncryptedStore};
pub(crate) use self::{
    record::{Fingerprint, StoredTokens},
    spent_seeds::SpentSeeds,
};

/// A place where pairs of tokens outlive the process. See the [module docs](self).
///
/// No method may block the runtime, and none waits for longer than a few seconds: an [`Error`] made
/// with [`Error::store`] ends it. The source gives each operation 10 s and then takes it for failed;
/// one that panics has failed too.
///
/// A store needs no cache and no retry of its own: it is read when a token is renewed, not for each
/// request. It may be used from several runtimes at once.
///
/// ```
/// use apivideo_auth::{
///     Error,
///     store::{MemoryStore, StoreKey, Stored, TokenStore, TryLock},
/// };
/// use futures::future::BoxFuture;
///
/// /// Says when it is used.
/// struct Traced(MemoryStore);
///
/// impl TokenStore for Traced {
///     fn load<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<Option<Stored>, Error>> {
///         println!("loading {}", key.name());
///         self.0.load(key)
///     }
///
///     fn try_lock<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<TryLock, Error>> {
///         self.0.try_lock(key)
///     }
/// }
/// ```
pub trait TokenStore: Any + Send + Sync {
    /// Reads what is stored under a key; `None` if nothing is. Needs no lock and sees a whole save
    /// or none of it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::StoreUnavailable`] if the store can't be read now, [`ErrorKind::StoreCorrupt`]
    /// if what is there is damaged (it may then be quarantined), [`ErrorKind::StoreUnreadable`] if
    /// it is sound but not for this program (it is left alone).
    ///
    /// # Cancel safety
    ///
    /// Nothing is changed.
    fn load<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<Option<Stored>, Error>>;

    /// Takes the renewal lock of a key if nobody holds it, without waiting for it. The lock of a
    /// process that died is free again, at once or after a few seconds.
    ///
    /// The lock is asked for again and again while somebody holds it, so the question should be
    /// cheap.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::StoreUnavailable`] if the store can't be asked. That somebody else holds the
    /// lock is [`TryLock::Busy`] and no error.
    ///
    /// # Cancel safety
    ///
    /// A lock that was taken by a call whose future was dropped is free again, at once or after a
    /// few seconds.
    fn try_lock<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<TryLock, Error>>;

    /// What a person calls this store and knows its place by, such as "the file store in /var/tokens". It stands in the
    /// error that says that nothing is stored. No secret may stand in it.
    ///
    /// Default: "the store".
    fn place(&self) -> String {
        "the store".to_owned()
    }
}

/// What came of [`TokenStore::try_lock`].
#[non_exhaustive]
pub enum TryLock {
    /// The lock is held now, until [`StoreLock::unlock`].
    Locked(Box<dyn StoreLock>),
    /// Another process holds it; its name, if known, is for the message of an error.
    Busy(Option<String>),
}

/// A held renewal lock: the only way to write. Dropping it frees the lock too, if perhaps later.
///
/// The source may hold it for long: while a call is made, and, where a pair could not be saved and
/// no API key is held, until it is saved. A lock that can be lost (a lease) fails the next
/// [`save`](Self::save) with [`ErrorKind::StoreConflict`]; the source then looks again before it
/// presents anything.
pub trait StoreLock: Send {
    /// Replaces what is stored. Once it has returned, the save survives the end of the process.
    ///
    /// - It saves only if the version that is stored is `expected` (`None`: nothing is stored) and the lock is still held.
    ///   Else it fails with [`ErrorKind::StoreConflict`] and changes nothing.
    /// - It can be repeated. After an error it may be open whether the save was done; the caller then makes the same call
    ///   again, under the same lock. If what is stored has the version of `stored`, and this lock saved it, that is a
    ///   success and not a conflict.
    /// - A save whose future was dropped, or which failed, is never carried out after a later save.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::StoreConflict`] as said above, [`ErrorKind::StoreUnavailable`] if the store
    /// does not take it.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the save may or may not be carried out. The same call again, under the same lock,
    /// settles it.
    fn save<'a>(
        &'a mut self,
        expected: Option<Version>,
        stored: Stored,
    ) -> BoxFuture<'a, Result<(), Error>>;

    /// Moves a record that can't be read out of the way, so that the key is free and a person can
    /// look at it. Nothing to move is no error.
    ///
    /// # Errors
    ///
    /// Those of [`save`](Self::save).
    ///
    /// # Cancel safety
    ///
    /// As for a save: it may be asked for again.
    fn quarantine(&mut self) -> BoxFuture<'_, Result<(), Error>>;

    /// Frees the lock. It can't fail: a lock that can't be freed ends by itself, as that of a dead
    /// process.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the lock ends as one that was dropped without it.
    fn unlock(self: Box<Self>) -> BoxFuture<'static, ()>;
}

impl dyn StoreLock {
    /// Forgets the record and keeps the counters, so that an older pair can't come back in its
    /// place.
    ///
    /// For a program that uses a store by itself, to take a pair away; sources do not call it.
    ///
    /// # Errors
    ///
    /// Those of [`StoreLock::save`].
    ///
    /// # Cancel safety
    ///
    /// That of [`StoreLock::save`].
    pub async fn clear(&mut self, mut stored: Stored) -> Result<(), Error> {
        let expected = Some(stored.header.version);
        stored.record = None;
        stored.header.mark = None;
        self.save(expected, stored).await
    }
}

/// What is stored under a key: what can be read without opening it, and the pair itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stored {
    /// What everybody who shares the store reads.
    pub header: Header,
    /// The pair; `None` after it was cleared.
    pub record: Option<Record>,
}

impl Stored {
    /// A header with a record.
    #[must_use]
    pub fn new(header: Header, record: Option<Record>) -> Self {
        Self { header, record }
    }
}

/// What is known of a record without opening it. Spans count from the call that takes or returns
/// them; a store [counts them down](Self::counted_down), to zero.
///
/// It is what a process that waits looks at, again and again, and it holds no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Header {
    /// Which pair it is. The pair that is saved next has the next revision.
    pub version: Version,
    /// Its refresh token was presented, and no response has been saved yet. Until the mark has
    /// settled, a process that has no API key leaves the token alone.
    pub mark: Option<InUseMark>,
    /// A cool-down that a process shares. If the API asked for it, nobody makes a token call before
    /// this; if a call only failed, a process that has seen no failure itself makes one all the same.
    pub not_before: Option<Duration>,
    /// How much longer the access token lives. `None` or zero: it is of no use, the refresh token
    /// may be.
    pub expires_in: Option<Duration>,
}

impl Header {
    /// A header without mark, cool-down and expiry, for a store that reads its own form.
    #[must_use]
    pub fn new(version: Version) -> Self {
        Self {
            version,
            mark: None,
            not_before: None,
            expires_in: None,
        }
    }

    /// The same header a while later: each span is shorter by `elapsed`, and no less than zero.
    ///
    /// A store needs this when it gives out what was saved before. One that keeps spans passes the time since the
    /// save. One that keeps moments, which are spans since some epoch, passes the time since that epoch.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use apivideo_auth::store::{Header, Version};
    ///
    /// let mut saved = Header::new(Version { family: 1, revision: 1 });
    /// saved.not_before = Some(Duration::from_secs(5));
    /// saved.expires_in = Some(Duration::from_secs(3600));
    ///
    /// let given = saved.counted_down(Duration::from_secs(60));
    /// assert_eq!(given.not_before, Some(Duration::ZERO));
    /// assert_eq!(given.expires_in, Some(Duration::from_secs(3540)));
    /// ```
    #[must_use]
    pub fn counted_down(self, elapsed: Duration) -> Self {
        let left = |span: Duration| span.saturating_sub(elapsed);
        Self {
            version: self.version,
            mark: self.mark.map(|mark| InUseMark {
                settles_in: left(mark.settles_in),
                ..mark
            }),
            not_before: self.not_before.map(left),
            expires_in: self.expires_in.map(left),
        }
    }
}

/// Which pair: those of one family descend from one login, or one seed, and are counted by
/// revision.
///
/// ```
/// use apivideo_auth::store::Version;
///
/// let login = Version { family: 0x5eed, revision: 1 };
/// let refreshed = Version { revision: 2, ..login };
/// assert_ne!(login, refreshed);
/// ```
///
/// Of one family, the pair with the higher revision wins: a process that holds it refuses a lower
/// one, and writes its own back. So a store that was restored from a backup is put right by any
/// process that still runs. Between families the store decides: what is stored wins. Nobody can
/// know which of two logins was the later one, and all who share the store must come to the same
/// choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "it is a pair of numbers")]
pub struct Version {
    /// A random number for each login or seed. Stores must keep all 64 bits, as must the next
    /// field.
    pub family: u64,
    /// Counts the pairs of a family.
    pub revision: u64,
}

/// A refresh token was presented: a note that is written before the call, as a write-ahead log is.
///
/// Without it, a process that finds the record of one that was killed would present a token that
/// may be spent, and the API may take that for theft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_structs,
    reason = "count and time are all there is to it"
)]
pub struct InUseMark {
    /// How often it was presented. Who adopts a pair with a mark knows that its refresh token may
    /// be spent.
    pub count: u32,
    /// By then the process that presented it has given up: no response is read any more.
    pub settles_in: Duration,
}

/// A pair in the form that stores keep: opaque bytes, wiped when dropped and never printed.
///
/// Today it is JSON with a version of its own; a store must take any bytes, none at all included,
/// and give them back as they were.
#[derive(Clone, PartialEq, Eq)]
pub struct Record(Zeroizing<Vec<u8>>);

impl Record {
    /// Takes bytes over, without a copy. What was copied before stays where it was.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, to be handed on with care: without an [encrypted store](self) they hold the tokens in the clear.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Record({} bytes)", self.0.len())
    }
}

impl fmt::Debug for TryLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked(_) => f.write_str("Locked"),
            Self::Busy(holder) => f.debug_tuple("Busy").field(holder).finish(),
        }
    }
}

impl<S: TokenStore + ?Sized> TokenStore for std::sync::Arc<S> {
    fn load<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<Option<Stored>, Error>> {
        (**self).load(key)
    }

    fn try_lock<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<TryLock, Error>> {
        (**self).try_lock(key)
    }

    fn place(&self) -> String {
        (**self).place()
    }
}
