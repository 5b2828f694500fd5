//! What a request and a waiting caller cost in memory. A binary of its own, since it counts all that is allocated.

#![cfg(test)] // where clippy lets tests unwrap

use std::{
    future::{Ready, ready},
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use allocation_counter::measure;
use apivideo_auth::{
    ApiVideoAuth, ApiVideoAuthLayer, ApiVideoAuthLayerBuilder,
    middleware::{Replay, SameService, SeparateService},
    testing::{FakeApi, FakeService, GatePoint},
};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::Full;
use tokio::runtime::{Builder, Runtime};
use tower::{BoxError, Layer, Service};
use tower_http::set_header::SetRequestHeaderLayer;

type Body = Full<Bytes>;

/// Answers at once. As large as a client with a connection pool and TLS may be.
#[derive(Clone)]
struct Nothing {
    _ballast: [u8; 512],
}

const NOTHING: Nothing = Nothing { _ballast: [0; 512] };

impl Service<Request<Body>> for Nothing {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Ready<Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        ready(Ok(Response::new(Body::default())))
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().unwrap()
}

fn builder(api: &FakeApi) -> ApiVideoAuthLayerBuilder<SameService, Replay> {
    ApiVideoAuthLayer::builder()
        .base_url(api.url())
        .refresh_token(api.mint_pair().1)
}

fn separate(api: &FakeApi) -> ApiVideoAuthLayerBuilder<SeparateService, Replay> {
    builder(api).token_service::<_, Body>(api.service())
}

/// What a request brings along.
#[derive(Clone, Copy, Debug, Default)]
struct Shape {
    headers: usize,
    /// Header values and a body of their own, whose bytes are not shared yet; else static ones and no body.
    is_dynamic: bool,
}

fn request(
    api: &FakeApi,
    Shape {
        headers,
        is_dynamic,
    }: Shape,
) -> Request<Body> {
    let names = [
        header::ACCEPT,
        header::ACCEPT_LANGUAGE,
        header::USER_AGENT,
        header::REFERER,
        header::ORIGIN,
    ];
    let mut request = Request::get(format!("{}/videos", api.url()))
        .body(Body::default())
        .unwrap();
    for name in names.into_iter().take(headers) {
        let value = if is_dynamic {
            HeaderValue::from_str(name.as_str()).unwrap()
        } else {
            HeaderValue::from_static("x")
        };
        request.headers_mut().insert(name, value);
    }
    if is_dynamic {
        *request.body_mut() = Body::from("hello".to_owned());
    }
    request
}

const ROUNDS: u64 = 100;

/// How often the sending of a request allocates.
fn allocations<S>(mut client: S, shape: Shape, clones: bool) -> u64
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone,
{
    let api = FakeApi::in_process();
    let mut context = Context::from_waker(Waker::noop());
    let mut send = |request: Request<Body>| {
        let mut clone;
        let client = if clones {
            clone = client.clone();
            &mut clone
        } else {
            &mut client
        };
        assert!(client.poll_ready(&mut context).is_ready());
        let sent = pin!(client.call(request)).poll(&mut context);
        assert!(
            matches!(sent, Poll::Ready(Ok(_))),
            "a usable token is waited for"
        );
    };
    // A client copies the header at its second request.
    send(request(&api, shape));
    send(request(&api, shape));
    let requests: Vec<_> = (0..ROUNDS).map(|_| request(&api, shape)).collect();
    let count = measure(|| requests.into_iter().for_each(&mut send)).count_total;
    assert_eq!(count % ROUNDS, 0);
    count / ROUNDS
}

#[test]
fn a_usable_token_allocates_nothing_a_replay_only_its_copy() {
    let api = FakeApi::in_process();
    let runtime = runtime();
    let ours = separate(&api).build().unwrap().layer(NOTHING);
    let bare = separate(&api).no_replay().build().unwrap().layer(NOTHING);
    let token = runtime.block_on(ours.source().token()).unwrap();
    runtime.block_on(bare.source().token()).unwrap();
    let value = HeaderValue::from_str(&format!("Bearer {}", token.expose())).unwrap();
    let fixed = SetRequestHeaderLayer::overriding(header::AUTHORIZATION, value).layer(NOTHING);
    // The base: two for the map of a request without headers, none where there is room for one more.
    assert_eq!(allocations(fixed.clone(), Shape::default(), false), 2);
    // The copy: one for its list of headers, and one for each value and body when its bytes are shared for the first time.
    for (headers, is_dynamic, copy) in [(0, false, 0), (5, false, 1), (5, true, 1 + 5 + 1)] {
        for clones in [false, true] {
            let shape = Shape {
                headers,
                is_dynamic,
            };
            let base = allocations(fixed.clone(), shape, clones);
            assert_eq!(
                allocations(bare.clone(), shape, clones),
                base,
                "{shape:?}, clones: {clones}"
            );
            assert_eq!(
                allocations(ours.clone(), shape, clones),
                base + copy,
                "{shape:?}, clones: {clones}"
            );
        }
    }
}

#[test]
fn a_response_future_is_small_beyond_the_one_it_wraps() {
    fn beyond<S: Service<Request<Body>>>(_: &S) -> usize {
        size_of::<S::Future>() - size_of::<<Nothing as Service<Request<Body>>>::Future>()
    }
    let api = FakeApi::in_process();
    let without_replay = beyond(&separate(&api).no_replay().build().unwrap().layer(NOTHING));
    let with_replay = beyond(&separate(&api).build().unwrap().layer(NOTHING));
    assert!(without_replay <= 32, "{without_replay} bytes");
    assert!(
        with_replay <= 32 + size_of::<Request<Bytes>>() + size_of::<Nothing>(),
        "{with_replay} bytes"
    );
}

type Waiting = Pin<Box<<ApiVideoAuth<FakeService> as Service<Request<Body>>>::Future>>;

#[test]
fn a_waiting_caller_costs_a_kibibyte_beyond_its_request() {
    const CALLERS: usize = 1000;
    runtime().block_on(async {
        let api = FakeApi::in_process();
        let client = builder(&api).build().unwrap().layer(api.service());
        let gate = api.gate(GatePoint::BeforeCommit);
        let mut context = Context::from_waker(Waker::noop());
        let mut wait = |request| -> Waiting {
            let mut waiting = Box::pin(client.clone().call(request));
            assert!(waiting.as_mut().poll(&mut context).is_pending());
            waiting
        };
        let shape = Shape {
            headers: 5,
            is_dynamic: true,
        };
        // The flight is not part of it.
        let first = wait(request(&api, shape));
        gate.reached(1).await;
        let mut callers: Vec<Waiting> = Vec::with_capacity(CALLERS);
        let mut requests: Vec<_> = (0..CALLERS).map(|_| request(&api, shape)).collect();
        let info = measure(|| callers.extend(requests.drain(..).map(&mut wait)));
        let each = info.bytes_current as usize / CALLERS;
        let of_request = size_of::<Request<Body>>();
        assert!(
            (of_request..=of_request + 1024).contains(&each),
            "{each} bytes"
        );
        gate.open();
        first.await.unwrap();
        for caller in callers {
            assert_eq!(caller.await.unwrap().status(), 200);
        }
    });
}
