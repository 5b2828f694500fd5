//! Access tokens, and the pairs that they come in.
//!
//! Everything that is known of a token is worked out once, when it arrives: its header value, and
//! the two moments at which its state changes. A request only compares and clones.

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
    /// An access token: the bearer token of API requests, good for about an hour. Opaque: it looks
    /// like a JWT, and nothing in it is read
    /// (<https://docs.api.video/reference/api/Authentication>).
    AccessToken
}

/// The access token in use, with what is known of it. Cheap to clone.
///
/// It is what [`TokenSource::token`](crate::TokenSource::token) gives to those that build requests
/// of their own. It does not renew itself: ask for a new one each time rather than keeping it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), apivideo_auth::Error> {
/// # use tower::Layer;
/// # let api = apivideo_auth::testing::FakeApi::in_process();
/// # let builder = apivideo_auth::ApiVideoAuthLayer::builder();
/// # let layer = builder.base_url(api.url()).api_key(api.api_key()).build()?;
/// # let client = layer.layer(api.service());
/// # let source = client.source::<http_body_util::Full<bytes::Bytes>>();
/// let bearer = source.token().await?;
/// assert_eq!(bearer.generation(), 1);
/// let first_message = format!("{{\"token\":\"{}\"}}", bearer.expose());
/// // `Debug` has no secret in it.
/// assert!(!format!("{bearer:?}").contains(bearer.expose()));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Bearer(Arc<Inner>);

/// What clones share. The header value is made once and cloned by reference.
struct Inner {
    access: AccessToken,
    header: HeaderValue,
    generation: u64,
    life: Life,
}

/// When a token's state changes, worked out once when it arrives.
///
/// Kept as moments on both clocks rather than as a state: nobody has to run for a token to turn
/// stale, and a machine that slept finds it expired.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Life {
    /// From here on a renewal in the background is wanted.
    pub(crate) fresh_until: Deadline,
    /// From here on it counts as expired.
    pub(crate) usable_until: Deadline,
    /// When the API stops accepting it: sent plus lifetime. Requests stop using it a safety margin
    /// before.
    pub(crate) expires: Deadline,
    /// What the API stated, for the spans that are parts of it.
    pub(crate) lifetime: Duration,
}

impl Bearer {
    /// `None` if the token is not a valid header value.
    ///
    /// Checked on arrival, so that no request can fail for it.
    pub(crate) fn new(access: AccessToken, generation: u64, life: Life) -> Option<Self> {
        let header = authorization(access.expose())?;
        Some(Self(Arc::new(Inner {
            access,
            header,
            generation,
            life,
        })))
    }

    /// The token itself, to be handed on with care: for a WebSocket's first message, or a child
    /// process.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.access.expose()
    }

    /// When the API stops accepting it, by this machine's clock: the moment its token call was sent
    /// plus the lifetime that the API stated. It can be revoked earlier, and the source stops using
    /// it 10 s earlier (a tenth of its lifetime, if that is less).
    #[must_use]
    pub fn expires_at(&self) -> SystemTime {
        self.0.life.expires.wall()
    }

    /// The number of this token, counted up by each renewal of this source, from 1. It means
    /// nothing to other processes, which count for themselves even where they share a store.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.0.generation
    }

    /// For the store, which keeps the token without `Bearer `.
    pub(crate) fn access(&self) -> &AccessToken {
        &self.0.access
    }

    /// The finished `Authorization` value. Its count is shared by all threads: see [`own_copy`].
    pub(crate) fn header(&self) -> &HeaderValue {
        &self.0.header
    }

    pub(crate) fn life(&self) -> &Life {
        &self.0.life
    }

    /// Whether requests may use it: a safety margin before its expiry they stop, so that none
    /// arrives too late.
    pub(crate) fn is_usable(&self, now: Now) -> bool {
        !self.0.life.usable_until.has_passed(now)
    }

    /// Whether a renewal in the background is due.
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

/// An access token and the refresh token that came with it. Cheap to clone.
///
/// It is a copy: the next renewal of the source ends it. To take a pair elsewhere, end the source
/// first with [`TokenSource::shutdown`](crate::TokenSource::shutdown), then ask for
/// [`TokenSource::pair`](crate::TokenSource::pair).
///
/// ```
/// use std::time::Duration;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), apivideo_auth::Error> {
/// # use tower::Layer;
/// # let api = apivideo_auth::testing::FakeApi::in_process();
/// # let builder = apivideo_auth::ApiVideoAuthLayer::builder();
/// # let layer = builder.base_url(api.url()).api_key(api.api_key()).build()?;
/// # let client = layer.layer(api.service());
/// # let source = client.source::<http_body_util::Full<bytes::Bytes>>();
/// source.token().await?;
/// assert!(source.shutdown(Duration::from_secs(30)).await, "nothing is left under way");
/// let pair = source.pair().await?;
/// // Another process can start from this, without the API key.
/// let refresh_token = pair.refresh_token().expect("the API sent one").clone();
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TokenPair(Arc<Pair>);

/// Both in one allocation: a pair is never taken apart.
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

    /// The access token, without `Bearer `.
    #[must_use]
    pub fn access_token(&self) -> &AccessToken {
        self.0.bearer.access()
    }

    /// The refresh token. `None` if the API sent none, or if this one was presented and nothing
    /// came back: it may be spent then, and is no part of a pair that somebody could start from.
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
///
/// `None` if a character in it is not allowed in a header.
fn authorization(token: &str) -> Option<HeaderValue> {
    let mut value = Zeroizing::new(Vec::with_capacity("Bearer ".len() + token.len()));
    value.extend_from_slice(b"Bearer ");
    value.extend_from_slice(token.as_bytes());
    sensitive(Bytes::from_owner(value))
}

/// A copy that shares nothing with the original: clones of it do not contend with other threads. A
/// long-lived client makes one for itself; one that is cloned for each request never does, since
/// copying costs more than sharing once.
pub(crate) fn own_copy(header: &HeaderValue) -> HeaderValue {
    sensitive(Bytes::from_owner(Zeroizing::new(
        header.as_bytes().to_vec(),
    )))
    .unwrap_or_else(|| header.clone())
}

/// Marked so that HPACK does not index it and `Debug` does not print it.
fn sensitive(bytes: Bytes) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_maybe_shared(bytes).ok()?;
    value.set_sensitive(true);
    Some(value)
}
