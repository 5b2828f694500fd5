//! The leader task: gets the next token. What follows on which outcome stands in guarantee G11; which credential comes
//! next, in the [`ledger`](super::ledger).

use std::{panic::AssertUnwindSafe, pin::pin, sync::Arc, time::Duration};

use futures::FutureExt;
use tokio::time::{self, Instant};
use tracing::{Instrument, Span};

use super::{
    attempt::{Attempt, Caller, Reply},
    cool_down::Pause,
    deadline::timeout_unless_overslept,
    events::{Event, Notice, RenewalReason},
    failure::Failure,
    fleet::{self, Entered},
    ledger::{ASK_AGAIN, Round},
    policy,
    report::{self, Report},
    single_flight::LeaderGuard,
    state::State,
};
use crate::{
    clock::Deadline,
    endpoint::{Grant, HeldBack, Outcome, TokenEndpoint},
    error::{Error, ErrorKind},
    token::Bearer,
};

/// Calls of one renewal at the most, whatever their outcomes are.
const MAX_CALLS: u32 = 5;

pub(super) struct Renewal {
    state: Arc<State>,
    endpoint: Box<dyn TokenEndpoint>,
    reason: RenewalReason,
    /// The token that is to be replaced.
    generation: u64,
    deadline: Instant,
    calls: u32,
    round: Round,
    /// The store can't be used in this renewal.
    saves_later: bool,
    /// How often the store's lock was lost.
    conflicts: u32,
    /// One call is made at the most: it may end a cool-down, of this process or of its siblings.
    is_probe: bool,
    /// A call went out.
    was_sent: bool,
    /// Of whoever started it.
    caller: Span,
}

impl Renewal {
    pub(super) fn new(
        state: Arc<State>,
        endpoint: Box<dyn TokenEndpoint>,
        reason: RenewalReason,
        deadline: Instant,
    ) -> Self {
        let generation = state.current.generation();
        let round = Round::new(state.ledger().edition());
        Self {
            state,
            endpoint,
            reason,
            generation,
            deadline,
            calls: 0,
            round,
            saves_later: false,
            conflicts: 0,
            is_probe: false,
            was_sent: false,
            caller: Span::current(),
        }
    }

    pub(super) async fn run(self, leader: LeaderGuard<Bearer>) {
        let state = self.state.clone();
        let _user = state.uses_session();
        let report = Report::start(state.teller.clone(), self.reason, &self.caller);
        let span = report.span();
        let work = state.linger(self.lead(leader, report));
        work.instrument(span).await;
    }

    async fn lead(mut self, mut leader: LeaderGuard<Bearer>, mut report: Report) {
        let state = self.state.clone();
        self.is_probe = leader.is_probe();
        if self.is_probe {
            // Callers wait for a probe for a second at most.
            state.rejections.put_back(&state.current);
        }
        let result = {
            let deadline = self.deadline;
            let mut work = pin!(AssertUnwindSafe(self.work(&leader, &mut report)).catch_unwind());
            match timeout_unless_overslept(deadline, &mut work).await {
                Ok(result) => result,
                Err(_) => {
                    // A store may take longer. The work goes on, but callers have waited for long enough.
                    let message = format!(
                        "no token within {:?}: the renewal goes on",
                        state.renewal_timeout()
                    );
                    state.rejections.put_back(&state.current);
                    leader.send_away(Error::new(ErrorKind::TimedOut, message));
                    work.await
                }
            }
        };
        let result = result.unwrap_or_else(|_payload| {
            Err(Failure::outage(Error::new(
                ErrorKind::Panicked,
                "the renewal of the token panicked",
            )))
        });
        let (result, pause) = match result {
            Ok(bearer) => (Ok(bearer), Pause::None),
            Err(Failure { error, pause }) => (Err(error), pause),
        };
        // What is wrong with this process alone is no reason for others to wait, and what was never sent tells them nothing.
        let concerns_all = result.as_ref().is_err_and(|error| {
            use ErrorKind::{Ambiguous, Suspended, Unavailable};
            self.was_sent && matches!(error.kind(), Unavailable | Ambiguous | Suspended)
        });
        let asked = result
            .as_ref()
            .err()
            .and_then(|error| asked_for(error, &pause));
        let mut told = result.as_ref().err().cloned();
        let is_current = state.renewals.is_current(leader.id());
        if result.is_err() && is_current {
            // Before callers hear of the failure: they find the token that was in use back in use.
            state.rejections.renewal_failed(&state.current, state.now());
        }
        // A failure with older credentials is not held against newer ones.
        let mut is_paused = false;
        let judged = || {
            let is_ours = state.ledger().edition() == self.round.edition();
            is_paused = is_ours && pause != Pause::None;
            if is_ours { pause } else { Pause::None }
        };
        let now = state.now();
        let cool_down = leader.finish(result, judged, now);
        told = told.map(|error| error.after(cool_down.map(|until| until.left(now))));
        if let Some(error) = told.clone().filter(|_| is_paused) {
            state.teller.tell(Event::CoolDownBegan { error });
        }
        if !is_current {
            told = told.map(|_| report::replaced());
        }
        report.end(&state, told);
        let cool_down = cool_down.filter(|_| concerns_all);
        // Siblings wait for as long as the API has asked, or else believe what they have seen themselves.
        let shared = cool_down.map(|until| match asked {
            Some(wait) => (Deadline::after(now, wait), true),
            None => (until, false),
        });
        // A store may panic like anything of the user's; nobody waits for it any more.
        let _ = AssertUnwindSafe(fleet::leave(&state, shared))
            .catch_unwind()
            .await;
    }

