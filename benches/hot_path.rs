//! What the layer costs while its token is usable, as a ratio to a header that never changes.
//!
//! `cargo bench --bench hot_path` starts twelve processes, one after the other, and prints the median and the
//! quartiles of what they measured. `cargo bench --bench hot_path -- 24` starts 24. One process alone says little:
//! where its memory lies is left to chance, and this alone makes a ratio 1.05 in one process and 1.40 in the next.
//!
//! The wrapped service answers at once and does nothing. All ways of sending build the same request. `static` is
//! tower-http's header layer with a value made once. `naive` is what is often written by hand: an `RwLock` around the
//! token, a header formatted for each request, and a boxed future. `2 threads` is two threads with 32 clones each, in
//! turn; they need two processors. A ratio is taken between times of the same round of the same process, and a process
//! prints the median of its rounds. A lap is short, so that other programs disturb few of them, and what counts is the
//! processor time of its thread: on a busy machine the time by the clock has other programs in it.
//!
//! # Comparing two trees
//!
//! Both trees need this same file; copy it into an older one. Build there, and measure here:
//!
//! ```sh
//! (cd ../old && cargo bench --bench hot_path --no-run)   # prints the program's path
//! cargo bench --bench hot_path -- --against ../old/target/release/deps/hot_path-0123456789abcdef
//! ```
//!
//! The processes of the two programs take turns, and two tables are printed. Do not compare two runs that were made one
//! after the other: on a virtual machine the same program showed 1.20 for `no replay` in two threads in one run, and
//! 0.83 half an hour later.
//!
//! A way is *not slower* in a scenario if its quartiles in the two tables overlap, or are lower here. A cell that is
//! slower is marked with `!`. Of so many cells one may be marked by chance: `naive` is the same in both trees and shows
//! how much chance there is. Measure again, with more processes, before you believe a mark.
//!
//! `cargo bench --bench hot_path -- --one-process` prints what one process measured, for programs to read: scenario,
//! threads, way and value in each line, with tabs between them.
//!
//! # A profile
//!
//! `--send SCENARIO WAY` sends half a million requests in one way and measures nothing:
//!
//! ```sh
//! perf record -e cpu-clock -F 10000 target/release/deps/hot_path-0123456789abcdef --send 'new map' 'no replay'
//! perf report --no-children
//! ```
//!
//! `valgrind --tool=callgrind` counts its instructions, which are the same on a busy machine. It needs rustix with the feature
//! `use-libc-auxv`, added for that time.

use std::{
    collections::HashMap,
    env,
    error::Error,
    future::{Future, Ready, ready},
    hint::{black_box, spin_loop},
    path::Path,
    pin::{Pin, pin},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use apivideo_auth::{ApiVideoAuthLayer, testing::FakeApi};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri, header};
use http_body_util::Full;
use tokio::{sync::RwLock, time::Instant};
use tower::{BoxError, Layer, Service, ServiceExt};
use tower_http::set_header::SetRequestHeaderLayer;

type Body = Full<Bytes>;

/// As many as it takes for quartiles of the same program to overlap when it is measured again.
const PROCESSES: usize = 12;

const ONE_PROCESS: &str = "--one-process";
const AGAINST: &str = "--against";
const SEND: &str = "--send";

/// How often `--send` sends: starting the program is a small part of that.
const LAPS: usize = 1000;

/// Of each scenario in each process. On a busy machine most of the time is spent waiting for a moment in which two
/// threads run at once: with more rounds, that would take many minutes.
const ROUNDS: usize = 40;

/// Of each way in a round, the lap: a tenth of a millisecond, in which a thread is seldom taken off its processor.
const REQUESTS: usize = 512;

const ONE_TASK: &str = "1 task";
const TWO_THREADS: &str = "2 threads";

/// Of each of the two threads.
const CLONES: usize = 32;

const STATIC: &str = "static";
const WAYS: [&str; 4] = [STATIC, "no replay", "replay", "naive"];

/// What the processes of one program measured, by name and in order of size.
type Values = HashMap<String, Vec<f64>>;

