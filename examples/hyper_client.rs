//! How does a plain hyper client get the layer?

use std::time::Duration;

use apivideo_auth::{ApiVideoAuth, ApiVideoAuthLayer, testing::FakeApi};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tower::{BoxError, ServiceBuilder, ServiceExt};

type LoggedIn = ApiVideoAuth<Client<HttpConnector, Full<Bytes>>>;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let api = FakeApi::start().await?;
    let layer = ApiVideoAuthLayer::builder()
        .base_url(api.url())
        .api_key(api.api_key())
        .build()?;
    let hyper = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let client = ServiceBuilder::new().layer(layer.clone()).service(hyper);

    let result = make_and_list(client, &api).await;
    layer.shutdown(Duration::from_secs(5)).await;
    result?;

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

async fn make_and_list(client: LoggedIn, api: &FakeApi) -> Result<(), BoxError> {
    let video = Request::post("/videos")
        .header("content-type", "application/json")
        .body(Full::from(r#"{"title":"made with hyper"}"#))?;
    let response = client.clone().oneshot(video).await?;
    expect_status(&response, StatusCode::CREATED)?;
    let video = response.into_body().collect().await?.to_bytes();
    println!("made a video: {} bytes of JSON", video.len());

    // The server forgets the access token: the 401 is answered with a new one and a second try.
    api.revoke_access_tokens();
    let list = client
        .clone()
        .oneshot(Request::get("/videos").body(Full::default())?)
        .await?;
    expect_status(&list, StatusCode::OK)
}

fn expect_status<B>(response: &Response<B>, expected: StatusCode) -> Result<(), BoxError> {
    match response.status() {
        status if status == expected => Ok(()),
        status => Err(format!("status {status}").into()),
    }
}
