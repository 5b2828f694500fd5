//! How does a plain hyper client get the layer?

use std::time::Duration;

use apivideo_auth::{ApiVideoAuthLayer, testing::FakeApi};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tower::{BoxError, ServiceBuilder, ServiceExt};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let api = FakeApi::start().await?;
    let layer = ApiVideoAuthLayer::builder()
        .base_url(api.url())
        .api_key(api.api_key())
        .build()?;
    let hyper = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let client = ServiceBuilder::new().layer(layer.clone()).service(hyper);

    let video = Request::post("/videos")
        .header("content-type", "application/json")
        .body(Full::from(r#"{"title":"made with hyper"}"#))?;
    let response = client.clone().oneshot(video).await?;
    assert_eq!(response.status(), StatusCode::CREATED);
    let video = String::from_utf8(response.into_body().collect().await?.to_bytes().to_vec())?;
    assert!(video.contains("made with hyper"), "{video}");

    // The server forgets the access token: the 401 is answered with a new one and a second try.
    api.revoke_access_tokens();
    let list = client
        .clone()
        .oneshot(Request::get("/videos").body(Full::default())?)
        .await?;
    assert_eq!(list.status(), StatusCode::OK);

    layer.shutdown(Duration::from_secs(5)).await;
    let counts = api.counts();
    assert_eq!(
        (counts.logins, counts.refreshes, counts.api_calls),
        (1, 1, 3)
    );
    println!(
        "hyper_client: ok api_calls={} logins=1 refreshes=1",
        counts.api_calls
    );
    Ok(())
}
