//! What a source tells of its renewals.

use std::time::SystemTime;

use tokio::sync::watch;

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

/// A renewal that succeeded.
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

/// The renewals of a source, as they happen; see [`TokenSource::subscribe`](crate::TokenSource::subscribe).
///
/// A slow reader misses events but never the latest one.
///
/// ```
/// # async fn run(source: apivideo_auth::TokenSource) {
/// let mut events = source.subscribe();
/// while let Some(event) = events.next().await {
///     println!("token {} by {:?}", event.generation, event.grant);
/// }
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct RenewalEvents(watch::Receiver<Option<RenewalEvent>>);

impl RenewalEvents {
    pub(super) fn new(events: watch::Receiver<Option<RenewalEvent>>) -> Self {
        Self(events)
    }

    /// The latest renewal; `None` if there was none yet.
    #[must_use]
    pub fn latest(&self) -> Option<RenewalEvent> {
        *self.0.borrow()
    }

    /// Waits for a renewal that this stream has not given yet. If several happened since, it gives the latest.
    /// `None` once the source is gone.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<RenewalEvent> {
        self.0.changed().await.ok()?;
        *self.0.borrow_and_update()
    }
}
