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

/// Answers at once.
#[derive(Clone)]
struct Nothing;

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
    ApiVideoAuthLayer::builder().base_url(api.url()).refresh_token(api.mint_pair().1)
}

fn separate(api: &FakeApi) -> ApiVideoAuthLayerBuilder<SeparateService, Replay> {
    builder(api).token_service::<_, Body, _>(api.service())
}

fn request(api: &FakeApi, headers: usize) -> Request<Body> {
    let names =
        [header::ACCEPT, header::ACCEPT_LANGUAGE, header::USER_AGENT, header::REFERER, header::ORIGIN];
    let mut request = Request::get(format!("{}/videos", api.url())).body(Body::default()).unwrap();
    request
        .headers_mut()
        .extend(names.into_iter().take(headers).map(|name| (name, HeaderValue::from_static("x"))));
    request
}

const ROUNDS: usize = 100;

/// How often the sending of a hundred requests allocates.
fn allocations<S>(mut client: S, headers: usize, clones: bool) -> u64
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
        assert!(matches!(sent, Poll::Ready(Ok(_))), "a usable token is waited for");
    };
    // A client copies the header at its second request.
    send(request(&api, headers));
    send(request(&api, headers));
    let requests: Vec<_> = (0..ROUNDS).map(|_| request(&api, headers)).collect();
    measure(|| requests.into_iter().for_each(&mut send)).count_total
}

#[test]
fn a_usable_token_costs_no_allocation_and_a_kept_request_two() {
    let api = FakeApi::in_process();
    let runtime = runtime();
    let ours = separate(&api).build().unwrap().layer(Nothing);
    let bare = separate(&api).no_replay().build().unwrap().layer(Nothing);
    let token = runtime.block_on(ours.token()).unwrap();
    runtime.block_on(bare.token()).unwrap();
    let value = HeaderValue::from_str(&format!("Bearer {}", token.expose())).unwrap();
    let fixed = SetRequestHeaderLayer::overriding(header::AUTHORIZATION, value).layer(Nothing);
    for (headers, clones) in [(0, false), (0, true), (5, false), (5, true)] {
        let base = allocations(fixed.clone(), headers, clones);
        assert_eq!(allocations(bare.clone(), headers, clones), base, "{headers} headers, clones: {clones}");
        let kept = if headers == 0 { 0 } else { 2 * ROUNDS as u64 };
        assert_eq!(
            allocations(ours.clone(), headers, clones),
            base + kept,
            "{headers} headers, clones: {clones}"
        );
    }
    // The base: two for the map of a request without headers, none where there is room for one more.
    assert_eq!(allocations(fixed, 0, false), 2 * ROUNDS as u64);
}

#[test]
fn a_response_future_is_small_beyond_the_one_it_wraps() {
    fn beyond<S: Service<Request<Body>>>(_: &S) -> usize {
        size_of::<S::Future>() - size_of::<<Nothing as Service<Request<Body>>>::Future>()
    }
    let api = FakeApi::in_process();
    let without_replay = beyond(&separate(&api).no_replay().build().unwrap().layer(Nothing));
    let with_replay = beyond(&separate(&api).build().unwrap().layer(Nothing));
    assert!(without_replay <= 32, "{without_replay} bytes");
    assert!(with_replay <= 32 + size_of::<Request<Bytes>>(), "{with_replay} bytes");
}

type Waiting = Pin<Box<<ApiVideoAuth<FakeService> as Service<Request<Body>>>::Future>>;

#[test]
fn a_waiting_caller_costs_at_most_a_kibibyte_beyond_its_request() {
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
        // The flight is not part of it.
        let first = wait(request(&api, 5));
        gate.reached(1).await;
        let mut callers: Vec<Waiting> = Vec::with_capacity(CALLERS);
        let requests: Vec<_> = (0..CALLERS).map(|_| request(&api, 5)).collect();
        let info = measure(|| callers.extend(requests.into_iter().map(&mut wait)));
        let each = info.bytes_current / CALLERS as i64;
        // The struct of the request itself was moved in, and is among them.
        assert!((1..=1024).contains(&each), "{each} bytes");
        gate.open();
        first.await.unwrap();
        for caller in callers {
            assert_eq!(caller.await.unwrap().status(), 200);
        }
    });
}
