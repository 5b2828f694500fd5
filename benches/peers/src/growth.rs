//! How what this crate costs grows, with clones, with callers who wait, and with sources. Everything is on one thread, whose
//! allocations are counted.

use std::{
    cell::Cell,
    future::{Ready, pending, ready},
    rc::Rc,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures::future::{BoxFuture, Either, try_join_all};
use http::{Method, Request, Response};
use tokio::{
    runtime::{Builder, Runtime},
    task::{JoinHandle, LocalSet, spawn_local, yield_now},
};
use tower::{BoxError, Service, service_fn};

use crate::{
    alloc::live_bytes,
    api::{Api, Rules},
    peer::{Body, Client, Peer, Tower, get},
    peers::ours::Ours,
    rounds::{Goal, again_if_failed, median, ms, number, warm_up},
    service::ApiService,
    table::Table,
};

const HOUR: Duration = Duration::from_secs(3600);
const CLONES: [usize; 6] = [1, 10, 100, 1000, 10_000, 100_000];
const WAITING: [usize; 6] = [1, 10, 100, 1000, 10_000, 100_000];
const SOURCES: [usize; 4] = [10, 100, 1000, 10_000];

/// Long enough to have them all wait.
fn latency(callers: usize) -> Duration {
    Duration::from_millis(100)
        + Duration::from_micros(20) * u32::try_from(callers).unwrap_or(u32::MAX)
}

/// Requests in one go through the clones, at least.
const REQUESTS: usize = 200_000;

pub(crate) struct Outcome {
    clones: Vec<(usize, Vec<Clones>)>,
    waiting: Vec<(usize, Vec<Waiting>)>,
    sources: Vec<(usize, Vec<Sources>)>,
}

struct Clones {
    ns: f64,
    bytes: f64,
}

struct Waiting {
    bytes: f64,
    served_ms: f64,
}

struct Sources {
    bytes: f64,
    renewed_ms: f64,
}

pub(crate) fn run(quick: bool) -> Result<Outcome, String> {
    let rounds = if quick { 1 } else { 3 };
    let mut outcome = Outcome {
        clones: CLONES.map(|count| (count, Vec::new())).into(),
        waiting: WAITING.map(|count| (count, Vec::new())).into(),
        sources: SOURCES.map(|count| (count, Vec::new())).into(),
    };
    for round in 1..=rounds {
        eprintln!("growth, round {round} of {rounds}");
        for (count, done) in &mut outcome.clones {
            done.push(again_if_failed(|| clones(*count))?);
        }
        for (count, done) in &mut outcome.waiting {
            done.push(again_if_failed(|| waiting(*count))?);
        }
        for (count, done) in &mut outcome.sources {
            done.push(again_if_failed(|| sources(*count))?);
        }
    }
    Ok(outcome)
}

fn runtime() -> Result<Runtime, String> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime: {error}"))
}

fn clones(count: usize) -> Result<Clones, String> {
    runtime()?.block_on(async {
        let api = Api::new(Rules {
            latency: Duration::ZERO,
            lifetime: HOUR,
        });
        let client = Ours::client(&api, Quiet::new(&api)).await;
        warm_up(&client).await?;
        let before = live_bytes();
        let mut clones = vec![client; count];
        // A clone is complete once it has sent a few.
        go_round(&mut clones, 3).await?;
        let bytes = (live_bytes() - before) as f64 / count as f64;
        let times = REQUESTS.div_ceil(count);
        let start = Instant::now();
        go_round(&mut clones, times).await?;
        Ok(Clones {
            ns: start.elapsed().as_secs_f64() * 1e9 / (times * count) as f64,
            bytes,
        })
    })
}

