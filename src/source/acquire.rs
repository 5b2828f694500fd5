//! Getting a token: have it, or join or start a renewal, and wait. This is the only place that spawns a renewal.

use std::{
    fmt,
    pin::Pin,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    task::Context,
    time::Duration,
};

use http::StatusCode;
use tokio::{runtime::Handle, time};

use super::{
    awaited::SLOT_PATIENCE,
    current::{Current, Generations},
    deadline::timeout_unless_overslept,
    events::{Event, Events, RenewalReason},
    policy,
    renewal::Renewal,
    single_flight::{Flight, Heard, Joined, LeaderGuard},
    state::{Phase, Settings, State},
    store_session::SourceStore,
};
use crate::{
    clock::{Calm, Deadline, Now},
    credentials::Credentials,
    endpoint::TokenEndpoint,
    error::{Error, ErrorKind},
    response::is_from_signed_in,
    token::Bearer,
};

/// Beyond this, a runtime that keeps losing renewals is shutting down.
const MAX_TAKEOVERS: usize = 3;

/// What a waiter allows on top of the renewal's own time.
const WAITER_GRACE: Duration = Duration::from_secs(1);

/// What all layers, clients and [`TokenSource`](super::TokenSource)s of one source hold. When the last is dropped, its
/// keepers end.
pub(crate) struct Tokens {
    state: Arc<State>,
    /// No renewal for `MinLifetime` before this.
    min_lifetime_after: Mutex<Option<Deadline>>,
}

/// Somebody that has found no slot in the wrapped service, until it has one.
pub(crate) struct SlotWanted {
    state: Arc<State>,
    number: u64,
    patience: Option<Pin<Box<time::Sleep>>>,
}

impl SlotWanted {
    /// For each poll that finds no slot. After a while, a response that is only awaited gives its slot up.
    pub(crate) fn ask(&mut self, cx: &mut Context<'_>) {
        if !self.state.awaited.want(self.number, cx.waker()) {
            return;
        }
        let has_waited = Handle::try_current().is_err()
            || self
                .patience
                .get_or_insert_with(|| Box::pin(time::sleep(SLOT_PATIENCE)))
                .as_mut()
                .poll(cx)
                .is_ready();
        if has_waited {
            self.state.awaited.give_up();
        }
    }
}

impl Drop for SlotWanted {
    fn drop(&mut self) {
        self.state.awaited.unwant(self.number);
    }
}

