//! How do I try my program against a fake api.video that runs by itself?
//!
//! `cargo run --example fake_api -- --port 8080`, and then any program, or `curl`, on this machine. It runs
//! until Ctrl-C, or `--for` so many seconds, and keeps nothing.

use std::time::Duration;

use apivideo_auth::testing::FakeApi;
use tower::BoxError;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let (mut port, mut seconds) = (0, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match (argument.as_str(), arguments.next()) {
            ("--port", Some(value)) => port = value.parse()?,
            ("--for", Some(value)) => seconds = Some(value.parse()?),
            _ => return Err("usage: fake_api [--port PORT] [--for SECONDS]".into()),
        }
    }

    // Pages of any origin may use it, as they may use the API. Requests are not kept: it may run for days.
    let api = FakeApi::builder()
        .port(port)
        .cors("*")
        .journal(false)
        .serve()
        .await?;
    let (url, key) = (api.url(), api.api_key());
    println!("A fake api.video at {url}, with an empty account. Its API key is {key}\n");
    println!("curl -u {key}: {url}/videos");
    let credentials = format!("{{\"apiKey\":\"{key}\"}}");
    println!("curl -d '{credentials}' -H 'Content-Type: application/json' {url}/auth/api-key\n");
    match seconds {
        Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
        None => tokio::signal::ctrl_c().await?,
    }
    let counts = api.counts();
    println!(
        "fake_api: ok token_calls={} api_calls={}",
        counts.token_calls, counts.api_calls
    );
    Ok(())
}
