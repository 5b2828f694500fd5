//! What requests use: the access token in use, and its number. This is the one owner of generations.
//!
//! The refresh token is not here; its one home is the [`ledger`](super::ledger).

use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use tokio::sync::{RwLock, watch};

use super::events::RenewalEvent;
use crate::{clock::Now, token::Bearer};

/// The two numbers that every request looks at. They change once in a token's lifetime, and lie apart from all that
/// changes more often: processors share their cache line without a word.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Generations {
    /// The generation that requests may use; 0 if there is none or it is out of use.
    live: AtomicU64,
    /// The newest generation that the API has accepted.
    accepted: AtomicU64,
}

impl Generations {
    /// The generation that requests may use, or 0.
    #[inline]
    pub(crate) fn live(&self) -> u64 {
        self.live.load(Ordering::Acquire)
    }

    /// Whether the API has accepted this generation or a later one. Only the first response to each writes, so that
    /// threads do not contend for the number.
    #[inline]
    pub(crate) fn is_accepted(&self, generation: u64) -> bool {
        self.accepted.load(Ordering::Acquire) >= generation
    }

    /// The API answered a request with this generation as it answers those that are signed in.
    pub(super) fn accept(&self, generation: u64) {
        self.accepted.fetch_max(generation, Ordering::AcqRel);
    }
}

#[derive(Debug)]
pub(super) struct Current {
    /// The shared truth. It is locked for a few instructions at a time, to swap a pointer or to look at one, and never
    /// across an await.
    bearer: RwLock<Option<Bearer>>,
    /// A client that has seen the generation that is live need not look at `bearer` again.
    generations: Arc<Generations>,
    latest: watch::Sender<Option<RenewalEvent>>,
}

impl Current {
    pub(super) fn new() -> Self {
        Self {
            bearer: RwLock::new(None),
            generations: Arc::default(),
            latest: watch::Sender::new(None),
        }
    }

    pub(super) fn generations(&self) -> &Arc<Generations> {
        &self.generations
    }

    /// The generation that requests may use, or 0.
    pub(super) fn live(&self) -> u64 {
        self.generations.live()
    }

    /// The generation of the newest token, usable or not; 0 before the first.
    pub(super) fn generation(&self) -> u64 {
        self.read(|bearer| bearer.map_or(0, Bearer::generation))
    }

    /// The token in use, if requests may use it.
    pub(super) fn usable(&self, now: Now) -> Option<Bearer> {
        self.look_at_usable(now, Bearer::clone)
    }

    /// What [`usable`](Self::usable) is made of, for a caller that needs less than a token of its own.
    pub(super) fn look_at_usable<T>(&self, now: Now, look: impl FnOnce(&Bearer) -> T) -> Option<T> {
        self.read(|bearer| {
            let bearer = bearer?;
            (bearer.generation() == self.live() && bearer.is_usable(now)).then(|| look(bearer))
        })
    }

    /// Looks at the newest token, usable or not, while nobody can replace it.
    ///
    /// A reader never takes a swap for the absence of a token: that would start a renewal that nobody needs. A swap takes
    /// no longer than this thread takes to look again.
    pub(super) fn read<T>(&self, look: impl FnOnce(Option<&Bearer>) -> T) -> T {
        let bearer = loop {
            match self.bearer.try_read() {
                Ok(bearer) => break bearer,
                Err(_) => thread::yield_now(),
            }
        };
        look(bearer.deref().as_ref())
    }

    /// Puts a new token to use. `make` is told the number of the one that it replaces and the number of the new one. It
    /// runs under the lock, so that whatever it settles is settled together with the swap.
    ///
    /// It never queues for the lock: a writer in the queue would shut readers out until its task is polled.
    pub(super) fn replace(
        &self,
        make: impl FnOnce(u64, u64) -> Option<(Bearer, RenewalEvent)>,
    ) -> Option<(Bearer, RenewalEvent)> {
        let mut slot = loop {
            match self.bearer.try_write() {
                Ok(slot) => break slot,
                Err(_) => thread::yield_now(),
            }
        };
        let replaced = slot.as_ref().map_or(0, Bearer::generation);
        let (bearer, event) = make(replaced, replaced + 1)?;
        *slot = Some(bearer.clone());
        self.generations
            .live
            .store(bearer.generation(), Ordering::Release);
        drop(slot);
        // Two that publish at once may arrive here in any order: the latest event is that of the latest token.
        self.latest.send_if_modified(|latest| {
            let is_newer = latest.is_none_or(|latest| latest.generation < event.generation);
            if is_newer {
                *latest = Some(event);
            }
            is_newer
        });
        Some((bearer, event))
    }

    /// Takes a generation out of use. Says whether it was in use.
    pub(super) fn take_out(&self, generation: u64) -> bool {
        generation != 0
            && self
                .generations
                .live
                .compare_exchange(generation, 0, Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
    }

    /// Puts a generation that was taken out back in use, unless another has replaced it. `which` runs under the lock.
    pub(super) fn put_back(&self, which: impl FnOnce() -> u64) {
        self.read(|bearer| {
            // Under the lock: no swap comes between the look and the change.
            let generation = which();
            if bearer.is_some_and(|bearer| bearer.generation() == generation) {
                let _ = self.generations.live.compare_exchange(
                    0,
                    generation,
                    Ordering::AcqRel,
                    Ordering::Acquire,
                );
            }
        });
    }

    /// Resolves once a token newer than `generation` is there.
    pub(super) async fn newer_than(&self, generation: u64) {
        let mut events = self.latest.subscribe();
        // The sender is `self`: the channel can't be closed.
        let _ = events
            .wait_for(|event| event.is_some_and(|event| event.generation > generation))
            .await;
    }

    /// The newest token, as it is told.
    pub(super) fn latest(&self) -> watch::Receiver<Option<RenewalEvent>> {
        self.latest.subscribe()
    }
}
