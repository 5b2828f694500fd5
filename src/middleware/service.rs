use std::{
    fmt,
    marker::PhantomData,
    ops::Deref,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderValue, Request, Response, header};
use tower::{BoxError, Service};

use super::{
    ApiVideoAuthLayer, ReplayPolicy, ResponseFuture,
    future::{Attempt, send_later},
    replay::Ahead,
};
use crate::{
    admission::{MinLifetime, admit},
    clock::Now,
    endpoint::{SameService, SeparateService, Transport},
    manager::{Access, RenewalReason, Source, Want, abilities},
    token::{Life, own_copy},
};

/// A service whose requests to api.video carry a token that is fresh. See the [module docs](crate::middleware).
///
/// Its error is [`tower::BoxError`]: an [`Error`](crate::Error) of this crate, or the wrapped service's own.
pub struct ApiVideoAuth<S, T = SameService, P = super::Replay> {
    inner: S,
    source: Arc<Source<T>>,
    /// What this clone knows of the current token.
    seen: CloneCache<T>,
    replay: PhantomData<fn() -> P>,
}

enum CloneCache<T> {
    Nothing,
    /// This generation was used once. A clone made for one request never pays for a copy of the header.
    Once(u64),
    CachedToken(Arc<CachedToken<T>>),
}

/// What one clone keeps to itself: no other thread touches its counts, and its requests need no lock.
pub(super) struct CachedToken<T> {
    source: Arc<Source<T>>,
    header: HeaderValue,
    generation: u64,
    life: Life,
}

/// How a request on its way holds its source.
pub(super) enum SourceRef<T> {
    Shared(Arc<Source<T>>),
    CachedToken(Arc<CachedToken<T>>),
}

impl<T> SourceRef<T> {
    pub(super) fn into_source(self) -> Arc<Source<T>> {
        match self {
            Self::Shared(source) => source,
            Self::CachedToken(own) => own.source.clone(),
        }
    }
}

impl<T> Deref for SourceRef<T> {
    type Target = Source<T>;

    fn deref(&self) -> &Source<T> {
        match self {
            Self::Shared(source) => source,
            Self::CachedToken(own) => &own.source,
        }
    }
}

impl<S, T, P> ApiVideoAuth<S, T, P> {
    pub(super) fn new(inner: S, layer: &ApiVideoAuthLayer<T, P>) -> Self {
        Self {
            inner,
            source: layer.source.clone(),
            seen: CloneCache::Nothing,
            replay: PhantomData,
        }
    }

    /// The layer that this service was made with, or one that shares its token.
    #[must_use]
    pub fn to_layer(&self) -> ApiVideoAuthLayer<T, P> {
        ApiVideoAuthLayer {
            source: self.source.clone(),
            replay: PhantomData,
        }
    }
}

impl<S, B, R, T, P> Service<Request<B>> for ApiVideoAuth<S, T, P>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: Send + 'static,
    R: Send + 'static,
    T: Transport<S, B>,
    P: ReplayPolicy<B, R>,
{
    type Response = Response<R>;
    type Error = BoxError;
    type Future = ResponseFuture<S, B, R, T, P>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let settings = self.source.manager().settings();
        if !admit(&settings.origins, &mut request) {
            return ResponseFuture::plain(self.inner.call(request));
        }
        let wanted = request
            .extensions()
            .get()
            .map(|MinLifetime(wanted)| *wanted);
        let copy = match P::read_ahead(&mut request, settings.replay_limit) {
            Ahead::Done(copy) => copy,
            Ahead::Reading(reading) => {
                let (source, inner) = self.for_later();
                return ResponseFuture::waiting(async move {
                    let (request, copy) = reading.await?;
                    send_later::<S, B, R, T, P>(source, inner, request, Some(copy), wanted).await
                });
            }
        };
        // A wish for a lifetime is left to the slow path: it may have to wait.
        let token = if wanted.is_none() {
            self.token_at_hand::<B>()
        } else {
            None
        };
        let Some((header, link, generation)) = token else {
            let (source, inner) = self.for_later();
            return ResponseFuture::waiting(send_later::<S, B, R, T, P>(
                source, inner, request, copy, wanted,
            ));
        };
        let retry = copy.map(|copy| P::keep(&request, copy, self.inner.clone()));
        request.headers_mut().insert(header::AUTHORIZATION, header);
        ResponseFuture::calling(
            self.inner.call(request),
            Attempt {
                link,
                generation,
                retry,
            },
        )
    }
}

