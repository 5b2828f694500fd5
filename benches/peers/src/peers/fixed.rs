//! The limit: a header that never changes.

use http::{HeaderValue, header};
use tower::Layer;
use tower_http::set_header::{SetRequestHeader, SetRequestHeaderLayer};

use crate::{
    api::Api,
    peer::{Inner, Peer, Tower},
};

pub(crate) struct Fixed;

impl Peer for Fixed {
    const NAME: &'static str = "static header";
    const VERSION: &'static str = "tower-http 0.7.1";
    const NOTE: &'static str = "Never renews: the limit of what a layer can cost, not a solution.";
    const RENEWS: bool = false;

    type Client<S: Inner> = Tower<SetRequestHeader<S, HeaderValue>>;

    async fn client<S: Inner>(api: &Api, inner: S) -> Self::Client<S> {
        let mut value = HeaderValue::try_from(format!("Bearer {}", api.mint().access_token))
            .expect("tokens can stand in a header");
        value.set_sensitive(true);
        Tower(SetRequestHeaderLayer::overriding(header::AUTHORIZATION, value).layer(inner))
    }
}
