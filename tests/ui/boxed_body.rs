//! A boxed body without `body_from`.

use std::convert::Infallible;

use apivideo_auth::{ApiVideoAuthLayer, testing::FakeApi};
use bytes::Bytes;
use http::Request;
use http_body_util::combinators::BoxBody;
use tower::{Layer, Service};

fn client(_: impl Service<Request<BoxBody<Bytes, Infallible>>>) {}

fn main() {
    let layer = ApiVideoAuthLayer::builder().build().unwrap();
    client(layer.layer(FakeApi::in_process().service()));
}