impl<S, T, P> ApiVideoAuth<S, T, P> {
    /// The token if that needs no waiting; for a client that has used it before, it needs no lock either.
    fn token_at_hand<B>(&mut self) -> Option<(HeaderValue, SourceRef<T>, u64)>
    where
        T: Transport<S, B>,
    {
        let manager = self.source.manager();
        let now = manager.now();
        if let CloneCache::CachedToken(own) = &self.seen
            && own.generation == manager.live()
            && !own.life.usable_until.has_passed(now)
        {
            let (header, link, generation) = (
                own.header.clone(),
                SourceRef::CachedToken(own.clone()),
                own.generation,
            );
            if own.life.fresh_until.has_passed(now) {
                self.renew_early::<B>(generation);
            }
            return Some((header, link, generation));
        }
        self.token_anew::<B>(now)
    }

    /// The same for a client that has not used this token, or used it once.
    fn token_anew<B>(&mut self, now: Now) -> Option<(HeaderValue, SourceRef<T>, u64)>
    where
        T: Transport<S, B>,
    {
        let (header, generation, is_stale, life) =
            self.source.manager().look_at_usable(now, |pair| {
                let bearer = pair.bearer();
                let used_before =
                    matches!(self.seen, CloneCache::Once(seen) if seen == bearer.generation());
                let life = used_before.then(|| *bearer.life());
                (
                    bearer.header().clone(),
                    bearer.generation(),
                    bearer.is_stale(now),
                    life,
                )
            })?;
        let link = match life {
            Some(life) => {
                let (source, header) = (self.source.clone(), own_copy(&header));
                let own = Arc::new(CachedToken {
                    source,
                    header,
                    generation,
                    life,
                });
                self.seen = CloneCache::CachedToken(own.clone());
                SourceRef::CachedToken(own)
            }
            None => {
                self.seen = CloneCache::Once(generation);
                SourceRef::Shared(self.source.clone())
            }
        };
        if is_stale {
            self.renew_early::<B>(generation);
        }
        Some((header, link, generation))
    }

    #[cold]
    fn renew_early<B>(&self, generation: u64)
    where
        T: Transport<S, B>,
    {
        let want = Want::NewerThan(generation);
        let endpoint = || self.source.transport.endpoint(&self.inner);
        self.source
            .manager()
            .renew_at_the_side(want, RenewalReason::Early, endpoint);
    }

    /// What a request takes along that has to wait.
    fn for_later(&mut self) -> (Arc<Source<T>>, S)
    where
        S: Clone,
    {
        // Whoever waits holds no slot of the wrapped service: what was polled ready is dropped.
        self.inner = self.inner.clone();
        (self.source.clone(), self.inner.clone())
    }
}

abilities! {
    [impl<S, P> ApiVideoAuth<S, SameService, P>], [S, P], [B], [SameService: Transport<S, B>],
    |client: &Self| client.source.access::<S, B>(&client.inner)
}

abilities! {
    [impl<S, P> ApiVideoAuth<S, SeparateService, P>], [S, P], [], [],
    |client: &Self| Access {
        handle: client.source.handle.clone(),
        endpoint: client.source.transport.endpoint(),
    }
}

impl<S: Clone, T, P> Clone for ApiVideoAuth<S, T, P> {
    /// A clone starts without a header of its own: copying one would be in vain if it sends a single request.
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            source: self.source.clone(),
            seen: CloneCache::Nothing,
            replay: PhantomData,
        }
    }
}

impl<S: fmt::Debug, T, P> fmt::Debug for ApiVideoAuth<S, T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiVideoAuth")
            .field("inner", &self.inner)
            .field("source", self.source.manager())
            .finish_non_exhaustive()
    }
}
