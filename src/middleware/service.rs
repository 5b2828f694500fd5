use std::{
    fmt,
    marker::PhantomData,
    mem,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderValue, Request, Response, header};
use tower::{BoxError, Service};

use super::{
    ApiVideoAuthLayer, ReplayPolicy, ResponseFuture,
    future::{Retry, Sent, send_later},
    replay::Taken,
};
use crate::{
    admission::{MinLifetime, admit},
    endpoint::{SameService, SeparateService, Transport},
    manager::{Access, Cause, Handle, Want, abilities},
    token::{Life, own_copy},
};

/// A service whose requests to api.video carry a token that is fresh. See the [module docs](crate::middleware).
///
/// Its error is [`tower::BoxError`]: an [`Error`](crate::Error) of this crate, or the wrapped service's own.
pub struct ApiVideoAuth<S, T = SameService, P = super::Replay> {
    inner: S,
    handle: Arc<Handle>,
    transport: T,
    /// What this clone knows of the current token.
    seen: Seen,
    replay: PhantomData<fn() -> P>,
}

#[derive(Default)]
enum Seen {
    #[default]
    Nothing,
    /// This generation was used once. A clone made for one request never pays for a copy of the header.
    Once(u64),
    /// A copy of the header that no other thread touches.
    Own { header: HeaderValue, generation: u64, life: Life },
}

impl<S, T: Clone, P> ApiVideoAuth<S, T, P> {
    pub(super) fn new(inner: S, layer: &ApiVideoAuthLayer<T, P>) -> Self {
        Self {
            inner,
            handle: layer.handle.clone(),
            transport: layer.transport.clone(),
            seen: Seen::Nothing,
            replay: PhantomData,
        }
    }

    /// The layer that this service was made with, or one that shares its token.
    #[must_use]
    pub fn to_layer(&self) -> ApiVideoAuthLayer<T, P> {
        ApiVideoAuthLayer {
            handle: self.handle.clone(),
            transport: self.transport.clone(),
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
        let settings = self.handle.manager.settings();
        if !admit(&settings.origins, &mut request) {
            return ResponseFuture::plain(self.inner.call(request));
        }
        let wanted = request.extensions().get().map(|MinLifetime(wanted)| *wanted);
        let taken = P::take(request, settings.replay_limit);
        // A wish for a lifetime is left to the slow path: it may have to wait.
        let token = if wanted.is_none() { self.token_at_hand() } else { None };
        match (token, taken) {
            (Some((header, generation)), Taken::Now(mut request, kept)) => {
                let (inner, transport) = (&self.inner, &self.transport);
                let retry =
                    kept.map(|kept| Retry { kept, inner: inner.clone(), transport: transport.clone() });
                request.headers_mut().insert(header::AUTHORIZATION, header);
                let future = self.inner.call(request);
                ResponseFuture::calling(future, Sent { handle: self.handle.clone(), generation, retry })
            }
            (_, taken) => {
                // Whoever waits holds no slot of the wrapped service: what was polled ready is dropped.
                let fresh = self.inner.clone();
                drop(mem::replace(&mut self.inner, fresh));
                let later = send_later::<S, B, R, P>(self.access(), self.inner.clone(), taken, wanted);
                ResponseFuture::waiting(Box::pin(later))
            }
        }
    }
}

impl<S, T, P> ApiVideoAuth<S, T, P> {
    /// The header to send now, without waiting and, for the long-lived, without a lock.
    fn token_at_hand<B>(&mut self) -> Option<(HeaderValue, u64)>
    where
        T: Transport<S, B>,
    {
        let manager = &self.handle.manager;
        let now = manager.now();
        if let Seen::Own { header, generation, life } = &self.seen
            && *generation == manager.live()
            && !life.usable_until.has_passed(now)
        {
            if life.fresh_until.has_passed(now) {
                self.renew_early::<B>(*generation);
            }
            return Some((header.clone(), *generation));
        }
        let pair = manager.usable(now)?;
        let bearer = pair.bearer();
        let generation = bearer.generation();
        let header = match self.seen {
            Seen::Once(seen) if seen == generation => {
                let header = own_copy(bearer.header());
                self.seen = Seen::Own { header: header.clone(), generation, life: *bearer.life() };
                header
            }
            _ => {
                self.seen = Seen::Once(generation);
                bearer.header().clone()
            }
        };
        if bearer.is_stale(now) {
            self.renew_early::<B>(generation);
        }
        Some((header, generation))
    }

    fn renew_early<B>(&self, generation: u64)
    where
        T: Transport<S, B>,
    {
        let want = Want::NewerThan(generation);
        self.handle.manager.renew_at_the_side(want, Cause::Early, || self.transport.endpoint(&self.inner));
    }

    fn access<B>(&self) -> Access
    where
        T: Transport<S, B>,
    {
        Access { handle: self.handle.clone(), endpoint: self.transport.endpoint(&self.inner) }
    }
}

abilities! {
    [impl<S, P> ApiVideoAuth<S, SameService, P>], [S, P], [B], [SameService: Transport<S, B>],
    |client: &Self| client.access::<B>()
}

abilities! {
    [impl<S, P> ApiVideoAuth<S, SeparateService, P>], [S, P], [], [],
    |client: &Self| Access { handle: client.handle.clone(), endpoint: client.transport.endpoint() }
}

impl<S: Clone, T: Clone, P> Clone for ApiVideoAuth<S, T, P> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            handle: self.handle.clone(),
            transport: self.transport.clone(),
            seen: Seen::Nothing,
            replay: PhantomData,
        }
    }
}

impl<S: fmt::Debug, T, P> fmt::Debug for ApiVideoAuth<S, T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiVideoAuth")
            .field("inner", &self.inner)
            .field("source", &self.handle.manager)
            .finish_non_exhaustive()
    }
}
