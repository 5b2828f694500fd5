//! What a source is made of. Data: it spawns nothing and calls nobody.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::{self, Instant},
};

use super::{
    awaited::Awaited,
    current::Current,
    events::{Event, Events, GrantType, RenewalEvent, RenewalReason},
    ledger::Ledger,
    policy,
    rejections::RejectionGuard,
    single_flight::SingleFlight,
    store_session::SourceStore,
    teller::Teller,
};
use crate::{
    clock::{Deadline, Now},
    credentials::{Credentials, GrantPreference},
    endpoint::EndpointConfig,
    token::{AccessToken, Bearer},
};

/// How long the response to a refresh is read at least, whoever has stopped waiting: it may hold the only living token.
const READ_FOR: Duration = Duration::from_secs(60);

/// How long a source goes on after its last client: what was sent by then is read, and saved.
const LINGER: Duration = READ_FOR.saturating_add(Duration::from_secs(5));

/// Checked settings of a source.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) endpoint: EndpointConfig,
    pub(crate) credentials: Credentials,
    pub(crate) preference: GrantPreference,
    pub(crate) early_window: Duration,
    pub(crate) call_timeout: Duration,
    pub(crate) renewal_timeout: Duration,
    pub(crate) store: Option<SourceStore>,
    pub(crate) teller: Arc<Teller>,
}

/// All that the tasks and the callers of one source share.
///
/// Locks are taken in this order: the store's session, `renewals`, `current`, then `ledger` or `rejections`. Only the
/// first is held across an await.
pub(super) struct State {
    pub(super) current: Current,
    pub(super) rejections: RejectionGuard,
    pub(super) renewals: Arc<SingleFlight<Bearer>>,
    pub(super) awaited: Awaited,
    /// Tells the renewal under way.
    pub(super) credentials_given: Notify,
    pub(super) store: Option<SourceStore>,
    pub(super) teller: Arc<Teller>,
    session_users: AtomicUsize,
    ledger: Mutex<Ledger>,
    /// With the time at which it began.
    phase: watch::Sender<(Phase, Instant)>,
    endpoint: EndpointConfig,
    early_window: Duration,
    call_timeout: Duration,
    renewal_timeout: Duration,
}

/// How far a source has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Open,
    /// A shutdown was asked for. What is under way goes on.
    Closing,
    /// The last client is gone. What is under way goes on for a while.
    Abandoned,
    /// A shutdown has waited long enough.
    Ended,
}

/// A token on its way in.
pub(super) struct NewToken {
    access_token: AccessToken,
    lifetime: Duration,
    expires: Deadline,
    grant: GrantType,
}

impl NewToken {
    pub(super) fn new(
        access_token: AccessToken,
        lifetime: Duration,
        expires: Deadline,
        grant: GrantType,
    ) -> Self {
        Self {
            access_token,
            lifetime,
            expires,
            grant,
        }
    }
}

impl State {
    pub(super) fn new(settings: Settings) -> Self {
        let Settings {
            endpoint,
            credentials,
            preference,
            early_window,
            call_timeout,
            renewal_timeout,
            store,
            teller,
        } = settings;
        Self {
            current: Current::new(),
            rejections: RejectionGuard::new(store.is_some()),
            renewals: Arc::new(SingleFlight::new()),
            awaited: Awaited::default(),
            credentials_given: Notify::new(),
            ledger: Mutex::new(Ledger::new(credentials, preference, store.is_some())),
            store,
            teller,
            session_users: AtomicUsize::new(0),
            phase: watch::Sender::new((Phase::Open, Instant::now())),
            endpoint,
            early_window,
            call_timeout,
            renewal_timeout,
        }
    }

    pub(super) fn now(&self) -> Now {
        self.endpoint.clock.now()
    }

    pub(super) fn endpoint(&self) -> &EndpointConfig {
        &self.endpoint
    }

    pub(super) fn call_timeout(&self) -> Duration {
        self.call_timeout
    }

    /// How long the response to a token call is read at the most, whoever has stopped waiting.
    pub(super) fn read_for(&self) -> Duration {
        READ_FOR.max(self.call_timeout)
    }

    pub(super) fn renewal_timeout(&self) -> Duration {
        self.renewal_timeout
    }

    /// When a renewal that ends at `deadline` starts its last call at the latest. Nine tenths of a call's time are enough:
    /// timers fire late, and the step that a hang has left room for is to start all the same.
    pub(super) fn last_call(&self, deadline: Instant) -> Instant {
        deadline - self.call_timeout * 9 / 10
    }

