//! Responses to a refresh that come later than `call_timeout`, and what must not end them (G2, G3).

use std::time::Duration;

use apivideo_auth::{
    ApiVideoAuthLayer, Credentials, ErrorKind,
    testing::{Fault, GatePoint},
};
use tokio::time::{sleep, timeout};
use tower::{
    Layer, Service, ServiceExt, limit::ConcurrencyLimitLayer, load_shed::LoadShedLayer, service_fn,
};

use crate::support::{Body, HOUR, client, get, paused, seconds, settle, with_refresh_token};

#[tokio::test(start_paused = true)]
async fn g3_a_client_that_gave_up_getting_ready_ends_no_response() {
    let (api, clock) = paused();
    let layer = with_refresh_token(&api).clock(clock).build().unwrap();
    let mut idle = layer.layer(ConcurrencyLimitLayer::new(2).layer(api.service()));
    let client = idle.clone();
    let gate = api.gate(GatePoint::ApiResponse);
    let busy = [(); 2].map(|()| tokio::spawn(client.clone().oneshot(get("/videos"))));
    gate.reached(2).await;
    let given_up = Service::<http::Request<Body>>::poll_ready;
    assert!(futures::poll!(std::future::poll_fn(|cx| given_up(&mut idle, cx))).is_pending());
    gate.open();
    for request in busy {
        request.await.unwrap().unwrap();
    }
    sleep(HOUR).await;
    api.fault(Fault::latency(seconds(12.0)).after_commit());
    let source = client.source::<Body>();
    // Callers are sent away in between; the response is theirs afterwards.
    let _ = source.token().await;
    sleep(seconds(5.0)).await;
    source.token().await.expect("the late pair");
    assert_eq!(api.counts().reuse_violations, 0);
    drop(idle);
}

#[tokio::test(start_paused = true)]
async fn g3_a_busy_limit_below_ends_no_response() {
    let (api, clock) = paused();
    let layer = with_refresh_token(&api).clock(clock).build().unwrap();
    let inner = api.service();
    // Ten slots, and more requests than that at once: some wait for a while, and get one.
    let slow = service_fn(move |request: http::Request<Body>| {
        let inner = inner.clone();
        async move {
            if request.uri().path() == "/videos" {
                sleep(seconds(0.3)).await;
            }
            inner.oneshot(request).await
        }
    });
    let client = layer.layer(ConcurrencyLimitLayer::new(10).layer(slow));
    client.clone().oneshot(get("/videos")).await.unwrap();
    sleep(HOUR - seconds(200.0)).await;
    api.fault(Fault::latency(seconds(12.0)).after_commit());
    for _ in 0..60 {
        for _ in 0..12 {
            tokio::spawn(client.clone().oneshot(get("/videos")));
        }
        sleep(seconds(0.5)).await;
    }
    sleep(HOUR).await;
    let response = client.oneshot(get("/videos")).await;
    assert_eq!(response.expect("a living source").status(), 200);
    assert_eq!(api.counts().reuse_violations, 0);
}

#[tokio::test(start_paused = true)]
async fn g3_a_slow_probe_loses_no_refresh_token() {
    for slow in [12.0, 15.0, 19.0] {
        let (api, clock) = paused();
        let layer = with_refresh_token(&api).clock(clock).build().unwrap();
        let source = client(&layer, &api).source::<Body>();
        api.fault(Fault::status(503).always());
        source.token().await.expect_err("an outage");
        api.fault(None);
        api.fault(Fault::latency(seconds(slow)).after_commit());
        for _ in 0..20 {
            sleep(seconds(2.0)).await;
            let _ = timeout(seconds(35.0), source.token()).await.expect("G3");
        }
        source.token().await.expect("the late pair");
        assert_eq!(api.counts().reuse_violations, 0, "after {slow} s");
    }
}

