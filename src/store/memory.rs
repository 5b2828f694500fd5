//! A store in memory: the simplest that keeps every promise, and the model for one of your own.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::future::BoxFuture;

use super::{StoreKey, StoreLock, Stored, TokenStore, TryLock, Version};
use crate::{
    clock::{Now, system_now},
    error::{Error, ErrorKind},
};

/// A store that lives as long as the process: for tests, and for several layers of one program.
///
/// Clones share what is stored. Nothing protects it but the process itself.
///
/// ```
/// use apivideo_auth::{ApiVideoAuthLayer, store::MemoryStore};
///
/// // A test of a program's restart: the second layer finds what the first one saved.
/// let store = MemoryStore::new();
/// let first = ApiVideoAuthLayer::builder().store(store.clone()).api_key("test-only-key").build()?;
/// let second = ApiVideoAuthLayer::builder().store(store).build()?;
/// # Ok::<(), apivideo_auth::Error>(())
/// ```
///
/// Spans are counted by the system's clocks, not by a clock that was given to the builder.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore(Arc<Mutex<HashMap<StoreKey, Slot>>>);

/// What is stored under one key, with the time of the save, and whether somebody holds its lock.
/// The lock needs its slot also where nothing is stored.
#[derive(Debug, Default)]
struct Slot {
    stored: Option<(Stored, Now)>,
    locked: bool,
}

impl MemoryStore {
    /// An empty store. Two of them share nothing; clones of one share all.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Held for a few instructions: a panic in between leaves nothing half done, so poison is
    /// ignored.
    fn slots(&self) -> MutexGuard<'_, HashMap<StoreKey, Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TokenStore for MemoryStore {
    fn load<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<Option<Stored>, Error>> {
        let slots = self.slots();
        let stored = slots.get(key).and_then(|slot| slot.stored.as_ref());
        let stored = stored.map(|(stored, saved)| {
            let now = system_now();
            // Either clock may have stood still, or gone back.
            let by_wall = now.wall.duration_since(saved.wall).unwrap_or_default();
            let elapsed = by_wall.max(now.monotonic.saturating_sub(saved.monotonic));
            Stored {
                header: stored.header.counted_down(elapsed),
                record: stored.record.clone(),
            }
        });
        Box::pin(async { Ok(stored) })
    }

    fn try_lock<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<TryLock, Error>> {
        let mut slots = self.slots();
        let slot = slots.entry(key.clone()).or_default();
        let lock = if slot.locked {
            TryLock::Busy(Some("another layer of this process".to_owned()))
        } else {
            slot.locked = true;
            TryLock::Locked(Box::new(Lock {
                store: self.clone(),
                key: key.clone(),
                saved: None,
            }))
        };
        Box::pin(async { Ok(lock) })
    }
}

/// Drop frees it, so that a lock whose future was dropped is free at once.
struct Lock {
    store: MemoryStore,
    key: StoreKey,
    /// What this lock saved last: the same save again is a success, not a conflict.
    saved: Option<Version>,
}

impl StoreLock for Lock {
    fn save<'a>(
        &'a mut self,
        expected: Option<Version>,
        stored: Stored,
    ) -> BoxFuture<'a, Result<(), Error>> {
        let mut slots = self.store.slots();
        let slot = slots.entry(self.key.clone()).or_default();
        let (found, version) = (
            slot.stored.as_ref().map(|(s, _)| s.header.version),
            Some(stored.header.version),
        );
        let result = if found == expected || (found == version && self.saved == version) {
            self.saved = version;
            slot.stored = Some((stored, system_now()));
            Ok(())
        } else {
            Err(Error::new(
                ErrorKind::StoreConflict,
                "another pair was stored in the meantime",
            ))
        };
        Box::pin(async { result })
    }

    fn quarantine(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        self.store
            .slots()
            .entry(self.key.clone())
            .or_default()
            .stored = None;
        Box::pin(async { Ok(()) })
    }

    fn unlock(self: Box<Self>) -> BoxFuture<'static, ()> {
        drop(self);
        Box::pin(async {})
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.store
            .slots()
            .entry(self.key.clone())
            .or_default()
            .locked = false;
    }
}