    /// Whether enough of a renewal that ends at `deadline` is left for a call after `pause`.
    pub(super) fn has_room(&self, deadline: Instant, pause: Duration) -> bool {
        Instant::now() + pause <= self.last_call(deadline)
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For who works in the store's session, or waits for that.
    pub(super) fn uses_session(&self) -> SessionUser<'_> {
        self.session_users.fetch_add(1, Ordering::AcqRel);
        SessionUser(self)
    }

    /// Moves on to a later phase; an earlier one changes nothing.
    pub(super) fn enter(&self, next: Phase) {
        self.phase.send_if_modified(|phase| {
            let is_later = next > phase.0;
            if is_later {
                *phase = (next, Instant::now());
            }
            is_later
        });
    }

    /// Nobody is left to use a token.
    pub(super) fn is_abandoned(&self) -> bool {
        self.phase.borrow().0 >= Phase::Abandoned
    }

    /// Resolves once the source has come so far, with the time at which it did.
    pub(super) async fn has_come_to(&self, phase: Phase) -> Instant {
        // The sender is `self`: the channel can't be closed.
        let mut phases = self.phase.subscribe();
        let come = phases.wait_for(|(now, _)| *now >= phase).await;
        come.map_or_else(|_| Instant::now(), |come| come.1)
    }

    /// Does the work, but not for longer than [`LINGER`] after the last client is gone. `None`: it was dropped.
    pub(super) async fn linger<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let end = async {
            let gone = self.has_come_to(Phase::Abandoned).await;
            time::sleep_until(gone + LINGER).await;
        };
        tokio::select! {
            biased;
            done = work => Some(done),
            () = end => None,
        }
    }

    /// Puts a token to use, unless `accept` says no. It is told the generation that the token would replace, and settles
    /// what becomes of the credentials, together with the swap.
    pub(super) fn publish(
        &self,
        new: NewToken,
        reason: RenewalReason,
        accept: impl FnOnce(&mut Ledger, u64) -> bool,
    ) -> Option<Bearer> {
        let NewToken {
            access_token,
            lifetime,
            expires,
            grant,
        } = new;
        let life = policy::life(expires, lifetime, self.early_window, fastrand::f64());
        let (bearer, event) = self.current.replace(|replaced, generation| {
            let bearer = Bearer::new(access_token, generation, life)?;
            let mut ledger = self.ledger();
            if !accept(&mut ledger, replaced) {
                return None;
            }
            let (expires_at, fallbacks) = (bearer.expires_at(), ledger.fallbacks());
            drop(ledger);
            self.rejections.replaced(replaced, generation);
            let event = RenewalEvent {
                generation,
                reason,
                grant,
                expires_at,
                fallbacks,
            };
            Some((bearer, event))
        })?;
        // Whatever brought it, a response that is still awaited can't be worth more, and a shutdown would wait for it.
        self.awaited.give_up();
        // It may have come after its renewal had failed.
        let outage = self.renewals.end_cool_down(self.now());
        self.teller.tell(Event::Renewed(event));
        self.cool_down_ended(outage, true);
        Some(bearer)
    }

    /// Tells the end of an outage, if there was one.
    pub(super) fn cool_down_ended(&self, outage: Option<Duration>, is_recovered: bool) {
        if let Some(failing_for) = outage {
            self.teller.tell(Event::CoolDownEnded {
                failing_for,
                is_recovered,
            });
        }
    }

    pub(super) fn subscribe(&self) -> Events {
        Events::new(self.teller.subscribe(), self.current.latest())
    }
}

/// Counts as a user of the store's session until it is dropped. The last one lets go of a session that a runtime which was
/// shut down has left behind; a waiter of another runtime goes on with it.
pub(super) struct SessionUser<'s>(&'s State);

impl Drop for SessionUser<'_> {
    fn drop(&mut self) {
        let is_last = self.0.session_users.fetch_sub(1, Ordering::AcqRel) == 1;
        if let Some(store) = self.0.store.as_ref().filter(|_| is_last) {
            let has_key = self.0.ledger().api_key().is_some();
            store.let_go(has_key);
        }
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("origin", &self.endpoint.origin)
            .field("generation", &self.current.live())
            .finish_non_exhaustive()
    }
}
