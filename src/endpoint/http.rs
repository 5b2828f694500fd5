//! Token calls over any `Service<http::Request<B>>`.

use std::{error::Error as StdError, fmt, future::poll_fn, io, marker::PhantomData, pin::pin, sync::Arc};

use bytes::{Buf, Bytes};
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body;
use http_body_util::BodyExt;
use tower::{BoxError, Service};
use zeroize::Zeroizing;

use super::{Answer, BeforeSend, Purchase, TokenEndpoint, wire};
use crate::{
    clock::Clock,
    error::{Error, ErrorKind},
    origin::Origin,
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
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct TokenCall {}

/// No honest answer comes near it: a pair is under 4 KiB.
const ANSWER_LIMIT: usize = 64 * 1024;

pub(crate) type NeverSent = Arc<dyn Fn(&(dyn StdError + 'static)) -> bool + Send + Sync>;

/// What token calls of one source have in common.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) origin: Origin,
    pub(crate) application: Option<HeaderValue>,
    pub(crate) never_sent: Option<NeverSent>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("origin", &self.origin).finish_non_exhaustive()
    }
}

impl Context {
    fn request(&self, purchase: &Purchase) -> Result<Request<Bytes>, http::Error> {
        let (path, body) = wire::request(purchase);
        let uri = http::Uri::builder()
            .scheme(self.origin.scheme().clone())
            .authority(self.origin.authority().clone())
            .path_and_query(path)
            .build()?;
        let mut request = Request::new(Bytes::from_owner(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(HeaderName::from_static("av-origin-client"), HeaderValue::from_static(ORIGIN_CLIENT));
        if let Some(application) = &self.application {
            headers.insert(HeaderName::from_static("av-origin-app"), application.clone());
        }
        request.extensions_mut().insert(TokenCall {});
        Ok(request)
    }
}

/// The API takes digits only, so a pre-release is told by its plain number.
const ORIGIN_CLIENT: &str = concat!(
    "apivideo-auth:",
    env!("CARGO_PKG_VERSION_MAJOR"),
    ".",
    env!("CARGO_PKG_VERSION_MINOR"),
    ".",
    env!("CARGO_PKG_VERSION_PATCH")
);

/// A service that makes token calls with bodies of type `B`.
pub(crate) struct HttpEndpoint<S, B> {
    service: S,
    body: PhantomData<fn(B)>,
}

impl<S, B> HttpEndpoint<S, B> {
    pub(crate) fn new(service: S) -> Self {
        Self { service, body: PhantomData }
    }
}

impl<S, B, R> TokenEndpoint for HttpEndpoint<S, B>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: From<Bytes> + Send + 'static,
    R: Body + Send + 'static,
    R::Data: Send,
    R::Error: Into<BoxError>,
{
    fn call(
        &self,
        context: &Context,
        purchase: &Purchase,
        before_send: BeforeSend,
    ) -> BoxFuture<'static, Answer> {
        let (never_sent_by_user, clock) = (context.never_sent.clone(), context.clock.clone());
        let (request, purchase) = (context.request(purchase), purchase.clone());
        let mut service = self.service.clone();
        Box::pin(async move {
            let request = match request {
                Ok(request) => request.map(B::from),
                Err(error) => {
                    let message = "the token call can't be put as a request";
                    return Answer::Misunderstood(Error::with_source(ErrorKind::Protocol, message, error));
                }
            };
            if let Err(error) = poll_fn(|cx| service.poll_ready(cx)).await {
                return wire::not_sent(error.into());
            }
            if let Err(error) = before_send.await {
                return Answer::HeldBack(error);
            }
            let response = match service.call(request).await {
                Ok(response) => response,
                Err(error) => {
                    let error = error.into();
                    let excused = |error: &(dyn StdError + 'static)| {
                        never_sent_by_user.as_ref().is_some_and(|f| f(error))
                    };
                    return if never_sent(&*error) || excused(&*error) {
                        wire::not_sent(error)
                    } else {
                        wire::lost(
                            &purchase,
                            Error::with_source(ErrorKind::Ambiguous, "the token call broke off", error),
                        )
                    };
                }
            };
            let (head, body) = response.into_parts();
            let body = read(&head.headers, body).await;
            wire::answer(&purchase, head.status, &head.headers, body, clock.now().wall)
        })
    }

    fn boxed_clone(&self) -> Box<dyn TokenEndpoint> {
        Box::new(Self::new(self.service.clone()))
    }
}

/// Reads a body up to the limit into memory that is wiped afterwards.
async fn read<R>(headers: &HeaderMap, body: R) -> Result<Zeroizing<Vec<u8>>, Error>
where
    R: Body,
    R::Error: Into<BoxError>,
{
    let too_long = || Error::new(ErrorKind::Ambiguous, "the token endpoint's answer is over 64 KiB");
    let mut body = pin!(body);
    if body.size_hint().lower() > ANSWER_LIMIT as u64 {
        return Err(too_long());
    }
    // Reserved once, so that no copy of a token is left behind by growing.
    let expected = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let mut bytes = Zeroizing::new(Vec::with_capacity(expected.unwrap_or(ANSWER_LIMIT).min(ANSWER_LIMIT)));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Error::with_source(ErrorKind::Ambiguous, "the token endpoint's answer broke off", error)
        })?;
        let Ok(mut data) = frame.into_data() else { continue };
        if data.remaining() > ANSWER_LIMIT - bytes.len() {
            return Err(too_long());
        }
        while data.has_remaining() {
            let chunk = data.chunk();
            let length = chunk.len();
            bytes.extend_from_slice(chunk);
            data.advance(length);
        }
    }
    Ok(bytes)
}

/// Whether an error proves that the request never left: it failed while connecting.
fn never_sent(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<hyper_util::client::legacy::Error>() {
            return error.is_connect();
        }
        #[cfg(feature = "reqwest-middleware")]
        if let Some(error) = error.downcast_ref::<reqwest::Error>() {
            return error.is_connect();
        }
        let unreachable = error.downcast_ref::<io::Error>().is_some_and(|error| {
            use io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
            matches!(error.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable)
        });
        if unreachable {
            return true;
        }
        next = error.source();
    }
    false
}

/// Says what a status means without a body, for messages.
pub(super) fn status_text(status: StatusCode) -> String {
    format!("the token endpoint answered {}", status.as_u16())
}
