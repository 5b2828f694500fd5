//! The abilities of a source beside requests: what each of them does, alone and in a race.

use std::time::Duration;

use apivideo_auth::{
    ApiVideoAuthLayer, Credentials, ErrorKind, GrantType, RenewalReason,
    store::MemoryStore,
    testing::{FakeApi, Fault, GatePoint, hold_time},
};
use futures::FutureExt;
use tokio::time::{self, Instant, advance};
use tower::{ServiceExt, limit::ConcurrencyLimit};

use crate::support::{
    Body, Client, HOUR, client, list, ours, paused, renewed, seconds, settle, with_key,
    with_refresh_token,
};

const SOON: Duration = Duration::from_secs(5);

#[tokio::test(start_paused = true)]
async fn g2_no_task_stands_around_unless_asked_for() {
    let (api, clock) = paused();
    let layer = with_refresh_token(&api).clock(clock).build().unwrap();
    let client = client(&layer, &api);
    assert_eq!(list(&client).await.unwrap(), 200);
    settle().await;
    assert_eq!(
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks(),
        0
    );
}

#[tokio::test(start_paused = true)]
async fn g1_renew_replaces_the_current_pair_once_for_all_who_ask() {
    let (api, clock) = paused();
    let layer = with_refresh_token(&api).clock(clock).build().unwrap();
    let client = client(&layer, &api);
    // Cold, it brings the first pair and no second one.
    assert_eq!(
        client.source::<Body>().renew().await.unwrap().generation(),
        1
    );
    assert_eq!(
        layer.subscribe().latest().unwrap().reason,
        RenewalReason::Requested
    );
    let renewals = (0..100).map(|_| tokio::spawn(client.source::<Body>().renew()));
    for renewal in futures::future::join_all(renewals).await {
        assert_eq!(renewal.unwrap().unwrap().generation(), 2);
    }
    assert_eq!((api.counts().token_calls, api.most_presentations()), (2, 1));
    // The pair is that of the call, not of the first poll.
    let renewal = client.source::<Body>().renew();
    assert_eq!(
        client.source::<Body>().renew().await.unwrap().generation(),
        3
    );
    assert_eq!(renewal.await.unwrap().generation(), 3);
    assert_eq!(api.counts().token_calls, 3);
}

#[tokio::test(start_paused = true)]
async fn g11_renew_obeys_the_cool_down() {
    let (api, clock) = paused();
    let layer = with_refresh_token(&api).clock(clock).build().unwrap();
    let client = client(&layer, &api);
    assert_eq!(list(&client).await.unwrap(), 200);
    api.fault(Fault::status(503).always());
    assert_eq!(
        client.source::<Body>().renew().await.unwrap_err().kind(),
        ErrorKind::Unavailable
    );
    let calls = api.counts().token_calls;
    for _ in 0..10 {
        let error = client
            .source::<Body>()
            .renew()
            .now_or_never()
            .expect("no wait")
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }
    assert_eq!(api.counts().token_calls, calls);
    assert_eq!(list(&client).now_or_never().expect("no wait").unwrap(), 200);
}

#[tokio::test(start_paused = true)]
async fn g1_invalidate_takes_only_the_current_generation_out_of_use() {
    let (api, clock) = paused();
    let layer = with_refresh_token(&api).clock(clock).build().unwrap();
    let client = client(&layer, &api);
    let source = client.source::<Body>();
    let first = source.token().await.unwrap();
    layer.invalidate(&first);
    settle().await;
    assert_eq!(api.counts().token_calls, 1, "it starts no renewal");
    assert_eq!(list(&client).await.unwrap(), 200);
    assert_eq!(layer.subscribe().latest().unwrap().generation, 2);
    layer.invalidate(&first);
    assert_eq!(list(&client).now_or_never().expect("no wait").unwrap(), 200);

    // Nor does it stop one.
    let hold = hold_time();
    let gate = api.gate(GatePoint::AfterCommit);
    let renewal = tokio::spawn(client.source::<Body>().renew());
    gate.reached(1).await;
    source.invalidate(&source.token().now_or_never().expect("no wait").unwrap());
    gate.open();
    assert_eq!(renewal.await.unwrap().unwrap().generation(), 3);
    drop(hold);
    assert_eq!(api.counts().token_calls, 3);
}

