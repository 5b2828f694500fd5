//! Access tokens, and the pairs that they come in.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::HeaderValue;
use zeroize::Zeroizing;

use crate::{
    clock::{Deadline, Now},
    credentials::{RefreshToken, secret},
};

secret! {
    /// An access token: the bearer token of API requests, good for about an hour.
    AccessToken
}

/// The access token in use, with what is known of it. Cheap to clone.
#[derive(Clone)]
pub struct Bearer(Arc<Inner>);

struct Inner {
    access: AccessToken,
    header: HeaderValue,
    generation: u64,
    life: Life,
}

/// When a token's state changes, worked out once when it arrives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Life {
    /// From here on a renewal at the side is wanted.
    pub(crate) fresh_until: Deadline,
    /// From here on it counts as expired.
    pub(crate) usable_until: Deadline,
    pub(crate) expires: Deadline,
    pub(crate) lifetime: Duration,
}

impl Bearer {
    /// `None` if the token is not a valid header value.
    pub(crate) fn new(access: AccessToken, generation: u64, life: Life) -> Option<Self> {
        let header = authorization(access.expose())?;
        Some(Self(Arc::new(Inner {
            access,
            header,
            generation,
            life,
        })))
    }

    /// The token itself, to be handed on with care.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.access.expose()
    }

    /// When the API stops accepting it, by this machine's clock: the moment its token call was sent plus the
    /// lifetime that the API stated. It can be revoked earlier.
    #[must_use]
    pub fn expires_at(&self) -> SystemTime {
        self.0.life.expires.wall()
    }

    /// The number of this token, counted up by each renewal of this source. It means nothing to other processes.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.0.generation
    }

    pub(crate) fn access(&self) -> &AccessToken {
        &self.0.access
    }

    pub(crate) fn header(&self) -> &HeaderValue {
        &self.0.header
    }

    pub(crate) fn life(&self) -> &Life {
        &self.0.life
    }

    pub(crate) fn is_usable(&self, now: Now) -> bool {
        !self.0.life.usable_until.has_passed(now)
    }

    /// Whether a renewal at the side is due.
    pub(crate) fn is_stale(&self, now: Now) -> bool {
        self.0.life.fresh_until.has_passed(now)
    }
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bearer")
            .field("generation", &self.generation())
            .field("expires_at", &self.expires_at())
            .finish_non_exhaustive()
    }
}

/// An access token and the refresh token that came with it.
///
/// The next renewal of the source kills this copy; to take the pair elsewhere, end the source with
/// [`hand_over`](crate::ApiVideoAuth::hand_over). Cheap to clone.
#[derive(Clone)]
pub struct TokenPair(Arc<Pair>);

struct Pair {
    bearer: Bearer,
    refresh_token: Option<RefreshToken>,
}

impl TokenPair {
    pub(crate) fn new(bearer: Bearer, refresh_token: Option<RefreshToken>) -> Self {
        Self(Arc::new(Pair {
            bearer,
            refresh_token,
        }))
    }

    /// The access token.
    #[must_use]
    pub fn access_token(&self) -> &AccessToken {
        self.0.bearer.access()
    }

    /// The refresh token; `None` if the API sent none.
    #[must_use]
    pub fn refresh_token(&self) -> Option<&RefreshToken> {
        self.0.refresh_token.as_ref()
    }

    /// The access token with its number and end of life.
    #[must_use]
    pub fn bearer(&self) -> &Bearer {
        &self.0.bearer
    }
}

impl fmt::Debug for TokenPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenPair")
            .field("bearer", self.bearer())
            .field("refresh_token", &self.refresh_token())
            .finish()
    }
}

/// Builds `Bearer …`. The only place that does: the value is marked sensitive, and its bytes are wiped when the
/// last copy goes.
fn authorization(token: &str) -> Option<HeaderValue> {
    let mut value = Zeroizing::new(Vec::with_capacity("Bearer ".len() + token.len()));
    value.extend_from_slice(b"Bearer ");
    value.extend_from_slice(token.as_bytes());
    sensitive(Bytes::from_owner(value))
}

/// A copy that shares nothing with the original: clones of it do not contend with other threads.
pub(crate) fn own_copy(header: &HeaderValue) -> HeaderValue {
    sensitive(Bytes::from_owner(Zeroizing::new(
        header.as_bytes().to_vec(),
    )))
    .unwrap_or_else(|| header.clone())
}

fn sensitive(bytes: Bytes) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_maybe_shared(bytes).ok()?;
    value.set_sensitive(true);
    Some(value)
}
