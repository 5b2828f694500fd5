//! G14 and G16 where connections matter: what becomes of the first 401, and of responses that come too early.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use apivideo_auth::{
    ApiVideoAuthLayer,
    middleware::{Replay, SeparateService},
    testing::{FakeApi, FakeService, Fault, GatePoint},
};
use axum::body::Body;
use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper_util::{
    client::legacy::{
        Client,
        connect::{Connect, HttpConnector},
    },
    rt::TokioExecutor,
};
use tokio::time::{Instant, timeout};
use tower::{BoxError, Layer, Service, ServiceExt};

use crate::support::{MIB, bytes, renewed, with_key};

type Count = Arc<AtomicUsize>;

/// A hyper client that counts the connections it opens.
fn counting(
    http2: bool,
) -> (
    Client<impl Connect + Clone + Send + Sync + 'static, Body>,
    Count,
) {
    let count = Count::default();
    let (connector, opened) = (HttpConnector::new(), count.clone());
    let connector = tower::service_fn(move |uri: Uri| {
        opened.fetch_add(1, Ordering::SeqCst);
        connector.clone().oneshot(uri)
    });
    (
        Client::builder(TokioExecutor::new())
            .http2_only(http2)
            .build(connector),
        count,
    )
}

/// A layer whose token calls go into the fake without a connection.
fn layer(api: &FakeApi) -> ApiVideoAuthLayer<SeparateService, Replay> {
    with_key(api)
        .token_service::<FakeService, Body>(api.service())
        .build()
        .unwrap()
}

fn put(body: Body) -> Request<Body> {
    Request::put("/echo").body(body).unwrap()
}

#[tokio::test]
async fn g14_one_connection_carries_both_sends() {
    for http2 in [false, true] {
        let api = FakeApi::start().await.unwrap();
        let (client, connections) = counting(http2);
        let client = layer(&api).layer(client);
        for size in [0, 1, 500_000] {
            for expected in [1, 2] {
                if expected == 2 {
                    api.revoke_access_tokens();
                }
                let before = api.counts().api_calls;
                let response = client
                    .clone()
                    .oneshot(put(bytes(size).into()))
                    .await
                    .unwrap();
                assert_eq!(response.status(), 200);
                assert_eq!(
                    response
                        .into_body()
                        .collect()
                        .await
                        .unwrap()
                        .to_bytes()
                        .len(),
                    size
                );
                assert_eq!(api.counts().api_calls - before, expected);
            }
        }
        assert_eq!(connections.load(Ordering::SeqCst), 1, "HTTP/2: {http2}");
    }
}

/// Answers a first request with 401 and this body, the others with 200.
fn refusing_once<F>(
    body: F,
) -> impl Service<Request<Body>, Response = Response<Body>, Error = BoxError, Future: Send> + Clone + Send
where
    F: Fn() -> Body + Clone + Send + 'static,
{
    let calls = Count::default();
    tower::service_fn(move |_: Request<Body>| {
        let first = calls.fetch_add(1, Ordering::SeqCst) == 0;
        let mut response = Response::new(if first { body() } else { Body::empty() });
        if first {
            *response.status_mut() = StatusCode::UNAUTHORIZED;
        }
        std::future::ready(Ok(response))
    })
}

#[tokio::test(start_paused = true)]
async fn g14_the_first_401_is_kept_unread_and_then_read_on_a_little() {
    let api = FakeApi::in_process();
    let layer = layer(&api);
    let pulled = Count::default();
    let count = pulled.clone();
    let client = layer.layer(refusing_once(move || {
        let count = count.clone();
        Body::from_stream(stream::repeat_with(move || {
            count.fetch_add(1, Ordering::SeqCst);
            Ok::<_, io::Error>(bytes(1024))
        }))
    }));
    client.source().token().await.unwrap();
    let gate = api.gate(GatePoint::AfterCommit);
    let request = tokio::spawn(client.oneshot(put(Body::empty())));
    gate.reached(1).await;
    assert_eq!(
        pulled.load(Ordering::SeqCst),
        0,
        "it may still be the response"
    );
    gate.open();
    assert_eq!(request.await.unwrap().unwrap().status(), 200);
    let pulled = pulled.load(Ordering::SeqCst);
    assert!(
        (16..=17).contains(&pulled),
        "{pulled} KiB of a body without end"
    );
}

