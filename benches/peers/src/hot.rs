//! The hot path: what a request costs while the token is good.
//!
//! A request is built (`GET`, an absolute `https` URI cloned from a prepared one, an empty header map or one into which
//! five headers are put) and sent to a service that answers at once. Building the request is part of all times, of the
//! static header's too. Access tokens are as long as the API makes them.
//!
//! Where a process has its memory is left to chance, and this alone makes the ratio of one program 1.05 in one process and
//! 1.40 in the next. So several processes measure, one after the other, and the table shows the median of what they say
//! with the quartiles. In each, the peers take turns, in an order that changes from round to round. A ratio is one to the
//! static header in the same round, used in the same way; a process says the median of its rounds. The first round is left
//! out.
//!
//! The two threads are those of a tokio runtime, with 64 tasks on clones of their own, each of which lets the next one run
//! after 16 requests. One task runs on the thread that measures. All times are processor time, since other programs may
//! run too. Two threads that do not run at the same moment don't hinder each other: if one of them was late or had to share
//! its processor, the two run again, five times at most.
//!
//! `azure_core` has a request type of its own. So that nobody pays for conversions, its policy stands in a pipeline of
//! its own, and of the time that takes, the time of the same pipeline without the policy is replaced with that of the bare
//! service.

pub(crate) mod lap;
mod race;
mod row;

use std::{
    any::TypeId,
    env,
    future::{Ready, ready},
    hint,
    process::{Command, Stdio},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http::{Method, Request, Response};
use rustix::time::{ClockId, clock_gettime};
use tokio::{
    runtime::{Builder, Handle},
    task::yield_now,
};
use tower::{BoxError, Service};

pub(crate) use self::row::{Row, Use, table};
use self::{
    lap::{Head, Headers, Lap},
    race::{Runner, race},
    row::merge,
};
use crate::{
    alloc,
    api::{Api, Rules},
    peer::{Body, Client, Peer, Tower},
    peers::{azure, check, for_each_peer},
};

const THREADS: u32 = 2;
const TASKS: usize = 64;

const PROCESSES: usize = 12;

/// Of each process.
const ROUNDS: usize = 16;
const QUICK_ROUNDS: usize = 4;

/// The measure of one process, for this program to call.
pub(crate) const ONE_PROCESS: &str = "hot-one-process";

/// Few enough that a round of all peers is over before the machine's speed changes.
const REQUESTS: usize = 4096;
const REQUESTS_OF_A_TASK: usize = 1024;

/// After them a task lets the next one run.
const REQUESTS_OF_A_TURN: usize = 16;

const FIVE_HEADERS: Headers = &[
    ("user-agent", "peers/0"),
    ("accept", "application/json"),
    ("accept-encoding", "gzip"),
    ("accept-language", "en"),
    (
        "traceparent",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ),
];

#[derive(Clone)]
struct Http<C>(C);

impl<C: Client> Lap for Http<C> {
    async fn run(&mut self, head: &Head) {
        let mut request = Request::new(Body::default());
        *request.uri_mut() = head.uri.clone();
        for (name, value) in &head.fields {
            request.headers_mut().insert(name, value.clone());
        }
        let response = self
            .0
            .send(request)
            .await
            .expect("the token is there and the service answers");
        hint::black_box(response.status());
    }
}

/// Answers at once; a token call, which is a `POST`, with a pair.
#[derive(Clone, Copy)]
struct AtOnce(&'static str);

impl AtOnce {
    fn new(api: &Api) -> Self {
        let pair = api.mint();
        let answer = serde_json::json!({
            "token_type": "Bearer",
            "access_token": pair.access_token,
            "refresh_token": pair.refresh_token,
            "expires_in": pair.expires_in.as_secs(),
        });
        Self(Box::leak(answer.to_string().into_boxed_str()))
    }
}

impl Service<Request<Body>> for AtOnce {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Ready<Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let body = if request.method() == Method::POST {
            Body::from(self.0)
        } else {
            Body::default()
        };
        ready(Ok(Response::new(body)))
    }
}

/// Measures all peers. `quick` takes two processes with few rounds: enough to see that it works.
pub(crate) fn run(quick: bool) -> Result<Vec<Row>, BoxError> {
    let processes = if quick { 2 } else { PROCESSES };
    let mut measured = Vec::new();
    for process in 1..=processes {
        eprintln!("hot, process {process} of {processes}");
        let mut command = Command::new(env::current_exe()?);
        command.arg(ONE_PROCESS).stderr(Stdio::inherit());
        if quick {
            command.arg("--quick");
        }
        let output = command.output()?;
        if !output.status.success() {
            return Err(format!("a process failed: {}", output.status).into());
        }
        let lines = String::from_utf8(output.stdout)?;
        let rows: Option<Vec<_>> = lines.lines().map(Row::read).collect();
        measured.push(rows.ok_or("a process printed something else")?);
    }
    Ok(merge(&measured))
}

/// Measures all peers in this process, and prints a line for each.
pub(crate) fn one_process(quick: bool) -> Result<String, BoxError> {
    let rows = measure(if quick { QUICK_ROUNDS } else { ROUNDS })?;
    Ok(rows.iter().map(Row::line).collect::<Vec<_>>().join("\n"))
}

fn measure(rounds: usize) -> Result<Vec<Row>, BoxError> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(THREADS as usize)
        .enable_all()
        .build()?;
    for_each_peer!(|P| runtime.block_on(check::<P>())?);
    let mut rows = Vec::new();
    for (usage, headers) in [
        (Use::LongLived, &[] as Headers),
        (Use::LongLivedWithHeaders, FIVE_HEADERS),
        (Use::ClonePerRequest, &[]),
    ] {
        let track = Track {
            handle: runtime.handle().clone(),
            usage,
            headers,
        };
        rows.extend(race(&mut track.runners(), usage, rounds));
    }
    Ok(rows)
}

