//! G1, G2, G5 and G7 on real threads, each with a runtime of its own, that meet at barriers: what one thread in paused time
//! can't show.

use std::{
    env, io,
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    task::{Context, Poll},
    thread,
    time::{Duration, Instant},
};

use apivideo_auth::{
    ApiVideoAuth, TokenSource,
    testing::{FakeApi, FakeBody, FakeService},
};
use futures::future::BoxFuture;
use http::{Request, Response, header};
use tokio::{
    runtime::{Builder, Runtime},
    time::{sleep, timeout},
};
use tower::{Layer, Service, ServiceExt};

use crate::support::{Body, get, with_key};

const THREADS: usize = 8;

/// Far more than a round takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// The fake API. Its token calls take a moment, so that others meet them; its responses name the token they came with.
#[derive(Clone)]
struct Line(FakeService);

impl Service<Request<Body>> for Line {
    type Response = Response<FakeBody>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Response<FakeBody>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let api = self.0.clone();
        Box::pin(async move {
            if request.uri().path().starts_with("/auth/") {
                sleep(Duration::from_millis(1)).await;
            }
            let bearer = request.headers().get(header::AUTHORIZATION).cloned();
            let mut response = api.oneshot(request).await?;
            if let Some(bearer) = bearer {
                response.headers_mut().insert("x-bearer", bearer);
            }
            Ok(response)
        })
    }
}

/// The fake API numbers its tokens.
fn number(token: &str) -> u64 {
    let after = token.split("access-").nth(1).unwrap_or_default();
    let digits = after.split('.').next().unwrap_or_default();
    digits.parse().expect("a token of the fake API")
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn within<T>(runtime: &Runtime, work: impl Future<Output = T>) -> T {
    let done = runtime.block_on(async { timeout(PATIENCE, work).await });
    done.expect("within its bound")
}

/// What all threads share.
struct Shared {
    source: TokenSource,
    barrier: Barrier,
    /// The newest token of a request that has ended.
    newest: AtomicU64,
}

impl Shared {
    /// One request, which has to succeed with a token as new as any that was seen before.
    fn request(&self, runtime: &Runtime, client: &mut ApiVideoAuth<Line>) -> u64 {
        let floor = self.newest.load(SeqCst);
        let response = within(runtime, async {
            client.ready().await?.call(get("/echo")).await
        });
        let response = response.expect("a response");
        assert_eq!(response.status(), 200);
        let number = number(response.headers()["x-bearer"].to_str().unwrap());
        assert!(number >= floor, "token {number} was used after {floor}");
        self.newest.fetch_max(number, SeqCst);
        number
    }

    /// Nobody may use it from here on.
    fn invalidate(&self, runtime: &Runtime) -> u64 {
        let token = within(runtime, self.source.token());
        let token = token.expect("a token");
        self.source.invalidate(&token);
        number(token.expose())
    }

    fn renew(&self, runtime: &Runtime) {
        let renewed = within(runtime, self.source.renew());
        renewed.expect("a token");
    }
}

/// The leader's runtime goes away, at any moment of its renewal.
fn leader_dropped(
    all: &Shared,
    me: usize,
    turn: u64,
    runtime: &Runtime,
    client: &mut ApiVideoAuth<Line>,
) {
    if me == 0 {
        all.invalidate(runtime);
    }
    all.barrier.wait();
    if me < 2 {
        let doomed = self::runtime();
        let moment = Duration::from_micros(turn * 7 % 2000);
        let call = client.clone().oneshot(get("/echo"));
        let _ = doomed.block_on(async { timeout(moment, call).await });
        doomed.shutdown_background();
    }
    all.request(runtime, client);
}

/// Callers that come as a renewal ends.
fn join_against_finish(
    all: &Shared,
    me: usize,
    runtime: &Runtime,
    client: &mut ApiVideoAuth<Line>,
) {
    if me == 0 {
        all.renew(runtime);
    }
    if me == 1 {
        all.invalidate(runtime);
    }
    for _ in 0..20 {
        all.request(runtime, client);
    }
}

fn invalidate_against_publish(
    all: &Shared,
    me: usize,
    runtime: &Runtime,
    client: &mut ApiVideoAuth<Line>,
) {
    if me.is_multiple_of(2) {
        let invalidated = all.invalidate(runtime);
        assert!(all.request(runtime, client) > invalidated);
    } else {
        all.renew(runtime);
        all.request(runtime, client);
    }
}

/// Long-lived clones keep a header of their own.
fn own_copy_against_renewal(
    all: &Shared,
    me: usize,
    runtime: &Runtime,
    client: &mut ApiVideoAuth<Line>,
) {
    for _ in 0..if me == 0 { 3 } else { 100 } {
        if me == 0 {
            all.renew(runtime);
        }
        all.request(runtime, client);
    }
}

/// The others wait at a barrier for one that has panicked.
struct Exits;

impl Drop for Exits {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::exit(101);
        }
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "it measures how long it takes")]
#[ignore = "a minute of real time: `.ci/run threads`"]
fn g1_eight_threads_meet_for_a_minute() {
    let seconds = env::var("THREADS_SECONDS")
        .ok()
        .and_then(|seconds| seconds.parse().ok());
    let until = Instant::now() + Duration::from_secs(seconds.unwrap_or(60));
    let api = FakeApi::builder().journal(false).short_tokens(true).build();
    let layer = with_key(&api).build().unwrap();
    let client = layer.layer(Line(api.service()));
    let all = Shared {
        source: client.source::<Body>(),
        barrier: Barrier::new(THREADS),
        newest: AtomicU64::new(0),
    };
    let (turns, goes_on) = (AtomicU64::new(0), AtomicBool::new(true));
    thread::scope(|scope| {
        for me in 0..THREADS {
            let (all, turns, goes_on, mut client) = (&all, &turns, &goes_on, client.clone());
            scope.spawn(move || {
                let _exits = Exits;
                let runtime = runtime();
                loop {
                    let turn = turns.load(SeqCst);
                    all.barrier.wait();
                    match turn % 4 {
                        0 => leader_dropped(all, me, turn, &runtime, &mut client),
                        1 => join_against_finish(all, me, &runtime, &mut client),
                        2 => invalidate_against_publish(all, me, &runtime, &mut client),
                        _ => own_copy_against_renewal(all, me, &runtime, &mut client),
                    }
                    if all.barrier.wait().is_leader() {
                        turns.fetch_add(1, SeqCst);
                        goes_on.store(Instant::now() < until, SeqCst);
                    }
                    all.barrier.wait();
                    if !goes_on.load(SeqCst) {
                        return;
                    }
                }
            });
        }
    });
    let counts = api.counts();
    assert_eq!(counts.reuse_violations, 0);
    let (turns, requests) = (turns.load(SeqCst), counts.api_calls);
    println!(
        "threads: ok turns={turns} requests={requests} renewals={}",
        counts.grants
    );
}
