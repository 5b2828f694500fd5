//! Goes on saving a pair that could not be saved (guarantee G21). The pair belongs to the source: a later renewal takes
//! it over, or replaces it. This task only tries again, until the pair is saved or worth nothing.

use std::{sync::Arc, time::Duration};

use tokio::time::{self, Instant};

use super::{
    events::Event,
    session::MARK_GRACE,
    single_flight::Busy,
    snapshot::BoughtPair,
    state::{Phase, State},
    store_session::{NotSaved, SourceStore},
};

/// Between two tries: from the first to the longest.
const TRY_AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How long a try waits for the store's lock, if it has to take it.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Keeps a pair that was not saved, and sees to it that a task goes on trying.
pub(super) fn save_later(state: &Arc<State>, pair: BoughtPair) {
    let Some(store) = &state.store else { return };
    if store.keep_unsaved(pair) {
        tokio::spawn(save_again(state.clone(), state.renewals.busy()));
    }
}

/// Lets another task take the place of one whose runtime was shut down.
struct Serving<'s>(&'s SourceStore);

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        self.0.is_served_no_more();
    }
}

async fn save_again(state: Arc<State>, _busy: Busy) {
    let Some(store) = &state.store else { return };
    let _user = state.uses_session();
    let _serving = Serving(store);
    // A source that can log in lets the lock go when the mark of its call has settled: its fleet can log in too. One
    // that can't keeps the lock, so that no sibling presents the token that this pair has replaced.
    let settles_in = state.call_timeout() + MARK_GRACE;
    let mut pause = TRY_AGAIN.0;
    let work = async {
        while store.has_unsaved_to_serve() {
            time::sleep(pause).await;
            pause = (pause * 2).min(TRY_AGAIN.1);
            // A renewal saves what it brings, and must not find its own mark overwritten.
            if !state.renewals.is_working() {
                try_once(&state, store).await;
                if state.ledger().api_key().is_some() && !state.renewals.is_working() {
                    store.close_if_settled().await;
                }
            }
        }
    };
    let end = async {
        let gone = state.has_come_to(Phase::Abandoned).await;
        // Nobody is left to use the pair. A sibling that waits for it looks again when the mark has settled.
        let _ = time::timeout_at(gone + settles_in, state.has_come_to(Phase::Ended)).await;
    };
    tokio::select! {
        biased;
        () = work => {}
        () = end => {
            store.forget_unsaved(None);
            store.has_unsaved_to_serve();
            state.teller.tell(Event::PairLost);
        }
    }
    // A renewal that has begun meanwhile uses the session, and closes it.
    if !state.renewals.is_working() {
        store.close().await;
    }
}

async fn try_once(state: &State, store: &SourceStore) {
    let Some(pair) = store.unsaved_pair() else {
        return;
    };
    // A renewal beside the lock may have presented it. What it presents from now on has a mark.
    let presented = || {
        let was_presented = state.ledger().saved_late(pair.version());
        was_presented.then_some(state.renewal_timeout())
    };
    let until = Instant::now() + LOCK_WAIT;
    match store.save(&pair, until, presented).await {
        Ok(()) => {
            state.ledger().saved_late(pair.version());
            store.forget_unsaved(Some(pair.version()));
            state.teller.tell(Event::PairSaved);
        }
        // What is stored goes before it: the next renewal adopts that.
        Err(NotSaved::MovedOn) => store.forget_unsaved(Some(pair.version())),
        Err(NotSaved::Failed(_)) if pair.has_expired() => {
            store.forget_unsaved(Some(pair.version()));
            state.teller.tell(Event::PairLost);
        }
        Err(NotSaved::Failed(_)) => {}
    }
}
