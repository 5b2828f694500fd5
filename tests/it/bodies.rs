//! G16: what is sent again, byte for byte, and what goes out once.

use std::{
    future::ready,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use apivideo_auth::{
    ErrorKind, MinLifetime,
    testing::{FakeApi, FakeService, GatePoint},
};
use axum::body::Body;
use bytes::Bytes;
use futures::{
    FutureExt, StreamExt,
    channel::mpsc,
    stream::{self, BoxStream},
};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use tokio::time::{advance, sleep, timeout};
use tower::{BoxError, Layer, ServiceExt, limit::ConcurrencyLimitLayer, util::BoxCloneSyncService};

use crate::support::{Client, MIB, aging, bytes, ours, plain, with_key};

/// A body of frames that says how long it is, truly or not.
struct Sized {
    frames: BoxStream<'static, io::Result<Frame<Bytes>>>,
    size: u64,
}

impl http_body::Body for Sized {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.frames.poll_next_unpin(cx)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.size)
    }
}

/// Says that it has `size` bytes and has `parts`, one each 10 ms.
fn slow(size: usize, parts: Vec<io::Result<Frame<Bytes>>>) -> Body {
    let frames = stream::iter(parts).then(|part| async {
        sleep(Duration::from_millis(10)).await;
        part
    });
    Body::new(Sized {
        frames: frames.boxed(),
        size: size as u64,
    })
}

fn in_parts(bytes: &Bytes) -> Vec<Bytes> {
    bytes.chunks(100_000).map(Bytes::copy_from_slice).collect()
}

async fn send(client: &Client, request: Request<Body>) -> Result<u16, BoxError> {
    Ok(client.clone().oneshot(request).await?.status().as_u16())
}

/// Fetches the first token.
async fn warm_up(api: &FakeApi, client: &Client) {
    send(client, echo(Method::GET, Body::empty()))
        .await
        .unwrap();
    sent(api);
}

/// The bodies of the API requests since the last look.
fn sent(api: &FakeApi) -> Vec<(Method, Bytes)> {
    let journal = api.journal();
    api.clear_journal();
    let sent = journal
        .into_iter()
        .filter(|exchange| !exchange.is_token_call);
    sent.map(|exchange| (exchange.method, exchange.body))
        .collect()
}

fn echo(method: Method, body: Body) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri("/echo")
        .body(body)
        .unwrap()
}

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
async fn g16_a_body_that_is_not_what_it_said_is_not_sent() {
    let data = |size| Ok(Frame::data(bytes(size)));
    let trailers = || Ok(Frame::trailers(HeaderMap::new()));
    let broken = || Err(io::Error::other("disk on fire"));
    let (api, _, client) = plain();
    warm_up(&api, &client).await;
    for (name, body, ours_it_is) in [
        ("shorter", slow(100, vec![data(50), data(49)]), true),
        ("longer", slow(100, vec![data(50), data(51)]), true),
        ("longer at once", slow(100, vec![data(101)]), true),
        ("longer than nothing", slow(0, vec![data(1)]), true),
        ("far longer", slow(100, vec![data(100), data(MIB)]), true),
        (
            "with trailers that were not announced",
            slow(100, vec![data(100), trailers()]),
            true,
        ),
        ("fails midway", slow(100, vec![data(50), broken()]), false),
        ("fails at once", slow(100, vec![broken()]), false),
        (
            "fails at the end",
            slow(100, vec![data(100), broken()]),
            false,
        ),
    ] {
        let error = send(&client, echo(Method::POST, body))
            .await
            .expect_err(name);
        if ours_it_is {
            assert_eq!(ours(&error).kind(), ErrorKind::RequestBody, "{name}");
            assert!(!ours(&error).is_transient(), "{name}");
        } else {
            assert!(
                error.downcast_ref::<apivideo_auth::Error>().is_none(),
                "{name}: {error:?}"
            );
            assert!(
                format!("{error:?}").contains("disk on fire"),
                "{name}: {error:?}"
            );
        }
        assert!(sent(&api).is_empty(), "{name}");
    }
    // What is not read ahead fails where it is sent, and only that request.
    let parts = [Ok(bytes(50)), Err(io::Error::other("disk on fire"))];
    let error = send(
        &client,
        echo(Method::POST, Body::from_stream(stream::iter(parts))),
    )
    .await
    .unwrap_err();
    assert!(format!("{error:?}").contains("disk on fire"));
    assert_eq!(
        send(&client, echo(Method::POST, Body::from("x")))
            .await
            .unwrap(),
        200
    );
    assert_eq!(api.counts().token_calls, 1);
}