#[tokio::test(start_paused = true)]
async fn g3_a_call_timeout_above_a_minute_is_kept() {
    for with_key in [true, false] {
        let (api, clock) = paused();
        let builder = match with_key {
            true => crate::support::with_key(&api),
            false => with_refresh_token(&api),
        };
        let layer = builder
            .clock(clock)
            .call_timeout(seconds(120.0))
            .renewal_timeout(seconds(300.0))
            .build()
            .unwrap();
        api.fault(Fault::latency(seconds(90.0)).after_commit());
        let source = client(&layer, &api).source::<Body>();
        source.token().await.expect("a response after 90 s");
        assert_eq!(api.counts().token_calls, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn g2_the_same_refresh_token_given_again_loses_no_pair() {
    for adds_key in [false, true] {
        let (api, clock) = paused();
        let token = api.mint_pair().1;
        let layer = ApiVideoAuthLayer::builder()
            .base_url(api.url())
            .refresh_token(token.as_str())
            .clock(clock)
            .build()
            .unwrap();
        let source = client(&layer, &api).source::<Body>();
        let gate = api.gate(GatePoint::AfterCommit);
        let first = {
            let source = source.clone();
            tokio::spawn(async move { source.token().await })
        };
        gate.reached(1).await;
        let mut credentials = Credentials::new().refresh_token(token.as_str());
        if adds_key {
            credentials = credentials.api_key(api.api_key());
        }
        source.set_credentials(credentials).unwrap();
        settle().await;
        gate.open();
        first.await.unwrap().expect("what the call brought");
        assert_eq!(api.counts().token_calls, 1, "with a key: {adds_key}");
    }
}

#[tokio::test(start_paused = true)]
async fn g6_new_credentials_work_while_the_old_ones_hang() {
    let (api, clock) = paused();
    let layer = with_refresh_token(&api).clock(clock).build().unwrap();
    let source = client(&layer, &api).source::<Body>();
    api.fault(Fault::latency(2 * HOUR));
    let first = {
        let source = source.clone();
        tokio::spawn(async move { source.token().await })
    };
    sleep(seconds(3.0)).await;
    source
        .set_credentials(Credentials::new().api_key(api.api_key()))
        .unwrap();
    let first = timeout(seconds(1.0), first).await.expect("at once");
    first.unwrap().expect("the key's token");
}

#[tokio::test(start_paused = true)]
async fn g6_untried_credentials_are_not_blamed_for_a_hang() {
    let (api, clock) = paused();
    let layer = with_refresh_token(&api).clock(clock).build().unwrap();
    let source = client(&layer, &api).source::<Body>();
    api.fault(Fault::latency(2 * HOUR).times(2));
    let first = {
        let source = source.clone();
        tokio::spawn(async move { source.token().await })
    };
    // The last call of its renewal: no time is left for another.
    sleep(seconds(25.0)).await;
    assert_eq!(api.counts().refreshes, 2);
    source
        .set_credentials(Credentials::new().api_key(api.api_key()))
        .unwrap();
    let _ = first.await.unwrap();
    sleep(seconds(1.0)).await;
    let token = timeout(seconds(2.0), source.token())
        .await
        .expect("no pause");
    token.expect("the key's token");
}

#[tokio::test(start_paused = true)]
async fn g11_a_shed_call_was_never_sent() {
    let (api, clock) = paused();
    let layer = with_refresh_token(&api).clock(clock).build().unwrap();
    let shed = LoadShedLayer::new().layer(ConcurrencyLimitLayer::new(1).layer(api.service()));
    let client = layer.layer(shed);
    let gate = api.gate(GatePoint::ApiResponse);
    let mut request = get("/videos");
    request.extensions_mut().insert(apivideo_auth::NoAuth);
    let busy = tokio::spawn(client.clone().oneshot(request));
    gate.reached(1).await;
    let error = client.source::<Body>().token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    gate.open();
    busy.await.unwrap().unwrap();
    sleep(Duration::from_secs(30)).await;
    client.source::<Body>().token().await.expect("a free slot");
}

#[tokio::test(start_paused = true)]
async fn g11_a_late_refusal_is_a_refusal() {
    let (api, clock) = paused();
    let token = api.mint_pair().1;
    let layer = ApiVideoAuthLayer::builder()
        .base_url(api.url())
        .refresh_token(token.as_str())
        .clock(clock)
        .build()
        .unwrap();
    let source = client(&layer, &api).source::<Body>();
    api.revoke_refresh_tokens();
    // Of two presentations the second hangs for longer, and the first is refused after the wait for it has ended.
    let refused = Fault::problem(400, "authentication-invalid-refresh-token");
    let gate = api.gate(GatePoint::BeforeCommit);
    let first = {
        let source = source.clone();
        tokio::spawn(async move { source.token().await })
    };
    gate.reached(1).await;
    sleep(seconds(31.0)).await;
    let _ = first.await.unwrap();
    assert_eq!(api.presentations(&token), 2);
    api.fault(refused.always());
    gate.open();
    settle().await;
    let calls = api.counts().token_calls;
    sleep(seconds(40.0)).await;
    let error = source.token().await.expect_err("it is known to be refused");
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert_eq!(api.counts().token_calls, calls, "without a call");
}
