//! G14 and G15: a 401 means one renewal and one more try, and never a storm of either.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use apivideo_auth::{
    ApiVideoAuth, ErrorKind, GrantPreference,
    middleware::{NoReplay, SameService},
    store::MemoryStore,
    testing::{FakeApi, FakeBody, FakeService, Fault, GatePoint, ManualClock},
};
use axum::body::Body;
use bytes::Bytes;
use futures::{future::join_all, stream};
use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::time::{Instant, advance};
use tower::{BoxError, Layer, ServiceExt};

use crate::support::{aging, client, list, plain, with_key};

fn streamed() -> Body {
    Body::from_stream(stream::iter([Ok::<_, std::io::Error>("chunk")]))
}

fn post(body: Body) -> Request<Body> {
    Request::post("/echo").body(body).unwrap()
}

async fn text(response: Response<FakeBody>) -> Bytes {
    response.into_body().collect().await.unwrap().to_bytes()
}

fn unauthorized(body: &'static str) -> Response<Bytes> {
    Response::builder()
        .status(401)
        .body(Bytes::from_static(body.as_bytes()))
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn g15_a_revoked_token_costs_one_renewal_and_so_does_the_next() {
    let (api, _, client) = plain();
    list(&client).await.unwrap();
    for round in 1..=2 {
        let (calls, before) = (api.counts().api_calls, api.counts().token_calls);
        api.revoke_access_tokens();
        let gate = api.gate(GatePoint::ApiResponse);
        let requests: Vec<_> = (0..100)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move { list(&client).await.unwrap() })
            })
            .collect();
        gate.reached(100).await;
        gate.open();
        let statuses = join_all(requests).await;
        assert!(
            statuses.into_iter().all(|status| status.unwrap() == 200),
            "round {round}"
        );
        assert_eq!(api.counts().token_calls - before, 1, "round {round}");
        assert_eq!(api.counts().api_calls - calls, 200, "round {round}");
    }
    assert_eq!(api.counts().max_in_flight, 1);
    assert_eq!(api.counts().reuse_violations, 0);
}

#[tokio::test(start_paused = true)]
async fn g15_stragglers_renew_nothing() {
    let (api, _, client) = plain();
    list(&client).await.unwrap();
    api.revoke_access_tokens();
    let gate = api.gate(GatePoint::ApiResponse);
    let stragglers: Vec<_> = (0..20)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { list(&client).await.unwrap() })
        })
        .collect();
    gate.reached(20).await;
    // Who comes later finds no gate.
    api.gate(GatePoint::ApiResponse).open();
    assert_eq!(list(&client).await.unwrap(), 200);
    assert_eq!(api.counts().token_calls, 2);
    gate.open();
    assert!(
        join_all(stragglers)
            .await
            .into_iter()
            .all(|status| status.unwrap() == 200)
    );
    assert_eq!(api.counts().token_calls, 2);
    assert_eq!(api.counts().api_calls, 1 + 2 + 2 * 20);
}

#[tokio::test(start_paused = true)]
async fn g14_the_second_401_is_returned_as_it_is() {
    let (api, _, client) = plain();
    let count = AtomicUsize::new(0);
    api.on_api_request(move |_| {
        Some(unauthorized(
            ["first", "second", "third"][count.fetch_add(1, Ordering::SeqCst)],
        ))
    });
    let response = client
        .oneshot(crate::support::get("/videos"))
        .await
        .unwrap();
    assert_eq!(response.status(), 401);
    assert_eq!(text(response).await, "second");
    assert_eq!(api.counts().api_calls, 2);
    assert_eq!(api.counts().token_calls, 2, "the login and one renewal");
}

