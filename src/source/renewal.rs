//! The leader task: gets the next token. What follows on which outcome stands in guarantee G11; which credential comes
//! next, in the [`ledger`](super::ledger).

use std::{panic::AssertUnwindSafe, pin::pin, sync::Arc, time::Duration};

use futures::FutureExt;
use tokio::time::{self, Instant};

use super::{
    attempt::{Attempt, Caller, Reply, adopt},
    cool_down::Pause,
    deadline::timeout_unless_overslept,
    events::RenewalReason,
    ledger::{ASK_AGAIN, Failure, LOOK_AGAIN, Round},
    policy,
    single_flight::LeaderGuard,
    state::State,
    store_session::{Opened, Session, Settled, Snapshot, SourceStore},
};
use crate::{
    clock::Deadline,
    endpoint::{Grant, HeldBack, Outcome, TokenEndpoint},
    error::{Error, ErrorKind},
    store::{Fingerprint, Header, InUseMark},
    token::Bearer,
};

/// Calls of one renewal at the most, whatever their outcomes are.
const MAX_CALLS: u32 = 5;

/// A cool-down of others that is over within this is waited out.
const SHORT: Duration = Duration::from_millis(100);

/// Between two looks at a mark that is not settled.
const LOOK_AT_MARK: Duration = Duration::from_millis(250);

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
}

impl Renewal {
    pub(super) fn new(
        state: Arc<State>,
        endpoint: Box<dyn TokenEndpoint>,
        reason: RenewalReason,
        deadline: Instant,
    ) -> Self {
        let generation = state.current.generation();
        let round = Round::default();
        Self {
            state,
            endpoint,
            reason,
            generation,
            deadline,
            calls: 0,
            round,
            saves_later: false,
        }
    }

