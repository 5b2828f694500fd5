//! Does one layer keep many clients authenticated, through expiry and revocation, with one token call at a time?
//!
//! `cargo run --example quickstart` tries it against a fake api.video on this machine whose tokens live for two
//! seconds. With `APIVIDEO_API_KEY` set it talks to the real sandbox instead.

use std::{
    collections::BTreeMap,
    io::{IsTerminal, stdout},
    process::ExitCode,
    sync::{Arc, Mutex},
    time::Duration,
};

use apivideo_auth::{
    ApiVideoAuth, ApiVideoAuthLayer, Environment, RenewalReason,
    testing::{FakeApi, Fault},
};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;
use tower::{BoxError, ServiceBuilder, ServiceExt};

type Hyper = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

const CLIENTS: usize = 50;
const RUN: Duration = Duration::from_secs(6);
const TOKEN_LIFETIME: Duration = Duration::from_secs(2);

/// How long the fake token endpoint thinks about each call.
const TOKEN_CALL: Duration = Duration::from_millis(50);

#[tokio::main]
async fn main() -> ExitCode {
    let result = match std::env::var("APIVIDEO_API_KEY") {
        Ok(key) => sandbox(key).await,
        Err(_) => fake().await,
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

fn hyper_client() -> Result<Hyper, BoxError> {
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_provider_and_webpki_roots(rustls::crypto::ring::default_provider())?
        .https_or_http()
        .enable_http1()
        .build();
    Ok(Client::builder(TokioExecutor::new()).build(connector))
}

async fn call(
    client: &ApiVideoAuth<Hyper>,
    method: Method,
    path: &str,
    body: &str,
) -> Result<StatusCode, BoxError> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .body(Full::from(body.to_owned()))?;
    let response = client.clone().oneshot(request).await?;
    let status = response.status();
    response.into_body().collect().await?;
    Ok(status)
}

/// What a client saw of one request.
struct Seen {
    took: Duration,
    during_renewal: bool,
    failure: Option<String>,
}

async fn fake() -> Result<String, BoxError> {
    let api = FakeApi::builder()
        .token_lifetime(TOKEN_LIFETIME)
        .serve()
        .await?;
    api.fault(Fault::latency(TOKEN_CALL).always());
    let layer = ApiVideoAuthLayer::builder()
        .base_url(api.url())
        .api_key(api.api_key())
        .application("quickstart", "1.0.0")
        .build()?;
    let client = ServiceBuilder::new()
        .layer(layer.clone())
        .service(hyper_client()?);
    println!(
        "{CLIENTS} clients, {} s, tokens that live {} s, against a fake api.video at {}",
        RUN.as_secs(),
        TOKEN_LIFETIME.as_secs(),
        api.url()
    );

    let causes = Arc::new(Mutex::new(BTreeMap::<&str, usize>::new()));
    let mut renewals = layer.subscribe();
    let counted = causes.clone();
    let counter = tokio::spawn(async move {
        while let Some(renewed) = renewals.next().await {
            *counted
                .lock()
                .expect("never poisoned")
                .entry(name(renewed.reason))
                .or_default() += 1;
        }
    });

    let start = Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|id| tokio::spawn(work(id, client.clone(), api.clone(), start)))
        .collect();
    let watch = watch(&client, &api, start);
    let revoked_at = watch.await?;

    let mut seen = Vec::new();
    for client in clients {
        seen.extend(client.await?);
    }
    layer.shutdown(Duration::from_secs(5)).await;
    counter.abort();

    let failures: Vec<_> = seen
        .iter()
        .filter_map(|seen| seen.failure.as_deref())
        .collect();
    let counts = api.counts();
    let causes = causes.lock().expect("never poisoned").clone();
    let slowest = seen
        .iter()
        .filter(|seen| seen.during_renewal)
        .map(|seen| seen.took)
        .max()
        .unwrap_or_default();
    let mut times: Vec<_> = seen.iter().map(|seen| seen.took).collect();
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied().unwrap_or_default();
    let by_cause: Vec<_> = causes
        .iter()
        .map(|(cause, count)| format!("{cause} {count}"))
        .collect();

    println!();
    row("requests", format_args!("{}", seen.len()));
    row("failures", format_args!("{}", failures.len()));
    row(
        "renewals, by cause",
        format_args!("{}", by_cause.join(", ")),
    );
    row("token calls", format_args!("{}", counts.token_calls));
    row(
        "token calls at once, at most",
        format_args!("{}", counts.max_in_flight),
    );
    row(
        "token revoked under load",
        format_args!(
            "at {:.1} s: {} requests met a 401 and were sent again",
            revoked_at.as_secs_f64(),
            counts.unauthorized
        ),
    );
    row(
        "slowest request in a renewal",
        format_args!(
            "{:.1} ms (median of all: {:.1} ms)",
            millis(slowest),
            millis(median)
        ),
    );
    println!();

    if let Some(first) = failures.first() {
        return Err(format!("failures={} first: {first}", failures.len()).into());
    }
    let renewals: usize = causes.values().sum();
    if renewals < 3
        || counts.max_in_flight != 1
        || counts.reuse_violations != 0
        || counts.unauthorized == 0
    {
        return Err(format!("renewals={renewals} {counts:?}").into());
    }
    let (requests, calls) = (seen.len(), counts.token_calls);
    Ok(format!(
        "requests={requests} failures=0 token_calls={calls} max_in_flight={}",
        counts.max_in_flight
    ))
}

