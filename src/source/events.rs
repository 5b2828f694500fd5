//! What a source tells (guarantee G29). The one place that tells it is the [`teller`](super::teller).

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use tokio::sync::{broadcast, watch};

use crate::{endpoint::Grant, error::Error};

/// Why a renewal ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RenewalReason {
    /// There was no token yet.
    First,
    /// The token had expired.
    Expired,
    /// The token was in its early window: still usable, soon to expire.
    Early,
    /// [`renew`](crate::TokenSource::renew) was called, or the token had been invalidated.
    Requested,
    /// The API answered 401.
    Unauthorized,
    /// A request asked for more lifetime than was left; see [`MinLifetime`](crate::MinLifetime).
    MinLifetime,
}

/// How a renewal got its pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GrantType {
    /// By `POST /auth/refresh`, with the refresh token.
    RefreshToken,
    /// By `POST /auth/api-key`, with the API key.
    ApiKey,
    /// By no call at all: another process had saved it in the store.
    Store,
}

impl GrantType {
    pub(super) fn of(grant: &Grant) -> Self {
        match grant {
            Grant::RefreshToken(_) => Self::RefreshToken,
            Grant::ApiKey(_) => Self::ApiKey,
        }
    }
}

/// What came of one token call; see [`Event::Attempt`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AttemptOutcome {
    /// It brought a token, which is in use.
    Granted,
    /// It never went out.
    NotSent,
    /// It had no effect, and may be made again.
    Transient,
    /// It was sent and nothing usable came back: the refresh token may be spent.
    Ambiguous,
    /// The API refused the credential.
    Refused,
    /// The account is suspended.
    Suspended,
    /// The API did not understand the call.
    Misunderstood,
    /// It was held back: the store failed, or the credential was replaced.
    HeldBack,
    /// Something newer was there when it ended.
    Superseded,
}

/// Something about the way a program is set up that a person should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Notice {
    /// The given refresh token is not presented, since the API key logs in.
    SeedNotNeeded,
    /// The given refresh token is not presented, since it was taken up before.
    SeedSpent,
    /// Two new refresh tokens in a row were refused: another process seems to log in with the same API key.
    SharedKey,
    /// A timeout below the layer ended a token call.
    TimeoutBelow,
    /// The stored pair came from a given refresh token, so it does not say to which API key it belongs.
    UnclaimedPair,
}

/// A token that came into use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RenewalEvent {
    /// The number of the new token in this source; see [`Bearer::generation`](crate::Bearer::generation).
    pub generation: u64,
    /// Why it was fetched.
    pub reason: RenewalReason,
    /// How it was fetched.
    pub grant: GrantType,
    /// When it expires, by this machine's clock.
    pub expires_at: SystemTime,
    /// How often this source has logged in with the API key because its refresh token did not work.
    ///
    /// It should stay at or near zero. A number that grows means that somebody else spends or ends this source's
    /// refresh tokens.
    pub fallbacks: u64,
}

