//! The token source that layers, clients and adaptors share.

use std::{
    fmt,
    future::Future,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    runtime::Handle as Runtime,
    sync::{RwLock, RwLockWriteGuard, watch},
    time,
};

use super::{
    builder::Settings,
    call::{OVERSLEPT, OVERSLEPT_GRACE},
    policy,
    renewal::Renewal,
    renewed::{GrantType, RenewalEvent, RenewalEvents, RenewalReason},
    single_flight::{Boarding, Gate, Pilot},
    unauthorized::{Refusals, Verdict},
};
use crate::{
    clock::{Deadline, Now},
    credentials::{Credentials, RefreshToken},
    endpoint::{Grant, TokenEndpoint},
    error::{Error, ErrorKind},
    store::Version,
    token::{AccessToken, Bearer, TokenPair},
};

/// What every layer and client of a source holds. When the last one is dropped, keepers end.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) manager: Arc<TokenManager>,
    /// Closes on drop; keepers watch it.
    pub(super) alive: watch::Sender<()>,
}

pub(crate) struct TokenManager {
    pub(super) settings: Settings,
    /// The shared truth. Written only to swap the pointer, never held across an await.
    pair: RwLock<Option<TokenPair>>,
    /// The generation of `pair` while requests may use it; 0 if there is none or it was invalidated. A client
    /// that has seen this generation need not look at `pair` again.
    live: AtomicU64,
    refusals: Refusals,
    /// No renewal for `MinLifetime` before this.
    min_lifetime_after: Mutex<Option<Deadline>>,
    pub(super) held: Mutex<Held>,
    pub(super) gate: Arc<Gate>,
    renewed: watch::Sender<Option<RenewalEvent>>,
    pub(super) closing: watch::Sender<bool>,
}

/// The credentials to renew with.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) credentials: Credentials,
    /// Counts calls of `set_credentials`.
    pub(super) edition: u64,
    /// The refresh token was presented, and nothing says whether it is spent. Set as the call goes out, by
    /// whichever runtime; a flight that is lost leaves it behind for the next.
    pub(super) presented: bool,
    /// The refresh token came straight from a login of ours.
    pub(super) from_login: bool,
    pub(super) refused_in_a_row: u32,
    pub(super) skip_refresh_until: Option<Deadline>,
    pub(super) key_refused_until: Option<Deadline>,
    pub(super) fallbacks: u64,
    /// With a store: a refresh token that was given, to be used if the store has none.
    pub(super) seed: Option<RefreshToken>,
    /// With a store: which of its pairs we hold, and how often we marked its refresh token.
    pub(super) version: Option<Version>,
    pub(super) marks: u32,
    /// New credentials are tried at once, also in a pause that others share.
    pub(super) ignores_pause: bool,
    generation: u64,
}

impl Held {
    /// Whether this is still the credential to use: a late response must not overwrite what is newer.
    pub(super) fn has(&self, grant: &Grant) -> bool {
        match grant {
            Grant::RefreshToken(token) => self.credentials.refresh_token.as_ref() == Some(token),
            Grant::ApiKey(key) => self.credentials.api_key.as_ref() == Some(key),
        }
    }

    /// Takes credentials over from the user.
    fn give(&mut self, credentials: Credentials, has_store: bool) {
        self.credentials.api_key = credentials.api_key;
        if has_store {
            self.seed = credentials.refresh_token;
        } else {
            self.put_refresh_token(credentials.refresh_token, false);
        }
    }

    /// Whether this is the given refresh token rather than one that a store or the API gave.
    pub(super) fn is_seed(&self, token: &RefreshToken) -> bool {
        self.seed.as_ref() == Some(token)
    }

    pub(super) fn put_refresh_token(&mut self, token: Option<RefreshToken>, from_login: bool) {
        self.credentials.refresh_token = token;
        self.presented = false;
        self.from_login = from_login;
    }
}

/// A pair on its way in.
pub(super) struct NewPair {
    pub(super) access_token: AccessToken,
    pub(super) refresh_token: Option<RefreshToken>,
    pub(super) lifetime: Duration,
    pub(super) expires: Deadline,
    pub(super) way: GrantType,
}

/// What a caller needs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Want {
    /// A token that requests may use.
    Usable,
    /// A pair with a greater generation.
    NewerThan(u64),
}

/// Beyond this, a runtime that keeps losing flights is shutting down.
const MAX_TAKEOVERS: usize = 3;

/// What a waiter allows on top of the flight's own time.
const WAITER_GRACE: Duration = Duration::from_secs(1);

