//! Token calls over any `Service<http::Request<B>>`.
//!
//! The layers between us and the server are the user's. So a call here proves nothing by its shape:
//! it may be repeated, redirected or answered by something on the way. What can be told below is
//! told by [`TokenCall`]; the rest is read from statuses and errors with suspicion.

use std::{
    error::Error as StdError,
    fmt,
    future::poll_fn,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderValue, Method, Request, StatusCode, header};

use super::{BeforeSend, Grant, Outcome, TokenEndpoint, wire};
use crate::{
    clock::SourceClock,
    error::{Error, ErrorKind},
    http_service::{HttpService, ResponseBody},
    origin::Origin,
    origin_headers, response,
};

/// Marks a token call among the requests that layers below the authentication see.
///
/// Every token call carries it as a request extension. A policy that repeats requests or follows redirects must
/// decline these: a refresh token is good for one presentation, and a redirect would take it elsewhere.
///
/// ```
/// use apivideo_auth::TokenCall;
///
/// fn may_repeat<B>(request: &http::Request<B>) -> bool {
///     request.extensions().get::<TokenCall>().is_none()
/// }
/// # assert!(may_repeat(&http::Request::new(())));
/// ```
///
/// Such a policy is better not there at all: with
/// [`token_service`](crate::ApiVideoAuthLayerBuilder::token_service), token calls take a way of
/// their own.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct TokenCall {}

/// How many bytes of a response are read. No honest one comes near it: a pair is under 4 KiB.
const RESPONSE_LIMIT: usize = 64 * 1024;

/// The user's knowledge about errors of their own client: true if the request surely never went
/// out.
pub(crate) type NeverSent = Arc<dyn Fn(&(dyn StdError + 'static)) -> bool + Send + Sync>;

/// What token calls of one source have in common. It is made once by the builder and handed to each
/// call, so that an endpoint is no more than a service.
#[derive(Clone)]
pub(crate) struct EndpointConfig {
    pub(crate) origin: Origin,
    /// The value of `AV-Origin-App`, `name:version`, which api.video's own clients send.
    pub(crate) application: Option<HeaderValue>,
    /// What the user knows of the client's errors.
    pub(crate) never_sent: Option<NeverSent>,
    /// For a `Retry-After` that is a date.
    pub(crate) clock: SourceClock,
}

impl fmt::Debug for EndpointConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointConfig")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

impl EndpointConfig {
    /// The request of a call: absolute, since no layer below completes it, without `Authorization`,
    /// and marked as a [`TokenCall`]. The body's bytes are wiped when the last owner drops them.
    fn request(&self, grant: &Grant) -> Result<Request<Bytes>, http::Error> {
        let (path, body) = wire::request(grant);
        let uri = http::Uri::builder()
            .scheme(self.origin.scheme().clone())
            .authority(self.origin.authority().clone())
            .path_and_query(path)
            .build()?;
        let mut request = Request::new(Bytes::from_owner(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        origin_headers::add_client(headers);
        origin_headers::add_application(headers, self.application.as_ref());
        request.extensions_mut().insert(TokenCall {});
        Ok(request)
    }
}

/// A service that makes token calls with bodies of type `B`.
pub(crate) struct HttpEndpoint<S, B> {
    service: S,
    make_body: fn(Bytes) -> B,
}

impl<S, B> HttpEndpoint<S, B> {
    /// Over a service that need not be ready: each call polls a clone of it.
    pub(crate) fn new(service: S) -> Self
    where
        B: From<Bytes>,
    {
        Self::with(service, B::from)
    }

    pub(super) fn with(service: S, make_body: fn(Bytes) -> B) -> Self {
        Self { service, make_body }
    }
}

impl<S, B> TokenEndpoint for HttpEndpoint<S, B>
where
    S: HttpService<B, ResponseBody: ResponseBody>,
    B: Send + 'static,
{
    fn call(
        &self,
        config: &EndpointConfig,
        grant: &Grant,
        before_send: BeforeSend,
        status: Arc<OnceLock<StatusCode>>,
    ) -> BoxFuture<'static, Outcome> {
        let (never_sent_by_user, clock) = (config.never_sent.clone(), config.clock.clone());
        let (request, grant) = (config.request(grant), grant.clone());
        let api = config.origin.clone();
        let (mut service, make_body) = (self.service.clone(), self.make_body);
        Box::pin(async move {
            let request = match request {
                Ok(request) => request.map(make_body),
                Err(error) => {
                    let message = "the token call could not be built";
                    return Outcome::Misunderstood(Error::with_source(
                        ErrorKind::Protocol,
                        message,
                        error,
                    ));
                }
            };
            if let Err(error) = poll_fn(|cx| service.poll_ready(cx)).await {
                return wire::not_sent(&api, error.into());
            }
            // After readiness, before the call: while this waits for a slot, nothing may say that
            // it was sent, and once it is sent, the store has to say so already.
            if let Err(error) = before_send.await {
                return Outcome::HeldBack(error);
            }
            let response = match service.call(request).await {
                Ok(response) => response,
                Err(error) => {
                    let error = error.into();
                    let excused = |error: &(dyn StdError + 'static)| {
                        never_sent_by_user.as_ref().is_some_and(|f| f(error))
                    };
                    let never_sent = response::never_sent(&*error) || excused(&*error);
                    let error = match response::quotes(&*error, grant.secret()) {
                        true => "its error is left out, for it quotes the credential".into(),
                        false => error,
                    };
                    return if never_sent {
                        wire::not_sent(&api, error)
                    } else {
                        wire::broke_off(&api, &grant, error)
                    };
                }
            };
            let (head, body) = response.into_parts();
            let _ = status.set(head.status);
            let body =
                response::read(body, RESPONSE_LIMIT)
                    .await
                    .map_err(|error| match response::quotes(&error, grant.secret()) {
                        true => {
                            let message = "the response broke off; its error is left out, for it quotes the credential";
                            Error::new(error.kind(), message)
                        }
                        false => error,
                    });
            wire::outcome(
                &api,
                &grant,
                head.status,
                &head.headers,
                body,
                clock.now().wall,
            )
        })
    }

    fn boxed_clone(&self) -> Box<dyn TokenEndpoint> {
        Box::new(Self::with(self.service.clone(), self.make_body))
    }
}
