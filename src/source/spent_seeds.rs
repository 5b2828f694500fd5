//! Which seeds were taken up (guarantee G26): noted in the store before a seed is presented, under a key of their own, which
//! the loss of the pair's record leaves alone.

use std::time::Duration;

use tokio::time::{self, Instant};

use super::{
    session::{bounded, unlock},
    snapshot::new_family,
    store_session::SourceStore,
};
use crate::{
    credentials::RefreshToken,
    error::{Error, ErrorKind},
    store::{Header, SpentSeeds, StoreKey, StoreLock, Stored, TryLock, Version},
};

/// How long the lock of the note is waited for. Whoever takes up a seed holds the pair's lock too, so it is free but for
/// one whose holder died.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Between two looks at that lock.
const POLL: Duration = Duration::from_millis(100);

/// Whether a seed was taken up before, by anyone who shares the store.
pub(super) async fn is_spent(store: &SourceStore, seed: &RefreshToken) -> Result<bool, Error> {
    let (_, seeds) = load(store, &store.key().spent_seeds()).await?;
    Ok(seeds.has(seed))
}

/// Notes a seed as taken up, unless it is noted.
pub(super) async fn note(store: &SourceStore, seed: &RefreshToken) -> Result<(), Error> {
    let key = store.key().spent_seeds();
    if load(store, &key).await?.1.has(seed) {
        return Ok(());
    }
    let mut lock = lock(store, &key).await?;
    let noted = note_locked(store, &key, &mut *lock, seed).await;
    unlock(lock).await;
    noted
}

async fn note_locked(
    store: &SourceStore,
    key: &StoreKey,
    lock: &mut dyn StoreLock,
    seed: &RefreshToken,
) -> Result<(), Error> {
    let (found, mut seeds) = load(store, key).await?;
    seeds.note(seed);
    let next = found.map_or_else(
        || new_family(1),
        |found| Version {
            revision: found.revision.saturating_add(1),
            ..found
        },
    );
    let stored = Stored::new(Header::new(next), Some(seeds.close()));
    bounded(|| lock.save(found, stored)).await
}

async fn load(store: &SourceStore, key: &StoreKey) -> Result<(Option<Version>, SpentSeeds), Error> {
    let stored = bounded(|| store.store().load(key)).await?;
    let version = stored.as_ref().map(|stored| stored.header.version);
    let record = stored.and_then(|stored| stored.record);
    let seeds = record.as_ref().map(SpentSeeds::open).transpose()?;
    Ok((version, seeds.unwrap_or_default()))
}

async fn lock(store: &SourceStore, key: &StoreKey) -> Result<Box<dyn StoreLock>, Error> {
    let until = Instant::now() + LOCK_WAIT;
    loop {
        if let TryLock::Locked(lock) = bounded(|| store.store().try_lock(key)).await? {
            return Ok(lock);
        }
        if Instant::now() + POLL > until {
            let message = "the store's lock on the spent refresh tokens was not free in time";
            return Err(Error::new(ErrorKind::StoreLocked, message));
        }
        time::sleep(POLL).await;
    }
}