/// One client: creates a video, then lists them, again and again.
async fn work(id: usize, client: ApiVideoAuth<Hyper>, api: FakeApi, start: Instant) -> Vec<Seen> {
    let mut seen = Vec::new();
    while start.elapsed() < RUN {
        let renewing = api.counts().in_flight > 0;
        let begun = Instant::now();
        let (result, expected) = if seen.len() % 20 == 0 {
            let body = format!(r#"{{"title":"video {} of client {id}"}}"#, seen.len());
            (
                call(&client, Method::POST, "/videos", &body).await,
                StatusCode::CREATED,
            )
        } else {
            (
                call(&client, Method::GET, "/videos", "").await,
                StatusCode::OK,
            )
        };
        let failure = match result {
            Ok(status) if status == expected => None,
            Ok(status) => Some(format!("status {status}")),
            Err(error) => Some(error.to_string()),
        };
        let during_renewal = renewing || api.counts().in_flight > 0;
        seen.push(Seen {
            took: begun.elapsed(),
            during_renewal,
            failure,
        });
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    seen
}

/// Shows progress, forces a renewal at a third of the time and revokes the token at two thirds. Says when it did.
async fn watch(
    client: &ApiVideoAuth<Hyper>,
    api: &FakeApi,
    start: Instant,
) -> Result<Duration, BoxError> {
    let steps = 60;
    let bar = if stdout().is_terminal() {
        ProgressBar::new(steps)
    } else {
        ProgressBar::hidden()
    };
    bar.set_style(ProgressStyle::with_template("{bar:40} {elapsed} {msg}")?);
    let mut revoked_at = Duration::ZERO;
    for step in 1..=steps {
        tokio::time::sleep_until(start + RUN * u32::try_from(step)? / u32::try_from(steps)?).await;
        let note = match step {
            20 => {
                let bearer = client.source().renew().await?;
                format!("renewed on demand: token {}", bearer.generation())
            }
            40 => {
                api.revoke_access_tokens();
                revoked_at = start.elapsed();
                "access token revoked on the server".to_owned()
            }
            _ if step % 10 == 0 => {
                let counts = api.counts();
                format!(
                    "{} requests, {} token calls",
                    counts.api_calls, counts.token_calls
                )
            }
            _ => String::new(),
        };
        bar.inc(1);
        if !note.is_empty() {
            bar.set_message(note.clone());
            if bar.is_hidden() {
                println!("{:4.1} s  {note}", start.elapsed().as_secs_f64());
            }
        }
    }
    bar.finish_and_clear();
    Ok(revoked_at)
}

/// The same against the real sandbox, as gently as possible.
async fn sandbox(key: String) -> Result<String, BoxError> {
    println!(
        "Talking to the api.video sandbox. Note: a login may end other refresh tokens of the same API key."
    );
    let layer = ApiVideoAuthLayer::builder()
        .environment(Environment::Sandbox)
        .api_key(key)
        .build()?;
    let client = ServiceBuilder::new()
        .layer(layer.clone())
        .service(hyper_client()?);
    for round in ["first", "second"] {
        let status = call(&client, Method::GET, "/videos", "").await?;
        println!("{round} list of videos: {status}");
        if status != StatusCode::OK {
            return Err(format!("status {status}").into());
        }
        if round == "first" {
            println!(
                "renewed on demand: token {}",
                client.source().renew().await?.generation()
            );
        }
    }
    let tokens = client.source().token().await?.generation();
    layer.shutdown(Duration::from_secs(5)).await;
    Ok(format!("requests=2 failures=0 tokens={tokens}"))
}

fn name(reason: RenewalReason) -> &'static str {
    match reason {
        RenewalReason::First => "first token",
        RenewalReason::Early => "ahead of expiry",
        RenewalReason::Expired => "expired",
        RenewalReason::Requested => "on demand",
        RenewalReason::Unauthorized => "after a 401",
        _ => "other",
    }
}

fn row(name: &str, value: std::fmt::Arguments<'_>) {
    println!("  {name:<30} {value}");
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
