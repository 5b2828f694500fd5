//! A body that can carry no token call, without a token service.

use apivideo_auth::{ApiVideoAuthLayer, testing::FakeApi};
use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use tower::{Layer, Service};

fn client(_: impl Service<Request<Empty<Bytes>>>) {}

fn main() {
    let layer = ApiVideoAuthLayer::builder().build().unwrap();
    client(layer.layer(FakeApi::in_process().service()));
}