impl TokenManager {
    pub(super) fn new(settings: Settings, credentials: Credentials) -> Self {
        let refusals = Refusals::new(settings.unauthorized_budget);
        let mut held = Held {
            credentials: Credentials::new(),
            edition: 0,
            presented: false,
            from_login: false,
            refused_in_a_row: 0,
            skip_refresh_until: None,
            key_refused_until: None,
            fallbacks: 0,
            seed: None,
            version: None,
            marks: 0,
            ignores_pause: false,
            generation: 0,
        };
        held.give(credentials, settings.store.is_some());
        Self {
            settings,
            pair: RwLock::new(None),
            live: AtomicU64::new(0),
            refusals,
            min_lifetime_after: Mutex::new(None),
            held: Mutex::new(held),
            gate: Arc::new(Gate::new()),
            renewed: watch::Sender::new(None),
            closing: watch::Sender::new(false),
        }
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn now(&self) -> Now {
        self.settings.context.clock.now()
    }

    /// The generation that requests may use, or 0.
    pub(crate) fn live(&self) -> u64 {
        self.live.load(Ordering::Acquire)
    }

    /// The pair in use, if requests may use it. `None` also while a new one is being swapped in, which takes
    /// no longer than the swap.
    pub(crate) fn usable(&self, now: Now) -> Option<TokenPair> {
        self.look_at_usable(now, TokenPair::clone)
    }

    /// What [`usable`](Self::usable) is made of, for who needs less than a pair of their own. `look` runs under the lock.
    pub(crate) fn look_at_usable<T>(
        &self,
        now: Now,
        look: impl FnOnce(&TokenPair) -> T,
    ) -> Option<T> {
        let pair = self.pair.try_read().ok()?;
        let pair = pair.as_ref()?;
        (pair.bearer().generation() == self.live() && pair.bearer().is_usable(now))
            .then(|| look(pair))
    }

    /// The pair that a request is to use now, for who got `pair` a while ago. That it still is costs no lock to see.
    pub(crate) fn newest_usable(&self, pair: &TokenPair) -> Option<TokenPair> {
        let (now, bearer) = (self.now(), pair.bearer());
        let is_newest = bearer.generation() == self.live() && bearer.is_usable(now);
        if is_newest {
            Some(pair.clone())
        } else {
            self.usable(now)
        }
    }

    /// The generation of the newest pair, usable or not; 0 before the first.
    pub(crate) fn generation(&self) -> u64 {
        self.held().generation
    }

    /// Gets what is wanted, waiting for a flight if need be; `endpoint` is asked for only to start one.
    #[expect(
        clippy::manual_async_fn,
        reason = "an async fn holds its arguments twice, and thousands may wait here"
    )]
    pub(crate) fn acquire(
        self: &Arc<Self>,
        want: Want,
        cause: Option<RenewalReason>,
        mut endpoint: impl FnMut() -> Box<dyn TokenEndpoint>,
    ) -> impl Future<Output = Result<TokenPair, Error>> {
        async move {
            if let Some(pair) = self.have(want, self.now()) {
                return Ok(pair);
            }
            Runtime::try_current().map_err(|_| no_runtime())?;
            let limit = time::Instant::now() + self.settings.renewal_timeout + WAITER_GRACE;
            let mut takeovers = 0;
            while takeovers <= MAX_TAKEOVERS {
                takeovers += 1;
                let mut flight = match self.board(want)? {
                    Boarding::Done(pair) => return Ok(pair),
                    Boarding::Join(flight) => flight,
                    Boarding::Lead(flight, pilot) => {
                        self.spawn(pilot, cause, flight.probe_after.is_some(), endpoint());
                        flight
                    }
                };
                let mut until = match flight.probe_after {
                    Some(_) => limit.min(time::Instant::now() + self.settings.patience),
                    None => limit,
                };
                let mut overslept = false;
                loop {
                    match time::timeout_at(until, flight.landing.wait_for(Option::is_some)).await {
                        Ok(Ok(outcome)) => match outcome.as_ref() {
                            // A flight that landed between our look and our boarding brought what we wanted to replace.
                            Some(Ok(pair)) if !want.is_met_by(pair) => break,
                            Some(outcome) => return outcome.clone(),
                            None => break,
                        },
                        // Its runtime was shut down: take over.
                        Ok(Err(_)) => break,
                        // So has the flight, whose response may lie in a socket.
                        Err(_) if !overslept && time::Instant::now() > until + OVERSLEPT => {
                            overslept = true;
                            until = time::Instant::now() + OVERSLEPT_GRACE;
                        }
                        Err(_) => {
                            return Err(flight
                                .probe_after
                                .take()
                                .unwrap_or_else(|| self.too_late()));
                        }
                    }
                }
            }
            let message = "several renewals in a row ended without what this caller waited for; is their runtime shut down?";
            Err(Error::new(ErrorKind::TimedOut, message))
        }
    }

    fn too_late(&self) -> Error {
        let waited = self.settings.renewal_timeout + WAITER_GRACE;
        Error::new(
            ErrorKind::TimedOut,
            format!("no token within {waited:?}: the renewal is still under way"),
        )
    }

    /// Starts a flight that nobody waits for, unless one is under way or a pause is on.
    pub(crate) fn renew_at_the_side(
        self: &Arc<Self>,
        want: Want,
        cause: RenewalReason,
        endpoint: impl FnOnce() -> Box<dyn TokenEndpoint>,
    ) {
        if !self.gate.is_open(self.now()) || Runtime::try_current().is_err() {
            return;
        }
        if let Ok(Boarding::Lead(flight, pilot)) = self.board(want) {
            self.spawn(pilot, Some(cause), flight.probe_after.is_some(), endpoint());
        }
    }

    fn board(&self, want: Want) -> Result<Boarding, Error> {
        let now = self.now();
        self.gate.board(now, || self.have(want, now))
    }

    fn have(&self, want: Want, now: Now) -> Option<TokenPair> {
        match want {
            Want::Usable => self.usable(now),
            Want::NewerThan(_) => self
                .pair
                .try_read()
                .ok()?
                .clone()
                .filter(|pair| want.is_met_by(pair)),
        }
    }

    fn spawn(
        self: &Arc<Self>,
        pilot: Pilot,
        cause: Option<RenewalReason>,
        probe: bool,
        endpoint: Box<dyn TokenEndpoint>,
    ) {
        let cause = cause.unwrap_or_else(|| self.cause());
        tokio::spawn(Renewal::new(self.clone(), endpoint, cause, probe).fly(pilot));
    }

    /// Why a caller who just wants a token finds none.
    fn cause(&self) -> RenewalReason {
        let now = self.now();
        match self.pair.try_read().as_deref() {
            Ok(Some(pair)) if !pair.bearer().is_usable(now) => RenewalReason::Expired,
            // The renewal is for the 401, whoever comes to start it: its own request may not be there to.
            Ok(Some(pair)) if self.refusals.was_refused(pair.bearer().generation()) => {
                RenewalReason::Unauthorized
            }
            Ok(Some(_)) => RenewalReason::Requested,
            _ => RenewalReason::First,
        }
    }

    /// Swaps a new pair in, unless `accept` says no: it settles, under the lock, what becomes of the credentials.
    pub(super) async fn publish(
        &self,
        new: NewPair,
        cause: RenewalReason,
        accept: impl FnOnce(&mut Held) -> bool,
    ) -> Option<TokenPair> {
        let NewPair {
            access_token,
            refresh_token,
            lifetime,
            expires,
            way,
        } = new;
        let settings = &self.settings;
        let (window, margin) = (settings.early_window, settings.safety_margin);
        let life = policy::life(expires, lifetime, window, margin, fastrand::f64());
        let mut slot = self.write().await;
        let (pair, fallbacks) = {
            let mut held = self.held();
            let bearer = Bearer::new(access_token, held.generation + 1, life)?;
            if !accept(&mut held) {
                return None;
            }
            held.generation += 1;
            (TokenPair::new(bearer, refresh_token), held.fallbacks)
        };
        let generation = pair.bearer().generation();
        if cause == RenewalReason::Unauthorized {
            self.refusals.renewed(generation);
        }
        *slot = Some(pair.clone());
        self.live.store(generation, Ordering::Release);
        drop(slot);
        let expires_at = pair.bearer().expires_at();
        tracing::debug!(generation, ?cause, ?way, "access token renewed");
        self.renewed.send_replace(Some(RenewalEvent {
            generation,
            cause,
            way,
            expires_at,
            fallbacks,
        }));
        Some(pair)
    }

    /// Never queues: a writer in the queue would shut readers out until its task is polled, which may be never.
    async fn write(&self) -> RwLockWriteGuard<'_, Option<TokenPair>> {
        loop {
            match self.pair.try_write() {
                Ok(slot) => return slot,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    }

    /// The newest pair, usable or not.
    pub(super) async fn newest(&self) -> Option<TokenPair> {
        self.pair.read().await.clone()
    }

    /// Takes a generation out of use. A flight is neither started nor stopped.
    pub(crate) fn invalidate(&self, generation: u64) {
        if generation != 0 {
            // Fails if another generation is current, or this one is out of use already: nothing to do then.
            let _ = self
                .live
                .compare_exchange(generation, 0, Ordering::AcqRel, Ordering::Acquire);
        }
    }

    /// The API answered something other than 401 to a request with this generation.
    pub(crate) fn accept(&self, generation: u64) {
        self.refusals.accept(generation);
    }

    /// The API answered 401 to a first send with this generation.
    pub(crate) fn unauthorized(&self, generation: u64) -> Verdict {
        if self.live() != generation {
            return Verdict::Renew;
        }
        self.refusals
            .judge(generation, &self.live, &self.settings, self.now())
    }

    /// The API answered 401 to a replay with this generation.
    pub(crate) fn replay_refused(&self, generation: u64) {
        self.refusals
            .replay_refused(generation, &self.settings, self.now());
    }

    /// Whether a request that asks for `wanted` is to wait for a newer pair than this usable one: what may be asked
    /// is capped at half the lifetime, and a tenth of a lifetime lies between two such renewals.
    pub(crate) fn is_too_short(&self, pair: &TokenPair, wanted: Duration, now: Now) -> bool {
        let life = pair.bearer().life();
        if life.expires.left(now) >= wanted.min(life.lifetime / 2) {
            return false;
        }
        let mut after = self
            .min_lifetime_after
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if after.is_some_and(|after| !after.has_passed(now)) {
            return self.gate.is_flying();
        }
        *after = Some(Deadline::after(now, life.lifetime / 10));
        true
    }

    pub(crate) fn set_credentials(&self, credentials: Credentials) -> Result<(), Error> {
        credentials.check()?;
        let mut held = self.held();
        held.edition += 1;
        held.give(credentials, self.settings.store.is_some());
        held.ignores_pause = true;
        held.refused_in_a_row = 0;
        held.skip_refresh_until = None;
        held.key_refused_until = None;
        drop(held);
        self.gate.warm_up();
        Ok(())
    }

    pub(crate) fn subscribe(&self) -> RenewalEvents {
        RenewalEvents(self.renewed.subscribe())
    }

    pub(crate) fn shutdown(
        self: &Arc<Self>,
        deadline: Duration,
    ) -> impl Future<Output = bool> + Send + use<> {
        let manager = self.clone();
        async move {
            manager.gate.close_for_good(Error::new(
                ErrorKind::Closed,
                "the token source was shut down",
            ));
            manager.closing.send_replace(true);
            let idle = manager.gate.idle();
            match Runtime::try_current() {
                Ok(_) => time::timeout(deadline, idle).await.is_ok(),
                // Without a runtime there is no timer, but also nothing of ours to wait for.
                Err(_) => futures::FutureExt::now_or_never(idle).is_some(),
            }
        }
    }

    /// Ends the source and gives its pair away.
    pub(crate) async fn hand_over(
        self: &Arc<Self>,
        endpoint: impl FnMut() -> Box<dyn TokenEndpoint>,
    ) -> Result<TokenPair, Error> {
        let handed_over = Error::new(ErrorKind::Closed, "the token source was handed over");
        if let Some(error) = self.gate.closed() {
            return Err(error);
        }
        if self.settings.store.is_some() {
            let message =
                "a stored pair belongs to all who share the store; hand over a source without one";
            return Err(Error::new(ErrorKind::Configuration, message));
        }
        self.acquire(Want::Usable, None, endpoint).await?;
        // Of several at once, one goes on.
        self.gate.close(handed_over.clone())?;
        let reopen = Reopen(self);
        // A pair that is still on its way would be lost.
        let limit = self.settings.renewal_timeout + WAITER_GRACE;
        if time::timeout(limit, self.gate.idle()).await.is_err() {
            let message = format!(
                "a renewal is still under way after {limit:?}, so the pair is not handed over"
            );
            return Err(Error::new(ErrorKind::TimedOut, message));
        }
        let in_pair = self
            .newest()
            .await
            .and_then(|pair| pair.refresh_token().cloned());
        let is_sound = {
            let held = self.held();
            !held.presented && held.credentials.refresh_token == in_pair
        };
        if !is_sound && self.settings.spends_refresh_tokens() {
            let message =
                "the refresh token may be spent, so the pair is not handed over; renew first";
            return Err(Error::new(ErrorKind::Ambiguous, message));
        }
        let pair = self.write().await.take();
        let pair = pair.ok_or_else(|| handed_over.clone())?;
        self.gate.close_for_good(handed_over);
        drop(reopen);
        self.live.store(0, Ordering::Release);
        self.held().credentials = Credentials::new();
        self.closing.send_replace(true);
        Ok(pair)
    }

    pub(super) fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A hand-over that is dropped or fails leaves the source as it was.
struct Reopen<'m>(&'m TokenManager);

impl Drop for Reopen<'_> {
    fn drop(&mut self) {
        self.0.gate.reopen();
    }
}

impl Want {
    fn is_met_by(self, pair: &TokenPair) -> bool {
        match self {
            // An outcome serves those who waited for it, however short its life.
            Self::Usable => true,
            Self::NewerThan(generation) => pair.bearer().generation() > generation,
        }
    }
}

impl fmt::Debug for TokenManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenManager")
            .field("origin", &self.settings.context.origin)
            .field("generation", &self.live())
            .finish_non_exhaustive()
    }
}

fn no_runtime() -> Error {
    Error::new(
        ErrorKind::NoRuntime,
        "a token has to be renewed, which needs a Tokio runtime; make the call inside one",
    )
}
