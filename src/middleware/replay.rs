//! Keeping a request so that it can be sent a second time.

use std::{
    convert::Infallible,
    fmt, mem,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes, BytesMut};
use futures::{future::BoxFuture, task::noop_waker_ref};
use http::{
    Extensions, HeaderName, HeaderValue, Method, Request, Response, Uri, Version, header,
    request::Parts,
};
use http_body::{Body, Frame};
use tower::BoxError;

use crate::{
    endpoint::MakeBody,
    error::{Error, ErrorKind},
    extensions::SentOnce,
    response::drain,
};

/// Requests are kept for a replay where that can be done: the default.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Replay {}

/// No request is kept; see [`no_replay`](crate::ApiVideoAuthLayerBuilder::no_replay).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct NoReplay {}

/// Whether requests with bodies `B`, answered with bodies `R`, are kept for a replay. `T` says how their bodies are made
/// anew. Sealed.
#[diagnostic::on_unimplemented(
    message = "a request with a body `{B}` can't be kept to be sent again after a 401",
    label = "can't be made anew out of bytes",
    note = "a body that is not `From<Bytes>` needs `.body_from(..)` on the layer's builder, such as \
            `.body_from(|bytes: Bytes| Full::new(bytes).boxed())`; with `.no_replay()` a 401 passes through",
    note = "besides, it has to be `Body + Send + Unpin`: use `UnsyncBoxBody` for one that is not"
)]
pub trait ReplayPolicy<B, R, T>: sealed::ReplayPolicy<B, R, T> {}

#[diagnostic::do_not_recommend]
impl<B, R, T, P: sealed::ReplayPolicy<B, R, T>> ReplayPolicy<B, R, T> for P {}

/// A request as it was before it got a token, and what to send it through. `inner` is not ready.
#[expect(unnameable_types, reason = "belongs to the sealed trait")]
pub struct Retry<S> {
    method: Method,
    uri: Uri,
    version: Version,
    /// In their order. A list is smaller than a map, and made at once.
    headers: Vec<(HeaderName, HeaderValue)>,
    extensions: Extensions,
    body: Bytes,
    inner: S,
}

impl<S> fmt::Debug for Retry<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry")
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}

/// What came of reading a request's body ahead.
#[expect(
    unnameable_types,
    missing_debug_implementations,
    reason = "belongs to the sealed trait"
)]
pub enum Ahead<C> {
    /// The request can be sent at once, and again if there is a copy of its body.
    Done(Option<C>),
    /// Its body is still coming in. An empty request was left in its place; `restore` makes the whole one.
    Reading(BoxFuture<'static, Result<(Parts, C), BoxError>>),
}

pub(crate) mod sealed {
    use super::*;

    #[doc(hidden)]
    #[expect(unnameable_types, reason = "this is what seals the trait")]
    pub trait ReplayPolicy<B, R, T>: 'static {
        /// A body that can be sent again.
        type Copy: Send + 'static;
        /// A request that can be sent again.
        type Retry<S: Send + 'static>: Send + 'static;

        fn read_ahead(request: &mut Request<B>, limit: usize, bodies: &T) -> Ahead<Self::Copy>;

        fn restore(head: Parts, body: &Self::Copy, bodies: &T) -> Request<B>;

        fn keep<S: Send>(request: &Request<B>, body: Self::Copy, inner: S) -> Self::Retry<S>;

        fn rebuild<S: Send>(retry: Self::Retry<S>, bodies: &T) -> (Request<B>, S);

        fn drain(response: Response<R>) -> BoxFuture<'static, ()>;
    }
}

impl<B, R, T> sealed::ReplayPolicy<B, R, T> for NoReplay {
    type Copy = Infallible;
    type Retry<S: Send + 'static> = Infallible;

    fn read_ahead(_: &mut Request<B>, _: usize, _: &T) -> Ahead<Infallible> {
        Ahead::Done(None)
    }

    fn restore(_: Parts, body: &Infallible, _: &T) -> Request<B> {
        match *body {}
    }

    fn keep<S: Send>(_: &Request<B>, body: Infallible, _: S) -> Infallible {
        body
    }

    fn rebuild<S: Send>(retry: Infallible, _: &T) -> (Request<B>, S) {
        match retry {}
    }

    fn drain(_: Response<R>) -> BoxFuture<'static, ()> {
        Box::pin(async {})
    }
}

