//! What has come of an upload so far, shared by its workers.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use http::StatusCode;

use super::{
    options::OnCheckpoint, progress::Progress, record::Record, unfinished::Unfinished,
    uploaded::Uploaded,
};
use crate::error::Error;

/// A response that accepted a chunk.
pub(super) type Response = (StatusCode, Bytes);

/// The locks are held for a few instructions; the callback has one of its own, and none of the others is held while it
/// runs.
pub(super) struct State {
    now: Mutex<Now>,
    on_checkpoint: Option<Mutex<OnCheckpoint>>,
}

struct Now {
    record: Record,
    /// By the numbers of the chunks.
    in_flight: BTreeMap<u64, InFlight>,
    /// The last one.
    response: Option<Response>,
}

/// A chunk whose request is out.
pub(super) struct InFlight {
    /// What the client has taken of the form.
    pub(super) taken: Arc<AtomicU64>,
    /// What of the form comes before the chunk, and how long that is.
    pub(super) head: u64,
    pub(super) length: u64,
}

impl InFlight {
    fn bytes(&self) -> u64 {
        let taken = self.taken.load(Ordering::Relaxed);
        taken.saturating_sub(self.head).min(self.length)
    }
}

impl State {
    pub(super) fn new(record: Record, on_checkpoint: Option<OnCheckpoint>) -> Self {
        let now = Now {
            record,
            in_flight: BTreeMap::new(),
            response: None,
        };
        Self {
            now: Mutex::new(now),
            on_checkpoint: on_checkpoint.map(Mutex::new),
        }
    }

    /// A copy of what is known.
    pub(super) fn record(&self) -> Record {
        self.lock().record.clone()
    }

    /// Notes that a chunk goes out, before it does. Says whether it may have arrived before.
    pub(super) fn begin(&self, number: u64) -> bool {
        let is_known = !self.lock().record.sent.insert(number);
        self.checkpoint();
        is_known
    }

    /// Counts what the client takes in this attempt, in the place of one before.
    pub(super) fn attempt(&self, number: u64, in_flight: InFlight) {
        self.lock().in_flight.insert(number, in_flight);
    }

    /// Notes that an attempt has failed: nothing of the chunk is on its way any more.
    pub(super) fn rest(&self, number: u64) {
        self.lock().in_flight.remove(&number);
    }

    /// Notes that a chunk is with the API.
    pub(super) fn accept(
        &self,
        number: u64,
        length: u64,
        video_id: &str,
        response: Option<Response>,
    ) {
        {
            let mut now = self.lock();
            now.in_flight.remove(&number);
            now.response = response.or(now.response.take());
            let record = &mut now.record;
            record.sent.remove(&number);
            record.accepted.insert(number);
            record.bytes += length;
            record.video_id.get_or_insert_with(|| video_id.to_owned());
        }
        self.checkpoint();
    }

    /// Notes that a chunk is given up, and whether it may have arrived.
    pub(super) fn give_up(&self, number: u64, may_have_arrived: bool) {
        {
            let mut now = self.lock();
            now.in_flight.remove(&number);
            if !may_have_arrived {
                now.record.sent.remove(&number);
            }
        }
        self.checkpoint();
    }

    pub(super) fn progress(&self) -> Progress {
        let now = self.lock();
        let in_flight: u64 = now.in_flight.values().map(InFlight::bytes).sum();
        let (accepted, total) = (now.record.bytes, now.record.length);
        Progress {
            bytes: accepted + in_flight,
            accepted,
            total,
        }
    }

    pub(super) fn unfinished(&self, cause: Error) -> Unfinished {
        Unfinished::new(self.record(), Some(cause))
    }

    pub(super) fn uploaded(&self, video_id: String) -> Uploaded {
        let now = self.lock();
        let (bytes, chunks) = (now.record.bytes, now.record.accepted.len() as u64);
        Uploaded::new(video_id, bytes, chunks, now.response.clone())
    }

    fn checkpoint(&self) {
        if let Some(call) = &self.on_checkpoint {
            let unfinished = Unfinished::new(self.record(), None);
            call.lock().unwrap_or_else(PoisonError::into_inner)(&unfinished);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
