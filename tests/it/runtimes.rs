//! G5 and G6: panics, runtimes that go away, and none at all. G2: the end of the process.

use std::{
    panic::panic_any,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use apivideo_auth::{
    ApiVideoAuthLayer, ErrorKind, GrantType,
    testing::{FakeApi, FakeBody, FakeService, Fault, GatePoint, ManualClock},
};
use futures::FutureExt;
use http::{Request, Response};
use hyper_util::{client::legacy, rt::TokioExecutor};
use tokio::{runtime::Runtime, sync::Semaphore, time};
use tower::{
    BoxError, Layer, Service, ServiceBuilder, ServiceExt, limit::GlobalConcurrencyLimitLayer,
    service_fn,
};

use crate::support::{
    Body,
    child::{Child, orders, wait_for_parent},
    client, get, list, many, ours, paused, with_key, with_refresh_token,
};

const SOON: Duration = Duration::from_secs(5);

/// Panics as often as it is told, in the place it is told, then does its work.
#[derive(Clone)]
struct Panicking {
    inner: FakeService,
    place: &'static str,
    left: Arc<AtomicUsize>,
}

impl Panicking {
    fn at(&self, place: &str) {
        let panics = place == self.place
            && self
                .left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                    left.checked_sub(1)
                })
                .is_ok();
        if panics {
            panic_any("test-only panic");
        }
    }
}

impl Service<Request<Body>> for Panicking {
    type Response = Response<FakeBody>;
    type Error = BoxError;
    type Future = futures::future::BoxFuture<'static, Result<Response<FakeBody>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.at("readiness");
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.at("call");
        let this = self.clone();
        Box::pin(async move {
            this.at("future");
            Ok(this.inner.clone().oneshot(request).await?)
        })
    }
}

#[tokio::test(start_paused = true)]
async fn g5_a_panicking_token_service_poisons_nothing() {
    for place in ["readiness", "call", "future"] {
        let (api, clock) = paused();
        let left = Arc::new(AtomicUsize::new(usize::MAX));
        let token_service = Panicking {
            inner: api.service(),
            place,
            left: left.clone(),
        };
        let layer = with_refresh_token(&api)
            .clock(clock)
            .token_service::<_, Body>(token_service)
            .build()
            .unwrap();
        let client = layer.layer(api.service());
        let calls = (0..100).map(|_| tokio::spawn(client.clone().oneshot(get("/videos"))));
        for outcome in futures::future::join_all(calls).await {
            let error = outcome.expect("the caller does not panic").unwrap_err();
            assert_eq!(ours(&error).kind(), ErrorKind::Panicked, "{place}");
        }
        left.store(0, Ordering::SeqCst);
        time::sleep(Duration::from_secs(60)).await;
        assert_eq!(
            client
                .clone()
                .oneshot(get("/videos"))
                .await
                .unwrap()
                .status(),
            200,
            "{place}"
        );
        assert_eq!(api.counts().reuse_violations, 0, "{place}");
    }
}

#[tokio::test(start_paused = true)]
async fn g5_a_panicking_callback_is_an_error_and_poisons_nothing() {
    let (api, clock) = paused();
    let layer = with_refresh_token(&api)
        .clock(clock)
        .never_sent(|error| panic!("test-only panic about {error}"))
        .build()
        .unwrap();
    let clients = [client(&layer, &api)];
    api.fault(Fault::disconnect().times(2));
    for outcome in many(100, &clients).await {
        assert_eq!(ours(&outcome.unwrap_err()).kind(), ErrorKind::Panicked);
    }
    time::sleep(Duration::from_secs(60)).await;
    assert_eq!(list(&clients[0]).await.unwrap(), 200);
}

/// Where the flight of the runtime that is shut down has got to.
#[derive(Clone, Copy, Debug)]
enum Lost {
    BeforeTheSend,
    BeforeTheCommit,
    AfterTheCommit,
}