#[tokio::test(start_paused = true)]
async fn g14_a_401_without_end_delays_the_replay_by_100_ms() {
    for body in [
        || Body::from_stream(stream::pending::<io::Result<Bytes>>()),
        || {
            Body::from_stream(
                stream::iter([Ok(bytes(100))]).chain(stream::pending::<io::Result<Bytes>>()),
            )
        },
        || Body::from_stream(stream::iter([Ok(bytes(100)), Err(io::Error::other("cut"))])),
    ] {
        let api = FakeApi::in_process();
        let client = layer(&api).layer(refusing_once(body));
        let start = Instant::now();
        assert_eq!(
            client.oneshot(put(Body::empty())).await.unwrap().status(),
            200
        );
        assert!(
            start.elapsed() <= Duration::from_millis(101),
            "{:?}",
            start.elapsed()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn g14_a_replay_on_its_way_starts_no_second_renewal() {
    let api = FakeApi::in_process();
    let layer = layer(&api);
    let client = layer.layer(refusing_once(|| {
        Body::from_stream(stream::pending::<io::Result<Bytes>>())
    }));
    client.source().token().await.unwrap();
    let mut renewals = layer.subscribe();
    let client_of_layer = client.clone();
    let request = tokio::spawn(client.oneshot(put(Body::empty())));
    // The first 401 is being read to its end, and gone with it.
    renewed(&mut renewals).await.unwrap();
    let newest = client_of_layer.source().token().await.unwrap();
    api.fault(Fault::status(503).always());
    layer.invalidate(&newest);
    assert_eq!(request.await.unwrap().unwrap().status(), 200);
    assert_eq!(api.counts().token_calls, 2);
}

#[tokio::test(start_paused = true)]
async fn g14_if_the_renewal_fails_a_streamed_401_comes_through_whole() {
    let api = FakeApi::in_process();
    let client = layer(&api).layer(refusing_once(|| {
        Body::from_stream(stream::iter(
            (0..50).map(|_| Ok::<_, io::Error>(bytes(1024))),
        ))
    }));
    client.source().token().await.unwrap();
    api.refuse_api_key(true);
    api.revoke_refresh_tokens();
    let response = client.oneshot(put(Body::empty())).await.unwrap();
    assert_eq!(response.status(), 401);
    assert_eq!(
        response
            .into_body()
            .collect()
            .await
            .unwrap()
            .to_bytes()
            .len(),
        50 * 1024
    );
}

#[tokio::test]
async fn g16_a_401_before_the_body_is_sent_breaks_nothing() {
    let chunk = bytes(64 * 1024);
    let streamed = move |chunks: usize| {
        let chunk = chunk.clone();
        Body::from_stream(stream::iter(
            (0..chunks).map(move |_| Ok::<_, io::Error>(chunk.clone())),
        ))
    };
    for http2 in [false, true] {
        let api = FakeApi::start().await.unwrap();
        let (inner, _) = counting(http2);
        let client = layer(&api).layer(inner);
        client.source().token().await.unwrap();
        let without_end = Body::from_stream(
            stream::iter([Ok::<_, io::Error>(bytes(10))]).chain(stream::pending()),
        );
        for (name, body, replays) in [
            ("kept", Body::from(bytes(MIB)), true),
            ("streamed", streamed(256), false),
            ("too large to keep", Body::from(bytes(8 * MIB)), false),
            ("stalled", without_end, false),
        ] {
            let what = format!("{name}, HTTP/2: {http2}");
            api.revoke_access_tokens();
            let refusal = Fault::problem(401, "authentication-invalid-access-token");
            api.fault(refusal.before_read().on(|call| call.uri.path() == "/echo"));
            let call = client.clone().oneshot(put(body));
            let outcome = timeout(Duration::from_secs(2), call).await.expect(&what);
            // A server that closes the connection may take its response along: then that is the error.
            match outcome {
                Ok(response) => {
                    assert_eq!(response.status(), if replays { 200 } else { 401 }, "{what}")
                }
                Err(error) => assert!(
                    error.is::<hyper_util::client::legacy::Error>(),
                    "{what}: {error:?}"
                ),
            }
            // The next request is served, whatever became of the connection.
            let next = client
                .clone()
                .oneshot(put(Body::from("next")))
                .await
                .unwrap();
            assert_eq!(next.status(), 200, "{what}");
        }
    }
}
