//! The side of reqwest-middleware: [`ApiVideoAuthMiddleware`].
//!
//! ```no_run
//! use apivideo_auth::{ApiVideoAuthLayer, ApiVideoAuthMiddleware};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let layer = ApiVideoAuthLayer::builder().refresh_token(std::env::var("REFRESH_TOKEN")?).build()?;
//! let client = reqwest_middleware::ClientBuilder::new(reqwest::Client::new())
//!     .with(ApiVideoAuthMiddleware::new(&layer, reqwest::Client::builder())?)
//!     .build();
//! let videos = client.get("https://ws.api.video/videos").send().await?;
//! # Ok(())
//! # }
//! ```
//!
//! It shares the token of the layer it is made from, keeps the same [guarantees](crate), and differs in this:
//!
//! - Token calls go through a reqwest client of their own, made of the [`reqwest::ClientBuilder`] that you
//!   give (with your proxy and TLS settings), on which redirects and retries are switched off.
//! - A request is sent again after a 401 if [`reqwest::Request::try_clone`] can copy it and its body is within the
//!   [limit](crate::ApiVideoAuthLayerBuilder::replay_limit): streams are not.
//! - [`MinLifetime`] and [`NoAuth`](crate::NoAuth) are taken from the `extensions` of the middleware call
//!   (`client.get(url).with_extension(NoAuth)`).
//! - Both sends of a request that is sent again share its `extensions`: what a middleware nearer to the wire takes out
//!   of them in the first is gone in the second.
//! - Our errors arrive as [`reqwest_middleware::Error::Middleware`] and downcast to [`Error`]. They name no URL of a
//!   request.
//!
//! # Order
//!
//! Put it *after* `reqwest-retry` and `reqwest-tracing`, that is, nearer to the wire: then each attempt gets the
//! token of its time, and tracing sees neither the token nor the first 401. Our errors are not retried, and reach you
//! inside `reqwest_retry::RetryError`. Put *before* a retry middleware it works too, but a retried attempt carries the
//! token of the first one, and the retries are over before a 401 is cured.
//!
//! # Errors
//!
//! Ours is inside that of reqwest-middleware, and behind reqwest-retry inside its own too:
//!
//! ```
//! use reqwest_middleware::Error;
//! use reqwest_retry::RetryError;
//!
//! fn ours(error: &Error) -> Option<&apivideo_auth::Error> {
//!     let Error::Middleware(error) = error else { return None };
//!     match error.downcast_ref() {
//!         Some(RetryError::Error(error) | RetryError::WithRetries { err: error, .. }) => ours(error),
//!         None => error.downcast_ref(),
//!     }
//! }
//! # let refused = apivideo_auth::Error::store(apivideo_auth::ErrorKind::StoreLocked, "busy", None);
//! # assert!(ours(&Error::middleware(RetryError::Error(Error::middleware(refused)))).is_some());
//! ```
//!
//! # Redirects
//!
//! reqwest follows redirects below all middleware and strips `Authorization` when they lead to another host.
//!
//! # Tower
//!
//! [`ReqwestClient`] makes a Tower service of a client, with or without middleware: for uploads, for upload tokens, and to stand
//! under any layer.
//!
//! ```
//! use apivideo_auth::{
//!     ApiVideoAuthLayer, ApiVideoAuthMiddleware, UploadTokenLayer, UploadTokens,
//!     reqwest_adaptor::ReqwestClient,
//!     testing::FakeApi,
//!     upload_token::{Source, UploadOptions, upload},
//! };
//! use tower::Layer;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let api = FakeApi::start().await?;
//! let layer = ApiVideoAuthLayer::builder().base_url(api.url()).api_key(api.api_key()).build()?;
//! let client = reqwest_middleware::ClientBuilder::new(reqwest::Client::new())
//!     .with(ApiVideoAuthMiddleware::new(&layer, reqwest::Client::builder())?)
//!     .build();
//! // Leave `base_url` out for production.
//! let account = ReqwestClient::new(client).base_url(&api.url())?;
//! let token = UploadTokens::<_, reqwest::Body>::new(account).create(None).await?;
//!
//! let with_token = UploadTokenLayer::builder(token.secret().clone()).base_url(api.url()).build()?;
//! let client = with_token.layer(ReqwestClient::new(reqwest::Client::new()));
//! upload(client, Source::new(&b"a film"[..]), UploadOptions::new()).await?;
//! # layer.shutdown(std::time::Duration::from_secs(5)).await;
//! # Ok(())
//! # }
//! ```
//!
//! An upload's chunks are streams, which `reqwest-retry` refuses to send: use a client without it. `upload` repeats
//! them itself, by its own rules. Our errors come without a wrapping, unless a middleware has put one around them.

