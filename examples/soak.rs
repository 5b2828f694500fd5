//! Does anything leak, stick or get lost in half an hour at full load?
//!
//! `cargo run --release --example soak -- --minutes 30` sends as many requests as it can over loopback, through one client
//! whose tokens live for two seconds and lie in a file. Meanwhile tokens are revoked, and token calls fail in every way
//! that a renewal has to survive. No request may fail, no refresh token may be spent twice, and memory and tasks are to
//! be at the end what they were after the first tenth.

use std::{
    fs,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use apivideo_auth::{
    ApiVideoAuth, ApiVideoAuthLayer,
    store::FileStore,
    testing::{FakeApi, Fault},
};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{
    runtime::Handle,
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use tower::{BoxError, Layer, Service, ServiceExt};

type LoggedIn = ApiVideoAuth<Client<HttpConnector, Full<Bytes>>>;

const TASKS: usize = 64;
const TOKEN_LIFETIME: Duration = Duration::from_secs(2);

/// Between two revocations, in seconds: more often than that, 401s are returned (guarantee G15).
const REVOKED_AFTER: std::ops::Range<u64> = 16..30;

/// Between two faults of token calls, in milliseconds.
const FAULT_AFTER: std::ops::Range<u64> = 3_000..8_000;

#[tokio::main]
async fn main() -> ExitCode {
    let result = match minutes() {
        Ok(minutes) => soak(Duration::from_secs_f64(minutes * 60.0)).await,
        Err(error) => Err(error),
    };
    match result {
        Ok(summary) => {
            println!("soak: ok {summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("soak: FAILED {error}");
            ExitCode::FAILURE
        }
    }
}

fn minutes() -> Result<f64, BoxError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [] => Ok(0.2),
        [option, minutes] if option == "--minutes" => match minutes.parse() {
            Ok(minutes) if minutes > 0.0 && minutes < 1e5 => Ok(minutes),
            _ => Err("--minutes takes a number, such as 30".into()),
        },
        _ => Err("usage: soak [--minutes M]".into()),
    }
}

async fn soak(length: Duration) -> Result<String, BoxError> {
    let api = FakeApi::builder()
        .token_lifetime(TOKEN_LIFETIME)
        .journal(false)
        .serve()
        .await?;
    let folder = tempfile::tempdir()?;
    let layer = ApiVideoAuthLayer::builder()
        .base_url(api.url())
        .api_key(api.api_key())
        .store(FileStore::in_folder(folder.path().join("tokens")))
        .build()?;
    let client = layer.layer(Client::builder(TokioExecutor::new()).build_http());
    let result = run(&api, client, length).await;
    let is_saved = layer.shutdown(Duration::from_secs(10)).await;
    let summary = result?;
    let counts = api.counts();
    if !is_saved || counts.reuse_violations > 0 || counts.max_in_flight > 1 {
        return Err(format!("saved={is_saved} {counts:?}").into());
    }
    Ok(summary)
}

async fn run(api: &FakeApi, client: LoggedIn, length: Duration) -> Result<String, BoxError> {
    let end = Instant::now() + length;
    let seen = Arc::new(Seen::default());
    let mut work = JoinSet::new();
    for _ in 0..TASKS {
        work.spawn(send(client.clone(), end, seen.clone()));
    }
    drop(client);
    let trouble = tokio::spawn(trouble(api.clone()));

    sleep(length / 10).await;
    let (rss, tasks) = (rss_kib()?, alive_tasks());
    sleep_until(end - length / 50).await;
    let (rss_growth, tasks_then) = (rss_kib()?.saturating_sub(rss), alive_tasks());
    trouble.abort();
    let mut failure = None;
    while let Some(outcome) = work.join_next().await {
        failure = failure.or(outcome?);
    }

    let counts = api.counts();
    let (requests, failed) = (
        seen.requests.load(Ordering::Relaxed),
        seen.failed.load(Ordering::Relaxed),
    );
    let summary = format!(
        "renewals={} requests={requests} failed={failed} reuse_violations={} rss_growth_kib={rss_growth} tasks={tasks_then}",
        counts.refreshes + counts.logins,
        counts.reuse_violations,
    );
    if let Some(failure) = failure {
        return Err(format!("{summary} first: {failure}").into());
    }
    // A renewal under way is a task or two.
    if tasks_then > tasks + 4 {
        return Err(format!("{summary}, and {tasks} tasks after the first tenth").into());
    }
    Ok(summary)
}

#[derive(Default)]
struct Seen {
    requests: AtomicU64,
    failed: AtomicU64,
}

/// One task: sends the next request when the last is answered. Returns its first failure.
async fn send(mut client: LoggedIn, end: Instant, seen: Arc<Seen>) -> Option<String> {
    let mut first = None;
    while Instant::now() < end {
        let failure = match get(&mut client).await {
            Ok(StatusCode::OK) => None,
            Ok(status) => Some(format!("status {status}")),
            Err(error) => Some(error.to_string()),
        };
        seen.requests.fetch_add(1, Ordering::Relaxed);
        if let Some(failure) = failure {
            seen.failed.fetch_add(1, Ordering::Relaxed);
            first.get_or_insert(failure);
        }
    }
    first
}

async fn get(client: &mut LoggedIn) -> Result<StatusCode, BoxError> {
    let request = Request::get("/echo").body(Full::default())?;
    let response = client.ready().await?.call(request).await?;
    let status = response.status();
    response.into_body().collect().await?;
    Ok(status)
}

/// Revokes tokens, and lets single token calls fail.
async fn trouble(api: FakeApi) {
    let after =
        |range: std::ops::Range<u64>, unit: u64| Duration::from_millis(fastrand::u64(range) * unit);
    let mut revoked = Instant::now() + after(REVOKED_AFTER, 1000);
    loop {
        sleep(after(FAULT_AFTER, 1)).await;
        let fault = match fastrand::u8(..8) {
            0 => Fault::status(500),
            1 => Fault::status(502),
            2 => Fault::rate_limited(1),
            3 => Fault::disconnect().before_read(),
            4 => Fault::disconnect().after_commit(),
            5 => Fault::status(504).after_commit(),
            6 => Fault::disconnect().mid_body(),
            _ => Fault::latency(Duration::from_millis(200)),
        };
        api.fault(fault);
        if Instant::now() > revoked {
            api.revoke_access_tokens();
            revoked = Instant::now() + after(REVOKED_AFTER, 1000);
        }
    }
}

fn alive_tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

/// What this process has in memory, client and server together.
fn rss_kib() -> Result<u64, BoxError> {
    let status = fs::read_to_string("/proc/self/status")
        .map_err(|error| format!("memory can only be read on Linux: {error}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.ok_or("no VmRSS")?.parse()?)
}
