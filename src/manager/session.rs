//! The store of a source, and a flight's session with it under its lock.

use std::{fmt, ops::Range, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use tokio::time::{self, Instant};

use crate::{
    credentials::{ApiKey, RefreshToken},
    error::{Error, ErrorKind},
    store::{
        Fingerprint, Header, InUseMark, StoreKey, StoreLock, Stored, StoredTokens, TokenStore,
        TryLock, Version,
    },
};

pub(crate) struct StoreSettings {
    pub(super) store: Arc<dyn TokenStore>,
    pub(super) key: StoreKey,
    pub(super) replace_foreign_pair: bool,
}

/// What is stored, opened. Its spans count from when it was read or made.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) header: Header,
    pub(super) contents: StoredTokens,
    at: Instant,
}

/// Between two looks at a lock that somebody else holds, in milliseconds. Others save and let go in between.
const POLL: Range<u64> = 20..70;

/// After a mark the token has to be on its way within this time, or the lock is proven again.
const MARK_HOLDS: Duration = Duration::from_secs(1);

/// What a mark allows on top of the call itself.
const MARK_GRACE: Duration = Duration::from_secs(5);

/// No stored pause or mark is longer than this, whatever a clock says.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// The longest that one operation of a store may take.
const STORE_TIMEOUT: Duration = Duration::from_secs(10);

/// The store under its lock.
pub(super) struct Session {
    lock: Box<dyn StoreLock>,
    pub(super) seen: Option<Seen>,
}

/// What came of [`StoreSettings::open`].
pub(super) enum Opened<T> {
    Enough(T),
    Locked(Session),
}

impl Seen {
    pub(super) fn new(header: Header, contents: StoredTokens) -> Self {
        Self {
            header,
            contents,
            at: Instant::now(),
        }
    }

    fn nothing() -> Self {
        Self::new(Header::new(new_family(0)), StoredTokens::default())
    }

    /// A span of the header as it is by now.
    pub(super) fn left(&self, span: Option<Duration>) -> Option<Duration> {
        span.map(|span| span.saturating_sub(self.at.elapsed()))
    }

    /// How much longer the stored access token lives, by the store's clock and never longer than it ever could.
    pub(super) fn lives(&self) -> Duration {
        self.left(self.header.expires_in)
            .unwrap_or_default()
            .min(self.contents.lifetime)
    }

    /// Whether a pair of our own goes before what is stored: it is later of the same line, or nothing is stored at all.
    pub(super) fn is_behind(&self, ours: Version) -> bool {
        let Version { family, revision } = self.header.version;
        let StoredTokens {
            access_token,
            refresh_token,
            ..
        } = &self.contents;
        let is_blank = revision == 0 && access_token.is_none() && refresh_token.is_none();
        is_blank || family == ours.family && revision < ours.revision
    }

    fn close(&self) -> Stored {
        let Header {
            version,
            mark,
            not_before,
            expires_in,
        } = self.header;
        let mut header = Header::new(version);
        header.mark = mark.map(|mark| InUseMark {
            settles_in: self.left(Some(mark.settles_in)).unwrap_or_default(),
            ..mark
        });
        header.not_before = self.left(not_before).filter(|wait| !wait.is_zero());
        header.expires_in = self.left(expires_in);
        Stored::new(header, Some(self.contents.close()))
    }
}

impl StoreSettings {
    /// Reads the store. `None`: nothing is there.
    pub(super) async fn look(&self, key: Option<&ApiKey>) -> Result<Option<Seen>, Error> {
        let Some(Stored { mut header, record }) = bounded(|| self.store.load(&self.key)).await?
        else {
            return Ok(None);
        };
        // A clock that was set back must not turn a pause of seconds into one of hours.
        header.not_before = header.not_before.map(|wait| wait.min(LONGEST_PAUSE));
        if let Some(mark) = &mut header.mark {
            mark.settles_in = mark.settles_in.min(LONGEST_PAUSE);
        }
        let contents = record
            .as_ref()
            .map(StoredTokens::open)
            .transpose()?
            .unwrap_or_default();
        let foreign = match (&contents.api_key, key) {
            (Some(theirs), Some(key)) => *theirs != Fingerprint::of(key.expose()),
            _ => false,
        };
        if foreign && !self.replace_foreign_pair {
            return Err(Error::new(
                ErrorKind::StoreForeign,
                format!(
                    "the pair stored for account `{}` belongs to another API key; name another account, or replace the \
                     pair with `replace_foreign_pair(true)`",
                    self.key.account()
                ),
            ));
        }
        Ok(Some(Seen::new(
            header,
            if foreign {
                StoredTokens::default()
            } else {
                contents
            },
        )))
    }