use std::{
    fmt, mem,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use futures::future::BoxFuture;
use http::{Extensions, HeaderValue, StatusCode, header};
use reqwest::{Request, Response};
use reqwest_middleware::{ClientWithMiddleware, Middleware, Next};
use tower::{BoxError, Service};

use crate::{
    credentials::Environment,
    endpoint::{HttpEndpoint, TokenEndpoint},
    error::{Error, ErrorKind},
    extensions::MinLifetime,
    middleware::ApiVideoAuthLayer,
    origin::{Origin, foreign_origin, is_for},
    origin_headers::add_application,
    response::{drain, quotes, without_words},
    source::{RenewalReason, TokenSource, Tokens},
};

/// A timeout of the client's own must not end a refresh whose response is still read: it comes so much later.
const GRACE: Duration = Duration::from_secs(5);

/// Keeps a reqwest client authenticated against api.video. See the [module docs](self).
#[derive(Clone)]
pub struct ApiVideoAuthMiddleware {
    tokens: Arc<Tokens>,
    origins: Arc<[Origin]>,
    application: Option<HeaderValue>,
    replay_limit: usize,
    calls: ReqwestClient,
}

impl ApiVideoAuthMiddleware {
    /// A middleware that shares the token of `layer`, and makes its token calls through a client of its own.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] if reqwest can't make a client of `calls`.
    pub fn new<T, P>(
        layer: &ApiVideoAuthLayer<T, P>,
        calls: reqwest::ClientBuilder,
    ) -> Result<Self, Error> {
        let shared = &layer.shared;
        let timeout = shared.tokens.read_for() + GRACE;
        let calls = calls
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .timeout(timeout)
            .read_timeout(timeout);
        let calls = calls.build().map_err(|error| {
            Error::with_source(
                ErrorKind::Configuration,
                "reqwest can't make a client for token calls",
                error,
            )
        })?;
        let (tokens, origins) = (shared.tokens.clone(), shared.origins.clone());
        Ok(Self {
            tokens,
            origins,
            application: shared.application.clone(),
            replay_limit: shared.replay_limit,
            calls: ReqwestClient::new(calls),
        })
    }

    /// The token source of this client, which makes its token calls through reqwest.
    #[must_use]
    pub fn source(&self) -> TokenSource {
        TokenSource::new(self.tokens.clone(), self.endpoint())
    }

    fn endpoint(&self) -> Box<dyn TokenEndpoint> {
        Box::new(HttpEndpoint::<_, reqwest::Body>::new(self.calls.clone()))
    }

    /// Whether the request gets a token.
    fn admits(&self, request: &Request, extensions: &Extensions) -> bool {
        let (method, headers) = (request.method(), request.headers());
        let uri = request.url().as_str().parse();
        uri.is_ok_and(|uri| is_for(&self.origins, method, &uri, headers, extensions))
    }

    /// Whether a response comes from an origin that may see tokens.
    fn is_ours(&self, url: &reqwest::Url) -> bool {
        let uri = url.as_str().parse::<http::Uri>();
        uri.is_ok_and(|uri| match (uri.scheme(), uri.authority()) {
            (Some(scheme), Some(authority)) => self
                .origins
                .iter()
                .any(|origin| origin.is_origin_of(scheme, authority)),
            _ => false,
        })
    }

    /// A copy to send again, where the limit allows it.
    fn keep(&self, request: &Request) -> Option<Request> {
        let length = request
            .body()
            .map_or(Some(0), |body| body.as_bytes().map(<[u8]>::len))?;
        let announced = request.headers().contains_key(header::TRAILER);
        if length > self.replay_limit || announced {
            None
        } else {
            request.try_clone()
        }
    }
}

#[async_trait]
impl Middleware for ApiVideoAuthMiddleware {
    async fn handle(
        &self,
        mut request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        if !self.admits(&request, extensions) {
            self.tokens.passed_without_token(|| {
                let uri = request.url().as_str().parse().ok()?;
                foreign_origin(&self.origins, &uri, request.headers(), extensions)
            });
            return next.run(request, extensions).await;
        }
        add_application(request.headers_mut(), self.application.as_ref());
        let wanted = extensions.get().map(|MinLifetime(wanted)| *wanted);
        let tokens = &self.tokens;
        let endpoint = || self.endpoint();
        let bearer = tokens.for_request(wanted, endpoint).await.map_err(ours)?;
        let kept = self.keep(&request);
        authorize(&mut request, bearer.header());
        let first = next.clone().run(request, extensions).await?;
        if !self.is_ours(first.url()) {
            // reqwest has followed a redirect to somebody else: what that says is no word about our token.
            return Ok(first);
        }
        if first.status() != StatusCode::UNAUTHORIZED {
            tokens.answered(bearer.generation(), first.status());
            return Ok(first);
        }
        let refused = bearer.generation();
        let is_worth_it = tokens.rejected(refused, kept.is_some());
        let Some(mut request) = kept.filter(|_| is_worth_it) else {
            return Ok(first);
        };
        let reason = Some(RenewalReason::Unauthorized);
        let Ok(bearer) = tokens.acquire(refused, reason, endpoint).await else {
            return Ok(first);
        };
        drain(reqwest::Body::from(first)).await;
        authorize(&mut request, bearer.header());
        let response = next.run(request, extensions).await?;
        if self.is_ours(response.url()) {
            tokens.replayed(bearer.generation(), response.status());
        }
        Ok(response)
    }
}

impl fmt::Debug for ApiVideoAuthMiddleware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiVideoAuthMiddleware")
            .field("source", &self.tokens)
            .finish_non_exhaustive()
    }
}

