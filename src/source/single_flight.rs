//! One renewal at a time. This is a plain lock that is held for a few instructions and never across an await. The work
//! itself runs in a task of its own, the *leader*, that reports through a channel. It knows nothing of tokens.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::{
    sync::watch,
    time::{Duration, Instant},
};

use super::cool_down::{CoolDown, Found, Pause};
use crate::{
    clock::{Deadline, Now},
    error::Error,
};

/// After a leader whose runtime ended, work that nobody waits for rests: from the first time to the longest.
const LOST_REST: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Lets one leader work at a time, and none while a failure is fresh.
#[derive(Debug)]
pub(super) struct SingleFlight<T> {
    state: Mutex<State<T>>,
    /// Tasks that a shutdown waits for.
    busy: watch::Sender<usize>,
}

#[derive(Debug)]
struct State<T> {
    started: u64,
    flight: Option<Flight<T>>,
    cool_down: CoolDown,
    closed: Option<Error>,
    /// Leaders in a row whose runtime ended before their work.
    lost: u32,
    /// Nobody waits for work in the background: after a lost leader it takes its time.
    rests_until: Option<Instant>,
}

/// What has come of the work so far.
#[derive(Debug)]
enum Progress<T> {
    /// `Some`: a caller that can't wait long gets this error. The work goes on.
    Working(Option<Error>),
    Done(Result<T, Error>),
}

/// The work under way, as its waiters see it.
#[derive(Clone, Debug)]
pub(super) struct Flight<T> {
    id: u64,
    /// By then the leader has finished, or has said that it goes on. If it has done neither, nobody polls it.
    deadline: Instant,
    progress: watch::Receiver<Progress<T>>,
}

/// What a caller finds.
#[derive(Debug)]
pub(super) enum Joined<T> {
    /// What it wants is there already.
    Have(T),
    Wait(Flight<T>),
    /// The caller is to spawn the leader.
    Lead(Flight<T>, LeaderGuard<T>),
}

/// What a waiter hears.
#[derive(Debug)]
pub(super) enum Heard<T> {
    Done(Result<T, Error>),
    /// The work goes on, but this caller should not wait for it.
    Later(Error),
    /// The leader is gone without a word: its runtime was shut down.
    Lost,
}

impl<T> SingleFlight<T> {
    pub(super) fn new() -> Self {
        let state = State {
            started: 0,
            flight: None,
            cool_down: CoolDown::default(),
            closed: None,
            lost: 0,
            rests_until: None,
        };
        Self {
            state: Mutex::new(state),
            busy: watch::Sender::new(0),
        }
    }

    /// Joins the work under way, or starts it. `have` looks for what the caller wants once more, under the lock. The
    /// token is published before the leader finishes, so nobody starts over for what has just been brought.
    ///
    /// # Errors
    ///
    /// The last failure, during the cool-down after it, or that of [`close`](Self::close).
    pub(super) fn join_or_start(
        self: &Arc<Self>,
        now: Now,
        limit: Duration,
        have: impl FnOnce() -> Option<T>,
    ) -> Result<Joined<T>, Error>
    where
        T: Clone,
    {
        let mut state = self.lock();
        if let Some(value) = have() {
            return Ok(Joined::Have(value));
        }
        if let Some(flight) = &state.flight {
            return Ok(Joined::Wait(flight.clone()));
        }
        if let Some(error) = &state.closed {
            return Err(error.clone());
        }
        let probe_after = match state.cool_down.look(now) {
            Found::Clear => None,
            Found::Probe(error) => Some(error),
            Found::Paused(error) => return Err(error),
        };
        let is_probe = probe_after.is_some();
        state.started += 1;
        let id = state.started;
        let (report, progress) = watch::channel(Progress::Working(probe_after));
        let flight = Flight {
            id,
            deadline: Instant::now() + limit,
            progress,
        };
        state.flight = Some(flight.clone());
        // Under the lock: whoever closes next has to see it.
        let busy = self.busy();
        drop(state);
        let guard = LeaderGuard {
            flights: self.clone(),
            id,
            report,
            started: now,
            is_probe,
            finished: false,
            _busy: busy,
        };
        Ok(Joined::Lead(flight, guard))
    }

    /// Whether work that nobody waits for could start now.
    pub(super) fn is_open(&self, now: Now) -> bool {
        let state = self.lock();
        state.flight.is_none()
            && state.closed.is_none()
            && state
                .rests_until
                .is_none_or(|until| until <= Instant::now())
            && !matches!(state.cool_down.look(now), Found::Paused(_))
    }

    /// Whether the leader with this number still leads.
    pub(super) fn is_current(&self, id: u64) -> bool {
        self.lock()
            .flight
            .as_ref()
            .is_some_and(|flight| flight.id == id)
    }

    pub(super) fn is_working(&self) -> bool {
        self.lock().flight.is_some()
    }

    /// Gives up on work whose leader is not polled, so that another can start.
    pub(super) fn replace(&self, flight: &Flight<T>) {
        self.lock()
            .flight
            .take_if(|current| current.id == flight.id);
    }

