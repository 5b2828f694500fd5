use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::future::BoxFuture;
use http::{Request, Response, StatusCode, header};
use pin_project_lite::pin_project;
use tower::{BoxError, Service};

use super::{
    ReplayPolicy,
    replay::{Taken, sealed},
};
use crate::{
    endpoint::Transport,
    manager::{Access, Cause, Handle, Verdict, Want},
    token::Bearer,
};

pin_project! {
    /// Response future of [`ApiVideoAuth`](super::ApiVideoAuth).
    pub struct ResponseFuture<S, B, R, T, P>
    where
        S: Service<Request<B>>,
        P: ReplayPolicy<B, R>,
    {
        #[pin]
        state: State<S::Future, R, Retry<S, T, <P as sealed::ReplayPolicy<B, R>>::Kept>>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, R, Y> {
        /// Polls the answer to a request without a token of ours.
        Plain { #[pin] future: F },
        /// Polls the answer to a request that carries a token.
        Calling { #[pin] future: F, sent: Option<Sent<Y>> },
        /// Polls everything that has to wait: for a token, a body, a replay.
        Waiting { future: BoxFuture<'static, Result<Response<R>, BoxError>> },
    }
}

/// What is known of a request that went out with a token.
pub(super) struct Sent<Y> {
    pub(super) handle: Arc<Handle>,
    pub(super) generation: u64,
    /// `None` if the request could not be kept.
    pub(super) retry: Option<Y>,
}

/// What a replay takes. `inner` is not ready.
pub(super) struct Retry<S, T, K> {
    pub(super) kept: K,
    pub(super) inner: S,
    pub(super) transport: T,
}

impl<S, B, R, T, P> ResponseFuture<S, B, R, T, P>
where
    S: Service<Request<B>>,
    P: ReplayPolicy<B, R>,
{
    pub(super) fn plain(future: S::Future) -> Self {
        Self { state: State::Plain { future } }
    }

    pub(super) fn calling(future: S::Future, sent: Sent<Retry<S, T, P::Kept>>) -> Self {
        Self { state: State::Calling { future, sent: Some(sent) } }
    }

    pub(super) fn waiting(future: BoxFuture<'static, Result<Response<R>, BoxError>>) -> Self {
        Self { state: State::Waiting { future } }
    }
}

impl<S, B, R, T, P> Future for ResponseFuture<S, B, R, T, P>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: Send + 'static,
    R: Send + 'static,
    T: Transport<S, B>,
    P: ReplayPolicy<B, R>,
{
    type Output = Result<Response<R>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                StateProj::Plain { future } => return future.poll(cx).map_err(Into::into),
                StateProj::Waiting { future } => return future.as_mut().poll(cx),
                StateProj::Calling { future, sent } => {
                    let response = ready!(future.poll(cx)).map_err(Into::into)?;
                    let sent = sent.take().expect("a future is not polled after it is ready");
                    if response.status() != StatusCode::UNAUTHORIZED {
                        sent.handle.manager.accept(sent.generation);
                        return Poll::Ready(Ok(response));
                    }
                    unauthorized::<S, B, R, T, P>(sent, response)
                }
            };
            match next {
                Ok(response) => return Poll::Ready(Ok(response)),
                Err(future) => state.set(State::Waiting { future }),
            }
        }
    }
}

impl<S, B, R, T, P> fmt::Debug for ResponseFuture<S, B, R, T, P>
where
    S: Service<Request<B>>,
    P: ReplayPolicy<B, R>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.state {
            State::Plain { .. } => "ResponseFuture::Plain",
            State::Calling { .. } => "ResponseFuture::Calling",
            State::Waiting { .. } => "ResponseFuture::Waiting",
        })
    }
}

