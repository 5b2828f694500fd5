//! A store in paused time that keeps the contract, and fails where the script says so. The lock of a killed process
//! stays for its lease.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use apivideo_auth::{
    Error, ErrorKind,
    store::{StoreKey, StoreLock, Stored, TokenStore, TryLock, Version},
};
use futures::future::BoxFuture;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::{
    model::{Id, Save},
    world::{Life, Shared, now, since},
};

/// How long the lock of a killed process stays.
pub(crate) const LEASE: Duration = Duration::from_secs(15);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoreFault {
    /// So long before and after each operation.
    Slow(Duration),
    /// Nothing is done.
    Fails,
    /// Nothing can be written.
    Full,
    /// What is written is done, and reported as failed.
    FailsAfter,
    Hangs,
}

#[derive(Clone, Default)]
pub(crate) struct Disk(Arc<Mutex<HashMap<String, Slot>>>);

#[derive(Default)]
struct Slot {
    stored: Option<(Stored, Instant)>,
    owner: Option<(u64, Option<Life>)>,
    abandoned: Option<Instant>,
    locks: u64,
}

impl Slot {
    fn is_locked(&self) -> bool {
        match &self.owner {
            None => false,
            Some((_, life)) => {
                let died = life.as_ref().and_then(Life::died_at).or(self.abandoned);
                died.is_none_or(|at| since(at) < LEASE)
            }
        }
    }

    fn is_owned_by(&self, owner: u64) -> bool {
        self.owner
            .as_ref()
            .is_some_and(|(number, _)| *number == owner)
    }
}

impl Disk {
    fn slots(&self) -> MutexGuard<'_, HashMap<String, Slot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, key: &str, work: impl FnOnce(&mut Slot) -> T) -> T {
        let mut slots = self.slots();
        if !slots.contains_key(key) {
            slots.insert(key.to_owned(), Slot::default());
        }
        work(slots.get_mut(key).expect("it was inserted"))
    }

    fn read(&self, key: &str) -> Option<Stored> {
        self.with(key, |slot| {
            let (stored, at) = slot.stored.as_ref()?;
            let header = stored.header.counted_down(since(*at));
            Some(Stored::new(header, stored.record.clone()))
        })
    }

    /// The pair is gone, and with `seeds` all that was stored.
    pub(crate) fn empty(&self, seeds: bool) {
        for (key, slot) in self.slots().iter_mut() {
            if seeds || !key.contains('@') {
                slot.stored = None;
            }
        }
    }

    pub(crate) fn lose_locks(&self) {
        self.slots().values_mut().for_each(|slot| slot.owner = None);
    }

    /// The stored pair: access token, refresh token.
    pub(crate) fn pair(&self) -> Option<(Option<String>, Option<String>)> {
        fields(&self.read("default")?)
    }

    /// Whether this process has the lock of the pair.
    pub(crate) fn is_locked_by(&self, life: &Life) -> bool {
        self.with("default", |slot| {
            let owner = slot.owner.as_ref().and_then(|(_, owner)| owner.as_ref());
            owner.is_some_and(|owner| owner.is(life))
        })
    }
}

fn fields(stored: &Stored) -> Option<(Option<String>, Option<String>)> {
    let record: Value = serde_json::from_slice(stored.record.as_ref()?.expose()).ok()?;
    let field = |name: &str| record[name].as_str().map(str::to_owned);
    Some((field("access_token"), field("refresh_token")))
}

/// The way of one process to the store.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) disk: Disk,
    pub(crate) world: Shared,
    pub(crate) id: Id,
    pub(crate) life: Life,
}

fn away() -> Error {
    Error::store(ErrorKind::StoreUnavailable, "the store is away", None)
}

impl Client {
    fn fault(&self) -> Option<StoreFault> {
        let mut world = self.world.lock();
        let weather = world.weather(self.id);
        let is_well = |pause: Duration| pause < Duration::from_millis(450);
        if !matches!(weather.store, None | Some(StoreFault::Slow(_)))
            || matches!(weather.store, Some(StoreFault::Slow(pause)) if !is_well(pause))
        {
            weather.store_failed = Some(now());
        }
        weather.store
    }

