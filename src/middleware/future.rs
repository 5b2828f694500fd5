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

use super::{ReplayPolicy, replay::sealed, service::SourceRef};
use crate::{
    endpoint::Transport,
    manager::{RenewalReason, Source, Verdict, Want},
};

pin_project! {
    /// Response future of [`ApiVideoAuth`](super::ApiVideoAuth).
    pub struct ResponseFuture<S, B, R, T, P>
    where
        S: Service<Request<B>>,
        S: Send,
        S: 'static,
        P: ReplayPolicy<B, R>,
    {
        #[pin]
        state: State<S::Future, R, T, <P as sealed::ReplayPolicy<B, R>>::Retry<S>>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, R, T, Y> {
        /// Polls the response to a request without a token of ours.
        Plain { #[pin] future: F },
        /// Polls for all that has to be there before a request can be sent.
        Waiting { future: BoxFuture<'static, Result<(F, Attempt<T, Y>), BoxError>> },
        /// Polls the response to a request that carries a token.
        Calling { #[pin] future: F, sent: Option<Attempt<T, Y>> },
        /// Polls for a newer token, and then for the response to the request that is sent again.
        Replaying { future: BoxFuture<'static, Result<Response<R>, BoxError>> },
    }
}

/// What is known of a request that went out with a token.
pub(super) struct Attempt<T, Y> {
    pub(super) link: SourceRef<T>,
    pub(super) generation: u64,
    /// `None` if the request could not be kept.
    pub(super) retry: Option<Y>,
}

/// What a request that had to wait becomes.
pub(super) type Sending<S, B, R, T, P> = (
    <S as Service<Request<B>>>::Future,
    Attempt<T, <P as sealed::ReplayPolicy<B, R>>::Retry<S>>,
);

impl<S, B, R, T, P> ResponseFuture<S, B, R, T, P>
where
    S: Service<Request<B>> + Send + 'static,
    P: ReplayPolicy<B, R>,
{
    pub(super) fn plain(future: S::Future) -> Self {
        Self {
            state: State::Plain { future },
        }
    }

    pub(super) fn calling(future: S::Future, sent: Attempt<T, P::Retry<S>>) -> Self {
        Self {
            state: State::Calling {
                future,
                sent: Some(sent),
            },
        }
    }

    pub(super) fn waiting(
        future: impl Future<Output = Result<Sending<S, B, R, T, P>, BoxError>> + Send + 'static,
    ) -> Self {
        Self {
            state: State::Waiting {
                future: Box::pin(future),
            },
        }
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
            match state.as_mut().project() {
                StateProj::Plain { future } => return future.poll(cx).map_err(Into::into),
                StateProj::Waiting { future } => {
                    let (future, sent) = ready!(future.as_mut().poll(cx))?;
                    state.set(State::Calling {
                        future,
                        sent: Some(sent),
                    });
                }
                StateProj::Calling { future, sent } => match ready!(future.poll(cx)) {
                    Err(error) => return Poll::Ready(Err(error.into())),
                    Ok(response) if response.status() != StatusCode::UNAUTHORIZED => {
                        if let Some(sent) = sent {
                            sent.link.manager().accept(sent.generation);
                        }
                        // Whoever holds on to the future while reading the response holds no copy of the request.
                        *sent = None;
                        return Poll::Ready(Ok(response));
                    }
                    Ok(response) => {
                        let sent = sent
                            .take()
                            .expect("a future is not polled after it is ready");
                        match unauthorized::<S, B, R, T, P>(sent, response) {
                            Ok(response) => return Poll::Ready(Ok(response)),
                            Err(future) => state.set(State::Replaying { future }),
                        }
                    }
                },
                StateProj::Replaying { future } => return future.as_mut().poll(cx),
            }
        }
    }
}

impl<S, B, R, T, P> fmt::Debug for ResponseFuture<S, B, R, T, P>
where
    S: Service<Request<B>> + Send + 'static,
    P: ReplayPolicy<B, R>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.state {
            State::Plain { .. } => "ResponseFuture::Plain",
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
pub(super) fn send_later<S, B, R, T, P>(
    source: Arc<Source<T>>,
    mut inner: S,
    mut request: Request<B>,
    copy: Option<P::Copy>,
    mut wanted: Option<Duration>,
) -> impl Future<Output = Result<Sending<S, B, R, T, P>, BoxError>> + Send + 'static
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: Send + 'static,
    R: Send + 'static,
    T: Transport<S, B>,
    P: ReplayPolicy<B, R>,
{
    async move {
        let manager = source.manager();
        let mut queued = 0;
        let pair = loop {
            let endpoints = source.endpoints(&mut inner);
            let pair = manager.token_for(wanted.take(), endpoints).await?;
            let came_usable = pair.bearer().is_usable(manager.now());
            poll_fn(|cx| inner.poll_ready(cx))
                .await
                .map_err(Into::into)?;
            queued += 1;
            if let Some(newest) = manager.newest_usable(&pair) {
                break newest;
            }
            // There is no better one if it was expired on arrival already.
            if !came_usable || queued == MAX_QUEUES {
                break pair;
            }
            // Nobody waits for a token with a slot in hand.
            inner = inner.clone();
        };
        let retry = copy.map(|copy| P::keep(&request, copy, inner.clone()));
        request
            .headers_mut()
            .insert(header::AUTHORIZATION, pair.bearer().header().clone());
        let (future, generation) = (inner.call(request), pair.bearer().generation());
        Ok((
            future,
            Attempt {
                link: SourceRef::Shared(source),
                generation,
                retry,
            },
        ))
    }
}

/// A first 401: the response, or the replay that may replace it.
#[cold]
fn unauthorized<S, B, R, T, P>(
    sent: Attempt<T, P::Retry<S>>,
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
    let Attempt {
        link,
        generation,
        retry,
    } = sent;
    // Without a replay the token is at least out of use: the next request gets a new one.
    let (Verdict::Renew, Some(retry)) = (link.manager().unauthorized(generation), retry) else {
        return Ok(first);
    };
    let (request, inner) = P::rebuild(retry);
    Err(Box::pin(replay::<S, B, R, T, P>(
        link.into_source(),
        inner,
        request,
        first,
    )))
}

/// Sends a request again with a newer token. If none is to be had, the first response stands.
async fn replay<S, B, R, T, P>(
    source: Arc<Source<T>>,
    mut inner: S,
    mut request: Request<B>,
    first: Response<R>,
) -> Result<Response<R>, BoxError>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    T: Transport<S, B>,
    P: ReplayPolicy<B, R>,
{
    let manager = source.manager();
    let endpoints = source.endpoints(&mut inner);
    let Ok(pair) = manager
        .acquire(Want::Usable, Some(RenewalReason::Unauthorized), endpoints)
        .await
    else {
        return Ok(first);
    };
    P::drain(first).await;
    poll_fn(|cx| inner.poll_ready(cx))
        .await
        .map_err(Into::into)?;
    // Should this token be out of use by now, it is sent all the same: the first response is gone, and could not tell of
    // another renewal that fails.
    let pair = manager.newest_usable(&pair).unwrap_or(pair);
    let bearer = pair.bearer();
    request
        .headers_mut()
        .insert(header::AUTHORIZATION, bearer.header().clone());
    let response = inner.call(request).await.map_err(Into::into)?;
    if response.status() == StatusCode::UNAUTHORIZED {
        manager.replay_refused(bearer.generation());
    } else {
        manager.accept(bearer.generation());
    }
    Ok(response)
}
