//! G1 to G3: one flight, which outlives its callers, and waits that end.

use std::{sync::Arc, time::Duration};

use apivideo_auth::{
    ApiVideoAuthLayer, Credentials, ErrorKind, GrantType,
    testing::{FakeApi, Fault, GatePoint, hold_time},
};
use futures::FutureExt;
use hyper_util::{client::legacy, rt::TokioExecutor};
use tokio::{
    runtime::{Builder, Runtime},
    sync::Semaphore,
    time::{self, Instant, advance},
};
use tower::{Layer, ServiceBuilder, ServiceExt, limit::GlobalConcurrencyLimitLayer};

use crate::support::{
    Body, Client, HOUR, client, get, list, many, ours, paused, renewed, seconds, settle, with_key,
    with_refresh_token,
};

fn clones(layer: &ApiVideoAuthLayer, api: &FakeApi, count: usize) -> Vec<Client> {
    (0..count).map(|_| client(layer, api)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn g1_ten_thousand_cold_callers_make_one_token_call() {
    let api = FakeApi::in_process();
    let layer = with_refresh_token(&api).build().unwrap();
    let gate = api.gate(GatePoint::BeforeCommit);
    let clients = clones(&layer, &api, 64);
    let callers = tokio::spawn(async move { many(10_000, &clients).await });
    gate.reached(1).await;
    gate.open();
    for outcome in callers.await.unwrap() {
        assert_eq!(outcome.unwrap(), 200);
    }
    let counts = api.counts();
    assert_eq!(
        (counts.token_calls, counts.max_in_flight, counts.api_calls),
        (1, 1, 10_000)
    );
}

/// What 10 000 callers find while the endpoint fails, and how it ends.
#[tokio::test(start_paused = true)]
async fn g1_callers_share_one_failure_and_then_one_probe() {
    type Turn = fn(&FakeApi, bool);
    let unavailable: Turn = |api, fails| api.fault(fails.then(|| Fault::status(503).always()));
    let refused: Turn = |api, fails| api.refuse_api_key(fails);
    for (turn, kind, calls) in [
        (unavailable, ErrorKind::Unavailable, 4),
        (refused, ErrorKind::Refused, 1),
    ] {
        let (api, clock) = paused();
        let layer = with_key(&api).clock(clock).build().unwrap();
        let clients = clones(&layer, &api, 64);
        turn(&api, true);
        for outcome in many(10_000, &clients).await {
            let error = outcome.unwrap_err();
            assert_eq!(ours(&error).kind(), kind);
            assert!(ours(&error).retry_after().is_some());
        }
        assert_eq!(
            (api.counts().token_calls, api.counts().max_in_flight),
            (calls, 1)
        );

        // In the pause the error comes at once.
        let mut pause = Duration::ZERO;
        for client in &clients {
            let error = list(client).now_or_never().expect("no wait").unwrap_err();
            assert_eq!(ours(&error).kind(), kind);
            pause = ours(&error).retry_after().unwrap();
        }
        assert_eq!(api.counts().token_calls, calls);

        // Then one call, for all.
        turn(&api, false);
        let hold = hold_time();
        advance(pause + Duration::from_millis(1)).await;
        let gate = api.gate(GatePoint::BeforeCommit);
        let callers = tokio::spawn(async move { many(1_000, &clients).await });
        gate.reached(1).await;
        settle().await;
        gate.open();
        assert!(
            callers
                .await
                .unwrap()
                .into_iter()
                .all(|outcome| outcome.unwrap() == 200)
        );
        assert_eq!(
            (api.counts().token_calls, api.counts().max_in_flight),
            (calls + 1, 1)
        );
        drop(hold);
    }
}

#[tokio::test(start_paused = true)]
async fn g1_a_refused_refresh_token_is_presented_once() {
    let (api, clock) = paused();
    let layer = with_refresh_token(&api).clock(clock).build().unwrap();
    let clients = clones(&layer, &api, 64);
    api.revoke_refresh_tokens();
    for _ in 0..3 {
        for outcome in many(1_000, &clients).await {
            let error = outcome.unwrap_err();
            assert_eq!(ours(&error).kind(), ErrorKind::Refused);
            assert_eq!(ours(&error).retry_after(), None);
        }
        advance(HOUR).await;
    }
    assert_eq!(api.counts().token_calls, 1);
    layer
        .set_credentials(Credentials::new().refresh_token(api.mint_pair().1))
        .unwrap();
    assert!(
        many(1_000, &clients)
            .await
            .into_iter()
            .all(|outcome| outcome.unwrap() == 200)
    );
    assert_eq!((api.counts().token_calls, api.most_presentations()), (2, 1));
}

/// Drops callers while the flight waits at each of its await points, then lets it go on.
#[tokio::test(start_paused = true)]
async fn g2_dropped_callers_lose_no_pair_wherever_the_flight_waits() {
    for point in [
        None,
        Some(GatePoint::BeforeCommit),
        Some(GatePoint::AfterCommit),
        Some(GatePoint::MidBody),
    ] {
        for all in [false, true] {
            let (api, clock) = paused();
            let slots = Arc::new(Semaphore::new(1));
            let token_service = ServiceBuilder::new()
                .layer(GlobalConcurrencyLimitLayer::with_semaphore(slots.clone()))
                .service(api.service());
            let layer = with_refresh_token(&api)
                .clock(clock)
                .token_service::<_, Body>(token_service)
                .build()
                .unwrap();
            let mut news = layer.subscribe();
            let client = layer.layer(api.service());
            let call = || tokio::spawn(client.clone().oneshot(get("/videos")));

            let hold = hold_time();
            let slot = slots.clone().acquire_owned().await.unwrap();
            let gate = point.map(|point| api.gate(point));
            let callers: Vec<_> = (0..10).map(|_| call()).collect();
            settle().await;
            let slot = match &gate {
                Some(gate) => {
                    drop(slot);
                    gate.reached(1).await;
                    None
                }
                None => Some(slot),
            };
            let dropped = if all { 10 } else { 1 };
            callers[..dropped].iter().for_each(|caller| caller.abort());
            settle().await;
            drop((gate, slot));
            settle().await;
            let renewed = renewed(&mut news)
                .now_or_never()
                .expect("the flight goes on")
                .unwrap();
            assert_eq!(
                (renewed.generation, renewed.grant),
                (1, GrantType::RefreshToken),
                "{point:?}"
            );
            drop(hold);
            assert_eq!(call().await.unwrap().unwrap().status(), 200, "{point:?}");
            let pair = client.source().pair().await.unwrap();
            assert_eq!(
                pair.refresh_token().unwrap().expose(),
                api.live_refresh_token().unwrap(),
                "{point:?}"
            );
            assert_eq!(
                (api.counts().token_calls, api.most_presentations()),
                (1, 1),
                "{point:?}"
            );
            for caller in callers.into_iter().skip(dropped) {
                assert_eq!(caller.await.unwrap().unwrap().status(), 200, "{point:?}");
            }
        }
    }
}

/// The same from the caller's side: it is dropped after each number of polls.
#[tokio::test(start_paused = true)]
async fn g2_a_caller_may_be_dropped_after_any_poll() {
    for polls in 0.. {
        let (api, clock) = paused();
        let layer = with_refresh_token(&api).clock(clock).build().unwrap();
        let client = client(&layer, &api);
        let mut request = Box::pin(list(&client));
        let mut done = false;
        for _ in 0..polls {
            done = futures::poll!(&mut request).is_ready();
            tokio::task::yield_now().await;
        }
        drop(request);
        settle().await;
        assert_eq!(list(&client).await.unwrap(), 200);
        assert_eq!(
            (api.counts().token_calls, api.most_presentations()),
            (1, 1),
            "after {polls} polls"
        );
        if done {
            assert!(polls > 1, "there is something to wait for");
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn g3_after_a_hang_the_next_step_still_fits_into_the_flight() {
    // Before the headers nothing is committed; a body that drips has been paid for.
    let slow = || Fault::latency(HOUR);
    for (hang, with_api_key, way) in [
        (slow(), true, Some(GrantType::ApiKey)),
        (Fault::drip(), true, Some(GrantType::ApiKey)),
        (slow(), false, Some(GrantType::RefreshToken)),
        (Fault::drip(), false, None),
    ] {
        let (api, clock) = paused();
        let mut layer = with_refresh_token(&api).clock(clock);
        if with_api_key {
            layer = layer.api_key(api.api_key());
        }
        let layer = layer.build().unwrap();
        let client = client(&layer, &api);
        api.fault(hang.clone());
        let begun = Instant::now();
        let mut outcome = list(&client).await;
        let waited = begun.elapsed().as_secs_f64();
        assert!((waited - 10.0).abs() < 0.1, "{hang:?}: {waited} s");
        if !with_api_key {
            // The same call is all that could follow: callers need not wait until its response is given up.
            assert_eq!(ours(&outcome.unwrap_err()).kind(), ErrorKind::Ambiguous);
            let begun = Instant::now();
            assert!(list(&client).await.is_err(), "it is still awaited");
            assert_eq!(begun.elapsed(), seconds(1));
            time::sleep(seconds(10)).await;
            outcome = list(&client).await;
        }
        match way {
            Some(_) => assert_eq!(outcome.unwrap(), 200),
            // The token was spent, and presenting it again is all that could be tried.
            None => assert_eq!(ours(&outcome.unwrap_err()).kind(), ErrorKind::Refused),
        }
        assert_eq!(
            layer.subscribe().latest().map(|renewed| renewed.grant),
            way,
            "{hang:?}"
        );
        assert_eq!(api.counts().token_calls, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn g3_the_wait_is_bounded_whatever_hangs() {
    for hang in [Fault::latency(HOUR), Fault::drip()] {
        let (api, clock) = paused();
        let layer = with_refresh_token(&api)
            .api_key(api.api_key())
            .clock(clock)
            .build()
            .unwrap();
        api.fault(hang.clone().always());
        let begun = Instant::now();
        let error = list(&client(&layer, &api)).await.unwrap_err();
        assert!(ours(&error).is_transient(), "{hang:?}: {error:?}");
        assert!(begun.elapsed() <= seconds(31), "{hang:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn g3_the_callers_own_timeout_never_ends_the_flight() {
    let (api, clock) = paused();
    let layer = with_refresh_token(&api).clock(clock).build().unwrap();
    let hurried = ServiceBuilder::new()
        .timeout(seconds(1))
        .layer(layer.clone())
        .service(api.service());
    let hold = hold_time();
    let gate = api.gate(GatePoint::AfterCommit);
    let caller = tokio::spawn(hurried.clone().oneshot(get("/videos")));
    gate.reached(1).await;
    advance(Duration::from_millis(1001)).await;
    let error = caller.await.unwrap().unwrap_err();
    assert!(error.is::<tower::timeout::error::Elapsed>());
    gate.open();
    settle().await;
    assert!(layer.subscribe().latest().is_some(), "the flight goes on");
    drop(hold);
    assert_eq!(hurried.oneshot(get("/videos")).await.unwrap().status(), 200);
    assert_eq!(api.counts().token_calls, 1);

    // One that is longer than the flight sees our error, not its own.
    let (api, clock) = paused();
    let layer = with_refresh_token(&api).clock(clock).build().unwrap();
    let patient = ServiceBuilder::new()
        .timeout(seconds(40))
        .layer(layer)
        .service(api.service());
    api.fault(Fault::latency(HOUR).always());
    let error = patient.oneshot(get("/videos")).await.unwrap_err();
    assert_eq!(ours(&error).kind(), ErrorKind::Ambiguous);
}

/// A flight of one call, whose response comes after the flight's end.
#[tokio::test(start_paused = true)]
async fn g3_a_late_answer_is_kept_for_a_minute_after_the_call() {
    for (arrives, is_kept) in [(11, true), (59, true), (61, false)] {
        let (api, clock) = paused();
        let layer = with_refresh_token(&api)
            .renewal_timeout(seconds(10))
            .clock(clock)
            .build()
            .unwrap();
        let client = client(&layer, &api);
        let hold = hold_time();
        let gate = api.gate(GatePoint::MidBody);
        let caller = tokio::spawn({
            let client = client.clone();
            async move { list(&client).await }
        });
        gate.reached(1).await;
        advance(Duration::from_millis(10_001)).await;
        let error = caller.await.unwrap().unwrap_err();
        assert_eq!(ours(&error).kind(), ErrorKind::Ambiguous);
        // The flight is over; its response is not.
        for _ in 0..(arrives - 10) * 20 {
            advance(Duration::from_millis(50)).await;
        }
        settle().await;
        gate.open();
        settle().await;
        drop(hold);
        let outcome = list(&client).await;
        assert_eq!(outcome.is_ok(), is_kept, "after {arrives} s: {outcome:?}");
        assert_eq!(
            api.most_presentations(),
            if is_kept { 1 } else { 2 },
            "after {arrives} s"
        );
    }
}

/// A runtime that runs only during requests, as in a blocking program: no timer of ours fires in time.
#[test]
fn g3_a_response_is_kept_though_the_runtime_stood_still() {
    let server = Runtime::new().unwrap();
    for (first_request, point) in [(50, GatePoint::AfterCommit), (50, GatePoint::MidBody)] {
        let api = server.block_on(FakeApi::start()).unwrap();
        let layer = with_refresh_token(&api)
            .call_timeout(Duration::from_millis(200))
            .renewal_timeout(Duration::from_millis(300))
            .build()
            .unwrap();
        let client = Builder::new_current_thread().enable_all().build().unwrap();
        let http = legacy::Client::builder(TokioExecutor::new()).build_http::<Body>();
        let service = layer.layer(http);
        let request = || service.clone().oneshot(get("/videos"));

        let gate = api.gate(point);
        let limit = Duration::from_millis(first_request);
        client
            .block_on(async { time::timeout(limit, request()).await })
            .unwrap_err();
        server.block_on(gate.reached(1));
        gate.open();
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(
            client.block_on(request()).unwrap().status(),
            200,
            "{point:?}"
        );
        assert_eq!(
            (api.counts().token_calls, api.most_presentations()),
            (1, 1),
            "{point:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn g3_callers_get_the_response_that_came_during_suspend() {
    let (api, clock) = paused();
    let layer = with_refresh_token(&api).clock(clock).build().unwrap();
    let client = client(&layer, &api);
    let hold = hold_time();
    let gate = api.gate(GatePoint::AfterCommit);
    let caller = tokio::spawn(async move { list(&client).await });
    gate.reached(1).await;
    // Past the bounds of the call, the flight and the caller, in one go.
    advance(seconds(40)).await;
    settle().await;
    gate.open();
    settle().await;
    drop(hold);
    assert_eq!(caller.await.unwrap().unwrap(), 200);
    assert_eq!(api.counts().token_calls, 1);
}

/// While the call that followed a hang is under way, the response to the first may still come.
#[tokio::test(start_paused = true)]
async fn g3_a_late_answer_beats_the_call_that_followed_it() {
    for (with_api_key, patience) in [(true, 10), (false, 20)] {
        let (api, clock) = paused();
        let mut layer = with_refresh_token(&api).clock(clock);
        if with_api_key {
            layer = layer.api_key(api.api_key());
        }
        let layer = layer.build().unwrap();
        let client = client(&layer, &api);
        let hold = hold_time();
        let first = api.gate(GatePoint::AfterCommit);
        let caller = tokio::spawn({
            let client = client.clone();
            async move { list(&client).await }
        });
        first.reached(1).await;
        let second = api.gate(GatePoint::BeforeCommit);
        for _ in 0..patience / 10 {
            advance(seconds(10) + Duration::from_millis(1)).await;
            // Timers fire late, and still there is room for the second call.
            settle().await;
        }
        assert_eq!(second.arrived(), 1, "API key {with_api_key}");
        first.open();
        settle().await;
        drop(hold);
        match caller.await.unwrap() {
            Ok(status) => assert_eq!(status, 200),
            Err(error) => assert_eq!(
                (ours(&error).kind(), with_api_key),
                (ErrorKind::Ambiguous, false)
            ),
        }
        second.open();
        settle().await;
        assert_eq!(
            layer.subscribe().latest().unwrap().grant,
            GrantType::RefreshToken
        );
        let pair = client.source::<Body>().pair().await.unwrap();
        assert_eq!(
            pair.refresh_token().unwrap().expose(),
            api.live_refresh_token().unwrap()
        );
        assert_eq!((api.counts().grants, api.counts().reuse_violations), (1, 0));
    }
}

/// The first call is carried out and stuck; the token is presented again, and that is refused.
#[tokio::test(start_paused = true)]
async fn g3_a_late_pair_is_kept_though_the_second_call_was_refused() {
    let (api, clock) = paused();
    let layer = with_refresh_token(&api).clock(clock).build().unwrap();
    let client = client(&layer, &api);
    let hold = hold_time();
    let gate = api.gate(GatePoint::AfterCommit);
    let caller = tokio::spawn({
        let client = client.clone();
        async move { list(&client).await }
    });
    gate.reached(1).await;
    api.fault(Fault::problem(401, "authentication-invalid-refresh-token"));
    for _ in 0..2 {
        advance(seconds(10) + Duration::from_millis(1)).await;
        settle().await;
    }
    let error = caller.await.unwrap().unwrap_err();
    assert_eq!(ours(&error).kind(), ErrorKind::Ambiguous);
    let error = list(&client).await.unwrap_err();
    assert_eq!(ours(&error).kind(), ErrorKind::Refused);
    gate.open();
    settle().await;
    drop(hold);
    assert_eq!(list(&client).await.unwrap(), 200);
    client.source::<Body>().renew().await.unwrap();
    assert_eq!(api.counts().reuse_violations, 0);
}