#[tokio::test(start_paused = true)]
async fn g11_new_credentials_end_pauses_and_win_over_old_responses() {
    // In mid-flight, before the refusal of the old token and before its acceptance.
    for accepted in [false, true] {
        let (api, clock) = paused();
        let layer = with_refresh_token(&api)
            .clock(clock.clone())
            .build()
            .unwrap();
        let client = client(&layer, &api);
        if !accepted {
            api.fault(Fault::problem(401, "authentication-invalid-refresh-token"));
        }
        let hold = hold_time();
        let gate = api.gate(GatePoint::BeforeCommit);
        let caller = tokio::spawn({
            let client = client.clone();
            async move { list(&client).await }
        });
        gate.reached(1).await;
        let (_, fresh) = api.mint_pair();
        layer
            .set_credentials(Credentials::new().refresh_token(fresh.as_str()))
            .unwrap();
        gate.open();
        assert_eq!(caller.await.unwrap().unwrap(), 200, "accepted: {accepted}");
        drop(hold);
        // What was set is spent at once, and then what came of it; never what came of the old token.
        assert_eq!(api.presentations(&fresh), 1, "accepted: {accepted}");
        clock.advance(HOUR);
        assert_eq!(list(&client).await.unwrap(), 200);
        assert_eq!(
            (api.presentations(&fresh), api.most_presentations()),
            (1, 1)
        );
    }

    let (api, clock) = paused();
    let layer = with_key(&api).clock(clock).build().unwrap();
    let client = client(&layer, &api);
    for bad in [
        Credentials::new().api_key(""),
        Credentials::new().refresh_token("a b\n"),
    ] {
        assert_eq!(
            layer.set_credentials(bad).unwrap_err().kind(),
            ErrorKind::Configuration
        );
    }
    api.refuse_api_key(true);
    list(&client).await.unwrap_err();
    layer
        .set_credentials(Credentials::new().refresh_token(api.mint_pair().1))
        .unwrap();
    assert_eq!(list(&client).await.unwrap(), 200, "no pause is left");
}

