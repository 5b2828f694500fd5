//! Whose time a store in memory follows.

use std::sync::Arc;

use apivideo_auth::{
    ApiVideoAuthLayer, GrantType,
    testing::{FakeApi, ManualClock},
};

use super::*;
use crate::support::{Body, Builder, HOUR, client, list};

/// How a second layer on the same store gets its token when the first one's has expired by the layers' clock.
async fn second_grant(store: impl TokenStore + Clone) -> GrantType {
    let clock = ManualClock::new();
    let api = FakeApi::builder().clock(clock.clone()).build();
    let layer = |more: fn(Builder, ManualClock) -> Builder| {
        let builder = ApiVideoAuthLayer::builder().base_url(api.url());
        more(builder.store(store.clone()), clock.clone())
            .build()
            .expect("good settings")
    };
    let first = ApiVideoAuthLayer::builder()
        .base_url(api.url())
        .clock(clock.clone())
        .api_key(api.api_key())
        .store(store.clone())
        .build()
        .expect("good settings");
    assert_eq!(list(&client(&first, &api)).await.expect("a login"), 200);
    let still_good = layer(|builder, clock| builder.clock(clock));
    assert_eq!(
        list(&client(&still_good, &api))
            .await
            .expect("it is adopted"),
        200
    );
    assert_eq!(api.counts().token_calls, 1);

    clock.advance(HOUR);
    let second = layer(|builder, clock| builder.clock(clock));
    let source = client(&second, &api).source::<Body>();
    source.token().await.expect("a token");
    second.subscribe().latest().expect("a renewal").grant
}

#[tokio::test]
async fn g9_a_store_in_memory_follows_the_clock_of_its_layers() {
    let store = MemoryStore::new();
    assert_eq!(second_grant(store).await, GrantType::RefreshToken);
    let store = encrypted(MemoryStore::new());
    assert_eq!(second_grant(store).await, GrantType::RefreshToken);
    let store: Arc<dyn TokenStore> = Arc::new(MemoryStore::new());
    assert_eq!(second_grant(store).await, GrantType::RefreshToken);
}

#[tokio::test]
async fn g9_a_clock_that_comes_late_changes_no_span() {
    let store = MemoryStore::new();
    save(&store, stored(version(1, 1), b"test-only-pair")).await;
    let clock = ManualClock::new();
    // By this clock, the pair was saved years after now.
    clock.advance(HOUR * 24 * 4000);
    let layer = ApiVideoAuthLayer::builder()
        .clock(clock.clone())
        .store(store.clone());
    layer.build().expect("good settings");
    let left = async || {
        let stored = store.load(&key()).await.expect("loading").expect("stored");
        stored.header.expires_in.expect("a span").as_secs()
    };
    assert!((90..=100).contains(&left().await), "{}", left().await);
    clock.advance(Duration::from_secs(60));
    assert!((30..=40).contains(&left().await), "{}", left().await);
    // A layer that was given no clock goes by what the others were given.
    ApiVideoAuthLayer::builder()
        .store(store.clone())
        .build()
        .expect("good settings");
    assert!((30..=40).contains(&left().await), "{}", left().await);
}

#[tokio::test]
async fn g9_inside_a_store_of_the_users_own_the_clock_is_given() {
    let clock = ManualClock::new();
    let store = MemoryStore::with_clock(clock.clone());
    save(&store, stored(version(1, 1), b"test-only-pair")).await;
    clock.advance(Duration::from_secs(60));
    let stored = store.load(&key()).await.expect("loading").expect("stored");
    assert_eq!(stored.header.expires_in, Some(Duration::from_secs(40)));
}
