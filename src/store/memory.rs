//! A store in memory: the simplest that keeps every promise, and the model for one of your own.

use std::{
    any::Any,
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::future::BoxFuture;

use super::{StoreKey, StoreLock, Stored, TokenStore, TryLock, Version};
use crate::{
    clock::{Clock, Now, SystemClock},
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
/// Spans are counted by the clock of the layers that share the store: the one that was given to the last of their
/// builders that was given one. Where the store is a part of a store of your own, no layer finds it: give it the clock
/// with [`with_clock`](Self::with_clock).
#[derive(Clone, Default)]
pub struct MemoryStore(Arc<Mutex<Inner>>);

/// What clones share.
struct Inner {
    clock: Arc<dyn Clock>,
    slots: HashMap<StoreKey, Slot>,
}

/// What is stored under one key, with the time of the save, and whether somebody holds its lock.
/// The lock needs its slot also where nothing is stored.
#[derive(Default)]
struct Slot {
    stored: Option<(Stored, Now)>,
    locked: bool,
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            slots: HashMap::new(),
        }
    }
}

impl MemoryStore {
    /// An empty store. Two of them share nothing; clones of one share all.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store that counts spans by this clock.
    #[must_use]
    pub fn with_clock(clock: impl Clock) -> Self {
        let store = Self::new();
        store.inner().follow(Arc::new(clock));
        store
    }

    /// Lets a store in memory count by the clock of its layers, also behind encryption.
    pub(crate) fn follow_clock(store: &dyn TokenStore, clock: &Arc<dyn Clock>) {
        let any: &dyn Any = store;
        if let Some(shared) = any.downcast_ref::<Arc<dyn TokenStore>>() {
            return Self::follow_clock(&**shared, clock);
        }
        let memory = any.downcast_ref::<Self>();
        #[cfg(feature = "encrypted-store")]
        let memory = memory.or_else(|| {
            any.downcast_ref::<super::EncryptedStore<Self>>()
                .map(super::EncryptedStore::inner)
        });
        if let Some(memory) = memory {
            memory.inner().follow(clock.clone());
        }
    }

    /// Held for a few instructions: a panic in between leaves nothing half done, so poison is
    /// ignored.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn slot(&mut self, key: &StoreKey) -> &mut Slot {
        self.slots.entry(key.clone()).or_default()
    }

    /// What is stored, its spans as they are by now.
    fn load(&self, key: &StoreKey) -> Option<Stored> {
        let (stored, saved) = self.slots.get(key)?.stored.as_ref()?;
        Some(counted_down(stored, *saved, self.clock.now()))
    }

    /// Counts by another clock from now on. What is left of a span is left of it.
    fn follow(&mut self, clock: Arc<dyn Clock>) {
        let (before, now) = (self.clock.now(), clock.now());
        for slot in self.slots.values_mut() {
            if let Some((stored, saved)) = &mut slot.stored {
                *stored = counted_down(stored, *saved, before);
                *saved = now;
            }
        }
        self.clock = clock;
    }
}

fn counted_down(stored: &Stored, saved: Now, now: Now) -> Stored {
    // Either clock may have stood still, or gone back.
    let by_wall = now.wall.duration_since(saved.wall).unwrap_or_default();
    let elapsed = by_wall.max(now.monotonic.saturating_sub(saved.monotonic));
    Stored::new(stored.header.counted_down(elapsed), stored.record.clone())
}

impl TokenStore for MemoryStore {
    fn load<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<Option<Stored>, Error>> {
        let stored = self.inner().load(key);
        Box::pin(async { Ok(stored) })
    }

    fn try_lock<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<TryLock, Error>> {
        let mut inner = self.inner();
        let slot = inner.slot(key);
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

    fn place(&self) -> String {
        "the memory store".to_owned()
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
        let mut inner = self.store.inner();
        let now = inner.clock.now();
        let slot = inner.slot(&self.key);
        let (found, version) = (
            slot.stored.as_ref().map(|(s, _)| s.header.version),
            Some(stored.header.version),
        );
        let result = if found == expected || (found == version && self.saved == version) {
            self.saved = version;
            slot.stored = Some((stored, now));
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
        self.store.inner().slot(&self.key).stored = None;
        Box::pin(async { Ok(()) })
    }

    fn unlock(self: Box<Self>) -> BoxFuture<'static, ()> {
        drop(self);
        Box::pin(async {})
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.store.inner().slot(&self.key).locked = false;
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.inner().slots.keys().cloned().collect::<Vec<_>>();
        f.debug_tuple("MemoryStore").field(&keys).finish()
    }
}
