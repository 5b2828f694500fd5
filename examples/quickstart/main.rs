//! How does a client stay logged in?
//!
//! `cargo run --example quickstart` tries it against a fake api.video on this machine whose tokens live for two seconds:
//! fifty clients send requests for six seconds, and a table says what happened (`demo.rs`, `table.rs`). With
//! `APIVIDEO_API_KEY` set, it talks to the real sandbox instead, as gently as possible.

mod demo;
mod table;

use std::{env, process::ExitCode, time::Duration};

use apivideo_auth::{ApiVideoAuth, ApiVideoAuthLayer, Environment, testing::FakeApi};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tower::{BoxError, Layer, ServiceExt};

async fn run(url: String, key: String, fake: Option<FakeApi>) -> Result<String, BoxError> {
    let hyper = hyper_client()?;

    // These three lines are all: a layer, a client under it, and requests that know nothing of tokens.
    let layer = ApiVideoAuthLayer::builder()
        .base_url(url)
        .api_key(key)
        .build()?;
    let client = layer.layer(hyper);
    let response = client.clone().oneshot(get("/videos")).await;

    let result = match (response, fake) {
        (Err(error), _) => Err(error),
        (Ok(response), Some(fake)) => demo::fake(response.status(), &layer, &client, &fake).await,
        (Ok(response), None) => demo::sandbox(response.status(), &client).await,
    };
    // A renewal that is under way is waited for, whatever went wrong: its refresh token would be lost.
    layer.shutdown(Duration::from_secs(5)).await;
    result
}

#[tokio::main]
async fn main() -> ExitCode {
    let result = match env::var("APIVIDEO_API_KEY") {
        Ok(key) => {
            println!(
                "Talking to the api.video sandbox. Note: a login may end other refresh tokens of the same API key."
            );
            run(Environment::Sandbox.base_url().to_owned(), key, None).await
        }
        Err(_) => match demo::fake_api().await {
            Ok(api) => run(api.url(), api.api_key().to_owned(), Some(api)).await,
            Err(error) => Err(error.into()),
        },
    };
    match result {
        Ok(summary) => {
            println!("quickstart: ok {summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("quickstart: FAILED {error}");
            ExitCode::FAILURE
        }
    }
}

type Hyper = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;
type LoggedIn = ApiVideoAuth<Hyper>;

fn hyper_client() -> Result<Hyper, BoxError> {
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_provider_and_webpki_roots(rustls::crypto::ring::default_provider())?
        .https_or_http()
        .enable_http1()
        .build();
    Ok(Client::builder(TokioExecutor::new()).build(connector))
}

fn get(path: &str) -> Request<Full<Bytes>> {
    let request = Request::get(path).body(Full::default());
    request.expect("a path that is written here")
}