impl<B, R, T> sealed::ReplayPolicy<B, R, T> for Replay
where
    T: MakeBody<B>,
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
    R: Body + Send + 'static,
    R::Data: Send,
{
    type Copy = Bytes;
    type Retry<S: Send + 'static> = Retry<S>;

    fn read_ahead(request: &mut Request<B>, limit: usize, bodies: &T) -> Ahead<Bytes> {
        let size = request
            .body()
            .size_hint()
            .exact()
            .and_then(|size| usize::try_from(size).ok());
        let is_once = request.headers().contains_key(header::TRAILER)
            || request.extensions().get::<SentOnce>().is_some();
        let Some(size) = size.filter(|size| *size <= limit && !is_once) else {
            return Ahead::Done(None);
        };
        if size == 0 && request.body().is_end_stream() {
            return Ahead::Done(Some(Bytes::new()));
        }
        let body = mem::replace(request.body_mut(), bodies.make(Bytes::new()));
        let mut reading = Reading {
            body,
            size,
            read: Bytes::new(),
            more: BytesMut::new(),
        };
        // A body in memory is there at once. One that is not is polled again, with a real waker.
        let mut context = Context::from_waker(noop_waker_ref());
        match reading.poll(&mut context) {
            Poll::Ready(Ok(body)) => {
                *request.body_mut() = bodies.make(body.clone());
                Ahead::Done(Some(body))
            }
            Poll::Ready(Err(error)) => Ahead::Reading(Box::pin(async { Err(error) })),
            Poll::Pending => {
                let request = mem::replace(request, Request::new(bodies.make(Bytes::new())));
                let head = request.into_parts().0;
                Ahead::Reading(Box::pin(async move {
                    let body = std::future::poll_fn(|cx| reading.poll(cx)).await?;
                    Ok((head, body))
                }))
            }
        }
    }

    fn restore(head: Parts, body: &Bytes, bodies: &T) -> Request<B> {
        Request::from_parts(head, bodies.make(body.clone()))
    }

    // So that it is made where it stays: it may be as large as the service.
    #[inline(always)]
    fn keep<S: Send>(request: &Request<B>, body: Bytes, inner: S) -> Retry<S> {
        let mut headers = Vec::with_capacity(request.headers().len());
        headers.extend(
            request
                .headers()
                .iter()
                .map(|(name, value)| (name.clone(), value.clone())),
        );
        Retry {
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            headers,
            extensions: request.extensions().clone(),
            body,
            inner,
        }
    }

    fn rebuild<S: Send>(retry: Retry<S>, bodies: &T) -> (Request<B>, S) {
        let mut request = Request::new(bodies.make(retry.body));
        *request.method_mut() = retry.method;
        *request.uri_mut() = retry.uri;
        *request.version_mut() = retry.version;
        request.headers_mut().extend(retry.headers);
        *request.extensions_mut() = retry.extensions;
        (request, retry.inner)
    }

    fn drain(response: Response<R>) -> BoxFuture<'static, ()> {
        Box::pin(drain(response.into_body()))
    }
}

/// A body of announced size being read. A single chunk is taken over without copying.
struct Reading<B> {
    body: B,
    size: usize,
    read: Bytes,
    more: BytesMut,
}

impl<B> Reading<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, BoxError>> {
        while !self.body.is_end_stream() {
            match std::task::ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => break,
                Some(Err(error)) => return Poll::Ready(Err(error.into())),
                Some(Ok(frame)) => self.add(frame)?,
            }
        }
        if !self.more.is_empty() {
            self.read = std::mem::take(&mut self.more).freeze();
        }
        if self.read.len() != self.size {
            return Poll::Ready(Err(unlike("is shorter than it said")));
        }
        Poll::Ready(Ok(std::mem::take(&mut self.read)))
    }

    fn add(&mut self, frame: Frame<B::Data>) -> Result<(), BoxError> {
        let mut data = frame
            .into_data()
            .map_err(|_| unlike("has trailers; announce them with a `Trailer` header"))?;
        let length = data.remaining();
        if length > self.size - self.read.len().max(self.more.len()) {
            return Err(unlike("is longer than it said"));
        }
        if self.read.is_empty() && length == self.size {
            self.read = data.copy_to_bytes(length);
        } else if length > 0 {
            self.more.reserve(self.size - self.more.len());
            while data.has_remaining() {
                let chunk = data.chunk();
                let length = chunk.len();
                self.more.extend_from_slice(chunk);
                data.advance(length);
            }
        }
        Ok(())
    }
}

fn unlike(what: &str) -> BoxError {
    Error::new(
        ErrorKind::RequestBody,
        format!("the request's body {what}, so nothing was sent"),
    )
    .into()
}
