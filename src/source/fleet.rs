//! A source's part in a fleet, before and after the calls of a renewal (guarantees G21 to G26): adopting what others have
//! saved, agreeing with the store, and leaving it to others.

use std::time::Duration;

use tokio::time::{self, Instant};

use super::{
    commit::adopt,
    cool_down::Pause,
    events::{Event, Notice, RenewalReason},
    failure::{Failure, LOOK_AGAIN},
    policy,
    session::Session,
    snapshot::{Settled, Snapshot},
    spent_seeds,
    state::State,
    store_session::{Opened, Opening, SourceStore, Verdict},
};
use crate::{
    clock::Deadline,
    endpoint::Grant,
    error::{Error, ErrorKind},
    store::{Header, InUseMark},
    token::Bearer,
};

/// A cool-down of others that is over within this is waited out.
const SHORT: Duration = Duration::from_millis(100);

/// What a renewal finds at its store.
pub(super) enum Entered {
    Adopted(Bearer),
    /// The lock is ours. A probe makes one call, since the last one of the fleet has failed.
    Locked {
        is_probe: bool,
    },
    /// There is a way on without the lock, which somebody else keeps.
    Without(Error),
}

/// Takes the store's lock, or adopts what another process saved.
pub(super) async fn enter(
    state: &State,
    store: &SourceStore,
    reason: RenewalReason,
    deadline: Instant,
) -> Result<Entered, Failure> {
    let (begun, last) = (Instant::now(), state.last_call(deadline));
    let (key, ours, is_unsaved, ignores_pause) = {
        let mut ledger = state.ledger();
        (
            ledger.api_key(),
            ledger.version(),
            ledger.is_unsaved(),
            ledger.take_ignores_pause(),
        )
    };
    // The lock is ours already if this renewal takes over from another, or an unsaved pair has kept it.
    if let Some(session) = store.session().await.map_err(Failure::outage)?.as_mut() {
        store.refresh(session, key.as_ref()).await;
        match agree(state, store, session).await {
            Ok(()) => return Ok(Entered::Locked { is_probe: false }),
            Err(error) if error.kind() == ErrorKind::StoreConflict => {}
            // The lock stays: a sibling that got it could present what the unsaved pair has replaced.
            Err(error) => return Err(Failure::outage(error)),
        }
    }
    store.close().await;
    let is_believed = |was_asked: bool| {
        let believes = was_asked || state.ledger().believes_failures(state.now());
        believes && !ignores_pause
    };
    let unsaved = store
        .unsaved_pair()
        .filter(|pair| ours == Some(pair.version()));
    let judge = |stored: Option<&Snapshot>| {
        if let Some(stored) = stored {
            state.ledger().look_at(stored);
        }
        match stored.and_then(|stored| stored.settles(ours)) {
            // What it is to replace, and is of another family.
            Some(Settled::Pair(stored))
                if unsaved
                    .as_ref()
                    .is_some_and(|pair| !pair.gives_way_to(&stored)) => {}
            Some(Settled::Pause { was_asked, .. }) if !is_believed(was_asked) => {}
            Some(found) => return Verdict::Enough(found),
            None => {}
        }
        let wait = stored.map_or(Duration::ZERO, |stored| someone_elses_mark(state, stored));
        if wait.is_zero() {
            let leave_at = leaves_lock(state, begun, last, stored);
            Verdict::Lock { leave_at }
        } else if Instant::now() < last {
            // Whoever made the mark needs the lock to save what comes of it.
            Verdict::Wait(last.min(Instant::now() + wait))
        } else {
            Verdict::Enough(Settled::Mark(wait))
        }
    };
    loop {
        let opening = Opening {
            key: key.as_ref(),
            replaces_damaged: key.is_some() || is_unsaved,
            until: deadline,
        };
        match store.open(opening, judge).await.map_err(not_entered)? {
            Opened::Enough(Settled::Pair(stored)) => {
                let message = "the stored access token is not a valid header value";
                let error = || Failure::outage(Error::new(ErrorKind::StoreCorrupt, message));
                return adopt(state, stored, reason)
                    .map(Entered::Adopted)
                    .ok_or_else(error);
            }
            Opened::Enough(Settled::Pause { wait, .. }) if wait <= SHORT => time::sleep(wait).await,
            Opened::Enough(Settled::Pause { wait, .. }) => {
                let message =
                    "the token endpoint failed for another process, and is left alone for a while";
                let error = Error::new(ErrorKind::Unavailable, message);
                return Err(Failure {
                    error,
                    pause: Pause::For(wait),
                });
            }
            Opened::Enough(Settled::Mark(wait)) => return Err(marked(wait)),
            Opened::Held(error) => return Ok(Entered::Without(error)),
            Opened::Locked(session) if Instant::now() > last => {
                session.close().await;
                let message = "the store's lock was free too late for a token call";
                return Err(not_entered(Error::new(ErrorKind::StoreLocked, message)));
            }
            Opened::Locked(mut session) => {
                let is_probe = session.snapshot().is_some_and(Snapshot::is_failing);
                let agreed = agree(state, store, &mut session).await;
                *store.session().await.map_err(Failure::outage)? = Some(session);
                return match agreed {
                    Ok(()) => Ok(Entered::Locked { is_probe }),
                    Err(error) => Err(Failure::outage(error)),
                };
            }
        }
    }
}

