//! The stores of the cells: real files in paused time, and a double of Redis that counts by a clock of its own.

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use apivideo_auth::{
    Clock as _, Error,
    store::{
        EncryptedStore, EncryptionKey, FileStore, Header, InUseMark, StoreKey, StoreLock, Stored,
        TokenStore, TryLock, Version,
    },
    testing::hold_time,
};
use futures::future::BoxFuture;

use super::{
    sickness::{Health, Sickness},
    *,
};

type Store = Arc<dyn TokenStore>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Redis,
}

/// What the members of a fleet share.
pub(super) struct Shared {
    kind: Kind,
    is_encrypted: bool,
    redis: TestStore,
    folder: tempfile::TempDir,
    begun: Instant,
}

impl Shared {
    #[expect(clippy::disallowed_methods, reason = "files keep the machine's time")]
    pub(super) fn new(kind: Kind, sickness: Sickness) -> Self {
        Self {
            kind,
            is_encrypted: sickness == Sickness::OtherStoreKey,
            redis: TestStore::default(),
            folder: tempfile::tempdir().expect("a folder"),
            begun: Instant::now(),
        }
    }

    fn plain(&self, clock: &ManualClock) -> Store {
        match self.kind {
            Kind::File => Arc::new(Aged {
                store: FileStore::in_folder(self.folder.path().join("tokens")),
                clock: clock.clone(),
                begun: self.begun,
            }),
            Kind::Redis => Arc::new(self.redis.clone()),
        }
    }

    /// The store as a process has it whose clock is this.
    pub(super) fn healthy(&self, clock: &ManualClock) -> Store {
        let plain = self.plain(clock);
        match self.is_encrypted {
            true => encrypted(plain, 1),
            false => plain,
        }
    }

    /// The same for the sick one.
    pub(super) fn sick(&self, clock: &ManualClock, health: &Health) -> Store {
        Arc::new(Sick {
            store: Arc::new(FaultyStore::new(self.healthy(clock), health.hook())),
            other_key: encrypted(self.plain(clock), 2),
            health: health.clone(),
        })
    }

    /// What does not reach Redis for 5 s has lost its lock there. That of a file stays.
    pub(super) fn end_lease(&self) {
        if self.kind == Kind::Redis {
            self.redis.lose_lock();
        }
    }
}

fn encrypted(store: Store, key: u8) -> Store {
    Arc::new(EncryptedStore::new(
        store,
        EncryptionKey::from_bytes([key; 32]),
    ))
}

/// Files whose moments follow paused time, as a member's own clock tells it. Time is held while a disk is at work.
#[derive(Clone)]
struct Aged {
    store: FileStore,
    clock: ManualClock,
    begun: Instant,
}

impl Aged {
    /// How far this clock is ahead of the one that the files are written by.
    fn ahead(&self) -> Duration {
        let wall = self.clock.now().wall.duration_since(SystemTime::UNIX_EPOCH);
        wall.expect("after 1970") - self.begun.elapsed()
    }
}

impl TokenStore for Aged {
    fn load<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<Option<Stored>, Error>> {
        Box::pin(async {
            let _hold = hold_time();
            let stored = self.store.load(key).await?;
            Ok(stored
                .map(|stored| Stored::new(stored.header.counted_down(self.ahead()), stored.record)))
        })
    }

    fn try_lock<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<TryLock, Error>> {
        Box::pin(async {
            let _hold = hold_time();
            Ok(match self.store.try_lock(key).await? {
                TryLock::Locked(lock) => {
                    let store = self.clone();
                    TryLock::Locked(Box::new(AgedLock { lock, store }))
                }
                busy => busy,
            })
        })
    }
}

struct AgedLock {
    lock: Box<dyn StoreLock>,
    store: Aged,
}

impl StoreLock for AgedLock {
    fn save<'a>(
        &'a mut self,
        expected: Option<Version>,
        stored: Stored,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let _hold = hold_time();
            let ahead = self.store.ahead();
            let mut header = Header::new(stored.header.version);
            header.mark = stored.header.mark.map(|mark| InUseMark {
                settles_in: mark.settles_in + ahead,
                ..mark
            });
            header.not_before = stored.header.not_before.map(|span| span + ahead);
            header.expires_in = stored.header.expires_in.map(|span| span + ahead);
            let stored = Stored::new(header, stored.record);
            self.lock.save(expected, stored).await
        })
    }

    fn quarantine(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async {
            let _hold = hold_time();
            self.lock.quarantine().await
        })
    }

    fn unlock(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async {
            let _hold = hold_time();
            self.lock.unlock().await;
        })
    }
}

/// The store of one that may be sick.
struct Sick {
    store: Store,
    other_key: Store,
    health: Health,
}

impl Sick {
    fn store(&self) -> &Store {
        match self.health.is(Sickness::OtherStoreKey) {
            true => &self.other_key,
            false => &self.store,
        }
    }
}

impl TokenStore for Sick {
    fn load<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<Option<Stored>, Error>> {
        Box::pin(async {
            let stored = self.store().load(key).await?;
            Ok(stored.map(|stored| self.health.read(stored)))
        })
    }

    fn try_lock<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<TryLock, Error>> {
        Box::pin(async {
            Ok(match self.store().try_lock(key).await? {
                TryLock::Locked(lock) => {
                    let health = self.health.clone();
                    TryLock::Locked(Box::new(SickLock { lock, health }))
                }
                busy => busy,
            })
        })
    }
}

struct SickLock {
    lock: Box<dyn StoreLock>,
    health: Health,
}

impl StoreLock for SickLock {
    fn save<'a>(
        &'a mut self,
        expected: Option<Version>,
        stored: Stored,
    ) -> BoxFuture<'a, Result<(), Error>> {
        self.lock.save(expected, self.health.write(stored))
    }

    fn quarantine(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        self.lock.quarantine()
    }

    fn unlock(self: Box<Self>) -> BoxFuture<'static, ()> {
        self.lock.unlock()
    }
}