/// Something that happened in a source. What each means, with the log lines and metrics that are made from it, stands in the
/// [guide](crate::guide::observing).
///
/// No event holds a secret.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A renewal began.
    #[non_exhaustive]
    RenewalStarted {
        /// Why it runs.
        reason: RenewalReason,
    },
    /// A token call of a renewal ended, or is no longer waited for.
    #[non_exhaustive]
    Attempt {
        /// Counts the calls of this renewal, from 1.
        number: u32,
        /// What was presented.
        grant: GrantType,
        /// What came of it.
        outcome: AttemptOutcome,
        /// The status of the response, if one came.
        status: Option<u16>,
        /// From the wish to call to the response, with the wait for a slot.
        duration: Duration,
        /// Why it brought no token.
        error: Option<Error>,
    },
    /// A token came into use. With [`GrantType::Store`] it was *adopted*: another process has saved it. It may come after
    /// its renewal has ended, if its response was late.
    Renewed(RenewalEvent),
    /// A renewal ended.
    #[non_exhaustive]
    RenewalEnded {
        /// Why it ran.
        reason: RenewalReason,
        /// How it got its token, if it did.
        grant: Option<GrantType>,
        /// How many token calls it made.
        attempts: u32,
        /// The newest token after it; 0 if there was none yet.
        generation: u64,
        /// A hash of the token family, the same in all processes that share the store. `None` without a store.
        family: Option<u32>,
        /// How long it took.
        duration: Duration,
        /// Why it brought no token; `None` if it did.
        error: Option<Error>,
    },
    /// A request was sent again after a 401.
    #[non_exhaustive]
    Replayed {
        /// The token that it was sent with.
        generation: u64,
        /// The status of the response to it.
        status: u16,
    },
    /// The API key logs in since the refresh token did not work.
    #[non_exhaustive]
    KeyFallback {
        /// How often that has happened in this source.
        fallbacks: u64,
    },
    /// A renewal failed: no token call is made for a while. A later failure in the same outage tells it again.
    #[non_exhaustive]
    CoolDownBegan {
        /// The failure, with the time after which it is tried again in [`Error::retry_after`].
        error: Error,
    },
    /// The outage is over.
    #[non_exhaustive]
    CoolDownEnded {
        /// Since the beginning of the first renewal that failed.
        failing_for: Duration,
        /// A new token is in use. `false`: new credentials were set, which are still to be tried.
        is_recovered: bool,
    },
    /// The store failed. The source goes on where it safely can.
    #[non_exhaustive]
    StoreFailed {
        /// What follows from it.
        what: &'static str,
        /// How it failed.
        error: Error,
    },
    /// The newest pair is in use but could not be saved: if the process ends now, it is lost.
    #[non_exhaustive]
    PairUnsaved {
        /// Why it could not be saved.
        error: Error,
    },
    /// The pair that could not be saved is in the store now.
    PairSaved,
    /// The pair that could not be saved is given up: it has expired, or the source has ended.
    PairLost,
    /// Something about the set-up that a person should know.
    Notice(Notice),
    /// This reader was too slow: so many events are missing here. It is no event of the source.
    Missed(u64),
}

/// What happens in a source, from the subscription on; see [`TokenSource::subscribe`](crate::TokenSource::subscribe).
///
/// A reader that falls behind by more than 64 events is told how many it has missed, and goes on with the oldest that is
/// left. It never holds up the source.
///
/// ```
/// use apivideo_auth::{Event, TokenSource};
///
/// # async fn run(source: TokenSource) {
/// let mut events = source.subscribe();
/// while let Some(event) = events.next().await {
///     match event {
///         Event::Renewed(token) => println!("token {} by {:?}", token.generation, token.grant),
///         Event::KeyFallback { fallbacks, .. } => println!("the API key was needed, {fallbacks} times by now"),
///         Event::Missed(events) => println!("{events} events were missed"),
///         _ => {}
///     }
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Events {
    events: broadcast::Receiver<Event>,
    latest: watch::Receiver<Option<RenewalEvent>>,
}

impl Events {
    pub(super) fn new(
        events: broadcast::Receiver<Event>,
        latest: watch::Receiver<Option<RenewalEvent>>,
    ) -> Self {
        Self { events, latest }
    }

    /// The newest token of the source, whether or not its event was read; `None` if there was none yet.
    #[must_use]
    pub fn latest(&self) -> Option<RenewalEvent> {
        *self.latest.borrow()
    }

    /// Waits for the next event. `None` once the source is gone.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<Event> {
        use broadcast::error::RecvError;
        match self.events.recv().await {
            Ok(event) => Some(event),
            Err(RecvError::Lagged(missed)) => Some(Event::Missed(missed)),
            Err(RecvError::Closed) => None,
        }
    }
}

/// Whose events they are: what stands on each line and each metric.
#[derive(Debug)]
pub(super) struct Labels {
    pub(super) account: String,
    pub(super) origin: String,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SeedNotNeeded => {
                "the given refresh token is not presented: the API key logs in"
            }
            Self::SeedSpent => {
                "the given refresh token is not presented: it was taken up before"
            }
            Self::SharedKey => {
                "two new refresh tokens in a row were refused: another process seems to log in with the same API key; not \
                 refreshing for an hour"
            }
            Self::TimeoutBelow => {
                "a timeout below the layer ended a token call: its refresh token may be lost; put the timeout above the \
                 layer, or give token calls a service of their own with `token_service`"
            }
            Self::UnclaimedPair => {
                "the stored pair does not say whose it is, since it came from a given refresh token: it is taken for that \
                 of the API key"
            }
        })
    }
}