/// The mark of another process has not settled.
fn marked(wait: Duration) -> Failure {
    let message = "another process presented the refresh token and has not said what came of it";
    Failure {
        error: Error::new(ErrorKind::Ambiguous, message),
        pause: Pause::For(wait.min(LOOK_AGAIN)),
    }
}

/// A lock that is held says nothing of the token endpoint: its store is looked at again soon.
fn not_entered(error: Error) -> Failure {
    match error.kind() {
        ErrorKind::StoreLocked => Failure {
            error,
            pause: Pause::For(policy::PATIENCE),
        },
        _ => Failure::outage(error),
    }
}

/// When a renewal that began at `begun` goes on though somebody else holds the lock. Its last call begins at `last`.
fn leaves_lock(
    state: &State,
    begun: Instant,
    last: Instant,
    stored: Option<&Snapshot>,
) -> Option<Instant> {
    let (is_unsaved, has_key) = {
        let ledger = state.ledger();
        (
            ledger.is_unsaved(),
            ledger.usable_key(state.now()).is_some(),
        )
    };
    if is_unsaved {
        // Nobody else knows its refresh token.
        return Some(begun);
    }
    // A login does no sibling harm once the mark has settled: no call of theirs is under way by then. A holder that only
    // logs in itself, or died a moment ago, is given the time of a call.
    let settles = Instant::now() + stored.map_or(Duration::ZERO, Snapshot::mark_settles_in);
    let at = match begun + state.call_timeout() {
        // A holder whose call hangs reads on, and its mark may outlast this renewal. It has had the time of a call.
        waited if waited <= last => waited.max(settles).min(last),
        _ => last.max(settles),
    };
    (has_key && at <= last).then_some(at)
}

/// Makes what we hold and what is stored the same, whichever goes first, and takes up the seed if that leaves nothing to
/// present.
async fn agree(state: &State, store: &SourceStore, session: &mut Session) -> Result<(), Error> {
    agree_on_pair(state, store, session).await?;
    take_up_seed(state, store, session).await
}

async fn agree_on_pair(
    state: &State,
    store: &SourceStore,
    session: &mut Session,
) -> Result<(), Error> {
    let held = state.ledger().version();
    if let Some(pair) = store.unsaved_pair()
        && held == Some(pair.version())
        && session
            .snapshot()
            .is_none_or(|stored| !pair.gives_way_to(stored))
    {
        session.save(pair.snapshot().clone()).await?;
        state.ledger().saved(pair.version());
        store.forget_unsaved(held);
        return Ok(());
    }
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
    tokens.api_key = state.ledger().owner();
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
    Ok(())
}

/// Takes up the given refresh token, unless something else can be presented or it was taken up before. The store has it
/// first and the note that it is spent second: whoever is killed in between leaves a seed that others find, and note.
async fn take_up_seed(
    state: &State,
    store: &SourceStore,
    session: &mut Session,
) -> Result<(), Error> {
    let (seed, logs_in) = {
        let ledger = state.ledger();
        (
            ledger.needed_seed(),
            ledger.usable_key(state.now()).is_some(),
        )
    };
    if let Some(seed) = seed {
        if logs_in {
            state.teller.tell(Event::Notice(Notice::SeedNotNeeded));
        } else if spent_seeds::is_spent(store, &seed).await? {
            state.teller.tell(Event::Notice(Notice::SeedSpent));
            state.ledger().forget_seed(&seed);
        } else {
            session.plant(seed).await?;
        }
    }
    if let Some(stored) = session.snapshot()
        && let Some(token) = &stored.tokens().refresh_token
        && (stored.is_planted() || state.ledger().is_seed(token))
    {
        spent_seeds::note(store, token).await?;
        let mut ledger = state.ledger();
        ledger.agree(Some(stored));
        ledger.forget_seed(token);
    }
    Ok(())
}

