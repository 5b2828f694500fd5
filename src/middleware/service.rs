use std::{
    fmt,
    marker::PhantomData,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response, header};
use tower::{BoxError, Service};

use super::{
    ApiVideoAuthLayer, ReplayPolicy, ResponseFuture,
    future::{Attempt, send_later},
    replay::Ahead,
    token_cache::{AtHand, CloneCache, Shared},
};
use crate::{
    endpoint::{BodyFrom, SameService, SeparateService, Transport},
    extensions::MinLifetime,
    http_service::HttpService,
    origin::{admit, foreign_origin},
    origin_headers::add_application,
    source::{RenewalReason, SlotWanted, TokenSource},
};

/// A service whose requests to api.video carry a token that is fresh. See the [module docs](crate::middleware).
///
/// Its error is [`tower::BoxError`]: an [`Error`](crate::Error) of this crate, or the wrapped service's own.
pub struct ApiVideoAuth<S, T = SameService, P = super::Replay> {
    inner: S,
    shared: Arc<Shared<T>>,
    /// What this clone knows of the current token.
    cache: CloneCache<T>,
    /// The wrapped service was not ready when it was last asked.
    wanted: Option<SlotWanted>,
    replay: PhantomData<fn() -> P>,
}

impl<S, T, P> ApiVideoAuth<S, T, P> {
    pub(super) fn new(inner: S, shared: Arc<Shared<T>>) -> Self {
        Self {
            inner,
            shared,
            cache: CloneCache::Nothing,
            wanted: None,
            replay: PhantomData,
        }
    }

    /// The layer that this service was made with, or one that shares its token.
    #[must_use]
    pub fn to_layer(&self) -> ApiVideoAuthLayer<T, P> {
        ApiVideoAuthLayer::sharing(self.shared.clone())
    }

    /// The wrapped service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The wrapped service. What is sent through it gets no token.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The wrapped service; the layer and other clones go on.
    pub fn into_inner(self) -> S {
        self.inner
    }

    /// What a request takes along that has to wait.
    fn for_later(&mut self) -> (Arc<Shared<T>>, S)
    where
        S: Clone,
    {
        // A caller that waits holds no slot of the wrapped service: what was polled ready is dropped.
        self.inner = self.inner.clone();
        (self.shared.clone(), self.inner.clone())
    }
}

impl<S, T, P> ApiVideoAuth<S, T, P> {
    #[cold]
    fn renew_early<B>(&self, generation: u64)
    where
        T: Transport<S, B>,
    {
        let endpoint = || self.shared.transport.endpoint(&self.inner);
        self.shared
            .tokens
            .renew_in_background(generation, RenewalReason::Early, endpoint);
    }
}

impl<S, P> ApiVideoAuth<S, SameService, P> {
    /// The token source of this client, which makes its token calls through a clone of the wrapped service with bodies
    /// `B`: `client.source::<Full<Bytes>>()`.
    pub fn source<B>(&self) -> TokenSource
    where
        SameService: Transport<S, B>,
    {
        self.shared.source::<S, B>(&self.inner)
    }
}

impl<S, B, T, P> ApiVideoAuth<S, BodyFrom<B, T>, P> {
    /// The token source of this client, which makes its token calls where requests go, or through the
    /// [token service](crate::ApiVideoAuthLayerBuilder::token_service) if there is one.
    pub fn source(&self) -> TokenSource
    where
        BodyFrom<B, T>: Transport<S, B>,
    {
        self.shared.source::<S, B>(&self.inner)
    }
}

impl<S, P> ApiVideoAuth<S, SeparateService, P> {
    /// The token source of this client, which makes its token calls through the
    /// [token service](crate::ApiVideoAuthLayerBuilder::token_service).
    pub fn source(&self) -> TokenSource {
        TokenSource::new(self.shared.tokens.clone(), self.shared.transport.endpoint())
    }
}

impl<S, B, T, P> Service<Request<B>> for ApiVideoAuth<S, T, P>
where
    S: HttpService<B>,
    B: Send + 'static,
    T: Transport<S, B>,
    P: ReplayPolicy<B, S::ResponseBody, T>,
{
    type Response = Response<S::ResponseBody>;
    type Error = BoxError;
    type Future = ResponseFuture<S, B, T, P>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let ready = self.inner.poll_ready(cx);
        if T::SHARES_SLOTS {
            // The slot that is missing may be that of a response to a token call which nobody waits for any more.
            if ready.is_pending() {
                self.wanted
                    .get_or_insert_with(|| self.shared.tokens.wants_slot())
                    .ask(cx);
            } else if self.wanted.is_some() {
                self.wanted = None;
            }
        }
        ready.map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        if !admit(&self.shared.origins, &mut request) {
            let (uri, headers) = (request.uri(), request.headers());
            let foreign =
                || foreign_origin(&self.shared.origins, uri, headers, request.extensions());
            self.shared.tokens.passed_without_token(foreign);
            return ResponseFuture::calling(self.inner.call(request), None);
        }
        if self.shared.application.is_some() {
            add_application(request.headers_mut(), self.shared.application.as_ref());
        }
        let wanted = request
            .extensions()
            .get()
            .map(|MinLifetime(wanted)| *wanted);
        let copy = match P::read_ahead(
            &mut request,
            self.shared.replay_limit,
            &self.shared.transport,
        ) {
            Ahead::Done(copy) => copy,
            Ahead::Reading(reading) => {
                let (shared, inner) = self.for_later();
                return ResponseFuture::waiting(async move {
                    let (head, copy) = reading.await?;
                    let request = P::restore(head, &copy, &shared.transport);
                    send_later::<S, B, T, P>(shared, inner, request, Some(copy), wanted).await
                });
            }
        };
        // A wish for a lifetime is left to the slow path: it may have to wait.
        let token = if wanted.is_none() {
            self.cache.token(&self.shared)
        } else {
            None
        };
        let Some(AtHand {
            header,
            generation,
            source,
            is_stale,
        }) = token
        else {
            let (shared, inner) = self.for_later();
            let later = send_later::<S, B, T, P>(shared, inner, request, copy, wanted);
            return ResponseFuture::waiting(later);
        };
        if is_stale {
            self.renew_early::<B>(generation);
        }
        let sent = Attempt {
            source,
            generation,
            retry: match copy {
                Some(copy) => Some(P::keep(&request, copy, self.inner.clone())),
                None => None,
            },
        };
        request.headers_mut().insert(header::AUTHORIZATION, header);
        ResponseFuture::calling(self.inner.call(request), Some(sent))
    }
}

impl<S: Clone, T, P> Clone for ApiVideoAuth<S, T, P> {
    /// A clone starts without a header of its own: copying one would be in vain if it sends a single request.
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), self.shared.clone())
    }
}

impl<S: fmt::Debug, T, P> fmt::Debug for ApiVideoAuth<S, T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiVideoAuth")
            .field("inner", &self.inner)
            .field("source", &self.shared.tokens)
            .finish_non_exhaustive()
    }
}
