//! The token endpoint: one call, and what its response means.
//!
//! A token call is `POST /auth/refresh` or `POST /auth/api-key`
//! (<https://docs.api.video/reference/api/Authentication>). Here one such call is made and its
//! response put into a class. What follows from a class (another call, a pause, an error) is for
//! the source to say; so nothing here repeats a call, keeps a credential or reads a store.
//!
//! | file | what it knows |
//! | --- | --- |
//! | `http` | how to send a request through a Tower service |
//! | `wire` | the API's paths, JSON and problem types |
//! | `transport` | which service that is, as a type parameter of the layer |

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use ::http::StatusCode;
use futures::future::BoxFuture;

use crate::{
    credentials::{ApiKey, RefreshToken},
    error::Error,
    token::AccessToken,
};

mod http;
mod transport;
mod wire;

pub use self::{
    http::TokenCall,
    transport::{BodyFrom, SameService, SeparateService, Transport},
};
pub(crate) use self::{
    http::{EndpointConfig, HttpEndpoint, NeverSent},
    transport::MakeBody,
};

/// Makes token calls.
///
/// A call ends by itself only if the server answers; the caller sets the bounds. Object-safe, so
/// that the source needs no type parameter for the service.
pub(crate) trait TokenEndpoint: Send {
    /// Makes one call. The future takes along what it needs, since it outlives its renewal.
    ///
    /// `before_send` is awaited after the service is ready and before the request goes out: after
    /// it, the server may have seen the request. If it fails, nothing is sent. It must stand at
    /// this very place: a mark written earlier would name a token that waits for a slot, one
    /// written later could come too late for a process that is killed.
    ///
    /// `status` is set to that of the response as soon as one comes, for those that count.
    ///
    /// # Cancel safety
    ///
    /// Dropped before `before_send` has finished, nothing was sent. Dropped later, the call counts
    /// as sent.
    fn call(
        &self,
        config: &EndpointConfig,
        grant: &Grant,
        before_send: BeforeSend,
        status: Arc<OnceLock<StatusCode>>,
    ) -> BoxFuture<'static, Outcome>;

    /// `Clone` of a trait object. Each renewal has an endpoint of its own: services are used by one
    /// caller at a time.
    fn boxed_clone(&self) -> Box<dyn TokenEndpoint>;
}

/// What has to succeed in the moment before a request goes out.
pub(crate) type BeforeSend = BoxFuture<'static, Result<(), HeldBack>>;

/// Why a token call was not sent after all.
#[derive(Debug)]
pub(crate) enum HeldBack {
    /// Another renewal has taken over. This one sends nothing any more.
    Replaced,
    /// The credential is no longer the one that is held: a late response brought a newer one, or
    /// the user replaced it.
    Changed,
    /// The store could not note that the credential is in use. Without the note a sibling might
    /// present the same one.
    Store(Error),
}

/// The credential that is presented for a pair of tokens (RFC 6749, 1.3).
///
/// The two differ in what an unclear outcome means: a login can be repeated, a refresh token may be
/// spent.
#[derive(Clone, Debug)]
pub(crate) enum Grant {
    RefreshToken(RefreshToken),
    ApiKey(ApiKey),
}

impl Grant {
    /// What must not be found in an error of the service.
    fn secret(&self) -> &str {
        match self {
            Self::RefreshToken(token) => token.expose(),
            Self::ApiKey(key) => key.expose(),
        }
    }
}

/// The classes of guarantee G11: what came of one token call.
///
/// The classes say what is true of the credential, and no more. When in doubt between two, the less
/// certain one is chosen: to give up a living refresh token costs a person a login.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// A pair, or an access token alone.
    Granted(TokenResponse),
    /// It never went out, which says more of this process than of the API.
    NotSent(Error),
    /// Surely without effect: the credential is as good as before. `wait` is what the server asked
    /// for.
    Transient {
        error: Error,
        wait: Option<Duration>,
    },
    /// The credential may be spent. A new refresh token may have come without a usable access token.
    Ambiguous {
        error: Error,
        refresh_token: Option<RefreshToken>,
    },
    /// The API knows the credential for invalid. Only this ends one, never silence.
    Refused(Error),
    /// The account is suspended: nothing is wrong with the credential.
    Suspended(Error),
    /// The server did not understand us.
    Misunderstood(Error),
    /// Nothing was sent, since `before_send` failed.
    HeldBack(HeldBack),
}

/// What a token call brought, in the crate's own types.
#[derive(Debug)]
pub(crate) struct TokenResponse {
    pub(crate) access_token: AccessToken,
    /// No field of the response is declared required, so this one may be missing
    /// (<https://docs.api.video/reference/api/Authentication>).
    pub(crate) refresh_token: Option<RefreshToken>,
    /// How long the access token lives, counted from when the call was sent; assumed where nothing
    /// readable was stated.
    pub(crate) lifetime: Duration,
}
