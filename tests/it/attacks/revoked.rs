//! Revocations, refusals and lost runtimes at bad moments (G5, G6, G11, G15).

use std::time::Duration;

use apivideo_auth::{
    ApiVideoAuthMiddleware, ErrorKind,
    store::MemoryStore,
    testing::{FakeApi, Fault, GatePoint, ManualClock},
};
use http::{StatusCode, header};
use tokio::time::{Instant, sleep};
use tower::ServiceExt;

use crate::support::{
    Body, HOUR, client, get, list, paused, seconds, settle, with_key, with_refresh_token,
};

fn response(status: StatusCode) -> http::Response<bytes::Bytes> {
    let mut response = http::Response::new(bytes::Bytes::new());
    *response.status_mut() = status;
    response
}

#[tokio::test(start_paused = true)]
async fn g11_a_revocation_in_a_short_outage_is_over_soon() {
    let (api, clock) = paused();
    let client = client(&with_key(&api).clock(clock).build().unwrap(), &api);
    assert_eq!(list(&client).await.unwrap(), 200);
    api.revoke_access_tokens();
    api.fault(Fault::status(503).always());
    let begun = Instant::now();
    let mut is_down = true;
    while list(&client).await.expect("a response") != 200 {
        sleep(seconds(0.1)).await;
        if is_down && begun.elapsed() >= seconds(2.0) {
            api.fault(None);
            is_down = false;
        }
        assert!(begun.elapsed() <= seconds(5.0), "{:?}", begun.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn g15_a_closed_guard_lets_a_401_join_a_renewal() {
    let (api, clock) = paused();
    let builder = with_key(&api).clock(clock).early_window(Duration::ZERO);
    let client = client(&builder.build().unwrap(), &api);
    assert_eq!(list(&client).await.unwrap(), 200);
    sleep(HOUR - seconds(30.0)).await;
    api.on_api_request(|parts| {
        (parts.uri.path() == "/echo/closed").then(|| response(StatusCode::UNAUTHORIZED))
    });
    let closed = client.clone().oneshot(get("/echo/closed")).await.unwrap();
    assert_eq!(closed.status(), 401);
    api.revoke_access_tokens();
    assert_eq!(list(&client).await.unwrap(), 401, "the guard is closed");

    let gate = api.gate(GatePoint::BeforeCommit);
    let source = client.source::<Body>();
    let renewal = tokio::spawn(async move { source.renew().await });
    gate.reached(1).await;
    let request = {
        let client = client.clone();
        tokio::spawn(async move { list(&client).await })
    };
    settle().await;
    gate.open();
    renewal.await.unwrap().expect("a new token");
    assert_eq!(request.await.unwrap().unwrap(), 200);
}

#[tokio::test(start_paused = true)]
async fn g11_refused_stays_refused() {
    for with_store in [false, true] {
        let (api, clock) = paused();
        let mut builder = with_refresh_token(&api).clock(clock);
        if with_store {
            builder = builder.store(MemoryStore::new());
        }
        let source = client(&builder.build().unwrap(), &api).source::<Body>();
        api.revoke_refresh_tokens();
        for _ in 0..4 {
            let error = source.token().await.expect_err("nothing is left");
            assert_eq!(error.kind(), ErrorKind::Refused, "store: {with_store}");
            sleep(seconds(6.0)).await;
        }
    }
}

#[test]
fn g6_a_shutdown_outside_a_runtime_does_not_panic() {
    for with_store in [false, true] {
        let api = FakeApi::in_process();
        let mut builder = with_key(&api);
        if with_store {
            builder = builder.store(MemoryStore::new());
        }
        let layer = builder.build().unwrap();
        assert!(futures::executor::block_on(layer.shutdown(seconds(5.0))));
    }
}

/// As in a script or a Python extension that blocks on each request.
#[test]
fn g5_a_runtime_for_each_request_makes_few_calls() {
    let clock = ManualClock::new();
    let api = FakeApi::builder().clock(clock.clone()).build();
    let layer = with_refresh_token(&api)
        .clock(clock.clone())
        .build()
        .unwrap();
    let client = client(&layer, &api);
    let request = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            assert_eq!(list(&client).await.unwrap(), 200);
            // What was spawned is polled, and no more.
            settle().await;
        });
    };
    request();
    // In the early window: a renewal begins in the background, and is lost with its runtime.
    clock.advance(seconds(3400.0));
    let before = api.counts().token_calls;
    api.fault(Fault::latency(seconds(2.0)).always());
    for _ in 0..100 {
        request();
    }
    let calls = api.counts().token_calls - before;
    assert!((1..=3).contains(&calls), "{calls} calls for 100 requests");
}

#[tokio::test]
async fn g15_a_replay_redirected_elsewhere_closes_no_guard() {
    let (api, other) = (
        FakeApi::start().await.unwrap(),
        FakeApi::start().await.unwrap(),
    );
    let layer = with_key(&api).build().unwrap();
    let auth = ApiVideoAuthMiddleware::new(&layer, reqwest::Client::builder()).unwrap();
    let client = reqwest_middleware::ClientBuilder::new(reqwest::Client::new())
        .with(auth)
        .build();
    let status = async |path: &str| {
        let request = client.get(format!("{}{path}", api.url()));
        request.send().await.expect("a response").status()
    };
    assert_eq!(status("/videos").await, 200);
    api.revoke_access_tokens();
    // The first send meets the revoked token; the replay is sent to another server, which says 401 as well.
    let elsewhere = format!("{}/videos", other.url()).replace("127.0.0.1", "localhost");
    api.on_api_request(move |parts| {
        (parts.uri.path() == "/echo/file").then(|| {
            let mut response = response(StatusCode::FOUND);
            let to = elsewhere.parse().expect("a URL");
            response.headers_mut().insert(header::LOCATION, to);
            response
        })
    });
    assert_eq!(status("/echo/file").await, 401);
    assert_eq!(status("/videos").await, 200);
    api.revoke_access_tokens();
    assert_eq!(status("/videos").await, 200, "a second revocation is cured");
    assert!(layer.shutdown(seconds(5.0)).await);
}
