//! G4 and G20: who holds readiness of the wrapped service, and what layers below do to token calls.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use apivideo_auth::{
    ApiVideoAuthLayer, ErrorKind, TokenCall,
    testing::{FakeApi, FakeService, Fault, GatePoint, hold_time},
};
use http::{Request, Response};
use tokio::time;
use tower::{
    BoxError, Layer, Service, ServiceBuilder, ServiceExt,
    buffer::BufferLayer,
    limit::{ConcurrencyLimitLayer, RateLimitLayer},
    retry::{Policy, RetryLayer},
    util::BoxCloneSyncService,
};

use crate::support::{Body, get, ours, paused, settle, with_refresh_token};

type Boxed =
    BoxCloneSyncService<Request<Body>, Response<apivideo_auth::testing::FakeBody>, BoxError>;

/// Services with little room, as they stand under the layer.
fn narrow(api: &FakeApi) -> [(&'static str, Boxed); 4] {
    let second = Duration::from_secs(1);
    let service = || {
        ServiceBuilder::new()
            .map_err(BoxError::from)
            .service(api.service())
    };
    let buffered = |slots| BufferLayer::new(slots);
    [
        (
            "limit 1",
            Boxed::new(ConcurrencyLimitLayer::new(1).layer(service())),
        ),
        ("buffer 1", Boxed::new(buffered(1).layer(service()))),
        (
            "buffer over rate",
            Boxed::new(buffered(1).layer(RateLimitLayer::new(1, second).layer(service()))),
        ),
        (
            "buffer over limit",
            Boxed::new(buffered(1).layer(ConcurrencyLimitLayer::new(1).layer(service()))),
        ),
    ]
}

#[tokio::test(start_paused = true)]
async fn g4_a_narrow_service_under_the_layer_is_no_deadlock() {
    for row in 0..4 {
        let (api, clock) = paused();
        let layer = with_refresh_token(&api)
            .clock(clock.clone())
            .build()
            .unwrap();
        let (name, service) = narrow(&api)[row].clone();
        let client = layer.layer(service);
        // Cold, then expired, then stale.
        for (age, calls) in [(0, 1), (3600, 2), (3400, 3)] {
            clock.advance(Duration::from_secs(age));
            let requests = (0..8).map(|_| tokio::spawn(client.clone().oneshot(get("/videos"))));
            let all = futures::future::join_all(requests);
            let answers = time::timeout(Duration::from_secs(15), all).await;
            for response in answers.unwrap_or_else(|_| panic!("{name}: deadlock")) {
                assert_eq!(response.unwrap().unwrap().status(), 200, "{name}");
            }
            time::sleep(Duration::from_secs(2)).await;
            assert_eq!(api.counts().token_calls, calls, "{name}");
        }
        assert_eq!(
            (api.counts().unauthorized, api.counts().reuse_violations),
            (0, 0),
            "{name}"
        );
    }
}

/// Waiting callers with every slot's worth of readiness: the token call still finds one.
#[tokio::test(start_paused = true)]
async fn g4_callers_who_wait_leave_the_slot_to_the_token_call() {
    let (api, clock) = paused();
    let layer = with_refresh_token(&api).clock(clock).build().unwrap();
    let mut client = layer.layer(ConcurrencyLimitLayer::new(1).layer(api.service()));
    // This one holds the only slot from `ready` to `call`.
    let response = ServiceExt::<Request<Body>>::ready(&mut client)
        .await
        .unwrap()
        .call(get("/videos"));
    let limit = Duration::from_secs(5);
    assert_eq!(
        time::timeout(limit, response)
            .await
            .expect("no deadlock")
            .unwrap()
            .status(),
        200
    );
}

#[derive(Debug, Default)]
struct Counts {
    /// Clones that were polled ready and neither called nor dropped.
    held: AtomicUsize,
    calls: AtomicUsize,
}

/// Panics when called unreadied, and counts readiness.
struct Strict {
    inner: FakeService,
    is_ready: bool,
    counts: Arc<Counts>,
}

impl Strict {
    fn leave(&mut self) -> bool {
        let was_ready = std::mem::take(&mut self.is_ready);
        self.counts
            .held
            .fetch_sub(usize::from(was_ready), Ordering::SeqCst);
        was_ready
    }
}

impl Clone for Strict {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            is_ready: false,
            counts: self.counts.clone(),
        }
    }
}

