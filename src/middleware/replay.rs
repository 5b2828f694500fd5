//! Keeping a request so that it can be sent a second time.

use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes, BytesMut};
use futures::{future::BoxFuture, task::noop_waker_ref};
use http::{Request, Response, header, request};
use http_body::{Body, Frame};
use tower::BoxError;

use crate::{
    answer::drain,
    error::{Error, ErrorKind},
};

/// Requests are kept for a replay where that can be done: the default.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Replay {}

/// No request is kept; see [`no_replay`](crate::ApiVideoAuthLayerBuilder::no_replay).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct NoReplay {}

/// Whether requests with bodies `B`, answered with bodies `R`, are kept for a replay. Sealed.
pub trait ReplayPolicy<B, R>: sealed::ReplayPolicy<B, R> {}

impl<B, R, P: sealed::ReplayPolicy<B, R>> ReplayPolicy<B, R> for P {}

/// A request on its way, with what is needed to send it again.
pub(super) type Keeping<B, K> = (Request<B>, Option<K>);

/// A request's head and body. The head is as it was before it got a token.
#[expect(unnameable_types, reason = "belongs to the sealed trait")]
pub struct Kept {
    head: request::Parts,
    body: Bytes,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("method", &self.head.method).finish_non_exhaustive()
    }
}

/// What a kept request was read from.
#[expect(unnameable_types, missing_debug_implementations, reason = "belongs to the sealed trait")]
#[expect(clippy::large_enum_variant, reason = "the large variant is the one that must not be boxed")]
pub enum Taken<B, K> {
    /// It can be sent at once.
    Now(Request<B>, Option<K>),
    /// Its body is still coming in.
    Later(BoxFuture<'static, Result<Keeping<B, K>, BoxError>>),
}

pub(crate) mod sealed {
    use super::*;

    #[doc(hidden)]
    #[expect(unnameable_types, reason = "this is what seals the trait")]
    pub trait ReplayPolicy<B, R>: 'static {
        type Kept: Send + 'static;

        fn take(request: Request<B>, limit: usize) -> Taken<B, Self::Kept>;

        fn rebuild(kept: Self::Kept) -> Request<B>;

        fn drain(response: Response<R>) -> BoxFuture<'static, ()>;
    }
}

impl<B, R> sealed::ReplayPolicy<B, R> for NoReplay {
    type Kept = Infallible;

    fn take(request: Request<B>, _: usize) -> Taken<B, Infallible> {
        Taken::Now(request, None)
    }

    fn rebuild(kept: Infallible) -> Request<B> {
        match kept {}
    }

    fn drain(_: Response<R>) -> BoxFuture<'static, ()> {
        Box::pin(async {})
    }
}

impl<B, R> sealed::ReplayPolicy<B, R> for Replay
where
    B: Body + From<Bytes> + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
    R: Body + Send + 'static,
    R::Data: Send,
{
    type Kept = Kept;

    fn take(request: Request<B>, limit: usize) -> Taken<B, Kept> {
        let size = request.body().size_hint().exact().and_then(|size| usize::try_from(size).ok());
        let Some(size) =
            size.filter(|size| *size <= limit && !request.headers().contains_key(header::TRAILER))
        else {
            return Taken::Now(request, None);
        };
        let (head, body) = request.into_parts();
        if size == 0 && body.is_end_stream() {
            let kept = Kept { head: head.clone(), body: Bytes::new() };
            return Taken::Now(Request::from_parts(head, body), Some(kept));
        }
        let mut reading = Reading { body, size, read: Bytes::new(), more: BytesMut::new() };
        // A body in memory is there at once. One that is not is polled again, with a real waker.
        let mut context = Context::from_waker(noop_waker_ref());
        match reading.poll(&mut context) {
            Poll::Ready(Ok(body)) => {
                let (request, kept) = keep(head, body);
                Taken::Now(request, kept)
            }
            Poll::Ready(Err(error)) => Taken::Later(Box::pin(async { Err(error) })),
            Poll::Pending => Taken::Later(Box::pin(async move {
                let body = std::future::poll_fn(|cx| reading.poll(cx)).await?;
                Ok(keep(head, body))
            })),
        }
    }

    fn rebuild(kept: Kept) -> Request<B> {
        Request::from_parts(kept.head, B::from(kept.body))
    }

    fn drain(response: Response<R>) -> BoxFuture<'static, ()> {
        Box::pin(drain(response.into_body()))
    }
}

fn keep<B: From<Bytes>>(head: request::Parts, body: Bytes) -> Keeping<B, Kept> {
    let kept = Kept { head: head.clone(), body: body.clone() };
    (Request::from_parts(head, B::from(body)), Some(kept))
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
        let mut data =
            frame.into_data().map_err(|_| unlike("has trailers; announce them with a `Trailer` header"))?;
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
    Error::new(ErrorKind::Body, format!("the request's body {what}, so nothing was sent")).into()
}
