//! One token call. It is a task of its own that commits what it brings: saves the pair, then publishes it. Nobody has to
//! wait for that, so a response that comes late is a response like any other.

use std::{
    future,
    panic::AssertUnwindSafe,
    pin::pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use http::StatusCode;
use tokio::{
    sync::oneshot,
    time::{self, Instant},
};
use tracing::Instrument;

use super::{
    awaited::{self, Call, SLOT_PATIENCE},
    bought::Bought,
    commit::Commit,
    deadline::timeout_unless_overslept,
    events::{Event, Notice, RenewalReason},
    ledger::Round,
    session::Session,
    single_flight::Busy,
    state::State,
    store_session::SourceStore,
};
use crate::{
    clock::Now,
    endpoint::{BeforeSend, Grant, HeldBack, Outcome, TokenEndpoint},
    error::{Error, ErrorKind},
    response::is_timeout,
    token::Bearer,
};

/// What a renewal hears of its call.
#[derive(Debug)]
pub(super) enum Reply {
    /// It brought a token, which is in use.
    Token(Bearer),
    /// It brought tokens, but something newer is there, or its credentials were replaced.
    Superseded,
    /// It brought no access token.
    Outcome(Outcome),
}

/// A token call under way, as its renewal sees it.
pub(super) struct Attempt {
    reply: oneshot::Receiver<Reply>,
    way: Arc<Way>,
    status: Arc<OnceLock<StatusCode>>,
    call: Call,
}

/// How far a call has come.
#[derive(Debug, Default)]
struct Way {
    has_slot: AtomicBool,
    sent: OnceLock<(Bought, Now)>,
    /// Sent or stopped: which of the two comes first is settled under this lock.
    is_stopped: Mutex<bool>,
}

/// Who makes the call, and why.
#[derive(Clone)]
pub(super) struct Caller {
    state: Arc<State>,
    leader: u64,
    reason: RenewalReason,
    /// The store can't be used: a pair is saved later.
    saves_later: bool,
}

impl Caller {
    pub(super) fn new(
        state: Arc<State>,
        leader: u64,
        reason: RenewalReason,
        saves_later: bool,
    ) -> Self {
        Self {
            state,
            leader,
            reason,
            saves_later,
        }
    }
}

impl Attempt {
    /// Starts a call whose response is read under the store's lock for `reads_for`.
    pub(super) fn start(
        caller: Caller,
        endpoint: &dyn TokenEndpoint,
        grant: &Grant,
        reads_for: Duration,
    ) -> Self {
        let way = Arc::<Way>::default();
        let before_send = before_send(caller.clone(), grant.clone(), reads_for, way.clone());
        let status = Arc::new(OnceLock::new());
        let call = endpoint.call(caller.state.endpoint(), grant, before_send, status.clone());
        let (report, reply) = oneshot::channel();
        let busy = caller.state.renewals.busy();
        let arrived = Arc::new(Mutex::new(false));
        let run = Run {
            caller,
            grant: grant.clone(),
            way: way.clone(),
            arrived: arrived.clone(),
            _busy: busy,
        };
        let late = grant.clone();
        let work = async move {
            let state = run.caller.state.clone();
            if let Some(reply) = state.linger(run.finish(call)).await
                && let Err(Reply::Outcome(outcome @ Outcome::Refused(_))) = report.send(reply)
            {
                // Nobody is left to hear it, and it is true all the same.
                let (mut round, now) = (Round::default(), state.now());
                state.ledger().apply(&late, &outcome, &mut round, now);
                if let Some(store) = &state.store {
                    store.forget_refused(&late);
                }
            }
        };
        let task = tokio::spawn(work.in_current_span());
        Self {
            reply,
            way,
            status,
            call: Call::new(task.abort_handle(), arrived),
        }
    }

    /// Waits for the reply.
    ///
    /// # Cancel safety
    ///
    /// It can be asked again.
    pub(super) async fn reply(&mut self) -> Reply {
        (&mut self.reply).await.unwrap_or_else(|_| {
            let error = Error::new(ErrorKind::Ambiguous, "the token call ended without a word");
            Reply::Outcome(Outcome::Ambiguous {
                error,
                refresh_token: None,
            })
        })
    }

    /// The status of the response, if one came.
    pub(super) fn status(&self) -> Option<u16> {
        self.status.get().map(StatusCode::as_u16)
    }

    pub(super) fn was_sent(&self) -> bool {
        self.way.sent.get().is_some()
    }

    /// Goes on, but gives up its slot to anyone who needs it.
    pub(super) fn goes_on(&self, state: &State) {
        state.awaited.go_on(self.call.clone());
    }

    /// Stops waiting for the reply after `waited`, unless it is about to come: then `None`. What came of the call is
    /// `Transient` if nothing was sent. The response to a refresh that was sent is still awaited.
    pub(super) fn leave(&self, state: &State, waited: Duration) -> Option<Outcome> {
        let way = &*self.way;
        let mut is_stopped = way
            .is_stopped
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *is_stopped = way.sent.get().is_none();
        match way.sent.get() {
            Some((bought, _)) if matches!(bought.grant(), Grant::RefreshToken(_)) => {
                let message = format!("no response from the token endpoint within {waited:.1?}");
                let error = Error::new(ErrorKind::Ambiguous, message);
                let outcome = Outcome::Ambiguous {
                    error,
                    refresh_token: None,
                };
                state.awaited.go_on(self.call.clone()).then_some(outcome)
            }
            None if way.has_slot.load(Ordering::Acquire) => {
                // All was ready but the store.
                let message = format!("the token store took longer than {waited:.1?}");
                let error = Error::new(ErrorKind::StoreUnavailable, message);
                let held_back = Outcome::HeldBack(HeldBack::Store(error));
                self.call.stop().then_some(held_back)
            }
            Some(_) => {
                let message = format!("no response to a token call within {waited:.1?}");
                let error = Error::new(ErrorKind::Unavailable, message);
                let outcome = Outcome::Transient { error, wait: None };
                self.call.stop().then_some(outcome)
            }
            None => {
                let message = format!("a token call was not sent within {waited:.1?}");
                let error = Error::new(ErrorKind::Unavailable, message);
                self.call.stop().then_some(Outcome::NotSent(error))
            }
        }
    }

    /// Ends the call, unless its response is there: a newer token is in use.
    pub(super) fn stop(&self) {
        self.call.stop();
    }
}

/// Runs in the moment before the request goes out. Notes, in the store first, that the refresh token may be spent from
/// now on.
fn before_send(caller: Caller, grant: Grant, reads_for: Duration, way: Arc<Way>) -> BeforeSend {
    Box::pin(async move {
        let Caller {
            state,
            leader,
            saves_later,
            ..
        } = caller;
        way.has_slot.store(true, Ordering::Release);
        let mut base = state.store.as_ref().and_then(SourceStore::seen);
        if let Some(store) = state.store.as_ref().filter(|_| !saves_later) {
            let mut session = store.session().await.map_err(HeldBack::Store)?;
            if matches!(grant, Grant::RefreshToken(_)) {
                // Asked under the session's lock: a pair that has just been saved needs a mark from now on.
                let is_unsaved = state.ledger().is_unsaved();
                match session.as_mut() {
                    // No sibling knows this token.
                    _ if is_unsaved => {}
                    Some(session) => {
                        session.mark(reads_for).await.map_err(HeldBack::Store)?;
                        state.ledger().marked(session.version(), session.marks());
                    }
                    None => {
                        let error =
                            Error::new(ErrorKind::StoreConflict, "the store's lock was lost");
                        return Err(HeldBack::Store(error));
                    }
                }
            }
            base = session.as_ref().map_or(base, Session::version);
        }
        // All of this took time. A leader that was replaced sends nothing, nor does one without clients, whose response
        // might not be read to its end; and a token that was replaced, by a late response or by the user, must not be
        // presented.
        if !state.renewals.is_current(leader) || state.is_abandoned() {
            return Err(HeldBack::Replaced);
        }
        let generation = state.current.generation();
        let is_stopped = way
            .is_stopped
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if *is_stopped {
            return Err(HeldBack::Replaced);
        }
        let bought = state
            .ledger()
            .presented(&grant, generation, base, saves_later)
            .ok_or(HeldBack::Changed)?;
        let _ = way.sent.set((bought, state.now()));
        Ok(())
    })
}

/// The task of a call.
struct Run {
    caller: Caller,
    grant: Grant,
    way: Arc<Way>,
    arrived: Arc<Mutex<bool>>,
    _busy: Busy,
}

impl Run {
    async fn finish(self, call: BoxFuture<'static, Outcome>) -> Reply {
        let state = &self.caller.state;
        let _user = state.uses_session();
        let mut call = AssertUnwindSafe(call).catch_unwind();
        let begun = Instant::now();
        let has_found = async {
            time::sleep(SLOT_PATIENCE).await;
            if !self.way.has_slot.load(Ordering::Acquire) {
                // The slot that this call waits for may be that of the response that is still awaited.
                state.awaited.give_up();
            }
            future::pending().await
        };
        let read_for = state.read_for();
        let call = async {
            tokio::select! {
                biased;
                outcome = &mut call => outcome,
                never = has_found => never,
            }
        };
        let outcome = timeout_unless_overslept(begun + read_for, pin!(call)).await;
        let outcome = match outcome {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_payload)) => self.lost(Error::new(
                ErrorKind::Panicked,
                "the token service panicked",
            )),
            Err(_) => {
                let message = format!("no response from the token endpoint within {read_for:?}");
                self.lost(Error::new(ErrorKind::Ambiguous, message))
            }
        };
        awaited::arrived(&self.arrived);
        if let Outcome::Ambiguous { error, .. }
        | Outcome::Transient { error, .. }
        | Outcome::NotSent(error) = &outcome
            && is_timeout(error)
            && begun.elapsed() < state.call_timeout()
        {
            state.teller.tell(Event::Notice(Notice::TimeoutBelow));
        }
        let Some(sent) = self.way.sent.get() else {
            return Reply::Outcome(outcome);
        };
        let Caller {
            state,
            reason,
            saves_later,
            ..
        } = &self.caller;
        let commit = Commit::new(state, *reason, *saves_later, sent);
        match outcome {
            Outcome::Granted(tokens) => {
                let bearer = commit.pair(tokens).await;
                bearer.map_or(Reply::Superseded, Reply::Token)
            }
            Outcome::Ambiguous {
                error,
                refresh_token: Some(token),
            } => {
                commit.lone_refresh_token(token).await;
                Reply::Outcome(Outcome::Ambiguous {
                    error,
                    refresh_token: None,
                })
            }
            outcome => Reply::Outcome(outcome),
        }
    }

    /// The class of a call without a response: without effect if it never went out.
    fn lost(&self, error: Error) -> Outcome {
        match (&self.grant, self.way.sent.get()) {
            (Grant::RefreshToken(_), Some(_)) => Outcome::Ambiguous {
                error,
                refresh_token: None,
            },
            (Grant::ApiKey(_), Some(_)) => Outcome::Transient { error, wait: None },
            (_, None) => Outcome::NotSent(error),
        }
    }
}