#[tokio::test(start_paused = true)]
async fn g2_a_pair_is_a_copy_until_the_source_is_shut_down() {
    let (api, clock) = paused();
    let layer = with_refresh_token(&api)
        .clock(clock.clone())
        .build()
        .unwrap();
    let client = client(&layer, &api);
    let source = client.source::<Body>();
    let pair = source.pair().await.unwrap();
    assert_eq!(
        pair.refresh_token().unwrap().expose(),
        api.live_refresh_token().unwrap()
    );
    clock.advance(HOUR);
    source.token().await.unwrap();
    assert_ne!(
        pair.refresh_token().unwrap().expose(),
        api.live_refresh_token().unwrap(),
        "the next renewal has ended it"
    );
    assert!(layer.shutdown(SOON).await);
    // Also when the access token has expired: the refresh token is as good as ever.
    for _ in 0..2 {
        let pair = source.pair().await.unwrap();
        assert_eq!(pair.bearer().generation(), 2);
        assert_eq!(
            pair.refresh_token().unwrap().expose(),
            api.live_refresh_token().unwrap()
        );
        clock.advance(HOUR);
        let error = list(&client).await.unwrap_err();
        assert_eq!(ours(&error).kind(), ErrorKind::Closed);
    }
    assert_eq!((api.counts().token_calls, api.most_presentations()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn g2_no_pair_is_given_away_while_a_renewal_runs() {
    let (api, clock) = paused();
    let layer = with_refresh_token(&api).clock(clock).build().unwrap();
    let client = client(&layer, &api);
    let source = client.source::<Body>();
    assert_eq!(list(&client).await.unwrap(), 200);
    let hold = hold_time();
    let gate = api.gate(GatePoint::AfterCommit);
    let renewal = tokio::spawn(source.renew());
    gate.reached(1).await;
    let is_idle = tokio::spawn(layer.shutdown(SOON));
    settle().await;
    assert!(!is_idle.is_finished());
    let error = source.pair().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    gate.open();
    drop(hold);
    assert!(is_idle.await.unwrap());
    assert_eq!(renewal.await.unwrap().unwrap().generation(), 2);
    let pair = source.pair().await.unwrap();
    assert_eq!(
        pair.refresh_token().unwrap().expose(),
        api.live_refresh_token().unwrap()
    );
    assert_eq!(api.most_presentations(), 1);
}

#[tokio::test(start_paused = true)]
async fn g2_no_pair_is_given_away_that_others_share() {
    let (api, clock) = paused();
    let layer = with_refresh_token(&api)
        .clock(clock)
        .store(MemoryStore::new())
        .build()
        .unwrap();
    let client = client(&layer, &api);
    let source = client.source::<Body>();
    source.pair().await.unwrap();
    assert!(layer.shutdown(SOON).await);
    let error = source.pair().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
}

#[tokio::test(start_paused = true)]
async fn g2_shutdown_waits_for_the_flight_and_starts_no_other() {
    let (api, clock) = paused();
    let layer = with_refresh_token(&api)
        .clock(clock.clone())
        .build()
        .unwrap();
    let client = client(&layer, &api);
    assert_eq!(list(&client).await.unwrap(), 200);
    clock.advance(seconds(3400));
    let hold = hold_time();
    let gate = api.gate(GatePoint::AfterCommit);
    assert_eq!(list(&client).await.unwrap(), 200);
    gate.reached(1).await;
    let shutdown = tokio::spawn(layer.shutdown(SOON));
    settle().await;
    assert!(!shutdown.is_finished());
    gate.open();
    assert!(shutdown.await.unwrap());
    drop(hold);
    // The pair is there, requests go on, and nothing is renewed any more.
    let pair = client.source::<Body>().pair().await.unwrap();
    assert_eq!(
        pair.refresh_token().unwrap().expose(),
        api.live_refresh_token().unwrap()
    );
    for age in [0, 3400] {
        clock.advance(seconds(age));
        assert_eq!(list(&client).now_or_never().expect("no wait").unwrap(), 200);
    }
    settle().await;
    clock.advance(HOUR);
    let error = list(&client).now_or_never().expect("no wait").unwrap_err();
    assert_eq!(
        (ours(&error).kind(), api.counts().token_calls),
        (ErrorKind::Closed, 2)
    );
    assert!(layer.shutdown(SOON).await, "twice is no harm");
}

#[tokio::test(start_paused = true)]
async fn g2_shutdown_ends_at_its_deadline() {
    let (api, clock) = paused();
    let layer = with_refresh_token(&api).clock(clock).build().unwrap();
    let client = client(&layer, &api);
    let hold = hold_time();
    let gate = api.gate(GatePoint::AfterCommit);
    let caller = tokio::spawn(async move { list(&client).await });
    gate.reached(1).await;
    let shutdown = tokio::spawn(layer.shutdown(SOON));
    settle().await;
    advance(Duration::from_millis(5001)).await;
    assert!(!shutdown.await.unwrap());
    gate.open();
    assert_eq!(caller.await.unwrap().unwrap(), 200);
    drop(hold);
    assert!(layer.shutdown(SOON).await);
}

/// A refresh was given up and a login has replaced it: its response is worth nothing, and nobody waits for it.
#[tokio::test(start_paused = true)]
async fn g2_shutdown_does_not_wait_for_a_worthless_response() {
    let (api, clock) = paused();
    let layer = with_refresh_token(&api)
        .api_key(api.api_key())
        .clock(clock)
        .build()
        .unwrap();
    let client = client(&layer, &api);
    api.fault(Fault::latency(HOUR));
    assert_eq!(list(&client).await.unwrap(), 200);
    let begun = Instant::now();
    assert!(layer.shutdown(seconds(60)).await);
    assert!(begun.elapsed() < seconds(1), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn g2_a_subscription_tells_each_renewal() {
    let (api, clock) = paused();
    let layer = with_key(&api).clock(clock.clone()).build().unwrap();
    let client = client(&layer, &api);
    let mut news = layer.subscribe();
    assert_eq!(news.latest(), None);
    assert!(renewed(&mut news).now_or_never().is_none());
    assert_eq!(list(&client).await.unwrap(), 200);
    let first = renewed(&mut news).await.unwrap();
    assert_eq!(
        (first.generation, first.reason, first.grant),
        (1, RenewalReason::First, GrantType::ApiKey)
    );
    clock.advance(HOUR);
    assert_eq!(list(&client).await.unwrap(), 200);
    client.source::<Body>().renew().await.unwrap();
    assert_eq!(renewed(&mut news).await.unwrap().generation, 2);
    let latest = renewed(&mut news).await.unwrap();
    assert_eq!(news.latest(), Some(latest));
    assert_eq!(
        (latest.generation, latest.reason, latest.grant),
        (3, RenewalReason::Requested, GrantType::RefreshToken)
    );
    assert!(renewed(&mut news).now_or_never().is_none());
    assert_eq!(
        latest.expires_at,
        client.source::<Body>().token().await.unwrap().expires_at()
    );
    drop((client, layer));
    assert_eq!(renewed(&mut news).await, None);
}

/// A source whose pair is in its early window.
async fn in_the_early_window(with_key: bool) -> (FakeApi, ApiVideoAuthLayer, Client) {
    let (api, clock) = paused();
    let builder = with_refresh_token(&api).clock(clock);
    let builder = if with_key {
        builder.api_key(api.api_key())
    } else {
        builder
    };
    let layer = builder.build().unwrap();
    let client = client(&layer, &api);
    assert_eq!(list(&client).await.unwrap(), 200);
    time::sleep(HOUR - seconds(100)).await;
    (api, layer, client)
}

#[tokio::test(start_paused = true)]
async fn g2_a_refused_refresh_token_is_no_part_of_a_pair() {
    let (api, layer, client) = in_the_early_window(true).await;
    let source = client.source::<Body>();
    // The early renewal forgets the refresh token and does not get another; the access token is good.
    api.fault(Fault::problem(401, "authentication-invalid-refresh-token"));
    api.fault(Fault::status(503).times(10));
    assert_eq!(list(&client).await.unwrap(), 200);
    time::sleep(seconds(2)).await;
    assert!(api.counts().token_calls >= 3);
    assert!(layer.shutdown(SOON).await);
    let pair = source.pair().await.unwrap();
    assert!(pair.refresh_token().is_none());
    assert_eq!(list(&client).await.unwrap(), 200, "the token is good");
}

#[tokio::test(start_paused = true)]
async fn g2_a_token_that_may_be_spent_is_not_given_away() {
    let (api, layer, client) = in_the_early_window(false).await;
    let source = client.source::<Body>();
    let gate = api.gate(GatePoint::BeforeCommit);
    assert_eq!(list(&client).await.unwrap(), 200);
    gate.reached(1).await;
    // The second call of the renewal is under way, and the first is read until 60 s.
    time::sleep(seconds(21)).await;
    let begun = Instant::now();
    assert!(!layer.shutdown(seconds(5)).await);
    assert_eq!(begun.elapsed().as_secs(), 5);
    let error = source.pair().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    assert!(layer.shutdown(HOUR).await);
    let error = source.pair().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Ambiguous, "{error}");
}

#[tokio::test(start_paused = true)]
async fn g11_a_token_set_during_a_call_is_not_taken_for_spent() {
    let (api, clock) = paused();
    let queue = ConcurrencyLimit::new(api.service(), 1);
    let mut slot = queue.clone();
    let (first, second) = (api.mint_pair().1, api.mint_pair().1);
    let layer = ApiVideoAuthLayer::builder()
        .base_url(api.url())
        .api_key(api.api_key())
        .refresh_token(first.as_str())
        .clock(clock)
        .token_service::<_, Body>(queue)
        .build()
        .unwrap();
    let client = tower::Layer::layer(&layer, api.service());
    // The call has its token and waits for the slot.
    ServiceExt::<http::Request<Body>>::ready(&mut slot)
        .await
        .unwrap();
    let waiting = tokio::spawn(client.source().token());
    settle().await;
    layer
        .set_credentials(
            Credentials::new()
                .api_key(api.api_key())
                .refresh_token(second.as_str()),
        )
        .unwrap();
    drop(slot);
    waiting.await.unwrap().unwrap();
    assert_eq!(
        (
            api.presentations(&first),
            api.presentations(&second),
            api.counts().logins
        ),
        (0, 1, 0)
    );
}
