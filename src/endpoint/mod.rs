//! The token endpoint: one call, and what its response means.

use std::time::Duration;

use futures::future::BoxFuture;

use crate::{
    credentials::{ApiKey, RefreshToken},
    error::Error,
    token::AccessToken,
};

mod http;
mod transport;
mod wire;

pub(crate) use self::http::{EndpointConfig, HttpEndpoint, NeverSent};
pub use self::{
    http::TokenCall,
    transport::{SameService, SeparateService, Transport},
};

/// Makes token calls.
///
/// A call ends by itself only if the server answers; the caller sets the bounds. `before_send` runs when all is ready:
/// after it the server may have seen the request. If it fails, nothing is sent.
pub(crate) trait TokenEndpoint: Send {
    fn call(
        &self,
        config: &EndpointConfig,
        grant: &Grant,
        before_send: BeforeSend,
    ) -> BoxFuture<'static, Outcome>;

    fn boxed_clone(&self) -> Box<dyn TokenEndpoint>;
}

pub(crate) type BeforeSend = BoxFuture<'static, Result<(), HeldBack>>;

/// Why a token call was not sent after all.
#[derive(Debug)]
pub(crate) enum HeldBack {
    /// Another renewal has taken over.
    Replaced,
    /// The credential is no longer the one that is held.
    Changed,
    /// The store could not note that the credential is in use.
    Store(Error),
}

/// The credential that is presented for a pair of tokens (RFC 6749, 1.3).
#[derive(Clone, Debug)]
pub(crate) enum Grant {
    RefreshToken(RefreshToken),
    ApiKey(ApiKey),
}

impl Grant {
    fn secret(&self) -> &str {
        match self {
            Self::RefreshToken(token) => token.expose(),
            Self::ApiKey(key) => key.expose(),
        }
    }
}

/// The classes of guarantee G11.
#[derive(Debug)]
pub(crate) enum Outcome {
    Granted(TokenResponse),
    /// Not sent, or surely without effect; `wait` is what the server asked for.
    Transient {
        error: Error,
        wait: Option<Duration>,
    },
    /// The credential may be spent. A new refresh token may have come without a usable access token.
    Ambiguous {
        error: Error,
        refresh_token: Option<RefreshToken>,
    },
    Refused(Error),
    Suspended(Error),
    /// The server did not understand us.
    Misunderstood(Error),
    /// Nothing was sent, since `before_send` failed.
    HeldBack(HeldBack),
}

#[derive(Debug)]
pub(crate) struct TokenResponse {
    pub(crate) access_token: AccessToken,
    pub(crate) refresh_token: Option<RefreshToken>,
    pub(crate) lifetime: Duration,
}
