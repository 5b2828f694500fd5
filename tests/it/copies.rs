//! When the copy for a replay is made, how often, and how long it lives.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use apivideo_auth::testing::FakeApi;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Frame, SizeHint};
use http_body_util::Full;
use tower::{BoxError, Layer, Service, ServiceExt, service_fn};

use crate::support::{Body, client, get, with_key};

/// A body that is never there at the first poll, not even when it is made of bytes.
struct Throttled {
    body: Full<Bytes>,
    was_polled: bool,
}

impl From<Bytes> for Throttled {
    fn from(bytes: Bytes) -> Self {
        Self {
            body: Full::new(bytes),
            was_polled: false,
        }
    }
}

impl http_body::Body for Throttled {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if !self.was_polled {
            self.was_polled = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[tokio::test]
async fn g16_a_body_that_is_slow_even_from_memory_is_read_once_and_replayed() {
    let api = FakeApi::in_process();
    let layer = with_key(&api)
        .token_service::<_, Body, _>(api.service())
        .build()
        .unwrap();
    let sent = Arc::new(AtomicUsize::new(0));
    let refuse_the_first = {
        let sent = sent.clone();
        move |_: Request<Throttled>| {
            let is_first = sent.fetch_add(1, Ordering::SeqCst) == 0;
            let status = if is_first {
                StatusCode::UNAUTHORIZED
            } else {
                StatusCode::OK
            };
            let response = Response::builder()
                .status(status)
                .body(Body::default())
                .unwrap();
            std::future::ready(Ok::<_, BoxError>(response))
        }
    };
    let client = layer.layer(service_fn(refuse_the_first));
    let request = Request::post("/videos")
        .body(Throttled::from(Bytes::from_static(b"hello")))
        .unwrap();
    assert_eq!(
        client.oneshot(request).await.unwrap().status(),
        StatusCode::OK
    );
    assert_eq!(sent.load(Ordering::SeqCst), 2);
}

/// Counts how often it is cloned.
struct Counted(Arc<AtomicUsize>);

impl Clone for Counted {
    fn clone(&self) -> Self {
        self.0.fetch_add(1, Ordering::SeqCst);
        Self(self.0.clone())
    }
}

#[tokio::test]
async fn g16_a_request_is_copied_once_whether_it_waits_or_not() {
    let api = FakeApi::in_process();
    let client = client(&with_key(&api).build().unwrap(), &api);
    for _waits in [true, false] {
        let copies = Arc::new(AtomicUsize::new(0));
        let mut request = get("/videos");
        request.extensions_mut().insert(Counted(copies.clone()));
        client.clone().oneshot(request).await.unwrap();
        assert_eq!(copies.load(Ordering::SeqCst), 1);
    }
}

#[tokio::test]
async fn g16_the_copy_of_a_request_ends_with_its_answer() {
    let api = FakeApi::in_process();
    let mut client = client(&with_key(&api).build().unwrap(), &api);
    for _waits in [true, false] {
        let witness = Arc::new(());
        let mut request = get("/videos");
        request.extensions_mut().insert(witness.clone());
        let mut future = Box::pin(
            ServiceExt::<Request<Body>>::ready(&mut client)
                .await
                .unwrap()
                .call(request),
        );
        let response = (&mut future).await.unwrap();
        // Whoever reads the response while the future is still there holds no copy.
        assert_eq!(Arc::strong_count(&witness), 1);
        drop(response);
    }
}
