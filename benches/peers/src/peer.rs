//! What a peer has to bring to be measured.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tower::{BoxError, Service, ServiceExt};

use crate::api::Api;

pub(crate) type Body = Full<Bytes>;

/// Where all requests go; some peers send tokens only by `https`, and ours only to the origin it was told of.
pub(crate) const ORIGIN: &str = "https://api.example";

/// A request that needs a token.
pub(crate) fn get(path: &str) -> Request<Body> {
    Request::get(format!("{ORIGIN}{path}"))
        .body(Body::default())
        .expect("the path is a path")
}

/// What a peer sends through: nothing at all for the hot path, else the in-process API.
pub(crate) trait Inner:
    Service<Request<Body>, Response = Response<Body>, Error = BoxError, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> Inner for S where
    S: Service<Request<Body>, Response = Response<Body>, Error = BoxError, Future: Send>
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// A client that puts a token on what it sends.
pub(crate) trait Client: Clone + Send + Sync + 'static {
    fn send(
        &mut self,
        request: Request<Body>,
    ) -> impl Future<Output = Result<Response<Body>, BoxError>> + Send;
}

/// A Tower service is a client as it is: nothing is boxed that it does not box itself.
#[derive(Clone)]
pub(crate) struct Tower<S>(pub(crate) S);

impl<S> Client for Tower<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Future: Send, Error: Into<BoxError>>
        + Clone
        + Send
        + Sync
        + 'static,
{
    async fn send(&mut self, request: Request<Body>) -> Result<Response<Body>, BoxError> {
        self.0
            .ready()
            .await
            .map_err(Into::into)?
            .call(request)
            .await
            .map_err(Into::into)
    }
}

pub(crate) trait Peer: 'static {
    const NAME: &'static str;
    /// The crate and its version, as in the lock file.
    const VERSION: &'static str;
    /// What it cannot do, or does otherwise than the others; empty if there is nothing to say.
    const NOTE: &'static str = "";
    /// Whether it keeps a request in order to send it again after a 401.
    const REPLAYS: bool = false;
    /// Whether it renews with a refresh token that works once.
    const ROTATES: bool = false;
    /// Whether it renews tokens at all.
    const RENEWS: bool = true;
    /// Tokens that live so long are renewed every second or so, ahead of expiry if the peer can: whole seconds.
    const SHORT_LIFETIME: Duration = Duration::from_secs(2);

    type Client<S: Inner>: Client;

    /// A client over `inner` that gets its tokens from `api`, as its documentation says it should be set up where a
    /// refresh token works once.
    fn client<S: Inner>(api: &Api, inner: S) -> impl Future<Output = Self::Client<S>> + Send;
}