    async fn play<T>(
        &self,
        writes: bool,
        work: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        self.life
            .lives(async {
                match self.fault() {
                    None => work(),
                    Some(StoreFault::Slow(pause)) => {
                        sleep(pause).await;
                        let result = work();
                        sleep(pause).await;
                        result
                    }
                    Some(StoreFault::Fails) => Err(away()),
                    Some(StoreFault::Full) if writes => Err(away()),
                    Some(StoreFault::FailsAfter) if writes => {
                        work()?;
                        Err(away())
                    }
                    Some(StoreFault::Full | StoreFault::FailsAfter) => work(),
                    Some(StoreFault::Hangs) => std::future::pending().await,
                }
            })
            .await
    }
}

impl TokenStore for Client {
    fn load<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<Option<Stored>, Error>> {
        Box::pin(self.play(false, || Ok(self.disk.read(key.account()))))
    }

    fn try_lock<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<TryLock, Error>> {
        Box::pin(self.play(false, || {
            let owner = self.disk.with(key.account(), |slot| {
                if slot.is_locked() {
                    return None;
                }
                slot.locks += 1;
                slot.abandoned = None;
                slot.owner = Some((slot.locks, Some(self.life.clone())));
                Some(slot.locks)
            });
            Ok(match owner {
                None => TryLock::Busy(Some("another process".to_owned())),
                Some(owner) => TryLock::Locked(Box::new(Lock {
                    client: self.clone(),
                    key: key.account().to_owned(),
                    owner,
                    saved: None,
                })),
            })
        }))
    }
}

struct Lock {
    client: Client,
    key: String,
    owner: u64,
    saved: Option<Version>,
}

impl Lock {
    fn write(&mut self, expected: Option<Version>, stored: Stored) -> Result<(), Error> {
        let version = Some(stored.header.version);
        let pair = fields(&stored);
        let (before, result) = self.client.disk.with(&self.key, |slot| {
            let found = slot
                .stored
                .as_ref()
                .map(|(stored, _)| stored.header.version);
            let again = found == version && self.saved == version;
            if !slot.is_owned_by(self.owner) || found != expected && !again {
                let message = "the lock was lost, or another pair is stored";
                return (
                    None,
                    Err(Error::store(ErrorKind::StoreConflict, message, None)),
                );
            }
            slot.stored = Some((stored, now()));
            (found, Ok(()))
        });
        result?;
        self.saved = version;
        let mut world = self.client.world.lock();
        if let (Some(before), Some(version)) = (before, version)
            && before.family == version.family
            && before.revision > version.revision
        {
            let name = world.name(self.client.id);
            world.violate(format!("{name} saves an earlier pair over a later one"));
        }
        if let Some((Some(access), _)) = pair {
            let (name, pair) = (world.name(self.client.id), world.model.name_of(&access));
            world.tell(|_| format!("{name} saves pair {pair}"));
            world.model.save(&access, Save::Written);
        }
        Ok(())
    }
}

impl StoreLock for Lock {
    fn save<'a>(
        &'a mut self,
        expected: Option<Version>,
        stored: Stored,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let client = self.client.clone();
            let access = fields(&stored).and_then(|pair| pair.0);
            let result = client.play(true, || self.write(expected, stored)).await;
            if let Some(access) = access {
                client.world.lock().model.save(&access, Save::Tried);
            }
            result
        })
    }

    fn quarantine(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let client = self.client.clone();
            client
                .play(true, || {
                    client.disk.with(&self.key, |slot| slot.stored = None);
                    Ok(())
                })
                .await
        })
    }

    fn unlock(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let client = self.client.clone();
            // Dropped with it, if it hangs.
            let _ = client.play(true, || Ok(())).await;
            drop(self);
        })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if !self.client.life.is_dead() {
            self.client.disk.with(&self.key, |slot| {
                if slot.is_owned_by(self.owner) {
                    slot.owner = None;
                }
            });
        }
    }
}