#[test]
fn g5_a_flight_whose_runtime_is_shut_down_is_taken_over() {
    for (lost, with_api_key, way, presentations) in [
        (Lost::BeforeTheSend, false, GrantType::RefreshToken, 1),
        (Lost::BeforeTheSend, true, GrantType::RefreshToken, 1),
        (Lost::BeforeTheCommit, false, GrantType::RefreshToken, 2),
        (Lost::BeforeTheCommit, true, GrantType::ApiKey, 1),
        (Lost::AfterTheCommit, true, GrantType::ApiKey, 1),
    ] {
        let (first, second) = (Runtime::new().unwrap(), Runtime::new().unwrap());
        let api = FakeApi::in_process();
        let slots = Arc::new(Semaphore::new(1));
        let waiting = Arc::new(Semaphore::new(0));
        let token_service = {
            let (waiting, service) = (waiting.clone(), api.service());
            let slots = GlobalConcurrencyLimitLayer::with_semaphore(slots.clone());
            // Tells when the flight is under way, then queues.
            let told = service_fn(move |request: Request<Body>| service.clone().oneshot(request));
            ServiceBuilder::new()
                .layer_fn(move |inner| Telling {
                    inner,
                    waiting: waiting.clone(),
                })
                .layer(slots)
                .service(told)
        };
        let mut layer = with_refresh_token(&api);
        if with_api_key {
            layer = layer.api_key(api.api_key());
        }
        let layer = layer
            .token_service::<_, Body>(token_service)
            .build()
            .unwrap();
        let service = layer.layer(api.service());

        let (slot, gate) = match lost {
            Lost::BeforeTheSend => (Some(slots.try_acquire_owned().unwrap()), None),
            Lost::BeforeTheCommit => (None, Some(api.gate(GatePoint::BeforeCommit))),
            Lost::AfterTheCommit => (None, Some(api.gate(GatePoint::AfterCommit))),
        };
        first.spawn(service.clone().oneshot(get("/videos")));
        let mut follower = Box::pin(service.clone().oneshot(get("/videos")));
        second.block_on(async {
            match &gate {
                Some(gate) => gate.reached(1).await,
                None => waiting.acquire().await.unwrap().forget(),
            }
            assert!(futures::poll!(&mut follower).is_pending());
        });
        first.shutdown_timeout(SOON);
        assert_eq!(api.counts().in_flight, 0, "{lost:?}: the flight is gone");
        drop((slot, gate));
        let response = second.block_on(async { time::timeout(SOON, follower).await });
        assert_eq!(
            response.expect("in time").unwrap().status(),
            200,
            "{lost:?}"
        );
        assert_eq!(layer.subscribe().latest().unwrap().grant, way, "{lost:?}");
        assert_eq!(api.most_presentations(), presentations, "{lost:?}");
        assert_eq!(
            (api.counts().reuse_violations, api.counts().max_in_flight),
            (0, 1),
            "{lost:?}"
        );
    }
}

/// Adds a permit whenever readiness is asked for.
#[derive(Clone)]
struct Telling<S> {
    inner: S,
    waiting: Arc<Semaphore>,
}

impl<S: Service<Request<Body>>> Service<Request<Body>> for Telling<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.waiting.add_permits(1);
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> S::Future {
        self.inner.call(request)
    }
}

