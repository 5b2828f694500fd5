//! A token service, but nothing that makes bodies for a replay.

use apivideo_auth::{ApiVideoAuthLayer, testing::FakeApi};
use bytes::Bytes;
use http::Request;
use http_body_util::{Empty, Full};
use tower::{Layer, Service};

fn client(_: impl Service<Request<Empty<Bytes>>>) {}

fn main() {
    let api = FakeApi::in_process();
    let builder = ApiVideoAuthLayer::builder().token_service::<_, Full<Bytes>>(api.service());
    client(builder.build().unwrap().layer(api.service()));
}
