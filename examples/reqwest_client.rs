//! How does a reqwest client get the same token source?

use std::{error::Error, time::Duration};

use apivideo_auth::{ApiVideoAuthLayer, ApiVideoAuthMiddleware, testing::FakeApi};
use reqwest_middleware::ClientBuilder;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let api = FakeApi::start().await?;
    let layer = ApiVideoAuthLayer::builder()
        .base_url(api.url())
        .api_key(api.api_key())
        .build()?;
    let result = make_and_list(&layer, &api).await;
    layer.shutdown(Duration::from_secs(5)).await;
    result?;

    let counts = api.counts();
    assert_eq!(
        (counts.logins, counts.refreshes, counts.api_calls),
        (1, 1, 3)
    );
    println!(
        "reqwest_client: ok api_calls={} logins=1 refreshes=1",
        counts.api_calls
    );
    Ok(())
}

async fn make_and_list(layer: &ApiVideoAuthLayer, api: &FakeApi) -> Result<(), Box<dyn Error>> {
    let auth = ApiVideoAuthMiddleware::new(layer, reqwest::Client::builder())?;
    let client = ClientBuilder::new(reqwest::Client::new())
        .with(auth)
        .build();

    let video = client
        .post(format!("{}/videos", api.url()))
        .header("content-type", "application/json")
        .body(r#"{"title":"made with reqwest"}"#)
        .send()
        .await?
        .error_for_status()?;
    println!("made a video: {} bytes of JSON", video.text().await?.len());

    // The server forgets the access token: the 401 is answered with a new one and a second try.
    api.revoke_access_tokens();
    let list = client.get(format!("{}/videos", api.url())).send().await?;
    list.error_for_status()?;
    Ok(())
}
