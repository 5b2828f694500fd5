//! G10: `MinLifetime` asks for a longer-lived token, within reason.

use std::time::Duration;

use apivideo_auth::{
    ApiVideoAuthLayer, MinLifetime, RenewalReason,
    testing::{FakeApi, Fault, GatePoint, ManualClock},
};
use futures::future::join_all;
use http::StatusCode;
use tokio::time::advance;
use tower::ServiceExt;

use crate::support::{Body, Client, client, get, list, with_key};

fn plain() -> (FakeApi, ApiVideoAuthLayer, Client) {
    let clock = ManualClock::with_tokio();
    let api = FakeApi::builder().clock(clock.clone()).build();
    let layer = with_key(&api).clock(clock).build().unwrap();
    let client = client(&layer, &api);
    (api, layer, client)
}

async fn list_with(client: &Client, seconds: u64) -> StatusCode {
    let mut request = get("/videos");
    request
        .extensions_mut()
        .insert(MinLifetime(Duration::from_secs(seconds)));
    client.clone().oneshot(request).await.unwrap().status()
}

#[tokio::test(start_paused = true)]
async fn g10_renews_first_if_less_is_left_than_asked_for() {
    // Age of the one-hour token, what is asked for, whether that renews.
    for (age, asked, renews) in [
        (0, 3_600, false),
        (0, 1_800, false),
        (2_000, 1_599, false),
        (2_000, 1_600, false),
        (2_000, 1_601, true),
        (2_000, 3_600, true),
        // What may be asked for is capped at half the lifetime.
        (1_799, 3_600, false),
        (1_800, u64::MAX, false),
        (1_801, 3_600, true),
        (3_000, 0, false),
        // Expired: there is one renewal, not two.
        (3_600, 1_000, true),
    ] {
        let (api, layer, client) = plain();
        let renewals = layer.subscribe();
        list(&client).await.unwrap();
        advance(Duration::from_secs(age)).await;
        let what = format!("{asked} s asked of a token {age} s old");
        assert_eq!(list_with(&client, asked).await, 200, "{what}");
        assert_eq!(api.counts().token_calls, 1 + usize::from(renews), "{what}");
        if renews {
            let cause = if age == 3_600 {
                RenewalReason::Expired
            } else {
                RenewalReason::MinLifetime
            };
            assert_eq!(renewals.latest().unwrap().reason, cause, "{what}");
            let token = client.source::<Body>().token().await.unwrap();
            assert_eq!(
                api.requests_with(token.expose()),
                1,
                "{what}: sent with the new token"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn g10_an_hour_asked_by_each_chunk_does_not_renew_for_each() {
    let (api, _, client) = plain();
    for chunk in 0..360 {
        assert_eq!(list_with(&client, 3_600).await, 200, "chunk {chunk}");
        advance(Duration::from_secs(30)).await;
    }
    let calls = api.counts().token_calls;
    assert!(
        (5..=7).contains(&calls),
        "{calls} token calls in three hours"
    );
}

#[tokio::test(start_paused = true)]
async fn g10_many_at_once_wait_for_one_flight() {
    let (api, _, client) = plain();
    list(&client).await.unwrap();
    advance(Duration::from_secs(2_000)).await;
    let gate = api.gate(GatePoint::BeforeCommit);
    let requests: Vec<_> = (0..50)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { list_with(&client, 1_700).await })
        })
        .collect();
    gate.reached(1).await;
    // Others do not wait (G7).
    assert_eq!(list(&client).await.unwrap(), 200);
    assert_eq!(api.counts().api_calls, 2);
    gate.open();
    assert!(
        join_all(requests)
            .await
            .into_iter()
            .all(|status| status.unwrap() == 200)
    );
    assert_eq!(api.counts().token_calls, 2);
    let token = client.source::<Body>().token().await.unwrap();
    assert_eq!(api.requests_with(token.expose()), 50);
}

#[tokio::test(start_paused = true)]
async fn g10_a_failure_is_repeated_after_a_tenth_of_a_lifetime() {
    let (api, _, client) = plain();
    list(&client).await.unwrap();
    advance(Duration::from_secs(2_000)).await;
    api.fault(Fault::status(503).always());
    assert_eq!(list_with(&client, 1_700).await, 200);
    let calls = api.counts().token_calls;
    assert!(calls > 1);
    for _ in 0..35 {
        assert_eq!(list_with(&client, 1_700).await, 200);
        advance(Duration::from_secs(10)).await;
    }
    assert_eq!(api.counts().token_calls, calls, "none for 350 s");
    api.fault(None);
    advance(Duration::from_secs(10)).await;
    assert_eq!(list_with(&client, 1_700).await, 200);
    assert_eq!(api.counts().token_calls, calls + 1);
}