    async fn work(
        &mut self,
        leader: &LeaderGuard<Bearer>,
        report: &mut Report,
    ) -> Result<Bearer, Failure> {
        if let Some(bearer) = self.enter_store().await? {
            return Ok(bearer);
        }
        if self.is_out_of_budget() {
            let message =
                "the API keeps answering 401, and no other process has saved a newer token";
            return Err(Failure {
                error: Error::new(ErrorKind::Unavailable, message),
                pause: Pause::None,
            });
        }
        let begun = Instant::now();
        let mut last = None;
        while self.state.renewals.is_current(leader.id()) {
            if let Some(bearer) = self.newer_token() {
                // A response came that this renewal had stopped waiting for.
                return Ok(bearer);
            }
            let may_call = self.calls == 0
                || self.calls < MAX_CALLS && self.state.has_room(self.deadline, Duration::ZERO);
            let now = self.state.now();
            let next = self
                .state
                .ledger()
                .next_grant(&mut self.round, may_call, now);
            let next = next.map_err(|failure| failure.naming(self.state.store.as_ref()))?;
            let Some((grant, fallback)) = next else {
                let error = || Error::new(ErrorKind::TimedOut, "no time was left for a token call");
                return Err(Failure::outage(last.unwrap_or_else(error)));
            };
            if let Some(fallbacks) = fallback {
                self.state.teller.tell(Event::KeyFallback { fallbacks });
            }
            if self.calls == 0 && self.reason == RenewalReason::Unauthorized {
                self.state.rejections.spend();
            }
            self.calls += 1;
            let outcome = match self.call(&grant, leader, report).await {
                Reply::Token(bearer) => return Ok(bearer),
                Reply::Superseded => {
                    let has_new_key = {
                        let ledger = self.state.ledger();
                        let is_new = ledger.edition() != self.round.edition();
                        is_new && ledger.usable_key(self.state.now()).is_some()
                    };
                    // New credentials begin a family of their own; what was bought with the old ones is in the store.
                    if !has_new_key && let Some(bearer) = self.enter_store().await? {
                        return Ok(bearer);
                    }
                    continue;
                }
                Reply::Outcome(outcome) => outcome,
            };
            if let Some(bearer) = self.look_for_another_pair(&grant, &outcome).await? {
                return Ok(bearer);
            }
            let gives_up =
                self.state
                    .ledger()
                    .apply(&grant, &outcome, &mut self.round, self.state.now());
            if gives_up {
                self.state.teller.tell(Event::Notice(Notice::SharedKey));
            }
            last = Some(match outcome {
                Outcome::Granted(_) => unreachable!("its tokens were committed"),
                Outcome::NotSent(error) => self.try_again(&grant, begun, error, None).await?,
                Outcome::Transient { error, wait } => {
                    self.try_again(&grant, begun, error, wait).await?
                }
                Outcome::Ambiguous { error, .. } if self.is_probe => {
                    return Err(Failure::outage(error));
                }
                Outcome::Ambiguous { error, .. } => error,
                Outcome::Refused(error) => {
                    fleet::refused(&self.state, &grant).await?;
                    error
                }
                Outcome::Suspended(error) => {
                    fleet::clear_mark(&self.state, &grant).await;
                    return Err(Failure {
                        error,
                        pause: Pause::For(ASK_AGAIN),
                    });
                }
                Outcome::Misunderstood(error) => {
                    fleet::clear_mark(&self.state, &grant).await;
                    return Err(Failure::outage(error));
                }
                Outcome::HeldBack(HeldBack::Replaced) => break,
                Outcome::HeldBack(HeldBack::Changed) => {
                    self.round.held_back();
                    continue;
                }
                Outcome::HeldBack(HeldBack::Store(error)) => {
                    self.round.held_back();
                    self.conflicts += u32::from(error.kind() == ErrorKind::StoreConflict);
                    if error.kind() == ErrorKind::StoreConflict && self.conflicts == 1 {
                        // The lock was lost: whoever has it now may have saved another pair.
                        if let Some(store) = &self.state.store {
                            store.close().await;
                        }
                        if let Some(bearer) = self.enter_store().await? {
                            return Ok(bearer);
                        }
                    } else {
                        fleet::clear_mark(&self.state, &grant).await;
                        self.store_failed(error.clone());
                    }
                    error
                }
            });
        }
        Err(Failure {
            error: Error::new(ErrorKind::TimedOut, "another renewal took over"),
            pause: Pause::None,
        })
    }