/// How long another process may still be about to present, or to save, what its mark names.
fn someone_elses_mark(state: &State, stored: &Snapshot) -> Duration {
    let ledger = state.ledger();
    let is_behind = ledger.version().is_some_and(|ours| stored.is_behind(ours));
    let is_own = ledger.is_own_mark(Some(stored.version()), stored.marks());
    if is_behind || is_own || ledger.usable_key(state.now()).is_some() {
        return Duration::ZERO;
    }
    stored.mark_settles_in()
}

/// The call had no effect.
pub(super) async fn clear_mark(state: &State, grant: &Grant) {
    if !matches!(grant, Grant::RefreshToken(_)) || state.ledger().is_in_doubt() {
        return;
    }
    let Some(store) = &state.store else {
        return;
    };
    let Ok(mut session) = store.session().await else {
        return;
    };
    // Also where the session knows of no mark: it may have been written, and its acknowledgement lost.
    if let Some(session) = session.as_mut() {
        match session.change(Snapshot::clear_mark).await {
            Ok(()) => state.ledger().marked(session.version(), 0),
            Err(error) => {
                let what = "the mark on the stored refresh token was not cleared";
                state.teller.store_failed(what, error);
            }
        }
    }
}

/// The response to the call that the mark is for is read for `rest` longer than others know.
pub(super) async fn extend_mark(state: &State, rest: Duration) {
    let Some(store) = &state.store else { return };
    let Ok(mut session) = store.session().await else {
        return;
    };
    // What no sibling knows has no mark.
    if let Some(session) = session.as_mut().filter(|session| session.marks() > 0)
        && let Err(error) = session.extend_mark(rest).await
    {
        // Read on all the same: to call again now would be worse.
        state
            .teller
            .store_failed("the mark on a refresh token was not extended", error);
    }
}

/// A credential was refused. The stored refresh token is forgotten if it was that, and the seed is taken up if nothing else
/// is left.
///
/// # Errors
///
/// Without the API key the stored refresh token is next, and another process may still be about to present that.
pub(super) async fn refused(state: &State, grant: &Grant) -> Result<(), Failure> {
    let Some(store) = &state.store else {
        return Ok(());
    };
    store.forget_refused(grant);
    let Ok(mut session) = store.session().await else {
        return Ok(());
    };
    let Some(session) = session.as_mut() else {
        return Ok(());
    };
    if matches!(grant, Grant::RefreshToken(_)) {
        if let Err(error) = session.change(Snapshot::forget_tokens).await {
            state
                .teller
                .store_failed("a refused refresh token stays in the store", error);
            return Ok(());
        }
    } else if let Some(stored) = session.snapshot()
        && let wait = someone_elses_mark(state, stored)
        && !wait.is_zero()
    {
        return Err(marked(wait));
    }
    if let Err(error) = take_up_seed(state, store, session).await {
        state
            .teller
            .store_failed("the given refresh token is not presented", error);
    }
    Ok(())
}

/// Ends the session, and shares a cool-down before, with whether the API has asked for it.
pub(super) async fn leave(state: &State, cool_down: Option<(Deadline, bool)>) {
    let Some(store) = &state.store else {
        return;
    };
    let Ok(mut open) = store.session().await else {
        return;
    };
    // The task that goes on saving needs the session, and so does a renewal that has begun meanwhile.
    if store.has_unsaved() || state.renewals.is_working() {
        return;
    }
    let Some(mut session) = open.take() else {
        return;
    };
    if let Some((until, was_asked)) = cool_down
        && let Err(error) = session.pause(until.left(state.now()), was_asked).await
    {
        state
            .teller
            .store_failed("the cool-down after a failure is not shared", error);
    }
    // The next renewal need not wait for the unlocking.
    drop(open);
    session.close().await;
}
