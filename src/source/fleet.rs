//! A source's part in a fleet, before and after the calls of a renewal (guarantees G21 to G26): adopting what others have
//! saved, agreeing with the store, and leaving it to others.

use std::time::Duration;

use tokio::time::{self, Instant};

use super::{
    commit::adopt,
    cool_down::Pause,
    events::RenewalReason,
    failure::{Failure, LOOK_AGAIN},
    snapshot::{Settled, Snapshot},
    spent_seeds,
    state::State,
    store_session::{Opened, Session, SourceStore},
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

/// Between two looks at a mark that is not settled.
const LOOK_AT_MARK: Duration = Duration::from_millis(250);

/// Takes the store's lock, or adopts what another process saved.
pub(super) async fn enter(
    state: &State,
    store: &SourceStore,
    reason: RenewalReason,
    deadline: Instant,
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
        if let Some(session) = store.session().await.map_err(Failure::outage)?.as_mut() {
            store.refresh(session, key.as_ref()).await;
            if agree(state, store, session).await.is_ok() {
                return Ok(None);
            }
        }
        store.close().await;
        let enough = |stored: &Snapshot| {
            stored
                .settles(ours)
                .filter(|found| !ignores_pause || matches!(found, Settled::Pair(_)))
        };
        match store
            .open(key.as_ref(), deadline, enough)
            .await
            .map_err(Failure::outage)?
        {
            Opened::Enough(Settled::Pair(stored)) => {
                let message = "the stored access token is not a valid header value";
                let error = || Failure::outage(Error::new(ErrorKind::StoreCorrupt, message));
                return adopt(state, stored, reason).map(Some).ok_or_else(error);
            }
            Opened::Enough(Settled::Pause(wait)) if wait <= SHORT => time::sleep(wait).await,
            Opened::Enough(Settled::Pause(wait)) => {
                let message =
                    "the token endpoint failed for another process, and is left alone for a while";
                let error = Error::new(ErrorKind::Unavailable, message);
                return Err(Failure {
                    error,
                    pause: Pause::For(wait),
                });
            }
            Opened::Locked(mut session) => {
                let wait = someone_elses_mark(state, &session);
                if !wait.is_zero() {
                    // Whoever made the mark needs the lock to save what comes of it.
                    session.close().await;
                    wait_for_mark(state, deadline, wait).await?;
                } else if !state.has_room(deadline, Duration::ZERO) {
                    session.close().await;
                    let message = "the store's lock was free too late for a token call";
                    return Err(Failure::outage(Error::new(ErrorKind::StoreLocked, message)));
                } else {
                    let agreed = agree(state, store, &mut session).await;
                    *store.session().await.map_err(Failure::outage)? = Some(session);
                    return agreed.map(|()| None).map_err(Failure::outage);
                }
            }
        }
    }
}

/// Makes what we hold and what is stored the same, whichever goes first, and takes up the seed if that leaves nothing to
/// present.
async fn agree(state: &State, store: &SourceStore, session: &mut Session) -> Result<(), Error> {
    agree_on_pair(state, session).await?;
    take_up_seed(state, store, session).await
}

async fn agree_on_pair(state: &State, session: &mut Session) -> Result<(), Error> {
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
    drop(ledger);
    if let Some(store) = &state.store {
        store.forget_unsaved();
    }
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
            tracing::info!("the given refresh token is not presented: the API key logs in");
        } else if spent_seeds::is_spent(store, &seed).await? {
            state.ledger().forget_seed(&seed);
        } else {
            session.plant(seed).await?;
        }
    }
    if let Some(seed) = session.snapshot().and_then(Snapshot::seed) {
        spent_seeds::note(store, seed).await?;
        state.ledger().agree(session.snapshot());
    }
    Ok(())
}

/// How long another process may still be about to present, or to save, what its mark names.
fn someone_elses_mark(state: &State, session: &Session) -> Duration {
    let Some(stored) = session.snapshot() else {
        return Duration::ZERO;
    };
    let ledger = state.ledger();
    let is_behind = ledger.version().is_some_and(|ours| stored.is_behind(ours));
    let is_own = ledger.is_own_mark(session.version(), session.marks());
    if is_behind || is_own || ledger.usable_key(state.now()).is_some() {
        return Duration::ZERO;
    }
    stored.mark_settles_in()
}

async fn wait_for_mark(state: &State, deadline: Instant, wait: Duration) -> Result<(), Failure> {
    // It is looked at for as long as there is time: its maker may save a pair at any moment.
    if !state.has_room(deadline, LOOK_AT_MARK) {
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
                tracing::warn!(%error, "the mark on the stored refresh token was not cleared")
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
        tracing::warn!(%error, "the mark on a refresh token was not extended");
    }
}

/// A credential was refused. The stored refresh token is forgotten if it was that, and the seed is taken up if nothing else
/// is left.
pub(super) async fn refused(state: &State, grant: &Grant) {
    let Some(store) = &state.store else {
        return;
    };
    let Ok(mut session) = store.session().await else {
        return;
    };
    let Some(session) = session.as_mut() else {
        return;
    };
    if matches!(grant, Grant::RefreshToken(_))
        && let Err(error) = session.change(Snapshot::forget_tokens).await
    {
        tracing::warn!(%error, "a refused refresh token stays in the store");
        return;
    }
    if let Err(error) = take_up_seed(state, store, session).await {
        tracing::warn!(%error, "the given refresh token is not presented");
    }
}

/// Ends the session, and shares a cool-down before.
pub(super) async fn leave(state: &State, cool_down: Option<Deadline>) {
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
    if let Some(until) = cool_down
        && let Err(error) = session.pause(until.left(state.now())).await
    {
        tracing::warn!(%error, "the cool-down after a failure is not shared");
    }
    session.close().await;
}
