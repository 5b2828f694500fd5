//! How does a program work without holding the API key?
//!
//! Step 1 logs in with the key and gives its pair of tokens away. Step 2 is built from the refresh token alone and
//! works through the expiry of several access tokens. In real life the two are different programs.

use std::{process::ExitCode, time::Duration};

use apivideo_auth::{ApiVideoAuthLayer, RefreshToken, testing::FakeApi};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tower::{BoxError, Layer, ServiceExt};

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(summary) => {
            println!("hide_api_key: ok {summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("hide_api_key: FAILED {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<String, BoxError> {
    let api = FakeApi::builder()
        .token_lifetime(Duration::from_secs(1))
        .serve()
        .await?;
    let refresh_token = log_in(&api).await?;
    work(&api, refresh_token).await?;

    let counts = api.counts();
    if counts.logins != 1 || counts.refreshes < 3 || counts.reuse_violations != 0 {
        return Err(format!("unexpected token calls: {counts:?}").into());
    }
    Ok(format!(
        "logins={} refreshes={} reuse_violations=0",
        counts.logins, counts.refreshes
    ))
}

/// The only step that sees the API key.
async fn log_in(api: &FakeApi) -> Result<RefreshToken, BoxError> {
    let layer = ApiVideoAuthLayer::builder()
        .base_url(api.url())
        .api_key(api.api_key())
        .build()?;
    let client = layer.layer(Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>());
    let source = client.source();
    source.token().await?;
    // From here on nobody renews the pair any more: it can be taken elsewhere.
    layer.shutdown(Duration::from_secs(5)).await;
    let pair = source.pair().await?;
    let token = pair
        .refresh_token()
        .cloned()
        .ok_or("the API gave no refresh token")?;
    println!(
        "step 1: logged in with the API key, kept only a refresh token of {} characters",
        token.expose().len()
    );
    Ok(token)
}

/// A program that has never seen the API key.
async fn work(api: &FakeApi, refresh_token: RefreshToken) -> Result<(), BoxError> {
    let layer = ApiVideoAuthLayer::builder()
        .base_url(api.url())
        .refresh_token(refresh_token)
        .build()?;
    let client = layer.layer(Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>());
    for second in 0..4 {
        let request = Request::get("/videos").body(Full::default())?;
        let response = client.clone().oneshot(request).await?;
        let status = response.status();
        response.into_body().collect().await?;
        println!(
            "step 2: after {second} s: {status} with access token {}",
            client.source().token().await?.generation()
        );
        if status != StatusCode::OK {
            return Err(format!("status {status}").into());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    layer.shutdown(Duration::from_secs(5)).await;
    Ok(())
}
