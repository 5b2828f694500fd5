//! What does the layer cost a hyper client at full load?
//!
//! `cargo bench --bench throughput` sends as many requests as it can over loopback, in turn with the layer,
//! whose tokens live for two seconds, and with a header that was made once; `-- --quick` makes the rounds short.
//!
//! Each way has a fake api.video of its own, which checks each bearer: one whose tokens end after two seconds, and one
//! whose tokens outlive the run, since nobody renews a static header. They are the same code and do next to nothing
//! for `/echo`, but they share the cores with the client: a figure is what both sides do together.

use std::{process::ExitCode, thread::available_parallelism, time::Duration};

use apivideo_auth::{ApiVideoAuthLayer, testing::FakeApi};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::time::Instant;
use tower::{BoxError, Service, ServiceBuilder, ServiceExt};
use tower_http::set_header::SetRequestHeaderLayer;

type Body = Full<Bytes>;

const TASKS: usize = 64;
const ROUNDS: usize = 5;
const TOKEN_LIFETIME: Duration = Duration::from_secs(2);

/// Longer than a token lives, so that each round has a renewal under load.
const ROUND: Duration = Duration::from_secs(3);
const QUICK_ROUND: Duration = Duration::from_millis(300);

#[tokio::main]
async fn main() -> ExitCode {
    let is_quick = std::env::args().any(|argument| argument == "--quick");
    match run(if is_quick { QUICK_ROUND } else { ROUND }).await {
        Ok(summary) => {
            println!("throughput: ok {summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("throughput: FAILED {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(length: Duration) -> Result<String, BoxError> {
    println!(
        "{TASKS} tasks, rounds of {} s, tokens that live {} s; client and server share {} cores",
        length.as_secs_f64(),
        TOKEN_LIFETIME.as_secs(),
        available_parallelism()?
    );
    let http1 = compare("HTTP/1", false, length).await?;
    let http2 = compare("HTTP/2", true, length).await?;
    Ok(format!(
        "http1_ratio={http1:.3} http2_ratio={http2:.3} failures=0"
    ))
}

/// Prints the figures of a protocol, and returns the median of the ratios.
async fn compare(protocol: &str, http2_only: bool, length: Duration) -> Result<f64, BoxError> {
    let api = FakeApi::builder()
        .token_lifetime(TOKEN_LIFETIME)
        .journal(false)
        .serve()
        .await?;
    let layer = ApiVideoAuthLayer::builder()
        .base_url(api.url())
        .api_key(api.api_key())
        .build()?;
    let result = measure(protocol, http2_only, length, &api, &layer).await;
    layer.shutdown(Duration::from_secs(5)).await;
    result
}

async fn measure(
    protocol: &str,
    http2_only: bool,
    length: Duration,
    renewed_api: &FakeApi,
    layer: &ApiVideoAuthLayer,
) -> Result<f64, BoxError> {
    let static_api = FakeApi::builder().journal(false).serve().await?;
    let hyper = Client::builder(TokioExecutor::new())
        .http2_only(http2_only)
        .build_http::<Body>();
    let with_layer = ServiceBuilder::new()
        .layer(layer.clone())
        .service(hyper.clone());

    let mut bearer = HeaderValue::try_from(format!("Bearer {}", static_api.mint_pair().0))?;
    // As the layer's: HTTP/2 keeps a sensitive header out of its compression table, and so sends it whole each time.
    bearer.set_sensitive(true);
    let with_static = ServiceBuilder::new()
        .layer(SetRequestHeaderLayer::overriding(
            header::AUTHORIZATION,
            bearer,
        ))
        .service(hyper);

    // Not `/videos`: the less the server does, the more of a difference between the clients shows.
    let renewed_url = format!("{}/echo", renewed_api.url());
    let static_url = format!("{}/echo", static_api.url());
    let mut layered = Totals::default();
    let mut fixed = Totals::default();
    // The first round opens the connections and does not count.
    round(&with_layer, &renewed_url, length / 3, &mut layered).await?;
    round(&with_static, &static_url, length / 3, &mut fixed).await?;
    layered.forget_times();
    fixed.forget_times();

    println!("\n{protocol}            with the layer    static header    ratio");
    let mut ratios = Vec::new();
    for number in 1..=ROUNDS {
        // Who goes first changes, so that a machine that slows down or warms up favours neither.
        let (layer_rate, static_rate) = if number % 2 == 1 {
            let layer_rate = round(&with_layer, &renewed_url, length, &mut layered).await?;
            (
                layer_rate,
                round(&with_static, &static_url, length, &mut fixed).await?,
            )
        } else {
            let static_rate = round(&with_static, &static_url, length, &mut fixed).await?;
            (
                round(&with_layer, &renewed_url, length, &mut layered).await?,
                static_rate,
            )
        };
        let ratio = layer_rate / static_rate;
        println!(
            "  round {number}          {layer_rate:>10.0} /s    {static_rate:>10.0} /s    {ratio:.3}"
        );
        ratios.push(ratio);
    }

    ratios.sort_by(f64::total_cmp);
    let median = ratios[ROUNDS / 2];
    let counts = renewed_api.counts();
    layered.times.sort_unstable();
    fixed.times.sort_unstable();
    for (name, share) in [("p50", 0.5), ("p99.9", 0.999)] {
        let (layered, fixed) = (layered.quantile(share), fixed.quantile(share));
        println!("  {name:<16} {layered:>10} us    {fixed:>10} us");
    }
    println!(
        "  {:<16} {:>10}       {:>10}",
        "failures", layered.failures, fixed.failures
    );
    println!(
        "  {:<16} {:>10}       {:>10}",
        "renewals", counts.refreshes, "-"
    );
    println!(
        "  {:<16} {:>10}       {:>10}",
        "401s",
        counts.unauthorized,
        static_api.counts().unauthorized
    );
    println!(
        "  median of the ratios {median:.3} ({:.3} to {:.3}), goal 0.98",
        ratios[0],
        ratios[ROUNDS - 1]
    );

    let failures = layered.failures + fixed.failures;
    if let Some(first) = layered.first_failure.or(fixed.first_failure) {
        return Err(format!("{protocol} failures={failures} first: {first}").into());
    }
    if counts.refreshes == 0 || counts.max_in_flight != 1 {
        return Err(format!("{protocol} {counts:?}").into());
    }
    Ok(median)
}

/// What the rounds of one way of sending have seen.
#[derive(Default)]
struct Totals {
    /// How long each request took, in microseconds.
    times: Vec<u32>,
    failures: usize,
    first_failure: Option<String>,
}

impl Totals {
    fn forget_times(&mut self) {
        self.times.clear();
    }

    /// Of the times, which are sorted by now.
    fn quantile(&self, share: f64) -> u32 {
        let at = (self.times.len() as f64 * share) as usize;
        self.times
            .get(at)
            .or(self.times.last())
            .copied()
            .unwrap_or(0)
    }
}

/// All tasks send for the time `length`; returns the requests that were answered with a 200, per second.
async fn round<S>(
    client: &S,
    url: &str,
    length: Duration,
    totals: &mut Totals,
) -> Result<f64, BoxError>
where
    S: Service<Request<Body>, Response = Response<Incoming>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
{
    let start = Instant::now();
    let end = start + length;
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| tokio::spawn(work(client.clone(), url.to_owned(), end)))
        .collect();
    let mut answered = 0;
    for task in tasks {
        let seen = task.await?;
        answered += seen.times.len();
        totals.times.extend(seen.times);
        totals.failures += seen.failures;
        totals.first_failure = totals.first_failure.take().or(seen.first_failure);
    }
    Ok(answered as f64 / start.elapsed().as_secs_f64())
}

/// One task: sends the next request when the last is answered.
async fn work<S>(mut client: S, url: String, end: Instant) -> Totals
where
    S: Service<Request<Body>, Response = Response<Incoming>>,
    S::Error: Into<BoxError>,
{
    let mut seen = Totals::default();
    let mut begun = Instant::now();
    while begun < end {
        let result = get(&mut client, &url).await;
        let done = Instant::now();
        let failure = match result {
            Ok(StatusCode::OK) => None,
            Ok(status) => Some(format!("status {status}")),
            Err(error) => Some(error.to_string()),
        };
        match failure {
            None => seen
                .times
                .push(u32::try_from((done - begun).as_micros()).unwrap_or(u32::MAX)),
            Some(failure) => {
                seen.failures += 1;
                seen.first_failure.get_or_insert(failure);
            }
        }
        begun = done;
    }
    seen
}

async fn get<S>(client: &mut S, url: &str) -> Result<StatusCode, BoxError>
where
    S: Service<Request<Body>, Response = Response<Incoming>>,
    S::Error: Into<BoxError>,
{
    // Parsed each time, as most programs do: one URI for all tasks would have them share its count.
    let request = Request::get(url).body(Body::default())?;
    let response = client
        .ready()
        .await
        .map_err(Into::into)?
        .call(request)
        .await
        .map_err(Into::into)?;
    let status = response.status();
    response.into_body().collect().await?;
    Ok(status)
}