fn authorize(request: &mut Request, header: &HeaderValue) {
    request
        .headers_mut()
        .insert(header::AUTHORIZATION, header.clone());
}

fn ours(error: Error) -> reqwest_middleware::Error {
    reqwest_middleware::Error::middleware(error)
}

/// A reqwest client as a Tower service for [`http::Request`]s: for [`UploadTokens`], [`upload`] and
/// [`UploadTokenLayer`], or under any other layer. See the [module docs](self#tower).
///
/// It takes a [`reqwest::Client`] or a [`ClientWithMiddleware`], whose middleware sees the request's extensions. Bodies are all
/// that [`reqwest::Body`] can be made of. The errors are ours, as they come from [`ApiVideoAuthMiddleware`], or the client's,
/// without the URL, which may have a token in it. Clones share the client.
///
/// [`UploadTokens`]: crate::upload_token::UploadTokens
/// [`upload`]: crate::upload_token::upload()
/// [`UploadTokenLayer`]: crate::upload_token::UploadTokenLayer
#[derive(Clone, Debug)]
pub struct ReqwestClient {
    client: ClientWithMiddleware,
    origin: Origin,
}

impl ReqwestClient {
    /// Over a client for production: that is where a request goes whose URI is only a path.
    #[expect(clippy::missing_panics_doc, reason = "production is an origin")]
    pub fn new(client: impl Into<ClientWithMiddleware>) -> Self {
        let production = Environment::default().base_url();
        Self {
            client: client.into(),
            origin: Origin::parse(production, false).expect("a constant that is an origin"),
        }
    }

    /// Where a request goes whose URI is only a path. It is no permission for tokens: their layers and middleware have their
    /// own.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] if it is not an origin, which is scheme, host and port.
    pub fn base_url(self, origin: &str) -> Result<Self, Error> {
        let origin = Origin::parse(origin, true)?;
        Ok(Self { origin, ..self })
    }
}

impl<B: Into<reqwest::Body>> Service<http::Request<B>> for ReqwestClient {
    type Response = http::Response<reqwest::Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        self.origin.complete(&mut request);
        let mut extensions = mem::take(request.extensions_mut());
        let path = request.uri().path_and_query().map(ToString::to_string);
        let (request, client) = (Request::try_from(request), self.client.clone());
        Box::pin(async move {
            let sent = match request {
                Ok(request) => {
                    client
                        .execute_with_extensions(request, &mut extensions)
                        .await
                }
                Err(error) => Err(error.into()),
            };
            let response = sent.map_err(|error| without_path(error, path.as_deref()))?;
            Ok(response.into())
        })
    }
}

/// Ours as it is, and another's without the path of the request, in which an upload token may be.
fn without_path(error: reqwest_middleware::Error, path: Option<&str>) -> BoxError {
    use reqwest_middleware::Error as Sent;
    let error: BoxError = match error {
        Sent::Reqwest(error) => error.without_url().into(),
        Sent::Middleware(error) => match error.downcast::<Error>() {
            Ok(ours) => return ours.into(),
            Err(other) => other.into(),
        },
    };
    match path {
        Some(path) if path != "/" && quotes(&*error, path) => {
            without_words(&*error, "the error is left out, for it quotes the URL").into()
        }
        _ => error,
    }
}