#[tokio::test(start_paused = true)]
async fn g16_a_body_in_memory_is_not_copied() {
    let (api, layer, _) = plain();
    let pointers = Arc::new(Mutex::new(Vec::new()));
    let (fake, log) = (api.service(), pointers.clone());
    let inner = tower::service_fn(move |request: Request<Full<Bytes>>| {
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
    client.token().await.unwrap();
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

type Boxed = BoxCloneSyncService<Request<Body>, Response<Body>, BoxError>;

/// A service that hands out what it gets, under a layer.
fn handed_out() -> (Boxed, mpsc::Receiver<Request<Body>>) {
    let api = FakeApi::in_process();
    let (give, taken) = mpsc::channel(8);
    let inner = tower::service_fn(move |request: Request<Body>| {
        give.clone().try_send(request).unwrap();
        ready(Ok::<_, BoxError>(Response::new(Body::empty())))
    });
    let layer = with_key(&api)
        .token_service::<FakeService, Body, _>(api.service())
        .build()
        .unwrap();
    (BoxCloneSyncService::new(layer.layer(inner)), taken)
}

#[tokio::test(start_paused = true)]
async fn g16_a_stream_is_passed_on_as_it_comes() {
    let (client, mut taken) = handed_out();
    for (name, size, trailer) in [
        ("unknown size", None, false),
        ("over the limit", Some(MIB + 1), false),
        ("trailer", Some(20), true),
    ] {
        let (mut more, frames) = mpsc::channel::<io::Result<Frame<Bytes>>>(8);
        let body = match size {
            Some(size) => Body::new(Sized {
                frames: frames.boxed(),
                size: size as u64,
            }),
            None => Body::new(http_body_util::StreamBody::new(frames)),
        };
        let mut request = echo(Method::PUT, body);
        if trailer {
            request
                .headers_mut()
                .insert("trailer", HeaderValue::from_static("x-checksum"));
        }
        more.try_send(Ok(Frame::data(bytes(10)))).unwrap();
        assert_eq!(
            client.clone().oneshot(request).await.unwrap().status(),
            200,
            "{name}"
        );

        let mut body = taken.next().await.unwrap().into_body();
        assert_eq!(
            http_body::Body::size_hint(&body).exact(),
            size.map(|size| size as u64),
            "{name}"
        );
        assert_eq!(
            body.frame().await.unwrap().unwrap().into_data().unwrap(),
            bytes(10),
            "{name}"
        );
        assert!(
            body.frame().now_or_never().is_none(),
            "{name}: nothing is there before it is sent"
        );
        let checksum =
            HeaderMap::from_iter([(http::HeaderName::from_static("x-checksum"), 7.into())]);
        more.try_send(Ok(Frame::trailers(checksum.clone())))
            .unwrap();
        assert_eq!(
            body.frame()
                .await
                .unwrap()
                .unwrap()
                .into_trailers()
                .unwrap(),
            checksum,
            "{name}"
        );
        more.close_channel();
        assert!(body.frame().await.is_none(), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn g16_without_a_replay_nothing_is_read_ahead() {
    let api = FakeApi::in_process();
    let (_more, frames) = mpsc::channel::<io::Result<Frame<Bytes>>>(8);
    let inner = tower::service_fn(|request: Request<Body>| async move {
        Ok::<_, BoxError>(Response::new(request.into_body()))
    });
    let layer = with_key(&api)
        .token_service::<FakeService, Body, _>(api.service())
        .no_replay()
        .build()
        .unwrap();
    let body = Body::new(Sized {
        frames: frames.boxed(),
        size: 10,
    });
    let response = layer
        .layer(inner)
        .oneshot(echo(Method::PUT, body))
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn g4_g16_a_body_that_is_slow_to_come_holds_no_slot() {
    let (api, layer, _) = plain();
    let client = tower::ServiceBuilder::new()
        .layer(layer.clone())
        .layer(ConcurrencyLimitLayer::new(1))
        .service(api.service());
    let (mut more, frames) = mpsc::channel::<io::Result<Frame<Bytes>>>(8);
    let body = Body::new(Sized {
        frames: frames.boxed(),
        size: 10,
    });
    let slow = tokio::spawn(client.clone().oneshot(echo(Method::PUT, body)));
    tokio::task::yield_now().await;
    for _ in 0..3 {
        let quick = client.clone().oneshot(echo(Method::GET, Body::empty()));
        assert_eq!(quick.await.unwrap().status(), 200);
    }
    assert!(!slow.is_finished());
    more.try_send(Ok(Frame::data(bytes(10)))).unwrap();
    more.close_channel();
    assert_eq!(slow.await.unwrap().unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn g16_a_body_that_takes_hours_to_read_goes_out_with_the_token_of_then() {
    let (api, _, client) = plain();
    warm_up(&api, &client).await;
    let parts = stream::iter(0..10).then(|_| async {
        sleep(Duration::from_secs(1_000)).await;
        Ok(Frame::data(bytes(10)))
    });
    let body = Body::new(Sized {
        frames: parts.boxed(),
        size: 100,
    });
    assert_eq!(send(&client, echo(Method::PUT, body)).await.unwrap(), 200);
    assert_eq!(api.counts().unauthorized, 0);
    assert_eq!(api.counts().token_calls, 2);
}

#[tokio::test(start_paused = true)]
async fn g7_g16_in_the_early_window_requests_that_wait_for_their_body_renew_at_the_side_too() {
    let min_lifetime = MinLifetime(Duration::from_secs(1));
    for (name, body, extension) in [
        (
            "a slow body",
            slow(10, vec![Ok(Frame::data(bytes(10)))]),
            None,
        ),
        ("a wish that is met", Body::empty(), Some(min_lifetime)),
    ] {
        let (api, _, client) = plain();
        warm_up(&api, &client).await;
        advance(Duration::from_secs(3_500)).await;
        let gate = api.gate(GatePoint::BeforeCommit);
        let mut request = echo(Method::PUT, body);
        if let Some(extension) = extension {
            request.extensions_mut().insert(extension);
        }
        assert_eq!(send(&client, request).await.unwrap(), 200, "{name}");
        timeout(Duration::from_secs(1), gate.reached(1))
            .await
            .expect(name);
    }
}
