//! What the tests share.

pub(crate) mod child;
pub(crate) mod faulty_store;

use std::time::Duration;

use apivideo_auth::{
    ApiVideoAuth, ApiVideoAuthLayer, ApiVideoAuthLayerBuilder, Event, Events, RenewalEvent,
    middleware::{Replay, SameService},
    testing::{FakeApi, FakeApiBuilder, FakeService, ManualClock},
};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use tower::{BoxError, Layer, ServiceExt};

pub(crate) type Body = Full<Bytes>;
pub(crate) type Builder = ApiVideoAuthLayerBuilder<SameService, Replay>;
pub(crate) type Client = ApiVideoAuth<FakeService>;

pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const MIB: usize = 1024 * 1024;

pub(crate) fn seconds(seconds: impl Into<f64>) -> Duration {
    Duration::from_secs_f64(seconds.into())
}

/// As many bytes. They repeat after 251, a prime, so that a part in the wrong place shows.
pub(crate) fn bytes(size: usize) -> Bytes {
    let mut bytes = (0..251).collect::<Vec<u8>>().repeat(size / 251 + 1);
    bytes.truncate(size);
    bytes.into()
}

/// A builder whose source logs in at `api`.
pub(crate) fn with_key(api: &FakeApi) -> Builder {
    ApiVideoAuthLayer::builder()
        .base_url(api.url())
        .api_key(api.api_key())
}

/// A builder whose source holds nothing but a refresh token of `api`.
pub(crate) fn with_refresh_token(api: &FakeApi) -> Builder {
    ApiVideoAuthLayer::builder()
        .base_url(api.url())
        .refresh_token(api.mint_pair().1)
}

/// A client straight into the fake, without a socket.
pub(crate) fn client(layer: &ApiVideoAuthLayer, api: &FakeApi) -> Client {
    layer.layer(api.service())
}

/// The next token that comes into use.
pub(crate) async fn renewed(events: &mut Events) -> Option<RenewalEvent> {
    loop {
        if let Event::Renewed(token) = events.next().await? {
            return Some(token);
        }
    }
}

pub(crate) fn get(path: &str) -> Request<Body> {
    Request::get(path)
        .body(Body::default())
        .expect("a good request")
}

/// Lists the videos: the plainest request that needs a token.
pub(crate) async fn list(client: &Client) -> Result<StatusCode, BoxError> {
    Ok(client.clone().oneshot(get("/videos")).await?.status())
}

/// The error of this crate in a boxed one.
pub(crate) fn ours(error: &BoxError) -> &apivideo_auth::Error {
    error
        .downcast_ref()
        .unwrap_or_else(|| panic!("not an error of ours: {error:?}"))
}

/// A fake in this process and a clock for the layer; paused time drives both.
pub(crate) fn paused() -> (FakeApi, ManualClock) {
    let clock = ManualClock::with_tokio();
    (FakeApi::builder().clock(clock.clone()).build(), clock)
}

/// A fake, and a layer and a client that log in at it; all age by paused time.
pub(crate) fn aging(
    api: FakeApiBuilder,
    layer: impl FnOnce(Builder) -> Builder,
) -> (FakeApi, ApiVideoAuthLayer, Client) {
    let clock = ManualClock::with_tokio();
    let api = api.clock(clock.clone()).build();
    let layer = layer(with_key(&api).clock(clock)).build().unwrap();
    let client = client(&layer, &api);
    (api, layer, client)
}

/// The same with the default settings.
pub(crate) fn plain() -> (FakeApi, ApiVideoAuthLayer, Client) {
    aging(FakeApi::builder(), |layer| layer)
}

/// As many requests at once, each in a task of its own on one of these clients, and what became of them.
pub(crate) async fn many(requests: usize, clients: &[Client]) -> Vec<Result<StatusCode, BoxError>> {
    let task = |client: &Client| {
        let client = client.clone();
        tokio::spawn(async move { list(&client).await })
    };
    let tasks: Vec<_> = clients.iter().cycle().take(requests).map(task).collect();
    let mut outcomes = Vec::with_capacity(requests);
    for task in tasks {
        outcomes.push(task.await.expect("a task that does not panic"));
    }
    outcomes
}

/// Lets all other tasks of this runtime go on until they wait.
pub(crate) async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}