    pub(super) async fn run(mut self, mut leader: LeaderGuard<Bearer>) {
        let state = self.state.clone();
        let result = {
            let deadline = self.deadline;
            let mut work = pin!(AssertUnwindSafe(self.work(&leader)).catch_unwind());
            match timeout_unless_overslept(deadline, &mut work).await {
                Ok(result) => result,
                Err(_) => {
                    // A store may take longer. The work goes on, but callers have waited for long enough.
                    let message = format!(
                        "no token within {:?}: the renewal goes on",
                        state.renewal_timeout()
                    );
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
            Err(Failure { error, pause }) => {
                tracing::warn!(reason = ?self.reason, kind = ?error.kind(), %error, "access token not renewed");
                (Err(error), pause)
            }
        };
        // What is wrong with this process alone is no reason for others to wait.
        let concerns_all = result.as_ref().is_err_and(|error| {
            use ErrorKind::{Ambiguous, Suspended, Unavailable};
            self.calls > 0 && matches!(error.kind(), Unavailable | Ambiguous | Suspended)
        });
        if result.is_err() && state.renewals.is_current(leader.id()) {
            // Before callers hear of the failure: they find the token that was in use back in use.
            state.rejections.renewal_failed(&state.current, state.now());
        }
        // A failure with older credentials is not held against newer ones.
        let judged = || match state.ledger().edition() == self.round.edition() {
            true => pause,
            false => Pause::None,
        };
        let cool_down = leader
            .finish(result, judged, state.now())
            .filter(|_| concerns_all);
        // A store may panic like anything of the user's; nobody waits for it any more.
        let _ = AssertUnwindSafe(self.leave_store(cool_down))
            .catch_unwind()
            .await;
    }

    async fn work(&mut self, leader: &LeaderGuard<Bearer>) -> Result<Bearer, Failure> {
        if let Some(bearer) = self.enter_store().await? {
            return Ok(bearer);
        }
        let begun = Instant::now();
        let mut last = None;
        while self.state.renewals.is_current(leader.id()) {
            if let Some(bearer) = self.newer_token() {
                // A response came that this renewal had stopped waiting for.
                return Ok(bearer);
            }
            let may_call =
                self.calls == 0 || self.calls < MAX_CALLS && self.has_room_after(Duration::ZERO);
            let now = self.state.now();
            let next = self
                .state
                .ledger()
                .next_grant(&mut self.round, may_call, now)?;
            let Some((grant, fallback)) = next else {
                let error = || Error::new(ErrorKind::TimedOut, "no time was left for a token call");
                return Err(Failure::outage(last.unwrap_or_else(error)));
            };
            if let Some(fallbacks) = fallback {
                tracing::warn!(
                    fallbacks,
                    "logging in with the API key: the refresh token did not work"
                );
            }
            if self.calls == 0 && self.reason == RenewalReason::Unauthorized {
                self.state.rejections.spend();
            }
            self.calls += 1;
            let outcome = match self.call(&grant, leader).await {
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
                tracing::warn!(
                    "two new refresh tokens in a row were refused: another process seems to log in with the same API \
                     key; not refreshing for an hour"
                );
            }
            last = Some(match outcome {
                Outcome::Granted(_) => unreachable!("its tokens were committed"),
                Outcome::Transient { error, wait } => {
                    self.clear_mark(&grant).await;
                    let Some(pause) = self.retry_pause(begun, wait, leader) else {
                        return Err(Failure {
                            error,
                            pause: Pause::Outage { asked: wait },
                        });
                    };
                    time::sleep(pause).await;
                    error
                }
                Outcome::Ambiguous { error, .. } if leader.is_probe() => {
                    return Err(Failure::outage(error));
                }
                Outcome::Ambiguous { error, .. } => error,
                Outcome::Refused(error) => {
                    if matches!(grant, Grant::RefreshToken(_)) {
                        self.forget_stored_tokens().await;
                    }
                    error
                }
                Outcome::Suspended(error) => {
                    self.clear_mark(&grant).await;
                    return Err(Failure {
                        error,
                        pause: Pause::For(ASK_AGAIN),
                    });
                }
                Outcome::Misunderstood(error) => {
                    self.clear_mark(&grant).await;
                    return Err(Failure::outage(error));
                }
                Outcome::HeldBack(HeldBack::Replaced) => break,
                Outcome::HeldBack(HeldBack::Changed) => {
                    self.round.held_back();
                    continue;
                }
                Outcome::HeldBack(HeldBack::Store(error)) => {
                    self.round.held_back();
                    if error.kind() == ErrorKind::StoreConflict {
                        // The lock was lost: whoever has it now may have saved another pair.
                        if let Some(store) = &self.state.store {
                            store.close().await;
                        }
                        if let Some(bearer) = self.enter_store().await? {
                            return Ok(bearer);
                        }
                    } else {
                        self.clear_mark(&grant).await;
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

    /// Makes a call, and waits for its reply or for a token from elsewhere: a response that is still awaited may come.
    async fn call(&mut self, grant: &Grant, leader: &LeaderGuard<Bearer>) -> Reply {
        let state = &self.state;
        let begun = Instant::now();
        let limit = self.deadline.min(begun + state.call_timeout());
        let mut read_until = limit;
        if self.is_last_resort(grant) && !leader.is_probe() {
            // Next would come presenting the same token again, which ends the pair that a slow response brings. So this
            // response gets all the time that leaves room for that.
            read_until = limit.max(self.deadline - state.call_timeout());
        }
        let caller = Caller {
            state: state.clone(),
            leader: leader.id(),
            reason: self.reason,
            saves_later: self.saves_later,
        };
        let reads_for = read_until.saturating_duration_since(begun);
        let mut attempt = Attempt::start(caller, &*self.endpoint, grant, reads_for);
        let mut until = limit;
        loop {
            let heard = async {
                tokio::select! {
                    biased;
                    reply = attempt.reply() => Some(reply),
                    () = state.current.newer_than(self.generation) => None,
                }
            };
            match timeout_unless_overslept(until, heard).await {
                Ok(Some(reply)) => return reply,
                Ok(None) => {
                    attempt.stop();
                    return self.newer_token().map_or(Reply::Superseded, Reply::Token);
                }
                Err(_) if until < read_until && attempt.was_sent() => {
                    // Callers need not wait for it, and its slot is for whoever needs one.
                    attempt.goes_on(state);
                    let waited = state.call_timeout();
                    let message = format!(
                        "no response from the token endpoint within {waited:.1?}; it is still awaited"
                    );
                    leader.send_away(Error::new(ErrorKind::Ambiguous, message));
                    until = read_until;
                }
                Err(_) => {
                    if let Some(outcome) = attempt.leave(state, begun.elapsed()) {
                        return Reply::Outcome(outcome);
                    }
                    // Its response is there, and is being saved.
                    return attempt.reply().await;
                }
            }
        }
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

    /// How long to wait before another call in this renewal; `None` if there is to be none.
    fn retry_pause(
        &self,
        begun: Instant,
        asked: Option<Duration>,
        leader: &LeaderGuard<Bearer>,
    ) -> Option<Duration> {
        policy::retry_pause(self.calls, begun.elapsed(), asked).filter(|pause| {
            self.has_room_after(*pause) && !leader.is_probe() && self.calls < MAX_CALLS
        })
    }

    /// Whether enough of the renewal is left for a call. Nine tenths of its time are enough: timers fire late, and the
    /// step that a hang has left room for is to start all the same.
    fn has_room_after(&self, pause: Duration) -> bool {
        let left = self.deadline.saturating_duration_since(Instant::now());
        left >= pause + self.state.call_timeout() * 9 / 10
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
        match self.enter(&state, store).await {
            // A store that fails is no reason to stop where there is a safe way on: see `Ledger::next_grant`.
            Err(Failure { error, .. }) if is_broken(&error) && self.has_way_around_store() => {
                self.store_failed(error);
                Ok(None)
            }
            result => result,
        }
    }

    async fn enter(
        &mut self,
        state: &State,
        store: &SourceStore,
    ) -> Result<Option<Bearer>, Failure> {
        let (key, ours, ignores_pause) = {
            let mut ledger = state.ledger();
            (
                ledger.api_key(),
                ledger.version(),
                ledger.take_ignores_pause(),
            )
        };
        loop {
            // The lock is ours already if this renewal takes over from another, or an unsaved pair has kept it.
            if let Some(session) = store.session().await.map_err(Failure::outage)?.as_mut()
                && self.agree(session).await.is_ok()
            {
                return Ok(None);
            }
            store.close().await;
            let enough = |stored: &Snapshot| {
                stored
                    .settles(ours)
                    .filter(|found| !ignores_pause || matches!(found, Settled::Pair(_)))
            };
            match store
                .open(key.as_ref(), self.deadline, enough)
                .await
                .map_err(Failure::outage)?
            {
                Opened::Enough(Settled::Pair(stored)) => {
                    let message = "the stored access token is not a valid header value";
                    let error = || Failure::outage(Error::new(ErrorKind::StoreCorrupt, message));
                    return adopt(state, stored, self.reason)
                        .map(Some)
                        .ok_or_else(error);
                }
                Opened::Enough(Settled::Pause(wait)) if wait <= SHORT => time::sleep(wait).await,
                Opened::Enough(Settled::Pause(wait)) => {
                    let message = "the token endpoint failed for another process, and is left alone for a while";
                    let error = Error::new(ErrorKind::Unavailable, message);
                    return Err(Failure {
                        error,
                        pause: Pause::For(wait),
                    });
                }
                Opened::Locked(session) if !self.has_room_after(Duration::ZERO) => {
                    session.close().await;
                    let message = "the store's lock was free too late for a token call";
                    return Err(Failure::outage(Error::new(ErrorKind::StoreLocked, message)));
                }
                Opened::Locked(mut session) => {
                    let wait = self.someone_elses_mark(&session);
                    if wait.is_zero() {
                        let agreed = self.agree(&mut session).await;
                        *store.session().await.map_err(Failure::outage)? = Some(session);
                        return agreed.map(|()| None).map_err(Failure::outage);
                    }
                    // Whoever made the mark needs the lock to save what comes of it.
                    session.close().await;
                    self.wait_for_mark(wait).await?;
                }
            }
        }
    }

    /// Makes what we hold and what is stored the same, whichever goes first.
    async fn agree(&mut self, session: &mut Session) -> Result<(), Error> {
        let state = &self.state;
        let ours = state.ledger().write_back(session.snapshot());
        let Some((version, marks, refresh_token)) = ours else {
            state.ledger().agree(session.snapshot());
            return Ok(());
        };
        let now = state.now();
        let bearer = state.current.read(|bearer| bearer.cloned());
        let life = bearer.as_ref().map(|bearer| *bearer.life());
        let mut tokens = session
            .snapshot()
            .map(|stored| stored.tokens().clone())
            .unwrap_or_default();
        tokens.access_token = bearer.map(|bearer| bearer.access().clone());
        tokens.refresh_token = Some(refresh_token);
        tokens.lifetime = life.map(|life| life.lifetime).unwrap_or_default();
        let key = state
            .ledger()
            .api_key()
            .map(|key| Fingerprint::of(key.expose()));
        tokens.api_key = key.or(tokens.api_key);
        let mut header = Header::new(version);
        header.expires_in = life.map(|life| life.expires.left(now));
        header.mark = (marks > 0).then_some(InUseMark {
            count: marks,
            settles_in: Duration::ZERO,
        });
        session.save(Snapshot::new(header, tokens)).await?;
        let mut ledger = state.ledger();
        ledger.saved(version);
        ledger.marked(Some(version), marks);
        drop(ledger);
        if let Some(store) = &state.store {
            store.forget_unsaved();
        }
        Ok(())
    }

    /// How long another process may still be about to present, or to save, what its mark names.
    fn someone_elses_mark(&self, session: &Session) -> Duration {
        let Some(stored) = session.snapshot() else {
            return Duration::ZERO;
        };
        let ledger = self.state.ledger();
        let is_behind = ledger.version().is_some_and(|ours| stored.is_behind(ours));
        let is_own = ledger.is_own_mark(session.version(), session.marks());
        if is_behind || is_own || ledger.usable_key(self.state.now()).is_some() {
            return Duration::ZERO;
        }
        stored.mark_settles_in()
    }

    async fn wait_for_mark(&mut self, wait: Duration) -> Result<(), Failure> {
        // It is looked at for as long as there is time: its maker may save a pair at any moment.
        if !self.has_room_after(LOOK_AT_MARK) {
            let message =
                "another process presented the refresh token and has not said what came of it";
            let error = Error::new(ErrorKind::Ambiguous, message);
            return Err(Failure {
                error,
                pause: Pause::For(wait.min(LOOK_AGAIN)),
            });
        }
        time::sleep(wait.min(LOOK_AT_MARK)).await;
        Ok(())
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

    /// The call had no effect.
    async fn clear_mark(&mut self, grant: &Grant) {
        if !matches!(grant, Grant::RefreshToken(_)) || self.state.ledger().is_in_doubt() {
            return;
        }
        let Some(store) = &self.state.store else {
            return;
        };
        let Ok(mut session) = store.session().await else {
            return;
        };
        if let Some(session) = session.as_mut().filter(|session| session.marks() > 0) {
            match session.clear_mark().await {
                Ok(()) => self.state.ledger().marked(session.version(), 0),
                Err(error) => {
                    tracing::warn!(%error, "the mark on the stored refresh token was not cleared")
                }
            }
        }
    }

    /// The stored refresh token was refused.
    async fn forget_stored_tokens(&mut self) {
        let Some(store) = &self.state.store else {
            return;
        };
        let Ok(mut session) = store.session().await else {
            return;
        };
        if let Some(session) = session.as_mut() {
            if let Err(error) = session.forget_tokens().await {
                tracing::warn!(%error, "a refused refresh token stays in the store");
            }
            if let Some(stored) = session.snapshot() {
                self.state.ledger().plant_seed(stored.tokens());
            }
        }
    }

    fn has_way_around_store(&self) -> bool {
        let ledger = self.state.ledger();
        ledger.is_unsaved() || ledger.usable_key(self.state.now()).is_some()
    }

    fn store_failed(&mut self, error: Error) {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "the token store can't be used"
        );
        self.saves_later = true;
        self.round.store_failed(error);
    }

    /// Ends the session, and shares a cool-down before.
    async fn leave_store(&mut self, cool_down: Option<Deadline>) {
        let Some(store) = &self.state.store else {
            return;
        };
        let Ok(mut open) = store.session().await else {
            return;
        };
        // The task that goes on saving needs the session, and so does a renewal that has begun meanwhile.
        if store.has_unsaved() || self.state.renewals.is_working() {
            return;
        }
        let Some(mut session) = open.take() else {
            return;
        };
        if let Some(until) = cool_down
            && let Err(error) = session.pause(until.left(self.state.now())).await
        {
            tracing::warn!(%error, "the cool-down after a failure is not shared");
        }
        session.close().await;
    }
}

/// Whether a store failed that could serve again, with nothing changed by anyone.
fn is_broken(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StoreUnavailable | ErrorKind::StoreCorrupt | ErrorKind::Panicked
    )
}