fn main() -> Result<(), Box<dyn Error>> {
    let mut processes = PROCESSES;
    let mut programs = vec![(env::current_exe()?, Values::new())];
    // Cargo adds a word of its own.
    let mut words = env::args().skip(1).filter(|word| word != "--bench");
    while let Some(word) = words.next() {
        match word.as_str() {
            ONE_PROCESS => {
                measure();
                return Ok(());
            }
            SEND => {
                let mut word = || words.next().ok_or("a scenario or a way is missing");
                return send(&word()?, &word()?);
            }
            AGAINST => {
                let program = words.next().ok_or("the other program is missing")?;
                programs.push((program.into(), Values::new()));
            }
            number => {
                let wrong = |_| format!("`{number}` is no number of processes");
                processes = number.parse().map_err(wrong)?;
            }
        }
    }
    for process in 1..=processes {
        eprintln!("process {process} of {processes}");
        for (program, values) in &mut programs {
            one_process(program, values)?;
        }
    }
    println!(
        "\nstatic: the median of its ns; the others: quartile, median, quartile of the ratio to static"
    );
    for (program, values) in &programs {
        println!("\n{}, {processes} processes", program.display());
        // The last one, or the only one, is not slower than itself.
        print(values, &programs[programs.len() - 1].1);
    }
    Ok(())
}

fn send(scenario: &str, way: &str) -> Result<(), Box<dyn Error>> {
    let scenario = SCENARIOS.iter().find(|known| known.name == scenario);
    let way = WAYS.iter().position(|known| *known == way);
    let (scenario, way) = scenario.zip(way).ok_or("no such scenario or way")?;
    let mut client = ways()[way](1);
    (0..LAPS).for_each(|_| client(*scenario));
    Ok(())
}

fn one_process(program: &Path, values: &mut Values) -> Result<(), Box<dyn Error>> {
    let output = Command::new(program)
        .arg(ONE_PROCESS)
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!("{} failed: {}", program.display(), output.status).into());
    }
    for line in String::from_utf8(output.stdout)?.lines() {
        let (name, value) = line.rsplit_once('\t').ok_or("a line without a value")?;
        let values = values.entry(name.to_owned()).or_default();
        values.push(value.parse()?);
        values.sort_by(f64::total_cmp);
    }
    Ok(())
}

/// The name of a value.
fn name(scenario: Scenario, threads: &str, way: &str) -> String {
    format!("{}\t{threads}\t{way}", scenario.name)
}

/// A line for each scenario. What is slower than the others' values is marked.
fn print(values: &Values, others: &Values) {
    let [fixed, ways @ ..] = WAYS;
    let heads = ways.map(|way| format!("{way:>20}"));
    println!("{:28}{fixed:>8}{}", "", heads.concat());
    for scenario in SCENARIOS {
        for threads in [ONE_TASK, TWO_THREADS] {
            let cell = |way| {
                let name = name(scenario, threads, way);
                let [low, median, high] = quartiles(values.get(&name));
                let [_, _, limit] = quartiles(others.get(&name));
                let mark = if low > limit { '!' } else { ' ' };
                format!("{low:>9.2} {median:.2} {high:.2}{mark}")
            };
            let [_, time, _] = quartiles(values.get(&name(scenario, threads, fixed)));
            let title = format!("{}, {threads}", scenario.name);
            println!("{title:28}{time:>8.0}{}", ways.map(cell).concat());
        }
    }
}

fn quartiles(sorted: Option<&Vec<f64>>) -> [f64; 3] {
    let sorted = sorted.map_or(&[] as &[f64], Vec::as_slice);
    [0.25, 0.5, 0.75].map(|part| {
        let index = sorted.len().saturating_sub(1) as f64 * part;
        sorted
            .get(index.round() as usize)
            .copied()
            .unwrap_or(f64::NAN)
    })
}

/// Prints a line for each scenario, number of threads and way.
fn measure() {
    let ways = ways();
    for scenario in SCENARIOS {
        let times = [scenario.one_task(&ways), scenario.two_threads(&ways)];
        for (threads, times) in [ONE_TASK, TWO_THREADS].into_iter().zip(times) {
            for (way, own) in WAYS.into_iter().zip(&times) {
                let mut values = own.clone();
                if way != STATIC {
                    let fixed = times[0].iter();
                    values
                        .iter_mut()
                        .zip(fixed)
                        .for_each(|(time, fixed)| *time /= fixed);
                }
                values.sort_by(f64::total_cmp);
                let [_, median, _] = quartiles(Some(&values));
                println!("{}\t{median:.4}", name(scenario, threads, way));
            }
        }
    }
}

