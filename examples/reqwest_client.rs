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
    let client = ClientBuilder::new(reqwest::Client::new())
        .with(ApiVideoAuthMiddleware::new(
            &layer,
            reqwest::Client::builder(),
        )?)
        .build();

    let video = client
        .post(format!("{}/videos", api.url()))
        .header("content-type", "application/json")
        .body(r#"{"title":"made with reqwest"}"#)
        .send()
        .await?;
    assert_eq!(video.status(), 201);
    assert!(video.text().await?.contains("made with reqwest"));

    // The server forgets the access token: the 401 is answered with a new one and a second try.
    api.revoke_access_tokens();
    let list = client.get(format!("{}/videos", api.url())).send().await?;
    assert_eq!(list.status(), 200);

    layer.shutdown(Duration::from_secs(5)).await;
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