    /// Whether this renewal was to look at the store, and no more: a 401 is all that stands against the token.
    fn is_out_of_budget(&self) -> bool {
        let (state, now) = (&self.state, self.state.now());
        self.reason == RenewalReason::Unauthorized
            && state.rejections.is_rejected(self.generation)
            && !state.rejections.has_budget(now)
            && state
                .current
                .read(|bearer| bearer.is_some_and(|bearer| bearer.is_usable(now)))
    }

    /// Makes a call, and waits for its reply or for a token from elsewhere: a response that is still awaited may come.
    async fn call(
        &mut self,
        grant: &Grant,
        leader: &LeaderGuard<Bearer>,
        report: &mut Report,
    ) -> Reply {
        let state = &self.state.clone();
        let begun = Instant::now();
        let limit = self.deadline.min(begun + state.call_timeout());
        let mut read_until = limit;
        if self.is_last_resort(grant) {
            // Next would come presenting the same token again, here or in the next probe, which ends the pair that a slow
            // response brings. So this response gets all the time that leaves room for that.
            read_until = limit.max(self.deadline - state.call_timeout());
        }
        // Before the call: credentials that are given from here on are noticed here, earlier ones hold the call back.
        let mut given = Box::pin(state.credentials_given.notified());
        given.as_mut().enable();
        let caller = Caller::new(state.clone(), leader.id(), self.reason, self.saves_later);
        let reads_for = limit.saturating_duration_since(begun);
        let mut attempt = Attempt::start(caller, &*self.endpoint, grant, reads_for);
        let mut until = limit;
        let reply = loop {
            let heard = async {
                tokio::select! {
                    biased;
                    reply = attempt.reply() => Heard::Reply(reply),
                    () = state.current.newer_than(self.generation) => Heard::NewerToken,
                    () = given.as_mut() => Heard::Credentials,
                }
            };
            let heard = { timeout_unless_overslept(until, pin!(heard)).await };
            match heard {
                Ok(Heard::Reply(reply)) => break reply,
                Ok(Heard::Credentials) => {
                    given.set(state.credentials_given.notified());
                    given.as_mut().enable();
                    // What was bought with others is not put to use, so there is nothing to wait for.
                    let is_replaced = !state.ledger().has(grant);
                    if is_replaced && attempt.leave(state, begun.elapsed()).is_some() {
                        break Reply::Superseded;
                    }
                }
                Ok(Heard::NewerToken) => {
                    attempt.stop();
                    break self.newer_token().map_or(Reply::Superseded, Reply::Token);
                }
                Err(_) if until < read_until && attempt.was_sent() => {
                    // Others have to wait for as long as this response is read.
                    let rest = read_until.saturating_duration_since(Instant::now());
                    fleet::extend_mark(state, rest).await;
                    // Callers need not wait for it, and its slot is for whoever needs one.
                    attempt.goes_on(state);
                    let waited = state.call_timeout();
                    let message = format!(
                        "no response from the token endpoint within {waited:.1?}; it is still awaited"
                    );
                    state.rejections.put_back(&state.current);
                    leader.send_away(Error::new(ErrorKind::Ambiguous, message));
                    until = read_until;
                }
                Err(_) => {
                    if let Some(outcome) = attempt.leave(state, begun.elapsed()) {
                        break Reply::Outcome(outcome);
                    }
                    // Its response is there, and is being saved.
                    break attempt.reply().await;
                }
            }
        };
        let was_sent = !matches!(reply, Reply::Outcome(Outcome::NotSent(_)));
        self.was_sent |= was_sent && attempt.was_sent();
        report.attempt(grant, &reply, attempt.status(), begun.elapsed());
        reply
    }

