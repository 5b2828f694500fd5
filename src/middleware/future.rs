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
use tower::{BoxError, Service, load_shed::error::Overloaded};

use super::{
    ReplayPolicy,
    replay::sealed,
    token_cache::{Shared, SourceRef},
};
use crate::{endpoint::Transport, http_service::HttpService, source::RenewalReason};

pin_project! {
    /// Response future of [`ApiVideoAuth`](super::ApiVideoAuth).
    pub struct ResponseFuture<S, B, T, P>
    where
        S: HttpService<B>,
        P: ReplayPolicy<B, S::ResponseBody, T>,
    {
        #[pin]
        state: State<S::Future, S::ResponseBody, T, <P as sealed::ReplayPolicy<B, S::ResponseBody, T>>::Retry<S>>,
        // `None` while the token is waited for, and for a request without a token of ours.
        sent: Option<Attempt<T, <P as sealed::ReplayPolicy<B, S::ResponseBody, T>>::Retry<S>>>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, R, T, Y> {
        /// Polls for all that has to be there before a request can be sent.
        Waiting { future: BoxFuture<'static, Result<(F, Attempt<T, Y>), BoxError>> },
        /// Polls the response.
        Calling { #[pin] future: F },
        /// Polls for a newer token, and then for the response to the request that is sent again.
        Replaying { future: BoxFuture<'static, Result<Response<R>, BoxError>> },
    }
}

/// What is known of a request that went out with a token.
pub(super) struct Attempt<T, Y> {
    pub(super) source: SourceRef<T>,
    pub(super) generation: u64,
    /// `None` if the request could not be kept.
    pub(super) retry: Option<Y>,
}

/// What a request that had to wait becomes.
pub(super) type Sending<S, B, T, P> = (
    <S as Service<Request<B>>>::Future,
    Attempt<T, <P as sealed::ReplayPolicy<B, <S as HttpService<B>>::ResponseBody, T>>::Retry<S>>,
);

impl<S, B, T, P> ResponseFuture<S, B, T, P>
where
    S: HttpService<B>,
    P: ReplayPolicy<B, S::ResponseBody, T>,
{
    #[inline]
    pub(super) fn calling(future: S::Future, sent: Option<Attempt<T, P::Retry<S>>>) -> Self {
        Self {
            state: State::Calling { future },
            sent,
        }
    }

    pub(super) fn waiting(
        future: impl Future<Output = Result<Sending<S, B, T, P>, BoxError>> + Send + 'static,
    ) -> Self {
        Self {
            state: State::Waiting {
                future: Box::pin(future),
            },
            sent: None,
        }
    }
}

impl<S, B, T, P> Future for ResponseFuture<S, B, T, P>
where
    S: HttpService<B>,
    B: Send + 'static,
    T: Transport<S, B>,
    P: ReplayPolicy<B, S::ResponseBody, T>,
{
    type Output = Result<Response<S::ResponseBody>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::Waiting { future } => {
                    let (future, sent) = ready!(future.as_mut().poll(cx))?;
                    this.state.set(State::Calling { future });
                    *this.sent = Some(sent);
                }
                StateProj::Calling { future } => match ready!(future.poll(cx)) {
                    Err(error) => {
                        let error = error.into();
                        if T::SHARES_SLOTS
                            && let Some(sent) = this.sent
                            && error.is::<Overloaded>()
                        {
                            sent.source.tokens.found_no_slot();
                        }
                        return Poll::Ready(Err(error));
                    }
                    Ok(response) if response.status() != StatusCode::UNAUTHORIZED => {
                        if let Some(sent) = this.sent
                            && !sent.source.generations.is_accepted(sent.generation)
                        {
                            let (tokens, status) = (&sent.source.tokens, response.status());
                            tokens.answered(sent.generation, status);
                        }
                        // Whoever holds on to the future while reading the response holds no copy of the request.
                        *this.sent = None;
                        return Poll::Ready(Ok(response));
                    }
                    Ok(response) => {
                        let Some(sent) = this.sent.take() else {
                            return Poll::Ready(Ok(response));
                        };
                        match unauthorized::<S, B, T, P>(sent, response) {
                            Ok(response) => return Poll::Ready(Ok(response)),
                            Err(future) => this.state.set(State::Replaying { future }),
                        }
                    }
                },
                StateProj::Replaying { future } => return future.as_mut().poll(cx),
            }
        }
    }
}

impl<S, B, T, P> fmt::Debug for ResponseFuture<S, B, T, P>
where
    S: HttpService<B>,
    P: ReplayPolicy<B, S::ResponseBody, T>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.state {
            State::Waiting { .. } => "ResponseFuture::Waiting",
            State::Calling { .. } => "ResponseFuture::Calling",
            State::Replaying { .. } => "ResponseFuture::Replaying",
        })
    }
}

