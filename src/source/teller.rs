//! The one place that tells what happens in a source: the stream, the log and the metrics are all made from the events that
//! pass [`Teller::tell`] (guarantee G29).

use std::{
    fmt,
    panic::{self, AssertUnwindSafe},
    sync::{Mutex, PoisonError},
};

use tokio::sync::broadcast;

#[cfg(feature = "metrics")]
use super::metrics;
use super::{
    events::{Event, Labels},
    log,
};
use crate::error::Error;

/// How many events wait for a slow reader. A renewal makes five or so.
const KEPT: usize = 64;

/// So many foreign origins are told of. A program that follows redirects must not fill the memory with them.
const FOREIGN: usize = 32;

/// Tells what happens in one source.
pub(crate) struct Teller {
    labels: Labels,
    events: broadcast::Sender<Event>,
    /// Origins whose requests have passed without a token.
    foreign: Mutex<Vec<String>>,
}

impl Teller {
    pub(crate) fn new(account: String, origin: String) -> Self {
        Self {
            labels: Labels { account, origin },
            events: broadcast::Sender::new(KEPT),
            foreign: Mutex::default(),
        }
    }

    pub(super) fn labels(&self) -> &Labels {
        &self.labels
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Tells an event to the log, to the metrics and to those that have subscribed. No lock of the source may be held but
    /// that of its store's session: a subscriber of `tracing` is code of the user's. If that panics, nothing else suffers.
    pub(super) fn tell(&self, event: Event) {
        let _ = panic::catch_unwind(AssertUnwindSafe(|| {
            log::log(&self.labels, &event);
            #[cfg(feature = "metrics")]
            metrics::record(&self.labels, &event);
        }));
        // Nobody has to listen.
        let _ = self.events.send(event);
    }

    pub(super) fn store_failed(&self, what: &'static str, error: Error) {
        self.tell(Event::StoreFailed { what, error });
    }

    /// A request has passed without a token, since its `origin` is not on the list. Told once for each origin, and asked
    /// for only if somebody listens.
    pub(super) fn passed_without_token(&self, origin: impl FnOnce() -> Option<String>) {
        if !log::tells_of_requests() {
            return;
        }
        let Some(origin) = origin() else { return };
        let mut foreign = self.foreign.lock().unwrap_or_else(PoisonError::into_inner);
        if foreign.len() < FOREIGN && !foreign.contains(&origin) {
            foreign.push(origin.clone());
            drop(foreign);
            log::passed_without_token(&self.labels, &origin);
        }
    }
}

impl fmt::Debug for Teller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Teller").finish_non_exhaustive()
    }
}