/// Answers at once, with the headers of the request. As large as a small client.
#[derive(Clone)]
struct Nothing {
    _ballast: [u64; 32],
}

const NOTHING: Nothing = Nothing { _ballast: [0; 32] };

impl Service<Request<Body>> for Nothing {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Ready<Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut response = Response::new(Body::default());
        *response.headers_mut() = black_box(request).into_parts().0.headers;
        ready(Ok(response))
    }
}

#[derive(Clone)]
struct Naive<S> {
    inner: S,
    token: Arc<RwLock<String>>,
}

impl<S> Service<Request<Body>> for Naive<S>
where
    S: Service<Request<Body>> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);
        let token = self.token.clone();
        Box::pin(async move {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.read().await))
                .expect("a good token");
            value.set_sensitive(true);
            request.headers_mut().insert(header::AUTHORIZATION, value);
            inner.call(request).await
        })
    }
}

/// What is sent, and how.
#[derive(Clone, Copy)]
struct Scenario {
    name: &'static str,
    uri: &'static str,
    /// How many headers a request has.
    headers: usize,
    /// Whether the header map has room already.
    is_warm: bool,
    /// Whether each request is sent by a clone made for it.
    clones: bool,
}

const USUAL: Scenario = Scenario {
    name: "new map",
    uri: "https://ws.api.video/videos",
    headers: 0,
    is_warm: false,
    clones: false,
};

const SCENARIOS: [Scenario; 6] = [
    USUAL,
    Scenario {
        name: "warm map",
        is_warm: true,
        ..USUAL
    },
    Scenario {
        name: "5 headers",
        headers: 5,
        ..USUAL
    },
    Scenario {
        name: "clone per request",
        clones: true,
        ..USUAL
    },
    Scenario {
        name: "path only",
        uri: "/videos",
        ..USUAL
    },
    Scenario {
        name: "other origin",
        uri: "https://example.com/videos",
        ..USUAL
    },
];

impl Scenario {
    /// Sends requests in turn over some clones. Nothing here ever has to wait.
    fn send<S>(self, clients: &mut [S])
    where
        S: Service<Request<Body>, Response = Response<Body>> + Clone,
    {
        let uri = Uri::from_static(self.uri);
        let mut context = Context::from_waker(Waker::noop());
        let mut map = HeaderMap::new();
        let mut left = REQUESTS;
        while left > 0 {
            for client in clients.iter_mut() {
                if left == 0 {
                    break;
                }
                left -= 1;
                let mut request = Request::new(Body::default());
                *request.uri_mut() = uri.clone();
                *request.headers_mut() = std::mem::take(&mut map);
                for name in NAMES.iter().take(self.headers) {
                    request
                        .headers_mut()
                        .insert(name, HeaderValue::from_static("value"));
                }
                let mut one;
                let client = if self.clones {
                    one = client.clone();
                    &mut one
                } else {
                    client
                };
                assert!(client.poll_ready(&mut context).is_ready());
                let Poll::Ready(Ok(response)) = pin!(client.call(request)).poll(&mut context)
                else {
                    panic!("a usable token is waited for, or the service fails");
                };
                if self.is_warm {
                    map = response.into_parts().0.headers;
                    map.clear();
                }
            }
        }
    }

    fn one_task(self, ways: &[GrantType]) -> Vec<Times> {
        self.times(ways, 1, || ())
    }

    /// The mean of the two.
    fn two_threads(self, ways: &[GrantType]) -> Vec<Times> {
        let start = Start::default();
        thread::scope(|scope| {
            let other = scope.spawn(|| self.times(ways, CLONES, || start.follow()));
            let mut times = self.times(ways, CLONES, || start.lead());
            let others = other.join().expect("no panic inside");
            for (time, other) in times.iter_mut().flatten().zip(others.iter().flatten()) {
                *time = (*time + other) / 2.0;
            }
            times
        })
    }

    /// What this thread measures, after `wait` in front of each way of each round.
    fn times(self, ways: &[GrantType], clones: usize, wait: impl Fn()) -> Vec<Times> {
        let mut clients: Vec<_> = ways.iter().map(|way| way(clones)).collect();
        let mut times = vec![Vec::with_capacity(ROUNDS); ways.len()];
        let mut order: Vec<_> = (0..ways.len()).collect();
        // Two threads need the same order.
        let mut random = fastrand::Rng::with_seed(0);
        for round in 0..=ROUNDS {
            random.shuffle(&mut order);
            for &index in &order {
                wait();
                let began = processor_time();
                clients[index](self);
                let time = (processor_time() - began).as_nanos() as f64 / REQUESTS as f64;
                // The first round warms up.
                if round > 0 {
                    times[index].push(time);
                }
            }
        }
        times
    }
}

