//! What the layer does under load: fifty clients, tokens that expire all the time, and one that is revoked.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal, stdout},
    pin::pin,
    time::Duration,
};

use apivideo_auth::{
    ApiVideoAuthLayer, Event, RenewalEvent, RenewalReason,
    testing::{FakeApi, Fault},
};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;
use tower::{BoxError, ServiceExt};

use crate::{
    LoggedIn, get,
    table::{self, Seen},
};

const CLIENTS: usize = 50;
const RUN: Duration = Duration::from_secs(6);
const TOKEN_LIFETIME: Duration = Duration::from_secs(2);

/// How long the fake token endpoint thinks about each call.
const TOKEN_CALL: Duration = Duration::from_millis(50);

pub(crate) async fn fake_api() -> io::Result<FakeApi> {
    let api = FakeApi::builder()
        .token_lifetime(TOKEN_LIFETIME)
        .serve()
        .await?;
    api.fault(Fault::latency(TOKEN_CALL).always());
    Ok(api)
}

/// Goes on from the first request, which had this status.
pub(crate) async fn fake(
    first: StatusCode,
    layer: &ApiVideoAuthLayer,
    client: &LoggedIn,
    api: &FakeApi,
) -> Result<String, BoxError> {
    println!(
        "{CLIENTS} clients, {} s, tokens that live {} s, against a fake api.video at {}",
        RUN.as_secs(),
        TOKEN_LIFETIME.as_secs(),
        api.url()
    );
    if first != StatusCode::OK {
        return Err(format!("status {first}").into());
    }
    let mut renewals = layer.subscribe();
    let mut reasons = BTreeMap::new();
    let mut count = |renewed: RenewalEvent| *reasons.entry(name(renewed.reason)).or_default() += 1;
    renewals.latest().map(&mut count);
    let mut load = pin!(load(client, api));
    let (seen, revoked_at) = loop {
        tokio::select! {
            ended = &mut load => break ended?,
            Some(event) = renewals.next() => if let Event::Renewed(renewed) = event {
                count(renewed);
            },
        }
    };
    let counts = api.counts();
    table::print(&seen, &reasons, &counts, revoked_at);

    let failures: Vec<_> = seen
        .iter()
        .filter_map(|seen| seen.failure.as_deref())
        .collect();
    if let Some(first) = failures.first() {
        return Err(format!("failures={} first: {first}", failures.len()).into());
    }
    let renewals: usize = reasons.values().sum();
    if renewals < 3
        || counts.max_in_flight != 1
        || counts.reuse_violations != 0
        || counts.unauthorized == 0
    {
        return Err(format!("renewals={renewals} {counts:?}").into());
    }
    Ok(format!(
        "requests={} failures=0 token_calls={} max_in_flight={}",
        seen.len(),
        counts.token_calls,
        counts.max_in_flight
    ))
}

/// What the clients saw, and when the token was revoked.
async fn load(client: &LoggedIn, api: &FakeApi) -> Result<(Vec<Seen>, Duration), BoxError> {
    let start = Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|id| tokio::spawn(work(id, client.clone(), api.clone(), start)))
        .collect();
    let revoked_at = watch(client, api, start).await?;
    let mut seen = Vec::new();
    for client in clients {
        seen.extend(client.await?);
    }
    Ok((seen, revoked_at))
}

/// One client: creates a video, then lists them, again and again.
async fn work(id: usize, client: LoggedIn, api: FakeApi, start: Instant) -> Vec<Seen> {
    let mut seen = Vec::new();
    while start.elapsed() < RUN {
        let renewing = api.counts().in_flight > 0;
        let begun = Instant::now();
        let (result, expected) = if seen.len() % 20 == 0 {
            let video = format!(r#"{{"title":"video {} of client {id}"}}"#, seen.len());
            let request = Request::post("/videos").header("content-type", "application/json");
            let request = request.body(Full::from(video)).expect("a good request");
            (call(&client, request).await, StatusCode::CREATED)
        } else {
            (call(&client, get("/videos")).await, StatusCode::OK)
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
async fn watch(client: &LoggedIn, api: &FakeApi, start: Instant) -> Result<Duration, BoxError> {
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

async fn call(client: &LoggedIn, request: Request<Full<Bytes>>) -> Result<StatusCode, BoxError> {
    let response = client.clone().oneshot(request).await?;
    let status = response.status();
    response.into_body().collect().await?;
    Ok(status)
}

/// The same against the real sandbox, as gently as possible.
pub(crate) async fn sandbox(first: StatusCode, client: &LoggedIn) -> Result<String, BoxError> {
    println!("first list of videos: {first}");
    println!(
        "renewed on demand: token {}",
        client.source().renew().await?.generation()
    );
    let second = call(client, get("/videos")).await?;
    println!("second list of videos: {second}");
    if let Some(bad) = [first, second]
        .iter()
        .find(|status| **status != StatusCode::OK)
    {
        return Err(format!("status {bad}").into());
    }
    let tokens = client.source().token().await?.generation();
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