    /// Ends the pause after a failure: there is something new to try. Says how long the work had been failing.
    pub(super) fn end_cool_down(&self, now: Now) -> Option<Duration> {
        let mut state = self.lock();
        let (outage, _) = state.cool_down.report(now);
        state.cool_down.end();
        outage
    }

    /// For how long the work has been failing, and in what time it is tried again.
    pub(super) fn outage(&self, now: Now) -> (Option<Duration>, Option<Duration>) {
        self.lock().cool_down.report(now)
    }

    /// Starts nothing from now on. The work under way goes on.
    pub(super) fn close(&self, error: Error) {
        self.lock().closed.get_or_insert(error);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed.is_some()
    }

    /// Something that a shutdown waits for.
    pub(super) fn busy(&self) -> Busy {
        self.busy.send_modify(|count| *count += 1);
        Busy(self.busy.clone())
    }

    pub(super) fn is_idle(&self) -> bool {
        *self.busy.borrow() == 0
    }

    /// Resolves when no work is under way and nothing is busy.
    pub(super) async fn idle(&self) {
        // The sender is `self`: the channel can't be closed.
        let _ = self.busy.subscribe().wait_for(|count| *count == 0).await;
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Clone> Flight<T> {
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The error for a caller that does not want to wait for long, if the leader has left one.
    pub(super) fn later(&self) -> Option<Error> {
        match &*self.progress.borrow() {
            Progress::Working(later) => later.clone(),
            Progress::Done(_) => None,
        }
    }

    /// Waits for the end, or, unless `is_patient`, for word that it will take long.
    pub(super) async fn hear(&mut self, is_patient: bool) -> Heard<T> {
        let waited = self.progress.wait_for(|progress| match progress {
            Progress::Working(later) => !is_patient && later.is_some(),
            Progress::Done(_) => true,
        });
        match waited.await.as_deref() {
            Ok(Progress::Done(result)) => Heard::Done(result.clone()),
            Ok(Progress::Working(Some(later))) => Heard::Later(later.clone()),
            Ok(Progress::Working(None)) | Err(_) => Heard::Lost,
        }
    }
}

/// The leader's own end. Dropped before it has finished, it makes room for another: its runtime is gone.
#[derive(Debug)]
pub(super) struct LeaderGuard<T> {
    flights: Arc<SingleFlight<T>>,
    id: u64,
    report: watch::Sender<Progress<T>>,
    started: Now,
    is_probe: bool,
    finished: bool,
    _busy: Busy,
}

impl<T> LeaderGuard<T> {
    /// Whether this is the one call that may end a cool-down.
    pub(super) fn is_probe(&self) -> bool {
        self.is_probe
    }

    /// The number by which [`SingleFlight::is_current`] knows this leader.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Sends callers away with `error`: the work goes on, but takes longer than they should wait.
    pub(super) fn send_away(&self, error: Error) {
        self.report.send_if_modified(|progress| {
            let is_news = matches!(progress, Progress::Working(None));
            if is_news {
                *progress = Progress::Working(Some(error));
            }
            is_news
        });
    }

    /// Ends the work for those that wait. Says until when nobody works.
    ///
    /// `pause` is asked under the lock, so that it can't miss what was changed just before. A leader that was replaced
    /// changes nothing but what its own waiters hear.
    pub(super) fn finish(
        &mut self,
        result: Result<T, Error>,
        pause: impl FnOnce() -> Pause,
        now: Now,
    ) -> Option<Deadline> {
        let mut state = self.flights.lock();
        let mut until = None;
        let mut result = result;
        if state
            .flight
            .take_if(|flight| flight.id == self.id)
            .is_some()
        {
            result = match result {
                Ok(value) => {
                    state.cool_down.end();
                    (state.lost, state.rests_until) = (0, None);
                    Ok(value)
                }
                Err(error) => {
                    let times = (self.started, now);
                    let (error, end) = state.cool_down.fail(error, pause(), times, fastrand::f64());
                    until = end;
                    Err(error)
                }
            };
        }
        drop(state);
        self.finished = true;
        // Room first, then word: a caller that comes in between finds the token or the cool-down, and nobody to wait for.
        self.report.send_replace(Progress::Done(result));
        until
    }
}

impl<T> Drop for LeaderGuard<T> {
    fn drop(&mut self) {
        if !self.finished {
            // Before `report` closes: a waiter that wakes from that must find room for another.
            let mut state = self.flights.lock();
            if state
                .flight
                .take_if(|flight| flight.id == self.id)
                .is_some()
            {
                // A program with a runtime for each request would make a token call for each.
                state.lost += 1;
                let rest = LOST_REST.0 * 2_u32.saturating_pow(state.lost - 1);
                state.rests_until = Some(Instant::now() + rest.min(LOST_REST.1));
            }
        }
    }
}

/// Counts as work until it is dropped.
#[derive(Debug)]
pub(super) struct Busy(watch::Sender<usize>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}