async fn go_round<C: Client>(clones: &mut [C], times: usize) -> Result<(), String> {
    let uri = get("/videos").into_parts().0.uri;
    for _ in 0..times {
        for client in &mut *clones {
            let mut request = Request::new(Body::default());
            *request.uri_mut() = uri.clone();
            client
                .send(request)
                .await
                .map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

fn waiting(count: usize) -> Result<Waiting, String> {
    let never = Tower(service_fn(|_: Request<Body>| {
        pending::<Result<Response<Body>, BoxError>>()
    }));
    let bare = runtime()?.block_on(LocalSet::new().run_until(async {
        let callers = Callers::start(&never, count).await;
        let bytes = callers.bytes;
        callers.tasks.iter().for_each(JoinHandle::abort);
        bytes
    }));
    runtime()?.block_on(LocalSet::new().run_until(async {
        let api = Api::new(Rules {
            latency: latency(count),
            lifetime: HOUR,
        });
        let quiet = Quiet::new(&api);
        let client = Ours::client(&api, quiet.clone()).await;
        let callers = Callers::start(&client, count).await;
        if quiet.answered().is_some() {
            return Err(format!(
                "{count} callers took longer to start than a token call"
            ));
        }
        let mut last = None;
        for task in callers.tasks {
            last = last.max(Some(task.await.map_err(|error| error.to_string())??));
        }
        let answered = quiet.answered().ok_or("no token call")?;
        let served_ms = ms(last.ok_or("no caller")?.duration_since(answered));
        Ok(Waiting {
            bytes: (callers.bytes - bare) as f64 / count as f64,
            served_ms,
        })
    }))
}

/// Accounts of their own, as a server has that works for many users.
fn sources(count: usize) -> Result<Sources, String> {
    runtime()?.block_on(async {
        let api = Api::new(Rules {
            latency: Duration::ZERO,
            lifetime: HOUR,
        });
        let quiet = Quiet::new(&api);
        let mut clients = Vec::with_capacity(count);
        for _ in 0..count {
            let client = Ours::client(&api, quiet.clone()).await;
            warm_up(&client).await?;
            clients.push(client);
        }
        let start = Instant::now();
        let renewals = clients
            .iter()
            .map(|Tower(client)| client.source::<Body>().renew());
        try_join_all(renewals)
            .await
            .map_err(|error| error.to_string())?;
        let renewed_ms = ms(start.elapsed());
        // The API has a memory of its own, so what counts is what is gone with the clients.
        let before = live_bytes();
        drop(clients);
        Ok(Sources {
            bytes: (before - live_bytes()) as f64 / count as f64,
            renewed_ms,
        })
    })
}

/// Tasks that wait for the response to a request.
struct Callers {
    tasks: Vec<JoinHandle<Result<Instant, String>>>,
    /// What they hold.
    bytes: isize,
}

impl Callers {
    async fn start<C: Client>(client: &C, count: usize) -> Self {
        let mut tasks = Vec::with_capacity(count);
        let started = Rc::new(Cell::new(0));
        let before = live_bytes();
        for _ in 0..count {
            let (mut client, started) = (client.clone(), started.clone());
            tasks.push(spawn_local(async move {
                let request = get("/videos");
                started.set(started.get() + 1);
                let response = client.send(request).await;
                response
                    .map(|_| Instant::now())
                    .map_err(|error| error.to_string())
            }));
        }
        while started.get() < count {
            yield_now().await;
        }
        Self {
            bytes: live_bytes() - before,
            tasks,
        }
    }
}

/// Token calls go to the API. All else is answered at once.
#[derive(Clone)]
struct Quiet {
    api: ApiService,
    answered: Arc<Mutex<Option<Instant>>>,
}

impl Quiet {
    fn new(api: &Api) -> Self {
        Self {
            api: ApiService::of(api),
            answered: Arc::default(),
        }
    }

    /// When the last token call was answered.
    fn answered(&self) -> Option<Instant> {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Service<Request<Body>> for Quiet {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Either<
        Ready<Result<Response<Body>, BoxError>>,
        BoxFuture<'static, Result<Response<Body>, BoxError>>,
    >;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if request.method() != Method::POST {
            return Either::Left(ready(Ok(Response::new(Body::default()))));
        }
        let (response, answered) = (self.api.call(request), self.answered.clone());
        Either::Right(Box::pin(async move {
            let response = response.await;
            *answered.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            response
        }))
    }
}

pub(crate) fn table(outcome: &Outcome) -> String {
    let mut clones = Table::new(&["clones", "ns per request", "bytes per clone"]);
    for (count, rounds) in &outcome.clones {
        let over = |pick: fn(&Clones) -> f64| number(median(rounds.iter().map(pick)));
        clones.line(
            count,
            vec![over(|round| round.ns), over(|round| round.bytes)],
        );
    }
    let mut waiting = Table::new(&[
        "callers waiting",
        "bytes per caller",
        "from the response to the last one served (ms)",
        "the same per caller (µs)",
    ]);
    for (count, rounds) in &outcome.waiting {
        let served = median(rounds.iter().map(|round| round.served_ms));
        let bytes = median(rounds.iter().map(|round| round.bytes));
        let per_caller = served * 1000.0 / *count as f64;
        waiting.line(
            count,
            vec![number(bytes), number(served), number(per_caller)],
        );
    }
    let mut sources = Table::new(&[
        "sources",
        "bytes per source",
        "to renew them all at once (ms)",
        "the same per source (µs)",
    ]);
    for (count, rounds) in &outcome.sources {
        let renewed = median(rounds.iter().map(|round| round.renewed_ms));
        let bytes = median(rounds.iter().map(|round| round.bytes));
        let per_source = renewed * 1000.0 / *count as f64;
        sources.line(
            count,
            vec![number(bytes), number(renewed), number(per_source)],
        );
    }
    [clones, waiting, sources]
        .map(|table| table.markdown())
        .join("\n")
}

/// How much more one may cost among many than among few: caches are no longer enough for that many.
const LINEAR: f64 = 3.0;

const KIBIBYTE: f64 = 1024.0;

pub(crate) fn goal(outcome: &Outcome) -> Goal {
    let request = |rounds: &Vec<Clones>| median(rounds.iter().map(|round| round.ns));
    let served = |(count, rounds): &(usize, Vec<Waiting>)| {
        median(rounds.iter().map(|round| round.served_ms)) / *count as f64
    };
    let renewed = |(count, rounds): &(usize, Vec<Sources>)| {
        median(rounds.iter().map(|round| round.renewed_ms)) / *count as f64
    };
    let bytes = |rounds: &Vec<Waiting>| median(rounds.iter().map(|round| round.bytes));
    let times = |few: Option<f64>, many: Option<f64>| {
        many.zip(few).map_or(f64::NAN, |(many, few)| many / few)
    };
    let (clones, waiting) = (&outcome.clones, &outcome.waiting);
    let requests = times(
        clones.first().map(|one| request(&one.1)),
        clones.last().map(|one| request(&one.1)),
    );
    // A few callers are served in the time that one wake-up takes.
    let few = waiting.iter().find(|(count, _)| *count == 1000);
    let callers = times(few.map(served), waiting.last().map(served));
    let sources = times(
        outcome.sources.first().map(renewed),
        outcome.sources.last().map(renewed),
    );
    let memory = times(
        few.map(|one| bytes(&one.1)),
        waiting.last().map(|one| bytes(&one.1)),
    );
    let each = few.map_or(f64::NAN, |one| bytes(&one.1));
    Goal {
        aim: format!(
            "nothing worse than linear: what one costs grows by less than {LINEAR:.0} times; at most {KIBIBYTE} bytes for a \
             caller that waits"
        ),
        measured: format!(
            "a request {} times from 1 to 100 000 clones; from 1000 to 100 000 callers the time for each {} times, its \
             memory {} times; {} bytes for each of 1000; the renewal of one of 10 000 sources {} times that of one of 10",
            number(requests),
            number(callers),
            number(memory),
            number(each),
            number(sources)
        ),
        met: [requests, callers, memory, sources]
            .iter()
            .all(|times| *times < LINEAR)
            && each <= KIBIBYTE,
    }
}
