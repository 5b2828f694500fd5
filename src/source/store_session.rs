//! The store of a source: opening it, saving, and the pair that could not be saved (guarantees G21 and G24).

use std::{
    fmt,
    sync::{Arc, Once},
    time::Duration,
};

use tokio::{
    sync::{Mutex, MutexGuard},
    time::{self, Instant},
};

use super::{
    events::{Event, Notice},
    session::{Seen, Session, bounded, quarantine, unlock},
    snapshot::{BoughtPair, Snapshot},
    teller::Teller,
};
use crate::{
    credentials::ApiKey,
    endpoint::Grant,
    error::{Error, ErrorKind},
    store::{Fingerprint, StoreKey, StoreLock, Stored, StoredTokens, TokenStore, TryLock, Version},
};

/// Between two looks at a store whose lock somebody else holds: from the first to the longest. Others save in between, and
/// a look is all that it takes to find out.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// The lock itself is asked for once in so many looks: it is news only if its holder has failed or died.
const LOOKS_PER_TRY: u32 = 4;

/// No stored cool-down or mark is longer than this, whatever a clock says.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// The longest wait for another task of this process that is at work on the store. Its runtime may not be polled.
const SESSION_WAIT: Duration = Duration::from_secs(5);

/// The store of a source. Its session belongs to the source and not to a task: a renewal that takes over from another
/// finds the lock with it.
pub(crate) struct SourceStore {
    store: Arc<dyn TokenStore>,
    key: StoreKey,
    replace_foreign_pair: bool,
    session: Mutex<Option<Session>>,
    unsaved: std::sync::Mutex<Unsaved>,
    says_unclaimed: Once,
    seen: Seen,
    teller: Arc<Teller>,
}

/// The pair that is in use and could not be saved.
#[derive(Debug, Default)]
struct Unsaved {
    pair: Option<BoughtPair>,
    /// A task goes on trying to save it.
    is_served: bool,
}

/// Who opens a store, and for how long it waits.
pub(super) struct Opening<'a> {
    pub(super) key: Option<&'a ApiKey>,
    /// A damaged record may be replaced: there is a key to log in with, or a pair that goes before whatever was in it.
    pub(super) replaces_damaged: bool,
    pub(super) until: Instant,
}

/// What follows from a look at the store.
pub(super) enum Verdict<T> {
    Enough(T),
    /// The lock would be of no use before this.
    Wait(Instant),
    /// The lock is wanted. If somebody still holds it at `leave_at`, there is a way on without it.
    Lock {
        leave_at: Option<Instant>,
    },
}

/// What came of [`SourceStore::open`].
pub(super) enum Opened<T> {
    Enough(T),
    Locked(Session),
    /// Somebody else holds the lock, and it is time to go on without it.
    Held(Error),
}

/// Why a pair was not saved.
#[derive(Debug)]
pub(super) enum NotSaved {
    /// Another pair is stored by now, which goes before it.
    MovedOn,
    Failed(Error),
}

impl SourceStore {
    pub(crate) fn new(
        store: Arc<dyn TokenStore>,
        key: StoreKey,
        replace_foreign_pair: bool,
        teller: Arc<Teller>,
    ) -> Self {
        Self {
            store,
            key,
            replace_foreign_pair,
            session: Mutex::new(None),
            unsaved: Default::default(),
            says_unclaimed: Once::new(),
            seen: Default::default(),
            teller,
        }
    }

    /// The error for lack of a pair, and of a credential beside it.
    pub(super) fn holds_nothing(&self) -> Error {
        let message = format!(
            "{} holds no pair for account `{}` of {}; check `account`, `environment` and the store's place, or start once \
             with an API key or a refresh token",
            self.store.place(),
            self.key.account(),
            self.key.origin()
        );
        Error::new(ErrorKind::NoCredentials, message)
    }

    pub(super) fn store(&self) -> &dyn TokenStore {
        &*self.store
    }

    pub(super) fn key(&self) -> &StoreKey {
        &self.key
    }