impl Tokens {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            state: Arc::new(State::new(settings)),
            min_lifetime_after: Mutex::new(None),
        }
    }

    /// For the rest of this module; other modules have methods.
    pub(super) fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// What requests look at.
    pub(crate) fn generations(&self) -> Arc<Generations> {
        self.state.current.generations().clone()
    }

    pub(crate) fn now(&self) -> Now {
        self.state.now()
    }

    /// How long the response to a token call is read at the most.
    #[cfg(feature = "reqwest-middleware")]
    pub(crate) fn read_for(&self) -> Duration {
        self.state.read_for()
    }

    /// Until when a client need not look at the clocks again for this deadline.
    pub(crate) fn calm_before(&self, deadline: &Deadline, now: Now) -> Calm {
        self.state.endpoint().clock.calm_before(deadline, now)
    }

    /// Looks at the token in use, if requests may use it. `look` runs under the lock.
    pub(crate) fn look_at_usable<T>(&self, now: Now, look: impl FnOnce(&Bearer) -> T) -> Option<T> {
        self.state.current.look_at_usable(now, look)
    }

    /// The token that a request is to use now, for a caller that got `bearer` a while ago. That it still is costs no lock
    /// to see.
    pub(crate) fn newest_usable(&self, bearer: &Bearer) -> Option<Bearer> {
        let (now, current) = (self.now(), &self.state.current);
        let is_newest = bearer.generation() == current.live() && bearer.is_usable(now);
        if is_newest {
            Some(bearer.clone())
        } else {
            current.usable(now)
        }
    }

    /// The token for a request that may ask for a lifetime. Renews it in the background if that is due.
    #[expect(
        clippy::manual_async_fn,
        reason = "an async fn holds its arguments twice, and thousands may wait here"
    )]
    pub(crate) fn for_request(
        &self,
        wanted: Option<Duration>,
        mut endpoint: impl FnMut() -> Box<dyn TokenEndpoint>,
    ) -> impl Future<Output = Result<Bearer, Error>> {
        async move {
            let now = self.now();
            if let (Some(wanted), Some(bearer)) = (wanted, self.state.current.usable(now))
                && self.is_too_short(&bearer, wanted, now)
            {
                let reason = Some(RenewalReason::MinLifetime);
                // A usable token beats the error. If there is none, the next step says why.
                if let Ok(bearer) = self
                    .acquire(bearer.generation(), reason, &mut endpoint)
                    .await
                {
                    return Ok(bearer);
                }
            }
            let bearer = self.acquire(0, None, &mut endpoint).await?;
            if bearer.is_stale(self.now()) {
                self.renew_in_background(bearer.generation(), RenewalReason::Early, endpoint);
            }
            Ok(bearer)
        }
    }

    /// See [`acquire`].
    pub(crate) fn acquire(
        &self,
        older: u64,
        reason: Option<RenewalReason>,
        endpoint: impl FnMut() -> Box<dyn TokenEndpoint>,
    ) -> impl Future<Output = Result<Bearer, Error>> {
        acquire(&self.state, older, reason, endpoint)
    }

    /// Starts a renewal that nobody waits for, unless one is under way or a cool-down is on.
    pub(crate) fn renew_in_background(
        &self,
        older: u64,
        reason: RenewalReason,
        endpoint: impl FnOnce() -> Box<dyn TokenEndpoint>,
    ) {
        if !self.state.renewals.is_open(self.now()) || Handle::try_current().is_err() {
            return;
        }
        if let Ok(Joined::Lead(flight, leader)) = join_or_start(&self.state, older) {
            spawn(&self.state, &flight, leader, Some(reason), endpoint());
        }
    }

    /// The API answered a request with this generation.
    pub(crate) fn answered(&self, generation: u64, status: StatusCode) {
        let generations = self.state.current.generations();
        if !generations.is_accepted(generation) && is_from_signed_in(status) {
            generations.accept(generation);
        }
    }

    /// The API answered 401 to a first send with this generation: whether the request is to be sent again with a later
    /// one, if it can be (`can_replay`). If not, the response stands.
    pub(crate) fn rejected(&self, generation: u64, can_replay: bool) -> bool {
        let (state, now) = (&self.state, self.now());
        state
            .rejections
            .should_renew(generation, can_replay, &state.current, now)
            // To join a renewal that is under way costs nothing, whatever it was begun for.
            || can_replay && state.renewals.is_working()
    }

    /// The API answered a replay with this generation.
    pub(crate) fn replayed(&self, generation: u64, status: StatusCode) {
        let is_cured = status != StatusCode::UNAUTHORIZED;
        self.state
            .rejections
            .replayed(generation, is_cured, self.now());
        self.state.teller.tell(Event::Replayed {
            generation,
            status: status.as_u16(),
        });
        self.answered(generation, status);
    }

    /// A request has found no slot in the wrapped service. It keeps this until it has one.
    pub(crate) fn wants_slot(&self) -> SlotWanted {
        SlotWanted {
            state: self.state.clone(),
            number: self.state.awaited.new_want(),
            patience: None,
        }
    }

    /// A layer below has refused a request for want of a slot, where others would have let it wait.
    pub(crate) fn found_no_slot(&self) {
        self.state.awaited.give_up();
    }

    pub(crate) fn invalidate(&self, token: &Bearer) {
        self.state
            .rejections
            .invalidate(token.generation(), &self.state.current);
    }

    pub(crate) fn set_credentials(&self, credentials: Credentials) -> Result<(), Error> {
        credentials.check()?;
        self.state.ledger().give(credentials);
        self.state.rejections.forget_rejected();
        let outage = self.state.renewals.end_cool_down(self.now());
        self.state.cool_down_ended(outage, false);
        self.state.credentials_given.notify_waiters();
        Ok(())
    }

    pub(crate) fn shutdown(&self, deadline: Duration) -> impl Future<Output = bool> + Send + use<> {
        let state = self.state.clone();
        async move {
            state.renewals.close(Error::new(
                ErrorKind::Closed,
                "the token source was shut down",
            ));
            state.enter(Phase::Closing);
            let idle = state.renewals.idle();
            let is_idle = match Handle::try_current() {
                Ok(_) => time::timeout(deadline, idle).await.is_ok(),
                // Without a runtime there is no timer, but also nothing of ours to wait for.
                Err(_) => futures::FutureExt::now_or_never(idle).is_some(),
            };
            state.enter(Phase::Ended);
            if let Some(store) = state.store.as_ref().filter(|_| is_idle)
                && Handle::try_current().is_ok()
            {
                // A renewal whose runtime has gone may have left the store's lock behind.
                store.close().await;
            }
            // An unsaved pair that nobody tries to save any more is lost with this process.
            is_idle && !state.store.as_ref().is_some_and(SourceStore::has_unsaved)
        }
    }

    pub(crate) fn subscribe(&self) -> Events {
        self.state.subscribe()
    }

    /// A request passes without a token since it leads elsewhere than to `origins`, perhaps: that is worth a line.
    #[cold]
    pub(crate) fn passed_without_token(&self, origin: impl FnOnce() -> Option<String>) {
        self.state.teller.passed_without_token(origin);
    }

    /// Whether a request that asks for `wanted` is to wait for a newer token than this usable one: what may be asked
    /// is capped at half the lifetime, and a tenth of a lifetime lies between two such renewals.
    fn is_too_short(&self, bearer: &Bearer, wanted: Duration, now: Now) -> bool {
        let life = bearer.life();
        if life.expires.left(now) >= wanted.min(life.lifetime / 2) {
            return false;
        }
        let mut after = self
            .min_lifetime_after
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if after.is_some_and(|after| !after.has_passed(now)) {
            return self.state.renewals.is_working();
        }
        *after = Some(Deadline::after(now, life.lifetime / 10));
        true
    }
}

