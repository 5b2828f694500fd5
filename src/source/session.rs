//! The store under its lock: what is read and written there in one go (guarantees G21 and G24).

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use tokio::time::{self, Instant};

use super::{snapshot::Snapshot, teller::Teller};
use crate::{
    credentials::RefreshToken,
    error::{Error, ErrorKind},
    store::{StoreLock, Version},
};

/// After a mark the token has to be on its way within this time, or the lock is proven again.
const MARK_HOLDS: Duration = Duration::from_secs(1);

/// What a mark allows on top of the time for which the call's response is read under the lock.
pub(super) const MARK_GRACE: Duration = Duration::from_secs(5);

/// The longest that one operation of a store may take.
const STORE_TIMEOUT: Duration = Duration::from_secs(10);

/// What was stored at the last look, or save.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen(Arc<Mutex<Option<Version>>>);

/// The store under its lock.
pub(super) struct Session {
    lock: Box<dyn StoreLock>,
    snapshot: Option<Snapshot>,
    seen: Seen,
    teller: Arc<Teller>,
}

impl Seen {
    pub(super) fn get(&self) -> Option<Version> {
        *self.lock()
    }

    pub(super) fn set(&self, version: Option<Version>) {
        *self.lock() = version;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Version>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    pub(super) fn new(
        lock: Box<dyn StoreLock>,
        snapshot: Option<Snapshot>,
        seen: Seen,
        teller: Arc<Teller>,
    ) -> Self {
        Self {
            lock,
            snapshot,
            seen,
            teller,
        }
    }

    /// Takes over what a later look has found.
    pub(super) fn refresh(&mut self, stored: Snapshot) {
        self.snapshot = Some(stored);
    }

    pub(super) fn snapshot(&self) -> Option<&Snapshot> {
        self.snapshot.as_ref()
    }

    pub(super) fn version(&self) -> Option<Version> {
        self.snapshot.as_ref().map(Snapshot::version)
    }

    pub(super) fn marks(&self) -> u32 {
        self.snapshot.as_ref().map_or(0, Snapshot::marks)
    }

    /// Takes up a given refresh token.
    pub(super) async fn plant(&mut self, seed: RefreshToken) -> Result<(), Error> {
        self.save(Snapshot::planted(seed)).await
    }

    /// Notes that a refresh token is about to be presented, and that its response is read for `reads_for`. Returns when
    /// that has only just been made sure.
    pub(super) async fn mark(&mut self, reads_for: Duration) -> Result<(), Error> {
        let mut snapshot = self.snapshot.clone().unwrap_or_else(Snapshot::nothing);
        let count = self.marks().saturating_add(1);
        for _ in 0..3 {
            let begun = Instant::now();
            snapshot.mark(count, reads_for + MARK_GRACE);
            self.save(snapshot.clone()).await?;
            if begun.elapsed() < MARK_HOLDS {
                return Ok(());
            }
        }
        Err(Error::new(
            ErrorKind::StoreUnavailable,
            "the store is too slow to guard a refresh token",
        ))
    }

    /// The response is read for `rest` longer than the mark says.
    pub(super) async fn extend_mark(&mut self, rest: Duration) -> Result<(), Error> {
        let count = self.marks();
        self.change(|snapshot| snapshot.mark(count, rest + MARK_GRACE))
            .await
    }

    /// Changes what is stored, if anything is.
    pub(super) async fn change(&mut self, change: impl FnOnce(&mut Snapshot)) -> Result<(), Error> {
        let Some(mut snapshot) = self.snapshot.clone() else {
            return Ok(());
        };
        change(&mut snapshot);
        self.save(snapshot).await
    }

    /// Keeps everybody from calling for a while.
    pub(super) async fn pause(&mut self, wait: Duration, was_asked: bool) -> Result<(), Error> {
        let mut snapshot = self.snapshot.clone().unwrap_or_else(Snapshot::nothing);
        snapshot.pause(wait, was_asked);
        self.save(snapshot).await
    }

    /// Replaces what is stored, if nothing else was stored since this session saw it.
    pub(super) async fn save(&mut self, snapshot: Snapshot) -> Result<(), Error> {
        let expected = self.version();
        let saved = bounded(|| self.lock.save(expected, snapshot.close())).await;
        match saved {
            // Spoilt since this session looked, and under its lock: nothing is lost that it does not know.
            Err(error) if error.kind() == ErrorKind::StoreCorrupt => {
                quarantine(&mut *self.lock, error, &self.teller).await?;
                bounded(|| self.lock.save(None, snapshot.close())).await?;
            }
            saved => saved?,
        }
        self.seen.set(Some(snapshot.version()));
        self.snapshot = Some(snapshot);
        Ok(())
    }

    pub(super) async fn close(self) {
        unlock(self.lock).await;
    }
}

/// Stores bound their own waits and don't panic; one that does otherwise must not cost a pair that was granted.
pub(super) async fn bounded<'a, T>(
    work: impl FnOnce() -> BoxFuture<'a, Result<T, Error>>,
) -> Result<T, Error> {
    let work = AssertUnwindSafe(async { work().await }).catch_unwind();
    match time::timeout(STORE_TIMEOUT, work).await {
        Ok(Ok(result)) => result,
        Ok(Err(_payload)) => Err(Error::new(ErrorKind::Panicked, "the token store panicked")),
        Err(_) => {
            let message = format!("the token store did not answer within {STORE_TIMEOUT:?}");
            Err(Error::new(ErrorKind::StoreUnavailable, message))
        }
    }
}

pub(super) async fn quarantine(
    lock: &mut dyn StoreLock,
    error: Error,
    teller: &Teller,
) -> Result<(), Error> {
    teller.store_failed("the stored record is quarantined, and replaced", error);
    bounded(|| lock.quarantine()).await
}

pub(super) async fn unlock(lock: Box<dyn StoreLock>) {
    // A lock that can't be freed ends with its process or lease.
    let _ = bounded(|| lock.unlock().map(Ok).boxed()).await;
}
