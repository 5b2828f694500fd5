//! What is sent again, when the copy for it is made, how often, and how long it lives.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::{HeaderValue, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::time::advance;
use tower::{Service, service_fn};

use super::*;
use crate::support::{aging, client, get};

#[tokio::test(start_paused = true)]
async fn g16_each_method_with_each_body_is_sent_byte_for_byte() {
    type Make = fn(Bytes) -> Body;
    let cases: [(&str, usize, Make, bool); 8] = [
        ("empty", 0, |_| Body::empty(), true),
        ("one byte", 1, Body::from, true),
        ("500 kB", 500_000, Body::from, true),
        ("the limit", MIB, Body::from, true),
        ("one more than the limit", MIB + 1, Body::from, false),
        (
            "a stream",
            500_000,
            |bytes| {
                Body::from_stream(stream::iter(
                    in_parts(&bytes).into_iter().map(io::Result::Ok),
                ))
            },
            false,
        ),
        (
            "known size, slow",
            500_000,
            |bytes| {
                slow(
                    bytes.len(),
                    in_parts(&bytes)
                        .into_iter()
                        .map(|part| Ok(Frame::data(part)))
                        .collect(),
                )
            },
            true,
        ),
        (
            "known size, slow, in one piece",
            70_000,
            |bytes| slow(70_000, vec![Ok(Frame::data(bytes))]),
            true,
        ),
    ];
    let (api, _, client) = plain();
    for method in [
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
    ] {
        for (name, size, make, replays) in &cases {
            for trailer in [false, true] {
                let what = format!("{method} {name}, Trailer: {trailer}");
                let replays = *replays && !trailer;
                let request = || {
                    let mut request = echo(method.clone(), make(bytes(*size)));
                    if trailer {
                        request
                            .headers_mut()
                            .insert("trailer", HeaderValue::from_static("x-checksum"));
                    }
                    request
                };
                assert_eq!(send(&client, request()).await.unwrap(), 200, "{what}");
                assert!(sent(&api) == [(method.clone(), bytes(*size))], "{what}");

                api.revoke_access_tokens();
                let status = send(&client, request()).await.unwrap();
                assert_eq!(status, if replays { 200 } else { 401 }, "{what}");
                let sends = if replays { 2 } else { 1 };
                assert!(
                    sent(&api) == vec![(method.clone(), bytes(*size)); sends],
                    "{what}"
                );

                // Replayed or not, the next request has a new token.
                assert_eq!(send(&client, request()).await.unwrap(), 200, "{what}");
                assert_eq!(sent(&api).len(), 1, "{what}");
                advance(Duration::from_secs(15)).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn g16_the_limit_can_be_set() {
    for (limit, size, replays) in [(0, 0, true), (0, 1, false), (10, 10, true), (10, 11, false)] {
        let (api, _, client) = aging(FakeApi::builder(), |layer| layer.replay_limit(limit));
        warm_up(&api, &client).await;
        api.revoke_access_tokens();
        let status = send(&client, echo(Method::POST, Body::from(bytes(size))))
            .await
            .unwrap();
        assert_eq!(
            status,
            if replays { 200 } else { 401 },
            "{size} bytes of {limit}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn g16_a_body_in_memory_is_not_copied() {
    let (api, layer, _) = plain();
    let pointers = Arc::new(Mutex::new(Vec::new()));
    let (fake, log) = (api.service(), pointers.clone());
    let inner = service_fn(move |request: Request<Full<Bytes>>| {
        let (fake, log) = (fake.clone(), log.clone());
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            log.lock().unwrap().push(body.as_ptr() as usize);
            Ok::<_, BoxError>(
                fake.oneshot(Request::from_parts(head, Full::new(body)))
                    .await?,
            )
        }
    });
    let client = layer.layer(inner);
    client.source().token().await.unwrap();
    api.revoke_access_tokens();
    pointers.lock().unwrap().clear();
    let bytes = bytes(500_000);
    let request = Request::put("/echo")
        .body(Full::new(bytes.clone()))
        .unwrap();
    let call = client.clone().oneshot(request);
    assert_eq!(call.await.unwrap().status(), 200);
    let at = bytes.as_ptr() as usize;
    let pointers = pointers.lock().unwrap();
    assert_eq!((pointers[0], *pointers.last().unwrap()), (at, at));
}

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
async fn g16_a_body_that_is_slow_even_from_memory_is_read_once() {
    let api = FakeApi::in_process();
    let layer = with_key(&api)
        .token_service::<_, Body>(api.service())
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
            ServiceExt::<Request<Full<Bytes>>>::ready(&mut client)
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