/// Gets a token that is usable and newer than the generation `older`, waiting for a renewal if need be. `endpoint` is
/// asked for only to start one.
#[expect(
    clippy::manual_async_fn,
    reason = "an async fn holds its arguments twice, and thousands may wait here"
)]
pub(super) fn acquire(
    state: &Arc<State>,
    older: u64,
    reason: Option<RenewalReason>,
    mut endpoint: impl FnMut() -> Box<dyn TokenEndpoint>,
) -> impl Future<Output = Result<Bearer, Error>> {
    async move {
        if let Some(bearer) = have(&state.current, older, state.now()) {
            return Ok(bearer);
        }
        if Handle::try_current().is_err() {
            state.rejections.renewal_failed(&state.current, state.now());
            return or_usable(state, older, no_runtime());
        }
        let _user = state.uses_session();
        for _ in 0..=MAX_TAKEOVERS {
            let mut flight = match find(state, older, reason, &mut endpoint) {
                Ok(flight) => flight,
                Err(outcome) => return outcome,
            };
            let later = flight.later();
            // A leader has finished by its deadline, or has said that it goes on. If nothing is heard by then, nobody
            // polls its runtime; it gets a moment more, in case this process has slept.
            let until = match later {
                Some(_) => time::Instant::now() + policy::PATIENCE,
                None => time::Instant::now().max(flight.deadline()) + WAITER_GRACE,
            };
            let heard = timeout_unless_overslept(until, pin!(flight.hear(later.is_some()))).await;
            match heard {
                // A renewal that ended between our look and our joining brought what we want to replace.
                Ok(Heard::Done(Ok(bearer))) if bearer.generation() <= older => {}
                Ok(Heard::Done(Ok(bearer))) if has_expired_on_its_way(state, &bearer) => {}
                Ok(Heard::Done(Ok(bearer))) => return Ok(bearer),
                Ok(Heard::Done(Err(error)) | Heard::Later(error)) => {
                    return or_usable(state, older, error);
                }
                Ok(Heard::Lost) => {}
                Err(_) => match later {
                    Some(error) if time::Instant::now() < flight.deadline() + WAITER_GRACE => {
                        return or_usable(state, older, error);
                    }
                    _ => state.renewals.replace(&flight),
                },
            }
        }
        let message = "several renewals in a row ended without what this caller waited for; is their runtime shut down?";
        Err(Error::new(ErrorKind::TimedOut, message))
    }
}

