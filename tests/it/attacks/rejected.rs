//! A path that answers 401 for reasons of its own, at the worst moments: the token stays good for all others (G8).

use std::time::Duration;

use apivideo_auth::testing::{FakeApi, Fault};
use http::Response;
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt};

use crate::support::{Client, get, list, paused, with_key, with_refresh_token};

fn closed_path(api: &FakeApi) {
    api.on_api_request(|parts| {
        let mut response = Response::new(bytes::Bytes::new());
        *response.status_mut() = http::StatusCode::UNAUTHORIZED;
        (parts.uri.path() == "/echo/closed").then_some(response)
    });
}

async fn closed(client: &Client) -> http::StatusCode {
    client
        .clone()
        .oneshot(get("/echo/closed"))
        .await
        .expect("a response")
        .status()
}

/// How many of so many good requests, one each second, are not served.
async fn unserved(client: &Client, requests: usize) -> usize {
    let mut unserved = 0;
    for _ in 0..requests {
        unserved += usize::from(!list(client).await.is_ok_and(|status| status == 200));
        sleep(Duration::from_secs(1)).await;
    }
    unserved
}

#[tokio::test(start_paused = true)]
async fn g8_a_401_in_a_cool_down_takes_the_token_from_nobody() {
    let (api, clock) = paused();
    let layer = with_key(&api).clock(clock).build().unwrap();
    let client = layer.layer(api.service());
    assert_eq!(list(&client).await.unwrap(), 200);
    closed_path(&api);
    // In the early window, with 190 s of usable life left.
    sleep(Duration::from_secs(3400)).await;
    api.fault(Fault::retry_after(503, 100).always());
    assert_eq!(unserved(&client, 2).await, 0);
    assert_eq!(closed(&client).await, 401);
    assert_eq!(unserved(&client, 150).await, 0);
}

#[tokio::test(start_paused = true)]
async fn g8_a_401_after_shutdown_takes_the_token_from_nobody() {
    let (api, clock) = paused();
    let layer = with_key(&api).clock(clock).build().unwrap();
    let client = layer.layer(api.service());
    assert_eq!(list(&client).await.unwrap(), 200);
    closed_path(&api);
    assert!(layer.shutdown(Duration::from_secs(5)).await);
    assert_eq!(closed(&client).await, 401);
    assert_eq!(list(&client).await.unwrap(), 200);
}

#[tokio::test(start_paused = true)]
async fn g8_a_401_without_credentials_takes_the_token_from_nobody() {
    let (api, clock) = paused();
    let layer = with_refresh_token(&api).clock(clock).build().unwrap();
    let client = layer.layer(api.service());
    assert_eq!(list(&client).await.unwrap(), 200);
    closed_path(&api);
    sleep(Duration::from_secs(3400)).await;
    api.revoke_refresh_tokens();
    assert_eq!(unserved(&client, 2).await, 0);
    assert_eq!(closed(&client).await, 401);
    assert_eq!(unserved(&client, 150).await, 0);
}

#[tokio::test(start_paused = true)]
async fn g8_a_401_while_a_refresh_hangs_holds_others_up_for_one_call() {
    let (api, clock) = paused();
    let layer = with_refresh_token(&api).clock(clock).build().unwrap();
    let client = layer.layer(api.service());
    assert_eq!(list(&client).await.unwrap(), 200);
    closed_path(&api);
    api.fault(Fault::latency(Duration::from_secs(7200)).always());
    let rejected = tokio::spawn({
        let client = client.clone();
        async move { closed(&client).await }
    });
    sleep(Duration::from_millis(100)).await;
    let begun = Instant::now();
    assert_eq!(unserved(&client, 60).await, 0);
    assert!(
        begun.elapsed() <= Duration::from_secs(71),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(rejected.await.unwrap(), 401);
}
