//! This crate, as it is by default and without the means to repeat a request.

use apivideo_auth::{
    ApiVideoAuth, ApiVideoAuthLayer,
    middleware::{NoReplay as WithoutReplay, SameService},
};
use tower::Layer;

use crate::{
    api::Api,
    peer::{Inner, ORIGIN, Peer, Tower},
};

const VERSION: &str = "apivideo-auth 0.1.0";

pub(crate) struct Ours;

impl Peer for Ours {
    const NAME: &'static str = "apivideo-auth";
    const VERSION: &'static str = VERSION;
    const ROTATES: bool = true;
    const REPLAYS: bool = true;

    type Client<S: Inner> = Tower<ApiVideoAuth<S>>;

    async fn client<S: Inner>(api: &Api, inner: S) -> Self::Client<S> {
        let layer = ApiVideoAuthLayer::builder()
            .base_url(ORIGIN)
            .refresh_token(api.mint().refresh_token)
            .build();
        Tower(layer.expect("the settings are good").layer(inner))
    }
}

pub(crate) struct NoReplay;

impl Peer for NoReplay {
    const NAME: &'static str = "apivideo-auth, no replay";
    const VERSION: &'static str = VERSION;
    const ROTATES: bool = true;
    const NOTE: &'static str =
        "Set not to repeat requests: a 401 passes through, the next request gets a new token.";

    type Client<S: Inner> = Tower<ApiVideoAuth<S, SameService, WithoutReplay>>;

    async fn client<S: Inner>(api: &Api, inner: S) -> Self::Client<S> {
        let layer = ApiVideoAuthLayer::builder()
            .base_url(ORIGIN)
            .refresh_token(api.mint().refresh_token)
            .no_replay()
            .build();
        Tower(layer.expect("the settings are good").layer(inner))
    }
}