/// The renewal to wait for, started if there is none; an error is what the caller gets at once. It is a function of its
/// own so that what it holds is no part of those that wait.
fn find(
    state: &Arc<State>,
    older: u64,
    reason: Option<RenewalReason>,
    endpoint: impl FnOnce() -> Box<dyn TokenEndpoint>,
) -> Result<Flight<Bearer>, Result<Bearer, Error>> {
    match join_or_start(state, older) {
        Ok(Joined::Have(bearer)) => Err(Ok(bearer)),
        Ok(Joined::Wait(flight)) => Ok(flight),
        Ok(Joined::Lead(flight, leader)) => {
            spawn(state, &flight, leader, reason, endpoint());
            Ok(flight)
        }
        Err(error) => {
            // No renewal is to be had: a token that a 401 took out of use is all there is.
            state.rejections.renewal_failed(&state.current, state.now());
            Err(or_usable(state, older, error))
        }
    }
}

fn join_or_start(state: &State, older: u64) -> Result<Joined<Bearer>, Error> {
    let now = state.now();
    state
        .renewals
        .join_or_start(now, state.renewal_timeout(), || {
            have(&state.current, older, now)
        })
}

fn spawn(
    state: &Arc<State>,
    flight: &Flight<Bearer>,
    leader: LeaderGuard<Bearer>,
    reason: Option<RenewalReason>,
    endpoint: Box<dyn TokenEndpoint>,
) {
    let reason = reason.unwrap_or_else(|| reason_now(state));
    tokio::spawn(Renewal::new(state.clone(), endpoint, reason, flight.deadline()).run(leader));
}

/// Why a caller that just wants a token finds none.
fn reason_now(state: &State) -> RenewalReason {
    let now = state.now();
    let look = |bearer: &Bearer| (bearer.generation(), bearer.is_usable(now));
    match state.current.read(|bearer| bearer.map(look)) {
        None => RenewalReason::First,
        Some((_, false)) => RenewalReason::Expired,
        // The renewal is for the 401, whoever comes to start it: its own request may not be there to.
        Some((generation, _)) if state.rejections.is_rejected(generation) => {
            RenewalReason::Unauthorized
        }
        Some(_) => RenewalReason::Requested,
    }
}

/// The token in use, if it is newer than the generation `older`.
fn have(current: &Current, older: u64, now: Now) -> Option<Bearer> {
    current
        .usable(now)
        .filter(|bearer| bearer.generation() > older)
}

/// Whether this process has slept, or its clock was set, since the call for this token was sent. One that lives no longer than
/// a renewal may take is as good as the next.
fn has_expired_on_its_way(state: &State, bearer: &Bearer) -> bool {
    !bearer.is_usable(state.now()) && bearer.life().lifetime > state.renewal_timeout()
}

/// A token that was put back in use after a 401 beats the error of the renewal.
fn or_usable(state: &State, older: u64, error: Error) -> Result<Bearer, Error> {
    have(&state.current, older, state.now()).ok_or(error)
}

fn no_runtime() -> Error {
    Error::new(
        ErrorKind::NoRuntime,
        "a token has to be renewed, which needs a Tokio runtime; make the call inside one",
    )
}

impl Drop for Tokens {
    fn drop(&mut self) {
        self.state.enter(Phase::Abandoned);
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.state.fmt(f)
    }
}
