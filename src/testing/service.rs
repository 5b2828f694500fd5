//! The way of a request through the fake server, the same with and without a socket.

use std::{
    fmt, io,
    sync::Arc,
    task::{Context, Poll},
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request};
use http_body::Body;
use tower::{BoxError, Service};

use super::{
    body::{self, FakeBody},
    fault::{Fault, Point},
    gate::GatePoint,
    recorded_request::Entry,
    responses,
    route::Route,
    state::{Shared, State},
    strike::{send, strike},
    token_call,
};

/// The longest body of an upload that is kept in the journal.
const JOURNAL_LIMIT: usize = 64 * 1024;

/// The fake server as a Tower service, without a socket. Made by [`FakeApi::service`].
///
/// Where the HTTP server would close the connection, this returns an [`io::Error`].
///
/// [`FakeApi::service`]: super::FakeApi::service
///
/// It may stand under any layer, in place of an HTTP client:
///
/// ```
/// use std::time::Duration;
///
/// use apivideo_auth::{ApiVideoAuthLayer, testing::FakeApi};
/// use tower::ServiceBuilder;
///
/// let api = FakeApi::in_process();
/// let layer = ApiVideoAuthLayer::builder().base_url(api.url()).api_key(api.api_key()).build()?;
/// let client = ServiceBuilder::new()
///     .layer(layer)
///     .concurrency_limit(1)
///     .timeout(Duration::from_secs(20))
///     .service(api.service());
/// # Ok::<(), apivideo_auth::Error>(())
/// ```
#[derive(Clone)]
pub struct FakeService(pub(super) Arc<Shared>);

impl<B> Service<Request<B>> for FakeService
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Response<FakeBody>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Response<FakeBody>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        Box::pin(respond(Arc::clone(&self.0), request))
    }
}

impl fmt::Debug for FakeService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeService").finish_non_exhaustive()
    }
}

/// Token calls apart, which have their own faults and gates.
pub(super) async fn respond<B>(
    shared: Arc<Shared>,
    request: Request<B>,
) -> io::Result<Response<FakeBody>>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    let (parts, body) = request.into_parts();
    if parts.uri.path().starts_with("/auth/") {
        token_call::respond(shared, parts, body).await
    } else {
        api_call(shared, parts, body).await
    }
}

/// A request that is no token call: recorded, judged, read, stopped at the gate, then carried out.
///
/// It is judged before the gate and carried out after it. So a test can revoke a token while a
/// request that came with it is under way.
async fn api_call<B>(
    shared: Arc<Shared>,
    parts: request::Parts,
    body: B,
) -> io::Result<Response<FakeBody>>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    let (entry, faults) = {
        let mut state = shared.lock();
        state.counts.api_calls += 1;
        if let Some(token) = bearer(&parts) {
            *state.bearers.entry(token.to_owned()).or_default() += 1;
        }
        (state.journal.arrived(&parts, false), state.faults.clone())
    };
    let fault = faults.take(&parts);
    let response = steps(&shared, &parts, body, entry, fault).await?;
    let mut state = shared.lock();
    state.counts.unauthorized += usize::from(response.status() == StatusCode::UNAUTHORIZED);
    state.journal.answered(entry, response.status());
    Ok(response)
}

