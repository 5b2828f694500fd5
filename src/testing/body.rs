//! The bodies of requests, read, and those of responses.

use std::{
    fmt, io,
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures::{Stream, stream::BoxStream};
use http::Response;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tower::BoxError;

use super::{responses, state::InFlight};

/// The body of the fake server's responses.
///
/// It breaks off with an [`io::Error`] where the HTTP server would close the connection.
pub struct FakeBody {
    data: Data,
    /// How much is left, where that is known.
    left: Option<u64>,
    /// Of a token call, which is in flight until its response has been read or dropped.
    in_flight: Option<InFlight>,
}

/// What is still to come.
enum Data {
    Whole(Option<Bytes>),
    // The mutex is never locked: it makes the body `Sync`, as some HTTP clients ask.
    Stream(Mutex<BoxStream<'static, io::Result<Bytes>>>),
}

impl FakeBody {
    /// A body that is there; an empty one has no frame.
    pub(super) fn whole(bytes: Bytes) -> Self {
        let left = Some(bytes.len() as u64);
        Self {
            data: Data::Whole(Some(bytes).filter(|bytes| !bytes.is_empty())),
            left,
            in_flight: None,
        }
    }

    /// A body that comes in pieces, `length` bytes in all if that is told beforehand.
    pub(super) fn stream(
        length: Option<u64>,
        stream: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    ) -> Self {
        Self {
            data: Data::Stream(Mutex::new(Box::pin(stream))),
            left: length,
            in_flight: None,
        }
    }

    /// Keeps the token call in flight until the body has been read or dropped.
    pub(super) fn holding(mut self, in_flight: Option<InFlight>) -> Self {
        self.in_flight = in_flight.filter(|_| !self.is_end_stream());
        self
    }
}

impl Body for FakeBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let next = match &mut self.data {
            Data::Whole(bytes) => bytes.take().map(Ok),
            Data::Stream(stream) => {
                let stream = stream.get_mut().unwrap_or_else(PoisonError::into_inner);
                ready!(stream.as_mut().poll_next(cx))
            }
        };
        if let (Some(Ok(bytes)), Some(left)) = (&next, &mut self.left) {
            *left = left.saturating_sub(bytes.len() as u64);
        }
        if !matches!(next, Some(Ok(_))) || self.is_end_stream() {
            self.in_flight = None;
        }
        Poll::Ready(next.map(|next| next.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.left == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map(SizeHint::with_exact).unwrap_or_default()
    }
}

impl fmt::Debug for FakeBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeBody")
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

/// Reads a request's body; the inner error is the response to one that is too long.
///
/// The outer one is a body that broke off: there is nobody to answer.
pub(super) async fn read<B>(body: B, limit: usize) -> io::Result<Result<Bytes, Response<Bytes>>>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(Ok(collected.to_bytes())),
        Err(error) if error.is::<LengthLimitError>() => {
            Ok(Err(responses::problem("payload-too-large")))
        }
        Err(error) => Err(io::Error::other(error)),
    }
}