/// Sends a request that has no token yet, or whose body is still coming in. `inner` is not ready.
pub(super) async fn send_later<S, B, R, P>(
    mut access: Access,
    mut inner: S,
    taken: Taken<B, P::Kept>,
    wanted: Option<Duration>,
) -> Result<Response<R>, BoxError>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    P: ReplayPolicy<B, R>,
{
    let (request, kept) = match taken {
        Taken::Now(request, kept) => (request, kept),
        Taken::Later(reading) => reading.await?,
    };
    let (response, generation) = send(&mut access, &mut inner, request, wanted).await?;
    let manager = access.handle.manager.clone();
    if response.status() != StatusCode::UNAUTHORIZED {
        manager.accept(generation);
        return Ok(response);
    }
    match (manager.unauthorized(generation), kept) {
        (Verdict::Renew, Some(kept)) => replay::<S, B, R, P>(access, inner, kept, response).await,
        _ => Ok(response),
    }
}

/// A first 401: the answer, or the replay that may replace it.
fn unauthorized<S, B, R, T, P>(
    sent: Sent<Retry<S, T, P::Kept>>,
    first: Response<R>,
) -> Result<Response<R>, BoxFuture<'static, Result<Response<R>, BoxError>>>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: Send + 'static,
    R: Send + 'static,
    T: Transport<S, B>,
    P: ReplayPolicy<B, R>,
{
    match (sent.handle.manager.unauthorized(sent.generation), sent.retry) {
        (Verdict::Renew, Some(Retry { kept, inner, transport })) => {
            let access = Access { handle: sent.handle, endpoint: transport.endpoint(&inner) };
            Err(Box::pin(replay::<S, B, R, P>(access, inner, kept, first)))
        }
        // Without a replay the token is at least out of use: the next request gets a new one.
        _ => Ok(first),
    }
}

/// Sends a request again with a newer token. If none is to be had, the first answer stands.
async fn replay<S, B, R, P>(
    mut access: Access,
    mut inner: S,
    kept: P::Kept,
    first: Response<R>,
) -> Result<Response<R>, BoxError>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    P: ReplayPolicy<B, R>,
{
    let Ok(pair) = access.acquire(Want::Usable, Some(Cause::Unauthorized)).await else { return Ok(first) };
    P::drain(first).await;
    poll_fn(|cx| inner.poll_ready(cx)).await.map_err(Into::into)?;
    let manager = &access.handle.manager;
    // Should this token be out of use by now, it is sent all the same: the first answer is gone, and could not tell of
    // another renewal that fails.
    let bearer = manager.usable(manager.now()).unwrap_or(pair).bearer().clone();
    let (response, generation) = call(&mut inner, P::rebuild(kept), &bearer).await?;
    if response.status() == StatusCode::UNAUTHORIZED {
        manager.replay_refused(generation);
    } else {
        manager.accept(generation);
    }
    Ok(response)
}

/// A request that expires its token in the queue of the wrapped service goes back for another, but not for ever.
const MAX_QUEUES: usize = 3;

/// Gets a token, then readiness, then sends. `inner` is not ready before.
async fn send<S, B, R>(
    access: &mut Access,
    inner: &mut S,
    request: Request<B>,
    mut wanted: Option<Duration>,
) -> Result<(Response<R>, u64), BoxError>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
{
    let manager = access.handle.manager.clone();
    let mut queued = 0;
    let bearer = loop {
        let bearer = access.token_for(wanted.take()).await?.bearer().clone();
        let came_usable = bearer.is_usable(manager.now());
        poll_fn(|cx| inner.poll_ready(cx)).await.map_err(Into::into)?;
        queued += 1;
        if let Some(newest) = manager.usable(manager.now()) {
            break newest.bearer().clone();
        }
        // There is no better one if it was expired on arrival already.
        if !came_usable || queued == MAX_QUEUES {
            break bearer;
        }
        // Nobody waits for a token with a slot in hand.
        *inner = inner.clone();
    };
    call(inner, request, &bearer).await
}

/// `inner` is ready.
async fn call<S, B, R>(
    inner: &mut S,
    mut request: Request<B>,
    bearer: &Bearer,
) -> Result<(Response<R>, u64), BoxError>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
{
    request.headers_mut().insert(header::AUTHORIZATION, bearer.header().clone());
    let response = inner.call(request).await.map_err(Into::into)?;
    Ok((response, bearer.generation()))
}
