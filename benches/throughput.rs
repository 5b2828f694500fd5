//! What does the layer cost a hyper client at full load?
//!
//! `cargo bench --bench throughput` starts ten processes, one after the other, which takes about five minutes. Each sends as
//! many requests as it can over loopback, in turns: with a header that was made once, with the layer, and with a layer that
//! keeps no request for a replay. It writes what it prints to `docs/throughput.txt` too. `-- 20` starts twenty, and
//! `-- --quick` one, with short rounds, which writes nothing.
//!
//! A rate is one of requests in a second of processor time. At full load the time by the clock says the same, and on a
//! machine that does other things it says less. A ratio is one of rates of the same round of the same process. The process
//! says the median of its rounds, and the table shows the median of the processes with the quartiles.
//!
//! Each way has a fake api.video of its own, which checks each bearer. The layers' tokens live for two seconds; those of a
//! static header outlive the run, since nobody renews it. The servers are the same code and do next to nothing for `/echo`,
//! but they share the cores with the client: a figure is what both sides do together.

use std::{
    env,
    fmt::Write,
    fs,
    process::{Command, ExitCode, Stdio},
    thread::available_parallelism,
    time::Duration,
};

use apivideo_auth::{ApiVideoAuthLayer, testing::FakeApi};
use bytes::Bytes;
use futures::future::LocalBoxFuture;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::time::Instant;
use tower::{BoxError, Layer, Service, ServiceExt};
use tower_http::set_header::SetRequestHeaderLayer;

type Body = Full<Bytes>;

const PROCESSES: usize = 10;
const TASKS: usize = 64;
const ROUNDS: usize = 3;
const TOKEN_LIFETIME: Duration = Duration::from_secs(2);

/// Of each way. All rounds together are longer than a token lives, so that there are renewals under load.
const ROUND: Duration = Duration::from_millis(1200);
const QUICK_ROUND: Duration = Duration::from_millis(400);

const ONE_PROCESS: &str = "--one-process";
const QUICK: &str = "--quick";
const RESULT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/throughput.txt");

const PROTOCOLS: [&str; 2] = ["HTTP/1", "HTTP/2"];
const STATIC: &str = "static header";
const WAYS: [&str; 3] = [STATIC, "with the layer", "no replay"];

/// What is wanted of both layers.
const GOAL: f64 = 0.98;

