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
    /// The token was in its early window.
    Early,
    /// `renew` was called, or the token had been invalidated.
    Requested,
    /// The API answered 401.
    Unauthorized,
    /// A request asked for more lifetime than was left.
    MinLifetime,
}

/// How a renewal got its pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GrantType {
    /// With the refresh token.
    RefreshToken,
    /// With the API key.
    ApiKey,
    /// Another process had stored it.
    Store,
}

/// A renewal that succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RenewalEvent {
    /// The number of the new token.
    pub generation: u64,
    /// Why it was fetched.
    pub cause: RenewalReason,
    /// How it was fetched.
    pub way: GrantType,
    /// When it expires, by this machine's clock.
    pub expires_at: SystemTime,
    /// How often this source has logged in with the API key because its refresh token did not do. It should
    /// stay at or near zero: each may mean that somebody else spends or kills this source's refresh tokens.
    pub fallbacks: u64,
}

/// Tells of renewals; see [`subscribe`](crate::ApiVideoAuthLayer::subscribe).
#[derive(Clone, Debug)]
pub struct RenewalEvents(pub(super) watch::Receiver<Option<RenewalEvent>>);

impl RenewalEvents {
    /// The latest renewal; `None` if there was none yet.
    #[must_use]
    pub fn latest(&self) -> Option<RenewalEvent> {
        *self.0.borrow()
    }

    /// Waits for a renewal that this subscription has not told of. Several since then are told as the latest.
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
