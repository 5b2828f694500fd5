//! How does an axum server forward its users' requests to api.video without ever showing them a token?
//!
//! `cargo run --example axum_gateway` serves on this machine, in front of a fake api.video, and prints what to ask it
//! with `curl`; Ctrl-C ends it. With `--check` it asks by itself, once. The gateway is in `gateway.rs`:
//!
//! - It binds loopback, and answers only to its own `Host`. What changes something has to come from its own pages.
//! - It asks who the user is. Your login is one function; until that is filled in, nobody is let in.
//! - Methods, paths and headers pass by lists, in both directions. All that passes has a limit and a time.

mod connections;
mod gateway;

use std::{env, future::ready, io, time::Duration};

use apivideo_auth::{ApiVideoAuthLayer, SourceStatus, testing::FakeApi};
use axum::{
    body::Body,
    http::{HeaderValue, Request, StatusCode, header, request::Parts},
    response::Response,
    routing::get,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use rustls::crypto::ring;
use sha2::{Digest, Sha256};
use tokio::{net::TcpListener, signal};
use tower::{BoxError, Layer};
use tower_http::set_header::SetResponseHeaderLayer;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt::init();
    // What an API lets other sites do, and the cookies that it sets, are not to come out.
    let api = FakeApi::builder()
        .cors("*")
        .response_header("set-cookie", "balancer=test-only; Path=/")
        .serve()
        .await?;
    let layer = ApiVideoAuthLayer::builder()
        .base_url(api.url())
        .api_key(api.api_key())
        .build()?;
    let result = serve(&layer).await;
    layer.shutdown(Duration::from_secs(5)).await;
    result?;
    println!("axum_gateway: ok forwarded={}", api.counts().api_calls);
    Ok(())
}

/// Until Ctrl-C, or until the check is done.
async fn serve(layer: &ApiVideoAuthLayer) -> Result<(), BoxError> {
    let mut random = [0; 16];
    let filled = ring::default_provider().secure_random.fill(&mut random);
    filled.map_err(|_| "no random numbers")?;
    let user = format!("visitor:{:032x}", u128::from_le_bytes(random));
    let authorization = format!("Basic {}", BASE64_STANDARD.encode(&user));
    let login = Password(Sha256::digest(&authorization).into());

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let upstream = layer.layer(Client::builder(TokioExecutor::new()).build_http());
    let source = upstream.source::<Body>();
    let health = move || ready(health(&source.status()));
    let ask = |response: &Response| {
        let asks = response.status() == StatusCode::UNAUTHORIZED;
        asks.then(|| HeaderValue::from_static("Basic"))
    };
    let ask = SetResponseHeaderLayer::overriding(header::WWW_AUTHENTICATE, ask);
    let app = gateway::gateway(upstream, address, login)
        .layer(ask)
        .route("/health", get(health));
    let url = format!("http://{address}/api/videos");
    println!("curl --user {user} {url}");

    let check = env::args().any(|argument| argument == "--check");
    let end = async {
        match check {
            true => visit(&url, &authorization).await,
            false => stopped().await.map_err(BoxError::from),
        }
    };
    connections::serve(listener, app, end).await
}

/// What a balancer asks. It says nothing else, so anyone may ask.
fn health(source: &SourceStatus) -> StatusCode {
    match source.is_usable || source.failing_for.is_none() {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// By Ctrl-C, or by the SIGTERM of whoever runs it.
async fn stopped() -> io::Result<()> {
    let mut terminate = signal::unix::signal(signal::unix::SignalKind::terminate())?;
    tokio::select! {
        interrupted = signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}

/// The login of this run: one password, which is printed at the start.
#[derive(Clone)]
struct Password([u8; 32]);

impl gateway::Login for Password {
    async fn user(&self, parts: &Parts) -> Result<gateway::User, StatusCode> {
        // Digests are compared: the time that it takes says nothing of the password.
        match parts.headers.get(header::AUTHORIZATION) {
            Some(given) if Sha256::digest(given)[..] == self.0 => {
                Ok(gateway::User("visitor".to_owned()))
            }
            _ => Err(StatusCode::UNAUTHORIZED),
        }
    }
}

/// Once without the password, and once with it.
async fn visit(url: &str, authorization: &str) -> Result<(), BoxError> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Body>();
    for (authorization, expected) in [("", 401), (authorization, 200)] {
        let request = Request::get(url).header(header::AUTHORIZATION, authorization);
        let status = client.request(request.body(Body::empty())?).await?.status();
        if status != expected {
            return Err(format!("status {status} instead of {expected}").into());
        }
    }
    Ok(())
}