/// All that happens to a request, with its fault at one of the points.
async fn steps<B>(
    shared: &Shared,
    parts: &request::Parts,
    body: B,
    entry: Entry,
    fault: Option<Fault>,
) -> io::Result<Response<FakeBody>>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    if let Some(struck) = strike(fault.as_ref(), Point::BeforeRead).await {
        return struck;
    }
    let route = Route::of(parts.uri.path());
    let now = shared.clock.now();
    let (early, overriding) = {
        let state = shared.lock();
        (state.answer_early, state.on_api_request.clone())
    };
    let overridden = overriding.and_then(|response| response(parts));
    let preflight = shared.cors.is_some() && parts.method == Method::OPTIONS;
    let preflight = || preflight.then(|| responses::empty(StatusCode::NO_CONTENT));
    let verdict = overridden
        .or_else(preflight)
        .or_else(|| judge(shared, &shared.lock(), parts, now.monotonic));

    let unauthorized = verdict
        .as_ref()
        .is_some_and(|response| response.status() == StatusCode::UNAUTHORIZED);
    let read = if early && unauthorized {
        Ok(Bytes::new())
    } else {
        body::read(body, route.body_limit()).await?
    };
    if let Ok(body) = &read
        && (!route.is_upload() || body.len() <= JOURNAL_LIMIT)
    {
        shared.lock().journal.read(entry, body);
    }
    // Judged before and carried out after, see `api_call`. No lock is held while it waits.
    shared.gates.pass(GatePoint::ApiResponse).await;
    if let Some(struck) = strike(fault.as_ref(), Point::BeforeCommit).await {
        return struck;
    }

    let mut response = match (verdict, read) {
        (Some(verdict), _) => verdict,
        (None, Err(too_large)) => too_large,
        (None, Ok(body)) => match route {
            Route::Echo => echo(parts, body),
            Route::Unknown => responses::problem("resource-not-found"),
            #[cfg(feature = "upload-tokens")]
            Route::Resource(resource) => shared
                .lock()
                .resources
                .response(resource, parts, &body, now),
            #[cfg(not(feature = "upload-tokens"))]
            Route::Resource(_) => responses::problem("not-played"),
        },
    };
    if let Some(struck) = strike(fault.as_ref(), Point::AfterCommit).await {
        return struck;
    }
    responses::add_rate_limit(response.headers_mut(), 499, 60);
    if let Some(origin) = &shared.cors {
        responses::allow_origin(response.headers_mut(), origin);
    }
    send(fault, response, None)
}

/// The refusal of a request that may not pass, if it may not.
///
/// Anything but exactly one `Authorization` is refused, as a strict server does. An account that is
/// suspended is told so only after its token was found to be good.
fn judge(
    shared: &Shared,
    state: &State,
    parts: &request::Parts,
    now: std::time::Duration,
) -> Option<Response<Bytes>> {
    if !Route::of(parts.uri.path()).is_guarded() {
        return None;
    }
    let mut values = parts.headers.get_all(header::AUTHORIZATION).iter();
    let refusal = match (values.next().map(HeaderValue::to_str), values.next()) {
        (None, _) => "authentication-missing-authorization-header",
        (Some(Ok(value)), None) => match value.split_once(' ') {
            Some(("Bearer", token))
                if state.refuse_all_bearers || !state.tokens.accepts(token, now) =>
            {
                "authentication-invalid-access-token"
            }
            Some(("Basic", key)) if state.refuse_api_key || key != basic(&shared.api_key) => {
                "authentication-invalid-api-key"
            }
            Some(("Bearer" | "Basic", _)) if state.suspended => "authorization-suspended-account",
            Some(("Bearer" | "Basic", _)) => return None,
            _ => "authentication-invalid-authorization-header-value",
        },
        _ => "authentication-invalid-authorization-header-value",
    };
    Some(responses::problem(refusal))
}

/// The request's body comes back with its type, byte for byte: a replay that differs is seen.
fn echo(parts: &request::Parts, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    if let Some(content_type) = parts.headers.get(header::CONTENT_TYPE) {
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, content_type.clone());
    }
    response
}

/// For the counts: the token that came, good or not.
fn bearer(parts: &request::Parts) -> Option<&str> {
    parts
        .headers
        .get(header::AUTHORIZATION)?
        .to_str()
        .ok()?
        .strip_prefix("Bearer ")
}

/// What follows `Basic` in the header: the key is the user name, and the password is empty.
fn basic(api_key: &str) -> String {
    BASE64.encode(format!("{api_key}:"))
}