/// The circumstances of a race.
struct Track {
    handle: Handle,
    usage: Use,
    headers: Headers,
}

impl Track {
    /// The static header is the first of them.
    fn runners(&self) -> Vec<Runner> {
        let api = Api::new(Rules {
            latency: Duration::ZERO,
            lifetime: Duration::from_secs(3600),
        });
        let service = AtOnce::new(&api);
        let mut runners = Vec::new();
        for_each_peer!(|P| {
            if TypeId::of::<P>() == TypeId::of::<azure::Azure>() {
                let [without, with] = azure::pipelines(&api);
                runners.push(Runner {
                    is_shown: false,
                    ..self.runner::<P>(Http(Tower(service)))
                });
                runners.push(Runner {
                    is_shown: false,
                    ..self.runner::<P>(without)
                });
                runners.push(Runner {
                    is_corrected: true,
                    ..self.runner::<P>(with)
                });
            } else if runners.is_empty() || P::REPLAYS || self.usage != Use::LongLivedWithHeaders {
                let client = self.handle.block_on(P::client(&api, service));
                runners.push(self.runner::<P>(Http(client)));
            }
        });
        runners
    }

    fn runner<P: Peer>(&self, lap: impl Lap) -> Runner {
        let Self {
            handle,
            usage,
            headers,
        } = self;
        let (usage, headers) = (*usage, *headers);
        let (mut lap, head) = (lap, Head::new(headers));
        // The first requests fetch the token and warm up.
        handle.block_on(requests(&mut lap, &head, usage, REQUESTS));
        let before = alloc::count();
        handle.block_on(requests(&mut lap, &head, usage, REQUESTS));
        let allocations = (alloc::count() - before) as f64 / REQUESTS as f64;

        // A URI that threads share would cost all of them the same, and more than most headers.
        let mut laps: Vec<_> = (0..TASKS)
            .map(|_| (lap.clone(), Head::new(headers)))
            .collect();
        let [for_one, for_two] = [handle.clone(), handle.clone()];
        Runner {
            peer: P::NAME,
            is_corrected: false,
            is_shown: true,
            allocations,
            one_task: Box::new(move || {
                let start = processor_time(ClockId::ThreadCPUTime);
                for_one.block_on(requests(&mut lap, &head, usage, REQUESTS));
                let worked = processor_time(ClockId::ThreadCPUTime) - start;
                nanoseconds(worked, REQUESTS)
            }),
            two_threads: Box::new(move || for_two.block_on(side_by_side(&mut laps, usage))),
        }
    }
}

async fn requests(lap: &mut impl Lap, head: &Head, usage: Use, count: usize) {
    for _ in 0..count {
        match usage {
            Use::ClonePerRequest => lap.clone().run(head).await,
            Use::LongLived | Use::LongLivedWithHeaders => lap.run(head).await,
        }
    }
}

/// The processor time for one request of a thread, on average, and the part of the time in which the threads did run.
async fn side_by_side<L: Lap>(laps: &mut Vec<(L, Head)>, usage: Use) -> (f64, f64) {
    let (start, worked) = (Instant::now(), processor_time(ClockId::ProcessCPUTime));
    let task = |(mut lap, head): (L, Head)| {
        tokio::spawn(async move {
            for _ in 0..REQUESTS_OF_A_TASK / REQUESTS_OF_A_TURN {
                requests(&mut lap, &head, usage, REQUESTS_OF_A_TURN).await;
                yield_now().await;
            }
            (lap, head)
        })
    };
    let mut tasks: Vec<_> = laps.drain(..).map(task).collect();
    // Mostly they end in the order of their start: from the last to the first there is little to wake up for.
    while let Some(task) = tasks.pop() {
        laps.push(task.await.expect("no request fails"));
    }
    let took = start.elapsed() * THREADS;
    let worked = processor_time(ClockId::ProcessCPUTime) - worked;
    (
        nanoseconds(worked, TASKS * REQUESTS_OF_A_TASK),
        worked.as_secs_f64() / took.as_secs_f64(),
    )
}

/// Of this thread, or of all threads of this process.
fn processor_time(of: ClockId) -> Duration {
    clock_gettime(of)
        .try_into()
        .expect("a clock that starts at zero")
}

fn nanoseconds(time: Duration, requests: usize) -> f64 {
    time.as_nanos() as f64 / requests as f64
}
