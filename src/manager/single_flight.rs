//! One flight at a time. The gate is a plain lock that is held for a few instructions and never across an await;
//! a flight is a task of its own that reports through a channel.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

use super::policy;
use crate::{
    clock::{Deadline, Now},
    error::Error,
    token::TokenPair,
};

pub(super) type Outcome = Result<TokenPair, Error>;

/// What callers wait on. It closes without an outcome if the flight's runtime is shut down.
pub(super) type Landing = watch::Receiver<Option<Outcome>>;

/// Lets one flight through at a time, and none while a failure is fresh.
#[derive(Debug)]
pub(super) struct Gate {
    state: Mutex<State>,
    /// Flights that have not ended, those included that landed and still read a late response.
    under_way: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct State {
    flights: u64,
    flight: Option<Flight>,
    cool_down: Option<CoolDown>,
    outage: Option<Outage>,
    closed: Option<Closed>,
}

/// Failures without a success in between, in monotonic time.
#[derive(Clone, Copy, Debug)]
struct Outage {
    since: Duration,
    last: Duration,
}

/// A failure that comes this long after the last one begins a new outage: nobody asked in between.
const FORGET_OUTAGE: Duration = Duration::from_secs(300);

#[derive(Debug)]
struct Closed {
    error: Error,
    for_good: bool,
}

/// A flight as its callers see it.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    id: u64,
    pub(super) landing: Landing,
    /// For a probe: what callers get who won't wait for its end.
    pub(super) probe_after: Option<Error>,
}

#[derive(Debug)]
struct CoolDown {
    error: Error,
    /// `None`: until credentials are set.
    until: Option<Deadline>,
}

/// How long nobody may call after a failure.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pause {
    /// By the length of the outage, or longer if the server asked for it.
    Outage {
        asked: Option<Duration>,
    },
    For(Duration),
    UntilCredentialsChange,
    None,
}

/// What a caller finds at the gate.
#[derive(Debug)]
pub(super) enum Boarding {
    /// What it wants is there already.
    Done(TokenPair),
    Join(Flight),
    /// The caller is to spawn the flight.
    Lead(Flight, Pilot),
}