    /// The session of this source, if one is open.
    ///
    /// # Errors
    ///
    /// Another task of this process holds it for too long: perhaps nobody polls its runtime.
    pub(super) async fn session(&self) -> Result<MutexGuard<'_, Option<Session>>, Error> {
        time::timeout(SESSION_WAIT, self.session.lock())
            .await
            .map_err(|_| {
                let message = "another task of this process is at work on the token store";
                Error::new(ErrorKind::StoreUnavailable, message)
            })
    }

    /// Looks again at what is stored, in a session that has been open for a while: a save may have been done whose
    /// acknowledgement was lost.
    pub(super) async fn refresh(&self, session: &mut Session, key: Option<&ApiKey>) {
        if let Ok(Some(stored)) = self.look(key).await {
            session.refresh(stored);
        }
    }

    /// Ends the session of this source, if one is open.
    pub(super) async fn close(&self) {
        let session = self.session().await.ok().and_then(|mut open| open.take());
        // Whoever comes next need not wait for the unlocking.
        if let Some(session) = session {
            session.close().await;
        }
    }

    /// The same, if no call is under way any more whose response siblings have to wait for.
    pub(super) async fn close_if_settled(&self) {
        let Ok(mut session) = self.session().await else {
            return;
        };
        let is_settled = |session: &mut Session| {
            let snapshot = session.snapshot();
            snapshot.is_none_or(|stored| stored.mark_settles_in().is_zero())
        };
        let settled = session.take_if(is_settled);
        drop(session);
        if let Some(session) = settled {
            session.close().await;
        }
    }

    /// Nobody of this process needs the session any more, perhaps since a runtime was shut down in the middle of a renewal.
    /// The lock goes with it, but for one that has to be kept: see [`save_later`](super::saver::save_later).
    pub(super) fn let_go(&self, has_key: bool) {
        let keeps_lock = {
            let unsaved = self.unsaved();
            unsaved.pair.is_some() && (unsaved.is_served || !has_key)
        };
        if !keeps_lock {
            let session = self.session.try_lock().ok();
            // Whatever a lock does when it is dropped, it does outside of ours.
            drop(session.and_then(|mut open| open.take()));
        }
    }

    /// Reads the store. `None`: nothing is there.
    pub(super) async fn look(&self, key: Option<&ApiKey>) -> Result<Option<Snapshot>, Error> {
        let stored = bounded(|| self.store.load(&self.key)).await?;
        self.seen
            .set(stored.as_ref().map(|stored| stored.header.version));
        let Some(Stored { mut header, record }) = stored else {
            return Ok(None);
        };
        // A clock that was set back must not turn a pause of seconds into one of hours.
        header.not_before = header.not_before.map(|wait| wait.min(LONGEST_PAUSE));
        if let Some(mark) = &mut header.mark {
            mark.settles_in = mark.settles_in.min(LONGEST_PAUSE);
        }
        let Some(record) = record else {
            return Ok(Some(Snapshot::logged_out(header)));
        };
        let tokens = StoredTokens::open(&record)?;
        let is_foreign = match (&tokens.api_key, key) {
            (Some(theirs), Some(key)) => *theirs != Fingerprint::of(key.expose()),
            _ => false,
        };
        if is_foreign && !self.replace_foreign_pair {
            let message = format!(
                "the pair stored for account `{}` belongs to another API key; name another account, or replace the pair \
                 with `replace_foreign_pair(true)`",
                self.key.account()
            );
            return Err(Error::new(ErrorKind::StoreForeign, message));
        }
        if key.is_some() && tokens.refresh_token.is_some() && tokens.api_key.is_none() {
            self.says_unclaimed.call_once(|| {
                self.teller.tell(Event::Notice(Notice::UnclaimedPair));
            });
        }
        Ok(Some(Snapshot::new(
            header,
            if is_foreign {
                StoredTokens::default()
            } else {
                tokens
            },
        )))
    }

    /// What was stored as far as this source knows.
    pub(super) fn seen(&self) -> Option<Version> {
        self.seen.get()
    }

    /// Takes the lock, or finds that it need not: `judge` looks at what others save in the meantime.
    pub(super) async fn open<T>(
        &self,
        opening: Opening<'_>,
        mut judge: impl FnMut(Option<&Snapshot>) -> Verdict<T>,
    ) -> Result<Opened<T>, Error> {
        let (mut pause, mut looks, mut holder) = (LOOK_AGAIN.0, 0, None);
        loop {
            let snapshot = match self.look(opening.key).await {
                // Looked at again, and mended, under the lock.
                Err(error) if opening.replaces(&error) => None,
                snapshot => snapshot?,
            };
            let mut rest = pause.mul_f64(1.0 + fastrand::f64() / 2.0);
            match judge(snapshot.as_ref()) {
                Verdict::Enough(done) => return Ok(Opened::Enough(done)),
                Verdict::Wait(until) => {
                    rest = rest.min(until.saturating_duration_since(Instant::now()));
                    // Once that is over, the lock is tried at once.
                    looks = LOOKS_PER_TRY - 1;
                }
                Verdict::Lock { leave_at } => {
                    let left = leave_at.map(|at| at.saturating_duration_since(Instant::now()));
                    let leaves = left.is_some_and(|left| left.is_zero());
                    if leaves || looks % LOOKS_PER_TRY == 0 {
                        match bounded(|| self.store.try_lock(&self.key)).await? {
                            TryLock::Locked(lock) => {
                                if let Some(opened) =
                                    self.look_again(lock, &opening, &mut judge).await?
                                {
                                    return Ok(opened);
                                }
                            }
                            TryLock::Busy(name) if leaves => {
                                return Ok(Opened::Held(is_held(name)));
                            }
                            TryLock::Busy(name) => holder = name,
                        }
                    }
                    rest = rest.min(left.unwrap_or(rest));
                    looks += 1;
                }
            }
            if Instant::now() + rest > opening.until {
                return Err(is_held(holder));
            }
            time::sleep(rest).await;
            pause = (pause * 2).min(LOOK_AGAIN.1);
        }
    }

    /// The second look, under the lock: somebody may have saved between the first look and the lock. `None`: the lock is of
    /// no use yet.
    async fn look_again<T>(
        &self,
        mut lock: Box<dyn StoreLock>,
        opening: &Opening<'_>,
        judge: impl FnOnce(Option<&Snapshot>) -> Verdict<T>,
    ) -> Result<Option<Opened<T>>, Error> {
        let looked = match self.look(opening.key).await {
            Err(error) if opening.replaces(&error) => quarantine(&mut *lock, error, &self.teller)
                .await
                .map(|()| None),
            looked => looked,
        };
        let opened = match looked {
            Ok(snapshot) => match judge(snapshot.as_ref()) {
                Verdict::Lock { .. } => {
                    let session =
                        Session::new(lock, snapshot, self.seen.clone(), self.teller.clone());
                    return Ok(Some(Opened::Locked(session)));
                }
                Verdict::Enough(done) => Ok(Some(Opened::Enough(done))),
                Verdict::Wait(_) => Ok(None),
            },
            Err(error) => Err(error),
        };
        unlock(lock).await;
        opened
    }

    /// Whether the store has another pair than the one that this source's session was about; if so, the session ends.
    pub(super) async fn has_changed(&self, key: Option<&ApiKey>) -> bool {
        let Ok(mut session) = self.session().await else {
            return false;
        };
        let Some(known) = session.as_ref().map(Session::version) else {
            return false;
        };
        let stored = self
            .look(key)
            .await
            .ok()
            .flatten()
            .map(|snapshot| snapshot.version());
        let has_changed = stored.is_some() && stored != known;
        if has_changed && let Some(session) = session.take() {
            session.close().await;
        }
        has_changed
    }

    /// Saves a pair: in the session of this source, or else in one of its own. `presented` says, when it is saved, for how long
    /// the response to a call is read that presents its refresh token already: others can find it from now on, and its mark.
    pub(super) async fn save(
        &self,
        pair: &BoughtPair,
        until: Instant,
        presented: impl Fn() -> Option<Duration>,
    ) -> Result<(), NotSaved> {
        let mut open = self.session().await.map_err(NotSaved::Failed)?;
        if let Some(session) = open.as_mut() {
            // Under our own lock only we save. A login does not give way to what it overtakes: a late response, perhaps
            // of credentials that were replaced.
            let gives_way = |stored: &Snapshot| {
                !pair.is_login()
                    && pair.gives_way_to(stored)
                    && Some(pair.version()) != session.version()
            };
            if session.snapshot().is_some_and(gives_way) {
                return Err(NotSaved::MovedOn);
            }
            let result = save(session, pair, presented).await;
            if result
                .as_ref()
                .is_err_and(|error| error.kind() == ErrorKind::StoreConflict)
            {
                // The lock was lost. It is taken anew for the next try.
                if let Some(session) = open.take() {
                    session.close().await;
                }
            }
            return result.map_err(NotSaved::Failed);
        }
        drop(open);
        let judge = |stored: Option<&Snapshot>| match stored {
            // An earlier try was carried out without a word.
            Some(stored) if stored.is_of(pair.version()) => Verdict::Enough(Ok(())),
            Some(stored) if pair.gives_way_to(stored) => Verdict::Enough(Err(NotSaved::MovedOn)),
            _ => Verdict::Lock { leave_at: None },
        };
        let opening = Opening {
            key: pair.api_key(),
            replaces_damaged: true,
            until,
        };
        match self.open(opening, judge).await.map_err(NotSaved::Failed)? {
            Opened::Enough(found) => found,
            Opened::Held(error) => Err(NotSaved::Failed(error)),
            Opened::Locked(mut session) => {
                let result = save(&mut session, pair, presented).await;
                match &result {
                    // The lock stays with the source, as it does where its session fails to save.
                    Err(error) if error.kind() != ErrorKind::StoreConflict => {
                        if let Ok(mut open) = self.session().await {
                            open.get_or_insert(session);
                        }
                    }
                    _ => session.close().await,
                }
                result.map_err(NotSaved::Failed)
            }
        }
    }

    /// Remembers a pair that could not be saved, in place of an earlier one. Says whether a task is needed that goes on
    /// trying.
    pub(super) fn keep_unsaved(&self, pair: BoughtPair) -> bool {
        let mut unsaved = self.unsaved();
        unsaved.pair = Some(pair);
        !std::mem::replace(&mut unsaved.is_served, true)
    }

    /// The pair that could not be saved.
    pub(super) fn unsaved_pair(&self) -> Option<BoughtPair> {
        self.unsaved().pair.clone()
    }

    /// Whether there still is such a pair. If not, the task that tries to save it is to end, and a later pair needs another.
    pub(super) fn has_unsaved_to_serve(&self) -> bool {
        let mut unsaved = self.unsaved();
        unsaved.is_served = unsaved.pair.is_some();
        unsaved.is_served
    }

    /// The task that tried to save is gone.
    pub(super) fn is_served_no_more(&self) {
        self.unsaved().is_served = false;
    }

    /// The pair was saved, or is worth nothing any more: the one of this version, or else whichever it is.
    pub(super) fn forget_unsaved(&self, version: Option<Version>) {
        self.unsaved()
            .pair
            .take_if(|pair| version.is_none_or(|version| pair.version() == version));
    }

    /// Its refresh token was refused: it is worth nothing to anybody.
    pub(super) fn forget_refused(&self, refused: &Grant) {
        if let Grant::RefreshToken(token) = refused {
            self.unsaved().pair.take_if(|pair| pair.has(token));
        }
    }

    pub(super) fn has_unsaved(&self) -> bool {
        self.unsaved().pair.is_some()
    }

    fn unsaved(&self) -> std::sync::MutexGuard<'_, Unsaved> {
        lock(&self.unsaved)
    }
}

async fn save(
    session: &mut Session,
    pair: &BoughtPair,
    presented: impl Fn() -> Option<Duration>,
) -> Result<(), Error> {
    session.save(pair.snapshot().clone()).await?;
    match presented() {
        Some(reads_for) => session.mark(reads_for).await,
        None => Ok(()),
    }
}

impl Opening<'_> {
    fn replaces(&self, error: &Error) -> bool {
        self.replaces_damaged && error.kind() == ErrorKind::StoreCorrupt
    }
}

fn is_held(holder: Option<String>) -> Error {
    let holder = holder
        .map(|holder| format!(" by {holder}"))
        .unwrap_or_default();
    let message = format!("the store's lock is held{holder}, and was not free in time");
    Error::new(ErrorKind::StoreLocked, message)
}

fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl fmt::Debug for SourceStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceStore")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}