fn main() -> ExitCode {
    match run() {
        Ok(summary) => {
            println!("{summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("throughput: FAILED {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<String, BoxError> {
    // Cargo adds a word of its own.
    let words: Vec<_> = env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    let is_quick = words.iter().any(|word| word == QUICK);
    if words.iter().any(|word| word == ONE_PROCESS) {
        return one_process(if is_quick { QUICK_ROUND } else { ROUND });
    }
    let processes = match words.first() {
        _ if is_quick => 1,
        None => PROCESSES,
        Some(number) => number.parse()?,
    };
    let mut figures = Vec::new();
    for process in 1..=processes {
        eprintln!("process {process} of {processes}");
        let mut command = Command::new(env::current_exe()?);
        command.arg(ONE_PROCESS).args(is_quick.then_some(QUICK));
        let output = command.stderr(Stdio::inherit()).output()?;
        let lines = String::from_utf8(output.stdout)?;
        if !output.status.success() {
            return Err(lines.trim_end().to_owned().into());
        }
        for line in lines.lines() {
            figures.push(Figures::read(line).ok_or("a line that is none")?);
        }
    }
    let text = table(processes, &figures)?;
    if !is_quick {
        fs::write(RESULT, format!("{text}\n"))?;
    }
    Ok(text)
}

/// What a process measured of one way.
struct Figures {
    protocol: usize,
    way: usize,
    rate: f64,
    /// Of the rate, to that of the static header.
    ratio: f64,
    /// In microseconds.
    p50: f64,
    p999: f64,
}

impl Figures {
    fn line(&self) -> String {
        let Self {
            protocol,
            way,
            rate,
            ratio,
            p50,
            p999,
        } = self;
        format!("{protocol}\t{way}\t{rate}\t{ratio}\t{p50}\t{p999}")
    }

    fn read(line: &str) -> Option<Self> {
        let mut words = line.split('\t');
        let mut index = || words.next()?.parse().ok();
        let (protocol, way) = (index()?, index()?);
        let mut number = || words.next()?.parse().ok();
        Some(Self {
            protocol,
            way,
            rate: number()?,
            ratio: number()?,
            p50: number()?,
            p999: number()?,
        })
    }
}

fn table(processes: usize, figures: &[Figures]) -> Result<String, BoxError> {
    let mut text = format!(
        "{processes} processes, {TASKS} tasks, tokens that live {} s; client and server share {} cores\n\n",
        TOKEN_LIFETIME.as_secs(),
        available_parallelism()?
    );
    let mut summary = String::new();
    for (protocol, name) in PROTOCOLS.into_iter().enumerate() {
        writeln!(
            text,
            "{name:<16} ratio (quartiles)        requests/s of processor time    p50 us   p99.9 us"
        )?;
        for (way, title) in WAYS.into_iter().enumerate() {
            let spread = |pick: fn(&Figures) -> f64| {
                let own = |it: &&Figures| it.protocol == protocol && it.way == way;
                quartiles(figures.iter().filter(own).map(pick).collect())
            };
            let [low, ratio, high] = spread(|it| it.ratio);
            let [rate, p50, p999] = [
                spread(|it| it.rate),
                spread(|it| it.p50),
                spread(|it| it.p999),
            ]
            .map(|it| it[1]);
            let verdict = match title {
                STATIC => "",
                _ if ratio >= GOAL => "  met",
                _ => "  missed",
            };
            writeln!(
                text,
                "  {title:<14} {ratio:.3} ({low:.3} to {high:.3})   {rate:>28.0} {p50:>9.0} {p999:>10.0}{verdict}"
            )?;
            if way == 1 {
                let name = name.to_lowercase().replace('/', "");
                write!(summary, "{name}_ratio={ratio:.3} ")?;
            }
        }
        text.push('\n');
    }
    write!(text, "goal {GOAL}\nthroughput: ok {summary}failures=0")?;
    Ok(text)
}

fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1) as f64;
    let at = |part: f64| values.get((last * part).round() as usize).copied();
    [0.25, 0.5, 0.75].map(|part| at(part).unwrap_or(f64::NAN))
}

#[tokio::main]
async fn one_process(length: Duration) -> Result<String, BoxError> {
    let mut lines = Vec::new();
    for protocol in 0..PROTOCOLS.len() {
        let figures = measure(protocol, length).await?;
        lines.extend(figures.iter().map(Figures::line));
    }
    Ok(lines.join("\n"))
}

/// Requests per second, and what was seen.
type Round = LocalBoxFuture<'static, Result<(f64, Totals), BoxError>>;

/// A way of sending, and what was seen of it.
struct Way {
    api: FakeApi,
    send: Box<dyn Fn(Duration) -> Round>,
    rates: Vec<f64>,
    seen: Totals,
}

impl Way {
    fn new<S>(api: FakeApi, client: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<Incoming>> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send,
    {
        // Not `/videos`: the less the server does, the more of a difference between the clients shows.
        let url = format!("{}/echo", api.url());
        Self {
            api,
            send: Box::new(move |length| Box::pin(round(client.clone(), url.clone(), length))),
            rates: Vec::new(),
            seen: Totals::default(),
        }
    }
}

/// In the order of `WAYS`.
async fn measure(protocol: usize, length: Duration) -> Result<Vec<Figures>, BoxError> {
    let hyper = Client::builder(TokioExecutor::new())
        .http2_only(PROTOCOLS[protocol] == "HTTP/2")
        .build_http::<Body>();
    let renewing = || FakeApi::builder().token_lifetime(TOKEN_LIFETIME);
    let builder = |api: &FakeApi| {
        ApiVideoAuthLayer::builder()
            .base_url(api.url())
            .api_key(api.api_key())
    };
    let api = FakeApi::builder().journal(false).serve().await?;
    let mut bearer = HeaderValue::try_from(format!("Bearer {}", api.mint_pair().0))?;
    // As the layer's: HTTP/2 keeps a sensitive header out of its compression table, and so sends it whole each time.
    bearer.set_sensitive(true);
    let fixed = SetRequestHeaderLayer::overriding(header::AUTHORIZATION, bearer);
    let mut ways = vec![Way::new(api, fixed.layer(hyper.clone()))];
    let api = renewing().journal(false).serve().await?;
    let kept = builder(&api).build()?;
    ways.push(Way::new(api, kept.layer(hyper.clone())));
    let api = renewing().journal(false).serve().await?;
    let bare = builder(&api).no_replay().build()?;
    ways.push(Way::new(api, bare.layer(hyper)));

    for number in 0..=ROUNDS {
        // Who goes first changes, so that a machine that slows down or warms up favours none.
        for index in 0..ways.len() {
            let index = (index + number) % WAYS.len();
            let way = &mut ways[index];
            let (rate, seen) = (way.send)(length).await?;
            way.seen.failures += seen.failures;
            way.seen.first_failure = way.seen.first_failure.take().or(seen.first_failure);
            // The first round opens the connections and does not count.
            if number > 0 {
                way.rates.push(rate);
                way.seen.times.extend(seen.times);
            }
        }
    }
    kept.shutdown(Duration::from_secs(5)).await;
    bare.shutdown(Duration::from_secs(5)).await;

    let mut figures = Vec::new();
    for (way, name) in WAYS.into_iter().enumerate() {
        let ratios = ways[way].rates.iter().zip(&ways[0].rates);
        let ratios = ratios.map(|(rate, fixed)| rate / fixed).collect();
        let Way {
            api, rates, seen, ..
        } = &mut ways[way];
        let counts = api.counts();
        let wrong = name != STATIC && (counts.refreshes == 0 || counts.max_in_flight != 1);
        if seen.failures > 0 || counts.unauthorized > 0 || wrong {
            let first = seen.first_failure.take();
            let (protocol, failures) = (PROTOCOLS[protocol], seen.failures);
            let what = format!("{protocol}, {name}: {failures} failures, {first:?}, {counts:?}");
            return Err(what.into());
        }
        seen.times.sort_unstable();
        figures.push(Figures {
            protocol,
            way,
            rate: quartiles(rates.clone())[1],
            ratio: quartiles(ratios)[1],
            p50: seen.quantile(0.5).into(),
            p999: seen.quantile(0.999).into(),
        });
    }
    Ok(figures)
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

/// All tasks send for the time `length`; returns the requests that were answered with a 200, by the second of processor
/// time, and what was seen.
async fn round<S>(client: S, url: String, length: Duration) -> Result<(f64, Totals), BoxError>
where
    S: Service<Request<Body>, Response = Response<Incoming>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
{
    let start = processor_time();
    let end = Instant::now() + length;
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| tokio::spawn(work(client.clone(), url.clone(), end)))
        .collect();
    let mut all = Totals::default();
    for task in tasks {
        let seen = task.await?;
        all.times.extend(seen.times);
        all.failures += seen.failures;
        all.first_failure = all.first_failure.take().or(seen.first_failure);
    }
    let worked = processor_time() - start;
    Ok((all.times.len() as f64 / worked.as_secs_f64(), all))
}

/// The time for which the threads of this process have run.
#[cfg(unix)]
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.try_into().expect("a clock that starts at zero")
}

/// No more than an approximation: what else ran meanwhile counts too.
#[cfg(not(unix))]
fn processor_time() -> Duration {
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    START.elapsed()
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
