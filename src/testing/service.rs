//! The way of a request through the fake server, the same with and without a socket.

use std::{
    fmt, io,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response, StatusCode, header, request};
use http_body::Body;
use tower::{BoxError, Service};

#[cfg(feature = "upload-tokens")]
use super::account;
use super::{
    body::{self, FakeBody},
    fault::{Fault, Point},
    gate::GatePoint,
    judge::judge,
    recorded_request::Entry,
    responses,
    route::Route,
    state::{InFlight, Shared},
    strike::{send, strike},
    token_call,
};
use crate::Now;

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

/// A call from its arrival to its response. It runs in the request's own future: a client that drops it before it is
/// carried out has changed nothing.
pub(super) async fn respond<B>(
    shared: Arc<Shared>,
    request: Request<B>,
) -> io::Result<Response<FakeBody>>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    let (parts, body) = request.into_parts();
    let route = shared.route(&parts);
    let is_token_call = route == Route::TokenCall;
    let is_api_call = !is_token_call && route != Route::Preflight;
    let in_flight = is_token_call.then(|| InFlight::new(&shared));
    let (entry, faults) = {
        let mut state = shared.lock();
        if is_token_call || is_api_call {
            state.count(&parts, is_token_call);
        }
        (
            state.journal.arrived(&parts, is_token_call),
            state.faults.clone(),
        )
    };
    let fault = faults.take(&parts, is_token_call);
    let response = steps(&shared, &parts, body, entry, fault).await?;
    shared
        .lock()
        .answered(entry, is_api_call, response.status());
    // Without the lock, which the end of a call in flight takes.
    Ok(response.map(|body| body.holding(in_flight)))
}

/// Judged, read, stopped at a gate, carried out, stopped again; a fault strikes at one of these steps, so that a test
/// knows what the server has done by then.
///
/// A request is judged before the gate and carried out after it. So a test can revoke a token while a request that came
/// with it is under way. No lock is held while it waits.
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
    let route = shared.route(parts);
    let is_token_call = route == Route::TokenCall;
    let now = shared.clock.now();
    let verdict = verdict(shared, parts, route, now);
    let read = body::read(body, route.body_limit()).await?;
    if let Ok(body) = &read {
        let presented = is_token_call.then(|| token_call::presented(parts, body));
        let mut state = shared.lock();
        if !route.is_upload() || body.len() <= JOURNAL_LIMIT {
            state.journal.read(entry, body);
        }
        if let Some(token) = presented.flatten() {
            *state.presentations.entry(token).or_default() += 1;
        }
    }
    let before = if is_token_call {
        GatePoint::BeforeCommit
    } else {
        GatePoint::ApiResponse
    };
    shared.gates.pass(before).await;
    if let Some(struck) = strike(fault.as_ref(), Point::BeforeCommit).await {
        return struck;
    }

    let mut response = match (verdict, read) {
        (Some(verdict), _) => verdict,
        (None, Err(too_large)) => too_large,
        (None, Ok(body)) => match route {
            Route::TokenCall => token_call::commit(shared, parts, &body),
            Route::Echo => echo(parts, body),
            Route::Preflight => responses::empty(StatusCode::NO_CONTENT),
            Route::Unknown => responses::problem("resource-not-found"),
            #[cfg(feature = "upload-tokens")]
            Route::Resource(resource) => account::response(shared, resource, parts, &body, now),
            #[cfg(not(feature = "upload-tokens"))]
            Route::Resource(_) => responses::problem("not-played"),
        },
    };
    if is_token_call {
        shared.gates.pass(GatePoint::AfterCommit).await;
    }
    if let Some(struck) = strike(fault.as_ref(), Point::AfterCommit).await {
        return struck;
    }
    shared.dress(response.headers_mut());
    // Asked for after the other gate: a test may have shut this one while the call was stopped there.
    let mid_body = shared
        .gates
        .at(GatePoint::MidBody)
        .filter(|_| is_token_call);
    send(fault, response, mid_body)
}

/// The response of a request that is not carried out: its refusal, or what the test plays.
fn verdict(
    shared: &Shared,
    parts: &request::Parts,
    route: Route<'_>,
    now: Now,
) -> Option<Response<Bytes>> {
    let (refusal, playing) = {
        let mut state = shared.lock();
        (
            judge(shared, &mut state, parts, route, now),
            state.on_api_request.clone(),
        )
    };
    let is_played = !matches!(route, Route::TokenCall | Route::Preflight);
    let play = || playing.filter(|_| is_played)?(parts);
    if route == Route::Unknown {
        // A path that does not exist is a 404 to anybody, and only the function knows whether it does.
        let played = play()?;
        return Some(refusal.unwrap_or(played));
    }
    refusal.or_else(play)
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