/// An API that refuses everything is asked for one renewal per guard, whether or not requests can be replayed.
async fn g15_always_401(body: fn() -> Body, calls_of_the_first: usize) {
    let (api, layer, _) = plain();
    let client = layer.layer(api.service());
    api.refuse_all_bearers(true);
    for guard in 1..=3 {
        for n in 0..1_000 {
            let before = api.counts().api_calls;
            let status = client.clone().oneshot(post(body())).await.unwrap().status();
            assert_eq!(status, 401);
            let calls = if n == 0 { calls_of_the_first } else { 1 };
            assert_eq!(api.counts().api_calls - before, calls, "request {n}");
            advance(Duration::from_millis(10)).await;
        }
        assert_eq!(
            api.counts().token_calls,
            1 + guard,
            "the login and one renewal for each guard"
        );
        advance(Duration::from_secs(21)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn g15_an_api_that_refuses_everything_is_asked_for_one_renewal() {
    g15_always_401(Body::empty, 2).await;
}

#[tokio::test(start_paused = true)]
async fn g15_streams_ask_a_refusing_api_for_one_renewal_too() {
    g15_always_401(streamed, 1).await;
}

#[tokio::test(start_paused = true)]
async fn g15_many_refused_at_once_are_one_renewal_and_two_calls_each() {
    let (api, _, client) = plain();
    api.refuse_all_bearers(true);
    for _ in 0..10 {
        let requests = (0..100).map(|_| {
            let client = client.clone();
            tokio::spawn(async move { list(&client).await.unwrap() })
        });
        assert!(
            join_all(requests)
                .await
                .into_iter()
                .all(|status| status.unwrap() == 401)
        );
    }
    assert_eq!(api.counts().token_calls, 2);
    assert!(api.counts().api_calls <= 1_100, "{:?}", api.counts());
}

#[tokio::test(start_paused = true)]
async fn g15_one_endpoint_that_refuses_does_not_disturb_the_others() {
    let (api, _, client) = plain();
    api.on_api_request(|request| (request.uri.path() == "/videos/bad").then(|| unauthorized("no")));
    for second in 0..300 {
        let bad = client
            .clone()
            .oneshot(crate::support::get("/videos/bad"))
            .await
            .unwrap();
        assert_eq!(bad.status(), 401, "{second} s");
        assert_eq!(list(&client).await.unwrap(), 200, "{second} s");
        advance(Duration::from_secs(1)).await;
    }
    let renewals = api.counts().token_calls - 1;
    assert!(
        (2..=10).contains(&renewals),
        "one for each 30 s at most: {renewals}"
    );
}

#[tokio::test(start_paused = true)]
async fn g15_a_lifetime_reported_too_long_costs_no_request() {
    let fake = FakeApi::builder()
        .token_lifetime(Duration::from_secs(1))
        .reported_lifetime(Duration::from_secs(3600));
    let (api, _, client) = aging(fake, |layer| layer);
    for tenth in 0..55 {
        assert_eq!(
            list(&client).await.unwrap(),
            200,
            "{tenth} tenths of a second"
        );
        advance(Duration::from_millis(100)).await;
    }
    assert_eq!(api.counts().token_calls, 6);
}

#[tokio::test(start_paused = true)]
async fn g15_sources_that_kill_each_others_tokens_keep_the_budget() {
    let clock = ManualClock::with_tokio();
    let api = FakeApi::builder()
        .login_kills_access_tokens(true)
        .clock(clock.clone())
        .build();
    let sources: [_; 2] = std::array::from_fn(|_| {
        client(
            &with_key(&api)
                .clock(clock.clone())
                .grant_preference(GrantPreference::ApiKey)
                .build()
                .unwrap(),
            &api,
        )
    });
    let mut served = 0;
    for _ in 0..600 {
        for source in &sources {
            served += usize::from(list(source).await.unwrap() == 200);
        }
        advance(Duration::from_secs(1)).await;
    }
    let logins = api.counts().logins;
    assert!(logins <= 2 * (1 + 5 + 600 / 15), "{logins} logins");
    assert!(served > 600, "{served} of 1200 served");
    // As soon as the other one rests, the budget serves.
    advance(Duration::from_secs(15)).await;
    for _ in 0..10 {
        assert_eq!(list(&sources[0]).await.unwrap(), 200);
    }
}

#[tokio::test(start_paused = true)]
async fn g14_if_the_renewal_fails_the_caller_gets_the_original_401() {
    let (api, _, client) = plain();
    list(&client).await.unwrap();
    api.revoke_access_tokens();
    api.fault(Fault::status(503).always());

    let response = client
        .clone()
        .oneshot(crate::support::get("/videos"))
        .await
        .unwrap();
    assert_eq!(response.status(), 401);
    let problem: serde_json::Value = serde_json::from_slice(&text(response).await).unwrap();
    assert!(
        problem["type"]
            .as_str()
            .unwrap()
            .ends_with("/authentication-invalid-access-token")
    );
    assert_eq!(api.counts().api_calls, 2, "no replay");

    // The token is put back in use: the next callers get their 401s at once, and no call for a token is made.
    let (counts, start) = (api.counts(), Instant::now());
    for _ in 0..10 {
        assert_eq!(list(&client).await.unwrap(), 401);
    }
    assert_eq!(api.counts().token_calls, counts.token_calls);
    assert_eq!(start.elapsed(), Duration::ZERO);

    api.fault(None);
    advance(Duration::from_secs(30)).await;
    assert_eq!(list(&client).await.unwrap(), 200);
}

#[tokio::test(start_paused = true)]
async fn g14_a_refused_credential_gives_the_original_401_too() {
    let clock = ManualClock::with_tokio();
    let api = FakeApi::builder().clock(clock.clone()).build();
    let layer = crate::support::with_refresh_token(&api)
        .clock(clock)
        .build()
        .unwrap();
    let client = client(&layer, &api);
    list(&client).await.unwrap();
    api.revoke_access_tokens();
    api.revoke_refresh_tokens();
    for _ in 0..3 {
        assert_eq!(list(&client).await.unwrap(), 401);
    }
    assert_eq!(api.counts().token_calls, 2);
}

/// Whether a caller is the first or a later one, whether its body can be kept, and whether there is a store: the same.
#[tokio::test(start_paused = true)]
async fn g14_after_a_refusal_all_callers_see_the_same() {
    for (has_store, streams) in [(false, false), (false, true), (true, false), (true, true)] {
        let clock = ManualClock::with_tokio();
        let api = FakeApi::builder().clock(clock.clone()).build();
        let mut builder = crate::support::with_refresh_token(&api).clock(clock);
        if has_store {
            builder = builder.store(MemoryStore::new());
        }
        let client = builder.build().unwrap().layer(api.service());
        let send = async || {
            let body = if streams { streamed() } else { Body::empty() };
            let request = Request::post("/echo").body(body).unwrap();
            client.clone().oneshot(request).await
        };
        assert_eq!(send().await.unwrap().status(), 200);
        api.revoke_access_tokens();
        api.revoke_refresh_tokens();
        for caller in 0..3 {
            let status = send().await.map(|response| response.status());
            let case = format!("store {has_store}, streams {streams}, caller {caller}");
            assert_eq!(status.expect(&case), 401, "{case}");
        }
        advance(Duration::from_secs(2 * 3600)).await;
        for _ in 0..3 {
            let error = send().await.unwrap_err();
            assert_eq!(crate::support::ours(&error).kind(), ErrorKind::Refused);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn g14_403_is_not_ours() {
    let (api, _, client) = plain();
    list(&client).await.unwrap();
    api.suspend(true);
    for _ in 0..10 {
        assert_eq!(list(&client).await.unwrap(), 403);
    }
    assert_eq!(api.counts().token_calls, 1);
    assert_eq!(api.counts().api_calls, 11);
}

#[tokio::test(start_paused = true)]
async fn g14_without_a_replay_the_next_request_gets_a_new_token() {
    let (api, layer, _) = plain();
    let client: ApiVideoAuth<FakeService> = layer.layer(api.service());
    let no_replay: ApiVideoAuth<FakeService, SameService, NoReplay> = with_key(&api)
        .no_replay()
        .build()
        .unwrap()
        .layer(api.service());
    assert_eq!(
        client
            .clone()
            .oneshot(post(streamed()))
            .await
            .unwrap()
            .status(),
        200
    );
    assert_eq!(
        no_replay
            .clone()
            .oneshot(post(Body::empty()))
            .await
            .unwrap()
            .status(),
        200
    );
    api.revoke_access_tokens();
    let before = api.counts();
    for status in [401, 200] {
        assert_eq!(
            client
                .clone()
                .oneshot(post(streamed()))
                .await
                .unwrap()
                .status(),
            status
        );
        assert_eq!(
            no_replay
                .clone()
                .oneshot(post(Body::empty()))
                .await
                .unwrap()
                .status(),
            status
        );
    }
    assert_eq!(api.counts().api_calls - before.api_calls, 4);
    assert_eq!(api.counts().token_calls - before.token_calls, 2);
}

#[tokio::test(start_paused = true)]
async fn g14_the_replay_equals_the_first_send_but_for_authorization() {
    #[derive(Clone, Debug, PartialEq)]
    struct Mark(u32);

    let (api, _, _) = plain();
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (fake, log) = (api.service(), seen.clone());
    let inner = tower::service_fn(move |request: Request<Body>| {
        let mark = request.extensions().get::<Mark>().cloned();
        log.lock()
            .unwrap()
            .push((request.uri().clone(), request.version(), mark));
        fake.clone().oneshot(request)
    });
    let layer = with_key(&api)
        .token_service::<_, Body>(api.service())
        .build()
        .unwrap();
    let client = layer.layer(inner);
    let request = || {
        let request = Request::patch("/echo/a%20b?c=d&e")
            .version(http::Version::HTTP_2)
            .header("x-many", "1")
            .header("x-many", "2")
            .header("content-type", "text/plain")
            .extension(Mark(7));
        request.body(Body::from("same")).unwrap()
    };
    client.clone().oneshot(request()).await.unwrap();
    api.revoke_access_tokens();
    seen.lock().unwrap().clear();
    api.clear_journal();
    assert_eq!(
        client.clone().oneshot(request()).await.unwrap().status(),
        200
    );

    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[0].2, Some(Mark(7)));
    let sent: Vec<_> = api
        .journal()
        .into_iter()
        .filter(|exchange| !exchange.is_token_call)
        .collect();
    let [first, second] = &sent[..] else {
        panic!("{sent:?}")
    };
    assert_eq!(
        (&first.method, &first.uri, &first.body),
        (&second.method, &second.uri, &second.body)
    );
    let (mut first, mut second) = (first.headers.clone(), second.headers.clone());
    assert_ne!(
        first.remove("authorization"),
        second.remove("authorization")
    );
    assert_eq!(first, second);
}

#[tokio::test(start_paused = true)]
async fn g14_the_callers_drop_ends_the_replay_and_not_the_renewal() {
    let (api, _, client) = plain();
    list(&client).await.unwrap();
    api.revoke_access_tokens();
    let gate = api.gate(GatePoint::AfterCommit);
    let request = tokio::spawn({
        let client = client.clone();
        async move { list(&client).await }
    });
    gate.reached(1).await;
    request.abort();
    assert!(request.await.unwrap_err().is_cancelled());
    gate.open();
    assert_eq!(list(&client).await.unwrap(), 200);
    assert_eq!(api.counts().token_calls, 2);
    assert_eq!(api.counts().api_calls, 3);
}

#[tokio::test(start_paused = true)]
async fn g14_an_error_of_the_replay_is_the_wrapped_services_own() {
    let (api, _, _) = plain();
    let (fake, count) = (api.service(), Arc::new(AtomicUsize::new(0)));
    let inner = tower::service_fn(move |request: Request<Body>| {
        let fails = count.fetch_add(1, Ordering::SeqCst) == 1;
        let fake = fake.clone();
        async move {
            if fails {
                Err::<_, BoxError>("cable cut".into())
            } else {
                Ok(fake.oneshot(request).await?)
            }
        }
    });
    api.refuse_all_bearers(true);
    let client = with_key(&api)
        .token_service::<_, Body>(api.service())
        .build()
        .unwrap()
        .layer(inner);
    let error = client.oneshot(post(Body::from("x"))).await.unwrap_err();
    assert_eq!(error.to_string(), "cable cut");
    assert_eq!(api.counts().unauthorized, 1);
}
