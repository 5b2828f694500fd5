//! What goes out once, as it comes; and what is read first and is slow, or not what it said.

use std::future::ready;

use apivideo_auth::{
    ErrorKind, MinLifetime,
    testing::{FakeService, GatePoint},
};
use futures::{FutureExt, channel::mpsc};
use http::{HeaderMap, HeaderValue};
use http_body_util::BodyExt;
use tokio::time::{advance, timeout};
use tower::{limit::ConcurrencyLimitLayer, util::BoxCloneSyncService};

use super::*;
use crate::support::ours;

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
        .token_service::<FakeService, Body>(api.service())
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
        .token_service::<FakeService, Body>(api.service())
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
async fn g16_a_body_read_for_hours_goes_out_with_a_new_token() {
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
async fn g7_g16_a_request_that_waits_for_its_body_renews_early_too() {
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