/// A request that expires its token in the queue of the wrapped service goes back for another, but not for ever.
const MAX_QUEUES: usize = 3;

/// Gets a token, then readiness, then sends. `inner` is not ready before.
#[expect(
    clippy::manual_async_fn,
    reason = "that would hold its arguments twice, and thousands may wait here"
)]
pub(super) fn send_later<S, B, T, P>(
    shared: Arc<Shared<T>>,
    mut inner: S,
    mut request: Request<B>,
    copy: Option<P::Copy>,
    mut wanted: Option<Duration>,
) -> impl Future<Output = Result<Sending<S, B, T, P>, BoxError>> + Send + 'static
where
    S: HttpService<B>,
    B: Send + 'static,
    T: Transport<S, B>,
    P: ReplayPolicy<B, S::ResponseBody, T>,
{
    async move {
        let tokens = &shared.tokens;
        let mut queued = 0;
        let bearer = loop {
            let bearer = tokens
                .for_request(wanted.take(), shared.endpoints(&mut inner))
                .await?;
            let came_usable = bearer.is_usable(tokens.now());
            ready::<S, B, T>(&mut inner, &shared).await?;
            queued += 1;
            if let Some(newest) = tokens.newest_usable(&bearer) {
                break newest;
            }
            // There is no better one if it was expired on arrival already.
            if !came_usable || queued == MAX_QUEUES {
                break bearer;
            }
            // Nobody waits for a token with a slot in hand.
            inner = inner.clone();
        };
        let retry = copy.map(|copy| P::keep(&request, copy, inner.clone()));
        request
            .headers_mut()
            .insert(header::AUTHORIZATION, bearer.header().clone());
        let future = inner.call(request);
        Ok((
            future,
            Attempt {
                source: SourceRef::Shared(shared),
                generation: bearer.generation(),
                retry,
            },
        ))
    }
}

/// Waits until `inner` is ready. A slot that it lacks may be that of a response that is still awaited.
async fn ready<S, B, T>(inner: &mut S, shared: &Shared<T>) -> Result<(), BoxError>
where
    S: HttpService<B>,
    T: Transport<S, B>,
{
    let mut wanted = None;
    poll_fn(|cx| {
        let ready = inner.poll_ready(cx);
        if T::SHARES_SLOTS && ready.is_pending() {
            wanted
                .get_or_insert_with(|| shared.tokens.wants_slot())
                .ask(cx);
        }
        ready.map_err(Into::into)
    })
    .await
}

/// The response that stands, or the replay that may replace it.
type Judged<R> = Result<Response<R>, BoxFuture<'static, Result<Response<R>, BoxError>>>;

/// A first 401: where to start if you ask what becomes of one.
#[cold]
fn unauthorized<S, B, T, P>(
    sent: Attempt<T, P::Retry<S>>,
    first: Response<S::ResponseBody>,
) -> Judged<S::ResponseBody>
where
    S: HttpService<B>,
    B: Send + 'static,
    T: Transport<S, B>,
    P: ReplayPolicy<B, S::ResponseBody, T>,
{
    let Attempt {
        source,
        generation,
        retry,
    } = sent;
    // Without a replay the token is at least out of use: the next request gets a new one.
    let is_worth_it = source.tokens.rejected(generation, retry.is_some());
    let Some(retry) = retry.filter(|_| is_worth_it) else {
        return Ok(first);
    };
    let (request, inner) = P::rebuild(retry, &source.transport);
    Err(Box::pin(replay::<S, B, T, P>(
        source.into_shared(),
        inner,
        request,
        first,
        generation,
    )))
}

/// Sends a request again with a newer token. If none is to be had, the first response stands.
async fn replay<S, B, T, P>(
    shared: Arc<Shared<T>>,
    mut inner: S,
    mut request: Request<B>,
    first: Response<S::ResponseBody>,
    refused: u64,
) -> Result<Response<S::ResponseBody>, BoxError>
where
    S: HttpService<B>,
    T: Transport<S, B>,
    P: ReplayPolicy<B, S::ResponseBody, T>,
{
    let tokens = &shared.tokens;
    let reason = Some(RenewalReason::Unauthorized);
    let Ok(bearer) = tokens
        .acquire(refused, reason, shared.endpoints(&mut inner))
        .await
    else {
        return Ok(first);
    };
    P::drain(first).await;
    ready::<S, B, T>(&mut inner, &shared).await?;
    // Should this token be out of use by now, it is sent all the same: the first response is gone, and could not tell of
    // another renewal that fails.
    let bearer = tokens.newest_usable(&bearer).unwrap_or(bearer);
    request
        .headers_mut()
        .insert(header::AUTHORIZATION, bearer.header().clone());
    let response = inner.call(request).await.map_err(Into::into)?;
    tokens.replayed(bearer.generation(), response.status());
    Ok(response)
}