    /// Takes the lock, or finds that it need not: `enough` looks at what others save in the meantime.
    pub(super) async fn open<T>(
        &self,
        key: Option<&ApiKey>,
        until: Instant,
        mut enough: impl FnMut(&Seen) -> Option<T>,
    ) -> Result<Opened<T>, Error> {
        loop {
            let seen = match self.look(key).await {
                // Looked at again, and mended, under the lock.
                Err(error) if error.kind() == ErrorKind::StoreCorrupt && key.is_some() => None,
                seen => seen?,
            };
            if let Some(done) = seen.as_ref().and_then(&mut enough) {
                return Ok(Opened::Enough(done));
            }
            let holder = match bounded(|| self.store.try_lock(&self.key)).await? {
                TryLock::Locked(lock) => return self.locked(lock, key, enough).await,
                TryLock::Busy(holder) => holder,
            };
            let pause = Duration::from_millis(fastrand::u64(POLL));
            if Instant::now() + pause > until {
                let holder = holder
                    .map(|holder| format!(" by {holder}"))
                    .unwrap_or_default();
                let message = format!("the store's lock is held{holder}, and was not free in time");
                return Err(Error::new(ErrorKind::StoreLocked, message));
            }
            time::sleep(pause).await;
        }
    }

    /// The second look, under the lock.
    async fn locked<T>(
        &self,
        mut lock: Box<dyn StoreLock>,
        key: Option<&ApiKey>,
        enough: impl FnMut(&Seen) -> Option<T>,
    ) -> Result<Opened<T>, Error> {
        let result = match self.look(key).await {
            Err(error) if error.kind() == ErrorKind::StoreCorrupt && key.is_some() => {
                tracing::warn!(%error, "the stored record is quarantined, and the API key used");
                bounded(|| lock.quarantine()).await.map(|()| None)
            }
            seen => seen,
        };
        let done = match result {
            Ok(seen) => match seen.as_ref().and_then(enough) {
                None => return Ok(Opened::Locked(Session { lock, seen })),
                Some(done) => Ok(Opened::Enough(done)),
            },
            Err(error) => Err(error),
        };
        unlock(lock).await;
        done
    }
}

impl Session {
    pub(super) fn version(&self) -> Option<Version> {
        self.seen.as_ref().map(|seen| seen.header.version)
    }

    /// How often the stored refresh token was presented without a response.
    pub(super) fn marks(&self) -> u32 {
        self.seen
            .as_ref()
            .and_then(|seen| seen.header.mark)
            .map_or(0, |mark| mark.count)
    }

    /// Notes that a refresh token is about to be presented. Returns when that has only just been made sure.
    pub(super) async fn mark(
        &mut self,
        token: &RefreshToken,
        call_timeout: Duration,
        is_seed: bool,
    ) -> Result<(), Error> {
        let stored = self.seen.clone();
        let mut seen = stored.unwrap_or_else(Seen::nothing);
        if is_seed && !seen.contents.has_spent(token) {
            // From here on the store has it, and the copy in somebody's environment is worth nothing.
            seen.header = Header::new(new_family(0));
            seen.contents.access_token = None;
            seen.contents.refresh_token = Some(token.clone());
            seen.contents.note_spent(token);
        }
        let settles_in = call_timeout + MARK_GRACE;
        let count = self.marks().saturating_add(1);
        for _ in 0..3 {
            let begun = Instant::now();
            seen.header.mark = Some(InUseMark {
                count,
                settles_in: settles_in + seen.at.elapsed(),
            });
            self.save(seen.clone()).await?;
            if begun.elapsed() < MARK_HOLDS {
                return Ok(());
            }
        }
        Err(Error::new(
            ErrorKind::StoreUnavailable,
            "the store is too slow to guard a refresh token",
        ))
    }

    /// Keeps everybody from calling for a while.
    pub(super) async fn pause(&mut self, wait: Duration) -> Result<(), Error> {
        let mut seen = self.seen.clone().unwrap_or_else(Seen::nothing);
        seen.header.not_before = Some(wait + seen.at.elapsed());
        self.save(seen).await
    }

    /// Replaces what is stored, if nothing else was stored since this session saw it.
    pub(super) async fn save(&mut self, seen: Seen) -> Result<(), Error> {
        let (expected, stored) = (self.version(), seen.close());
        bounded(|| self.lock.save(expected, stored)).await?;
        self.seen = Some(seen);
        Ok(())
    }

    pub(super) async fn close(self) {
        unlock(self.lock).await;
    }
}

/// Stores bound their own waits and don't panic; one that does otherwise must not cost a pair that was granted.
async fn bounded<'a, T>(
    work: impl FnOnce() -> BoxFuture<'a, Result<T, Error>>,
) -> Result<T, Error> {
    let work = AssertUnwindSafe(async { work().await }).catch_unwind();
    match time::timeout(STORE_TIMEOUT, work).await {
        Ok(Ok(result)) => result,
        Ok(Err(_payload)) => Err(Error::new(ErrorKind::Panicked, "the token store panicked")),
        Err(_) => {
            let message = format!("the token store did not answer within {STORE_TIMEOUT:?}");
            Err(Error::new(ErrorKind::StoreUnavailable, message))
        }
    }
}

async fn unlock(lock: Box<dyn StoreLock>) {
    // A lock that can't be freed ends with its process or lease.
    let _ = bounded(|| lock.unlock().map(Ok).boxed()).await;
}

/// A new line of pairs.
pub(super) fn new_family(revision: u64) -> Version {
    Version {
        family: fastrand::u64(1..),
        revision,
    }
}

impl fmt::Debug for StoreSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreSettings")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}