    fn newer_token(&self) -> Option<Bearer> {
        self.state.current.read(|bearer| {
            bearer
                .filter(|bearer| bearer.generation() > self.generation)
                .cloned()
        })
    }

    /// Whether nothing could follow this call but the same one again.
    fn is_last_resort(&self, grant: &Grant) -> bool {
        let has_key = self.state.ledger().usable_key(self.state.now()).is_some();
        matches!(grant, Grant::RefreshToken(_)) && !has_key && !self.round.has_represented()
    }

    /// A call had no effect: waits, if there is to be another one in this renewal.
    async fn try_again(
        &mut self,
        grant: &Grant,
        begun: Instant,
        error: Error,
        asked: Option<Duration>,
    ) -> Result<Error, Failure> {
        fleet::clear_mark(&self.state, grant).await;
        let pause = policy::retry_pause(self.calls, begun.elapsed(), asked).filter(|pause| {
            let has_room = self.state.has_room(self.deadline, *pause);
            has_room && !self.is_probe && self.calls < MAX_CALLS
        });
        let Some(pause) = pause else {
            let pause = Pause::Outage { asked };
            return Err(Failure { error, pause });
        };
        time::sleep(pause).await;
        Ok(error)
    }

    /// Takes the store's lock, or adopts what another process saved. Without a store it does nothing.
    async fn enter_store(&mut self) -> Result<Option<Bearer>, Failure> {
        let state = self.state.clone();
        let Some(store) = &state.store else {
            return Ok(None);
        };
        if self.saves_later {
            return Ok(None);
        }
        match fleet::enter(&state, store, self.reason, self.deadline).await {
            Ok(Entered::Adopted(bearer)) => return Ok(Some(bearer)),
            Ok(Entered::Locked { is_probe }) => self.is_probe |= is_probe,
            Ok(Entered::Without(error)) => self.store_failed(error),
            // A store that fails is no reason to stop where there is a safe way on: see `Ledger::next_grant`.
            Err(Failure { error, .. }) if is_broken(&error) && self.has_way_around_store() => {
                self.store_failed(error);
            }
            Err(failure) => return Err(failure),
        }
        Ok(None)
    }

    /// After a refusal or an ambiguous outcome: adopts what another process has saved since, if it has.
    async fn look_for_another_pair(
        &mut self,
        grant: &Grant,
        outcome: &Outcome,
    ) -> Result<Option<Bearer>, Failure> {
        let is_doubtful = matches!(outcome, Outcome::Refused(_) | Outcome::Ambiguous { .. });
        let (true, Grant::RefreshToken(_), Some(store)) = (is_doubtful, grant, &self.state.store)
        else {
            return Ok(None);
        };
        let key = self.state.ledger().api_key();
        if store.has_changed(key.as_ref()).await {
            self.enter_store().await
        } else {
            Ok(None)
        }
    }

    fn has_way_around_store(&self) -> bool {
        let ledger = self.state.ledger();
        ledger.is_unsaved() || ledger.usable_key(self.state.now()).is_some()
    }

    fn store_failed(&mut self, error: Error) {
        let teller = &self.state.teller;
        teller.store_failed("the token store can't be used", error.clone());
        self.saves_later = true;
        self.round.store_failed(error);
    }
}

/// What ends the wait for a call.
enum Heard {
    Reply(Reply),
    /// From elsewhere: a response that was still awaited, perhaps.
    NewerToken,
    Credentials,
}

/// For how long the API itself asks everybody to wait. Any other failure may be that of one process.
fn asked_for(error: &Error, pause: &Pause) -> Option<Duration> {
    match *pause {
        Pause::Outage { asked } => asked.filter(|wait| !wait.is_zero()),
        Pause::For(wait) => Some(wait).filter(|_| error.kind() == ErrorKind::Suspended),
        _ => None,
    }
}

/// Whether a store failed, or lies where none can work.
fn is_broken(error: &Error) -> bool {
    use ErrorKind::{Configuration, Panicked, StoreCorrupt, StoreUnavailable};
    matches!(
        error.kind(),
        Configuration | Panicked | StoreCorrupt | StoreUnavailable
    )
}
