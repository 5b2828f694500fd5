//! The service of the side that holds the token alone.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::Request;
use pin_project_lite::pin_project;
use tower::{BoxError, Service};

use super::pass::Pass;
use crate::{error::Error, response};

/// A service that uploads with an upload token, and does nothing else. See the [module docs](super).
///
/// Its error is [`tower::BoxError`]: an [`Error`] of this crate, or the wrapped service's own.
///
/// Backpressure is the wrapped service's: nothing waits here, and the service that was polled ready
/// is the one that is called. Clones share the token.
#[derive(Clone, Debug)]
pub struct WithUploadToken<S> {
    inner: S,
    pass: Arc<Pass>,
}

impl<S> WithUploadToken<S> {
    pub(super) fn new(inner: S, pass: Arc<Pass>) -> Self {
        Self { inner, pass }
    }
}

impl<S, B> Service<Request<B>> for WithUploadToken<S>
where
    S: Service<Request<B>>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner
            .poll_ready(cx)
            .map_err(|error| without_token(error.into(), &self.pass))
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let state = match self.pass.admit(&mut request) {
            Ok(()) => State::Calling {
                future: self.inner.call(request),
                pass: self.pass.clone(),
            },
            Err(error) => State::Refused { error: Some(error) },
        };
        ResponseFuture { state }
    }
}

pin_project! {
    /// Response future of [`WithUploadToken`]. Dropping it drops the request.
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProj]
    #[derive(Debug)]
    enum State<F> {
        /// Polls the response to an upload.
        Calling { #[pin] future: F, pass: Arc<Pass> },
        /// Polls nothing: the request was not sent.
        Refused { error: Option<Error> },
    }
}

impl<F, T, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    type Output = Result<T, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Calling { future, pass } => Poll::Ready(
                ready!(future.poll(cx)).map_err(|error| without_token(error.into(), pass)),
            ),
            StateProj::Refused { error } => Poll::Ready(Err(error
                .take()
                .expect("a future is not polled after it was ready")
                .into())),
        }
    }
}

/// Some clients quote the URI in their errors. Such an error is left out; all others pass through.
///
/// The kind still tells whether the request may have been carried out: what the error would have said of it is lost.
fn without_token(error: BoxError, pass: &Pass) -> BoxError {
    if !response::quotes(&*error, pass.token().expose()) {
        return error;
    }
    let reason = "the error is left out, for it quotes the upload token";
    response::without_words(&*error, reason).into()
}