/// The time for which this thread has run.
#[cfg(unix)]
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.try_into().expect("a clock that starts at zero")
}

/// No more than an approximation: what else ran meanwhile counts too.
#[cfg(not(unix))]
fn processor_time() -> Duration {
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    START.elapsed()
}

/// The nanoseconds of a request sent one way, by round.
type Times = Vec<f64>;

/// Lets two threads start at once. It is not enough that both have come: on a busy machine one of them may have been
/// taken off its processor meanwhile, and each would run alone. So the leader calls until the other one replies as
/// fast as only a running thread can.
#[derive(Default)]
struct Start {
    /// Counts the calls.
    call: AtomicU64,
    /// The call that was heard last.
    reply: AtomicU64,
    is_go: AtomicBool,
}

/// Far more than a reply takes from one processor to the other, far less than a thread stays away.
const AT_ONCE: Duration = Duration::from_micros(5);

impl Start {
    fn lead(&self) {
        // The other one may still stand before its last start, and must not reply to a call for the next.
        while self.is_go.load(Ordering::Acquire) {
            spin_loop();
        }
        loop {
            let called = Instant::now();
            let call = self.call.fetch_add(1, Ordering::AcqRel) + 1;
            while self.reply.load(Ordering::Acquire) != call {
                spin_loop();
            }
            if called.elapsed() < AT_ONCE {
                break;
            }
        }
        self.is_go.store(true, Ordering::Release);
    }

    fn follow(&self) {
        while !self.is_go.swap(false, Ordering::AcqRel) {
            let call = self.call.load(Ordering::Acquire);
            self.reply.store(call, Ordering::Release);
            spin_loop();
        }
    }
}

const NAMES: [HeaderName; 5] = [
    header::ACCEPT,
    header::ACCEPT_LANGUAGE,
    header::USER_AGENT,
    header::REFERER,
    header::ORIGIN,
];

/// A way of sending: given how many clones to use, something that sends over them.
type GrantType = Box<dyn Fn(usize) -> Box<dyn FnMut(Scenario)> + Sync>;

fn way<S>(client: S) -> GrantType
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Sync + 'static,
{
    Box::new(move |clones| {
        let mut clients = vec![client.clone(); clones];
        Box::new(move |scenario: Scenario| scenario.send(&mut clients))
    })
}

/// In the order of `WAYS`.
fn ways() -> [GrantType; WAYS.len()] {
    let api = FakeApi::builder().journal(false).build();
    let builder = || {
        ApiVideoAuthLayer::builder()
            .refresh_token(api.mint_pair().1)
            .token_service::<_, Body>(api.service())
    };
    let layer = builder().build().expect("good settings");
    let bare = builder().no_replay().build().expect("good settings");
    let (ours, bare) = (layer.layer(NOTHING), bare.layer(NOTHING));
    // Only for the first tokens. What is measured runs outside, where Tokio makes no future yield now and then.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    runtime.block_on(first_token(bare.clone()));
    let value = runtime.block_on(first_token(ours.clone()));
    let token = value.to_str().expect("a good token")["Bearer ".len()..].to_owned();
    let naive = Naive {
        inner: NOTHING,
        token: Arc::new(RwLock::new(token)),
    };
    let fixed = SetRequestHeaderLayer::overriding(header::AUTHORIZATION, value).layer(NOTHING);
    [way(fixed), way(bare), way(ours), way(naive)]
}

/// A copy that shares no bytes with the client's own.
async fn first_token<S>(client: S) -> HeaderValue
where
    S: Service<Request<Body>, Response = Response<Body>, Error = BoxError>,
{
    let mut request = Request::new(Body::default());
    *request.uri_mut() = Uri::from_static(USUAL.uri);
    let response = client.oneshot(request).await.expect("a token");
    let value = &response.headers()[header::AUTHORIZATION];
    HeaderValue::from_bytes(value.as_bytes()).expect("a good token")
}