impl Drop for Strict {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Service<Request<Body>> for Strict {
    type Response = <FakeService as Service<Request<Body>>>::Response;
    type Error = <FakeService as Service<Request<Body>>>::Error;
    type Future = <FakeService as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        if !std::mem::replace(&mut self.is_ready, true) {
            self.counts.held.fetch_add(1, Ordering::SeqCst);
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        assert!(self.leave(), "called without being ready");
        self.counts.calls.fetch_add(1, Ordering::SeqCst);
        self.inner.call(request)
    }
}

#[tokio::test(start_paused = true)]
async fn g20_services_are_called_ready_and_none_is_held_ready() {
    let (api, clock) = paused();
    let layer = with_refresh_token(&api)
        .clock(clock.clone())
        .build()
        .unwrap();
    let counts = Arc::new(Counts::default());
    let strict = Strict {
        inner: api.service(),
        is_ready: false,
        counts: counts.clone(),
    };
    let client = layer.layer(strict);
    let request = || tokio::spawn(client.clone().oneshot(get("/videos")));
    // Cold, expired, and revoked, which is a 401 and a replay.
    for (turn, gate_after) in [(0, 0), (1, 3600), (2, 0)] {
        clock.advance(Duration::from_secs(gate_after));
        if turn == 2 {
            api.revoke_access_tokens();
        }
        let hold = hold_time();
        let gate = api.gate(GatePoint::BeforeCommit);
        let requests: Vec<_> = (0..50).map(|_| request()).collect();
        gate.reached(1).await;
        settle().await;
        assert_eq!(counts.held.load(Ordering::SeqCst), 0, "turn {turn}");
        gate.open();
        for request in requests {
            assert_eq!(request.await.unwrap().unwrap().status(), 200, "turn {turn}");
        }
        drop(hold);
        settle().await;
        assert_eq!(counts.held.load(Ordering::SeqCst), 0, "turn {turn}");
    }
    assert_eq!(api.counts().token_calls, 3);
    // One request gets the 401 of the revoked token; those after it wait with it.
    assert_eq!(counts.calls.load(Ordering::SeqCst), 3 + 3 * 50 + 1);
}

/// With a token at hand the very service that was polled ready is called: no clone of it is asked anything.
#[tokio::test(start_paused = true)]
async fn g20_on_the_hot_path_the_readied_service_is_called_in_place() {
    let (api, clock) = paused();
    let layer = with_refresh_token(&api).clock(clock).build().unwrap();
    let counts = Arc::new(Counts::default());
    let strict = Strict {
        inner: api.service(),
        is_ready: false,
        counts: counts.clone(),
    };
    let mut client = layer.layer(strict);
    for _ in 0..3 {
        assert_eq!(
            client
                .ready()
                .await
                .unwrap()
                .call(get("/videos"))
                .await
                .unwrap()
                .status(),
            200
        );
    }
    client.ready().await.unwrap();
    assert_eq!(counts.held.load(Ordering::SeqCst), 1);
    let response = client.call(get("/videos"));
    assert_eq!(counts.held.load(Ordering::SeqCst), 0);
    drop(response);
}

/// Its readiness and its calls fail as told.
#[derive(Clone)]
struct Failing {
    readiness: bool,
}

impl<B> Service<Request<B>> for Failing {
    type Response = Response<Body>;
    type Error = std::io::Error;
    type Future = Ready<Result<Response<Body>, std::io::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), std::io::Error>> {
        if self.readiness {
            return Poll::Ready(Err(std::io::Error::other("test-only readiness")));
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        ready(Err(std::io::Error::other("test-only call")))
    }
}

#[tokio::test(start_paused = true)]
async fn g20_errors_of_the_wrapped_service_pass_through_unchanged() {
    let (api, clock) = paused();
    let layer = with_refresh_token(&api)
        .clock(clock)
        .token_service::<_, Body>(api.service())
        .build()
        .unwrap();
    for cold in [true, false] {
        for (readiness, text) in [(false, "test-only call"), (true, "test-only readiness")] {
            let error = layer
                .layer(Failing { readiness })
                .oneshot(get("/videos"))
                .await
                .unwrap_err();
            let error = error
                .downcast::<std::io::Error>()
                .unwrap_or_else(|_| panic!("cold: {cold}"));
            assert_eq!(error.to_string(), text);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn g20_dropping_the_response_future_cancels_the_request() {
    let (api, clock) = paused();
    let layer = with_refresh_token(&api).clock(clock).build().unwrap();
    let limited = ConcurrencyLimitLayer::new(1).layer(api.service());
    let client = layer.layer(limited);
    assert_eq!(
        client
            .clone()
            .oneshot(get("/videos"))
            .await
            .unwrap()
            .status(),
        200
    );
    let hold = hold_time();
    let gate = api.gate(GatePoint::ApiResponse);
    let request = tokio::spawn(client.clone().oneshot(get("/videos")));
    gate.reached(1).await;
    request.abort();
    request.await.unwrap_err();
    gate.open();
    drop(hold);
    // The slot is free again.
    assert_eq!(client.oneshot(get("/videos")).await.unwrap().status(), 200);
}

/// Repeats what fails on the server's side, once.
#[derive(Clone)]
struct Repeat {
    left: usize,
    spares_token_calls: bool,
}

impl<R, E> Policy<Request<Body>, Response<R>, E> for Repeat {
    type Future = Ready<()>;

    fn retry(
        &mut self,
        _: &mut Request<Body>,
        result: &mut Result<Response<R>, E>,
    ) -> Option<Ready<()>> {
        let failed = result
            .as_ref()
            .map_or(true, |response| response.status().is_server_error());
        self.left = self.left.checked_sub(usize::from(failed))?;
        failed.then(|| ready(()))
    }

    fn clone_request(&mut self, request: &Request<Body>) -> Option<Request<Body>> {
        let spared = self.spares_token_calls && request.extensions().get::<TokenCall>().is_some();
        (!spared).then(|| request.clone())
    }
}

/// A layer below that repeats requests: what becomes of a refresh whose response a gateway ate.
#[tokio::test(start_paused = true)]
async fn g13_a_retry_layer_below_presents_twice_unless_it_is_told() {
    for (spares_token_calls, separate, presentations) in
        [(false, false, 2), (true, false, 1), (false, true, 1)]
    {
        let (api, clock) = paused();
        let builder = with_refresh_token(&api).api_key(api.api_key()).clock(clock);
        let retry = RetryLayer::new(Repeat {
            left: 1,
            spares_token_calls,
        })
        .layer(api.service());
        api.fault(Fault::status(504).after_commit());
        let status = if separate {
            let layer = builder
                .token_service::<_, Body>(api.service())
                .build()
                .unwrap();
            layer
                .layer(retry)
                .oneshot(get("/videos"))
                .await
                .unwrap()
                .status()
        } else {
            let layer = builder.build().unwrap();
            layer
                .layer(retry)
                .oneshot(get("/videos"))
                .await
                .unwrap()
                .status()
        };
        assert_eq!(
            (status.as_u16(), api.most_presentations()),
            (200, presentations)
        );
        // Repeated, the token is reused, which the server takes for theft; the API key helps.
        assert_eq!(api.counts().reuse_violations, presentations - 1);
        assert_eq!(api.counts().logins, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn g4_a_timeout_layer_below_ends_a_call_and_not_the_flight() {
    let (api, clock) = paused();
    let layer = with_refresh_token(&api)
        .api_key(api.api_key())
        .clock(clock)
        .build()
        .unwrap();
    let client = ServiceBuilder::new()
        .layer(layer)
        .timeout(Duration::from_secs(2))
        .service(api.service());
    api.fault(Fault::latency(Duration::from_secs(60)));
    let begun = time::Instant::now();
    assert_eq!(client.oneshot(get("/videos")).await.unwrap().status(), 200);
    assert_eq!(begun.elapsed().as_secs(), 2);
    assert_eq!((api.counts().refreshes, api.counts().logins), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn g20_our_errors_can_be_shared_between_threads() {
    fn check<E: Clone + Send + Sync + std::error::Error + 'static>(_: &E) {}
    let layer = ApiVideoAuthLayer::builder()
        .base_url("http://127.0.0.1:1")
        .build()
        .unwrap();
    let service = tower::service_fn(|_: Request<Body>| async {
        Ok::<_, Infallible>(Response::new(Body::default()))
    });
    let error = layer
        .layer(service)
        .oneshot(get("/videos"))
        .await
        .unwrap_err();
    check(ours(&error));
}

/// The call that was given up is still read, in the only slot there is: the next one must get it in time.
#[tokio::test(start_paused = true)]
async fn g4_a_hanging_refresh_leaves_the_only_slot_to_the_next_step() {
    for with_api_key in [true, false] {
        let (api, clock) = paused();
        let mut layer = with_refresh_token(&api).clock(clock);
        if with_api_key {
            layer = layer.api_key(api.api_key());
        }
        let client = layer
            .build()
            .unwrap()
            .layer(ConcurrencyLimitLayer::new(1).layer(api.service()));
        api.fault(Fault::latency(Duration::from_secs(3600)));
        let begun = time::Instant::now();
        if !with_api_key {
            // Nothing could follow but the same call: its response is awaited a little longer than callers wait.
            let error = client.clone().oneshot(get("/videos")).await.unwrap_err();
            assert_eq!(ours(&error).kind(), ErrorKind::Ambiguous);
            time::sleep(Duration::from_millis(9_500)).await;
        }
        let status = client
            .oneshot(get("/videos"))
            .await
            .map(|response| response.status().as_u16());
        assert!(
            matches!(status, Ok(200)),
            "API key {with_api_key}: {status:?}"
        );
        assert!(begun.elapsed() <= Duration::from_secs(21));
    }
}