#[test]
fn g6_without_a_runtime_there_are_errors_and_no_panics() {
    let clock = ManualClock::new();
    let api = FakeApi::builder().clock(clock.clone()).build();
    let layer = with_key(&api).clock(clock.clone()).build().unwrap();
    let client = client(&layer, &api);
    let error = list(&client).now_or_never().expect("no wait").unwrap_err();
    assert_eq!(ours(&error).kind(), ErrorKind::NoRuntime);
    for error in [
        client
            .source::<Body>()
            .token()
            .now_or_never()
            .expect("no wait")
            .unwrap_err(),
        client
            .source::<Body>()
            .renew()
            .now_or_never()
            .expect("no wait")
            .unwrap_err(),
        client
            .source::<Body>()
            .pair()
            .now_or_never()
            .expect("no wait")
            .map(drop)
            .unwrap_err(),
        client.source::<Body>().keep_fresh().map(drop).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::NoRuntime);
    }
    assert_eq!(api.counts().token_calls, 0);

    // With a token, fresh or stale, no runtime is needed; and none is missed afterwards.
    Runtime::new()
        .unwrap()
        .block_on(async { assert_eq!(list(&client).await.unwrap(), 200) });
    for age in [0, 3400] {
        clock.advance(Duration::from_secs(age));
        assert_eq!(list(&client).now_or_never().expect("no wait").unwrap(), 200);
    }
    assert_eq!(api.counts().token_calls, 1);
    assert!(layer.shutdown(SOON).now_or_never().expect("no wait"));
}

#[tokio::test]
async fn g6_a_source_without_credentials_says_so() {
    let api = FakeApi::in_process();
    let layer = ApiVideoAuthLayer::builder()
        .base_url(api.url())
        .build()
        .unwrap();
    let client = client(&layer, &api);
    for _ in 0..3 {
        let error = list(&client).await.unwrap_err();
        assert_eq!(
            (ours(&error).kind(), ours(&error).is_transient()),
            (ErrorKind::NoCredentials, false)
        );
    }
    layer
        .set_credentials(apivideo_auth::Credentials::new().api_key(api.api_key()))
        .unwrap();
    assert_eq!(list(&client).await.unwrap(), 200);
}

/// A program: a side renewal is under way when `main` returns.
#[test]
#[ignore = "runs as a child process"]
fn child_of_runtimes() {
    let [url, refresh_token, end] = orders();
    let clock = ManualClock::new();
    let layer = ApiVideoAuthLayer::builder()
        .base_url(url)
        .refresh_token(refresh_token)
        .clock(clock.clone())
        .build()
        .unwrap();
    let client = layer.layer(legacy::Client::builder(TokioExecutor::new()).build_http::<Body>());
    Runtime::new().unwrap().block_on(async {
        let request = || client.clone().oneshot(get("/videos"));
        assert_eq!(request().await.unwrap().status(), 200);
        clock.advance(Duration::from_secs(3400));
        tokio::task::spawn_blocking(wait_for_parent).await.unwrap();
        assert_eq!(request().await.unwrap().status(), 200);
        println!("second response");
        tokio::task::spawn_blocking(wait_for_parent).await.unwrap();
        if end == "shutdown" {
            assert!(layer.shutdown(SOON).await);
            let pair = client.source::<Body>().pair().await.unwrap();
            println!("pair {}", pair.refresh_token().unwrap().expose());
        }
    });
}

#[tokio::test]
async fn g2_a_side_renewal_ends_with_main_unless_shutdown_waits() {
    for end in ["shutdown", "return"] {
        let api = FakeApi::start().await.unwrap();
        let (_, refresh_token) = api.mint_pair();
        let mut child = Child::start(
            "runtimes::child_of_runtimes",
            &[&api.url(), &refresh_token, end],
        );
        while api
            .journal()
            .iter()
            .filter(|exchange| exchange.status.is_some())
            .count()
            < 2
        {
            time::sleep(Duration::from_millis(5)).await;
        }
        let gate = api.gate(GatePoint::AfterCommit);
        child.go_on().await;
        time::timeout(SOON, gate.reached(1))
            .await
            .expect("a side flight");
        child.go_on().await;
        let exit = tokio::spawn(child.passed());
        if end == "shutdown" {
            time::sleep(Duration::from_millis(200)).await;
            assert!(!exit.is_finished(), "it waits for the flight");
            gate.open();
        }
        let said = time::timeout(SOON, exit)
            .await
            .expect("nothing holds it up")
            .unwrap();
        assert!(said.contains("second response"), "{said}");
        if end == "shutdown" {
            let kept = format!("pair {}", api.live_refresh_token().unwrap());
            assert!(said.contains(&kept));
        }
    }
}
