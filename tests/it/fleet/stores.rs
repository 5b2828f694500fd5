//! Stores for a fleet: one in memory that follows paused time, and one without locks.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use apivideo_auth::{
    Error, ErrorKind,
    store::{Header, InUseMark, Record, StoreKey, StoreLock, Stored, TokenStore, TryLock, Version},
};
use futures::future::BoxFuture;
use serde_json::Value;
use tokio::time::Instant;

/// One pair in memory, and the record of its spent seeds, whose spans follow Tokio's time. Locks can be lost, as leases can.
#[derive(Clone, Default)]
pub(crate) struct TestStore {
    pair: Shared,
    seeds: Shared,
}

/// What is stored under one key.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Slot>>);

#[derive(Default)]
struct Slot {
    stored: Option<(Stored, Instant)>,
    owner: Option<u64>,
    locks: u64,
}

impl Shared {
    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> Option<Stored> {
        let slot = self.slot();
        let (Stored { header, record, .. }, saved) = slot.stored.as_ref()?;
        let left = |span: Duration| span.saturating_sub(saved.elapsed());
        let mut now = Header::new(header.version);
        now.mark = header.mark.map(|mark| InUseMark {
            settles_in: left(mark.settles_in),
            ..mark
        });
        now.not_before = header.not_before.map(left);
        now.expires_in = header.expires_in.map(left);
        Some(Stored::new(now, record.clone()))
    }

    fn put(&self, stored: Option<Stored>) {
        self.slot().stored = stored.map(|stored| (stored, Instant::now()));
    }
}

impl TestStore {
    fn at(&self, key: &StoreKey) -> &Shared {
        if key.account().contains('@') {
            &self.seeds
        } else {
            &self.pair
        }
    }

    pub(crate) fn read(&self) -> Option<Stored> {
        self.pair.read()
    }

    /// Puts something else in its place, as a person does who restores or removes a file.
    pub(crate) fn put(&self, stored: Option<Stored>) {
        self.pair.put(stored);
    }

    /// The leases of whoever holds a lock end.
    pub(crate) fn lose_lock(&self) {
        self.pair.slot().owner = None;
        self.seeds.slot().owner = None;
    }

    pub(crate) fn version(&self) -> Option<Version> {
        self.read().map(|stored| stored.header.version)
    }

    pub(crate) fn mark(&self) -> Option<InUseMark> {
        self.read()?.header.mark
    }

    /// The stored refresh token.
    pub(crate) fn refresh_token(&self) -> Option<String> {
        field(&self.read()?, "refresh_token")
    }
}

/// A field of a stored pair.
pub(crate) fn field(stored: &Stored, name: &str) -> Option<String> {
    let record: Value = serde_json::from_slice(stored.record.as_ref()?.expose()).expect("JSON");
    record[name].as_str().map(str::to_owned)
}

/// The same record with other bytes.
pub(crate) fn damaged(stored: &Stored) -> Stored {
    Stored::new(
        stored.header,
        Some(Record::new(b"{\"form\":1,\"access_".to_vec())),
    )
}

impl TokenStore for TestStore {
    fn load<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<Option<Stored>, Error>> {
        Box::pin(async { Ok(self.at(key).read()) })
    }

    fn try_lock<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<TryLock, Error>> {
        Box::pin(async {
            let mut slot = self.at(key).slot();
            if slot.owner.is_some() {
                return Ok(TryLock::Busy(Some("the neighbour".to_owned())));
            }
            slot.locks += 1;
            let owner = slot.locks;
            slot.owner = Some(owner);
            Ok(TryLock::Locked(Box::new(Lock {
                at: self.at(key).clone(),
                owner,
                saved: None,
            })))
        })
    }
}

struct Lock {
    at: Shared,
    owner: u64,
    saved: Option<Version>,
}

impl StoreLock for Lock {
    fn save<'a>(
        &'a mut self,
        expected: Option<Version>,
        stored: Stored,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let mut slot = self.at.slot();
            let found = slot
                .stored
                .as_ref()
                .map(|(stored, _)| stored.header.version);
            let version = Some(stored.header.version);
            let again = found == version && self.saved == version;
            if slot.owner != Some(self.owner) || found != expected && !again {
                return Err(Error::store(
                    ErrorKind::StoreConflict,
                    "lost, or another pair",
                    None,
                ));
            }
            slot.stored = Some((stored, Instant::now()));
            self.saved = version;
            Ok(())
        })
    }

    fn quarantine(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        self.at.put(None);
        Box::pin(async { Ok(()) })
    }

    fn unlock(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async { drop(self) })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let mut slot = self.at.slot();
        if slot.owner == Some(self.owner) {
            slot.owner = None;
        }
    }
}

/// Hands out locks that lock nothing: what a store must not be.
#[derive(Clone)]
pub(crate) struct Lockless<S>(pub(crate) S);

impl<S: TokenStore + Clone> TokenStore for Lockless<S> {
    fn load<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<Option<Stored>, Error>> {
        self.0.load(key)
    }

    fn try_lock<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<TryLock, Error>> {
        Box::pin(async {
            Ok(TryLock::Locked(Box::new(NoLock {
                store: self.0.clone(),
                key: key.clone(),
            })))
        })
    }
}

/// Locks for each save alone.
struct NoLock<S> {
    store: S,
    key: StoreKey,
}

impl<S: TokenStore> StoreLock for NoLock<S> {
    fn save<'a>(
        &'a mut self,
        expected: Option<Version>,
        stored: Stored,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            loop {
                if let TryLock::Locked(mut lock) = self.store.try_lock(&self.key).await? {
                    let result = lock.save(expected, stored).await;
                    lock.unlock().await;
                    return result;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
    }

    fn quarantine(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }

    fn unlock(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async {})
    }
}
