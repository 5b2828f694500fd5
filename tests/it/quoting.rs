//! G19: a token service whose errors quote what it was to send.

use apivideo_auth::{ApiVideoAuthLayer, testing::FakeApi};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{BoxError, service_fn};

use crate::support::{get, ours};

#[tokio::test]
async fn g19_an_error_that_quotes_the_credential_is_left_out() {
    let api = FakeApi::in_process();
    let quoting = service_fn(|request: Request<Full<Bytes>>| async {
        let body = request.into_body().collect().await?.to_bytes();
        Err::<Response<Full<Bytes>>, BoxError>(format!("could not send {body:?}").into())
    });
    let layer = ApiVideoAuthLayer::builder()
        .base_url(api.url())
        .api_key(api.api_key())
        .token_service(quoting)
        .build()
        .unwrap();
    let client = tower::Layer::layer(&layer, api.service());
    let error = tower::ServiceExt::oneshot(client, get("/videos"))
        .await
        .unwrap_err();
    let mut shown = format!("{error:?}");
    let mut next = Some(ours(&error) as &dyn std::error::Error);
    while let Some(error) = next {
        shown.push_str(&error.to_string());
        next = error.source();
    }
    assert!(
        !shown.contains(api.api_key()) && shown.contains("left out"),
        "{shown}"
    );
}