impl Gate {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::default(),
            under_way: watch::Sender::new(0),
        }
    }

    /// Joins the flight under way or starts one. `have` looks again, under the lock, for what the caller wants: a
    /// flight publishes before it lands, so none is started for what another has just brought.
    pub(super) fn board(
        self: &Arc<Self>,
        now: Now,
        have: impl FnOnce() -> Option<TokenPair>,
    ) -> Result<Boarding, Error> {
        let mut state = self.lock();
        if let Some(pair) = have() {
            return Ok(Boarding::Done(pair));
        }
        if let Some(flight) = &state.flight {
            return Ok(Boarding::Join(flight.clone()));
        }
        if let Some(closed) = &state.closed {
            return Err(closed.error.clone());
        }
        let mut probe_after = None;
        if let Some(CoolDown { error, until }) = &state.cool_down {
            match until {
                None => return Err(error.clone()),
                Some(until) if !until.has_passed(now) => {
                    return Err(error.clone().after(Some(until.left(now))));
                }
                Some(_) => probe_after = Some(error.clone().after(None)),
            }
        }
        state.flights += 1;
        let (report, landing) = watch::channel(None);
        let flight = Flight {
            id: state.flights,
            landing,
            probe_after,
        };
        state.flight = Some(flight.clone());
        // Under the lock: who closes the gate next has to see it.
        self.under_way.send_modify(|count| *count += 1);
        drop(state);
        let pilot = Pilot {
            gate: self.clone(),
            id: flight.id,
            report,
            started: now,
            landed: false,
        };
        Ok(Boarding::Lead(flight, pilot))
    }

    /// Whether a flight could start now.
    pub(super) fn is_open(&self, now: Now) -> bool {
        let state = self.lock();
        let cooling = state
            .cool_down
            .as_ref()
            .is_some_and(|c| c.until.is_none_or(|until| !until.has_passed(now)));
        state.flight.is_none() && state.closed.is_none() && !cooling
    }

    pub(super) fn is_flying(&self) -> bool {
        self.lock().flight.is_some()
    }

    /// Ends the pause: there is something new to try.
    pub(super) fn warm_up(&self) {
        let mut state = self.lock();
        state.cool_down = None;
        state.outage = None;
    }

    /// Starts no flight from now on, until `reopen`; the one under way goes on. An error if it was closed before.
    pub(super) fn close(&self, error: Error) -> Result<(), Error> {
        let mut state = self.lock();
        if let Some(closed) = &state.closed {
            return Err(closed.error.clone());
        }
        state.closed = Some(Closed {
            error,
            for_good: false,
        });
        Ok(())
    }

    pub(super) fn close_for_good(&self, error: Error) {
        self.lock().closed = Some(Closed {
            error,
            for_good: true,
        });
    }

    /// Undoes `close`, unless the gate was closed for good meanwhile.
    pub(super) fn reopen(&self) {
        let mut state = self.lock();
        if state.closed.as_ref().is_some_and(|closed| !closed.for_good) {
            state.closed = None;
        }
    }

    pub(super) fn closed(&self) -> Option<Error> {
        self.lock()
            .closed
            .as_ref()
            .map(|closed| closed.error.clone())
    }

    /// Resolves when no flight is under way and no late response is being read.
    pub(super) async fn idle(&self) {
        // The sender is `self`: the channel can't be closed.
        let _ = self
            .under_way
            .subscribe()
            .wait_for(|count| *count == 0)
            .await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A flight's own end of it. Dropped before it has landed, it opens the gate for another: its runtime is gone.
#[derive(Debug)]
pub(super) struct Pilot {
    gate: Arc<Gate>,
    id: u64,
    report: watch::Sender<Option<Outcome>>,
    started: Now,
    landed: bool,
}

impl Pilot {
    /// Ends the flight for those who wait. Says until when nobody calls.
    /// `pause` is asked under the gate's lock, so that it can't miss credentials that were set just before.
    pub(super) fn land(
        &mut self,
        outcome: Outcome,
        pause: impl FnOnce() -> Pause,
        now: Now,
    ) -> Option<Deadline> {
        let mut state = self.gate.lock();
        let error = outcome.as_ref().err().cloned();
        if error.is_none() {
            state.outage = None;
        }
        let until = match pause() {
            Pause::Outage { asked } => {
                let started = self.started.monotonic;
                let going_on = state
                    .outage
                    .filter(|outage| started.saturating_sub(outage.last) < FORGET_OUTAGE);
                let since = going_on.map_or(started, |outage| outage.since);
                state.outage = Some(Outage {
                    since,
                    last: now.monotonic,
                });
                let outage = now.monotonic.saturating_sub(since);
                Some(Some(Deadline::after(
                    now,
                    policy::cool_down(outage, asked, fastrand::f64()),
                )))
            }
            Pause::For(time) => Some(Some(Deadline::after(now, time))),
            Pause::UntilCredentialsChange => Some(None),
            Pause::None => None,
        };
        state.cool_down = error
            .zip(until)
            .map(|(error, until)| CoolDown { error, until });
        state.flight = None;
        let outcome = match &state.cool_down {
            Some(CoolDown {
                error,
                until: Some(until),
            }) => Err(error.clone().after(Some(until.left(now)))),
            _ => outcome,
        };
        drop(state);
        self.landed = true;
        self.report.send_replace(Some(outcome));
        until.flatten()
    }
}

impl Drop for Pilot {
    fn drop(&mut self) {
        if !self.landed {
            // Before `report` closes: who wakes from that must find the gate open.
            let mut state = self.gate.lock();
            if state
                .flight
                .as_ref()
                .is_some_and(|flight| flight.id == self.id)
            {
                state.flight = None;
            }
        }
        self.gate.under_way.send_modify(|count| *count -= 1);
    }
}
