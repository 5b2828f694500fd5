//! What every adaptor keeps: one suite, run over hyper's HTTP/1 and HTTP/2 and over reqwest-middleware.

use std::{io, time::Duration};

use apivideo_auth::{
    ApiVideoAuthLayer, ApiVideoAuthMiddleware, ErrorKind, MinLifetime, NoAuth,
    testing::{FakeApi, Fault, GatePoint, ManualClock},
};
use axum::body::Body;
use bytes::Bytes;
use futures::{
    FutureExt, TryFutureExt,
    future::{BoxFuture, join_all},
    stream,
};
use http::{Request, Response, header, request};
use http_body_util::BodyExt;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tower::{BoxError, Layer, ServiceExt};

use crate::support::{MIB, bytes, ours, with_key};

/// Sends a request and reads the response.
type Sender = Box<
    dyn Fn(Request<Payload>) -> BoxFuture<'static, Result<Response<Bytes>, BoxError>> + Send + Sync,
>;

#[derive(Clone)]
enum Payload {
    Whole(Bytes),
    Streamed(Bytes),
}

fn http1(layer: &ApiVideoAuthLayer) -> Sender {
    hyper(layer, false)
}

fn http2(layer: &ApiVideoAuthLayer) -> Sender {
    hyper(layer, true)
}

fn hyper(layer: &ApiVideoAuthLayer, http2: bool) -> Sender {
    let client = layer.layer(
        Client::builder(TokioExecutor::new())
            .http2_only(http2)
            .build_http::<Body>(),
    );
    Box::new(move |request| {
        let call = client.clone().oneshot(request.map(|payload| match payload {
            Payload::Whole(bytes) => bytes.into(),
            Payload::Streamed(bytes) => Body::from_stream(stream::iter([io::Result::Ok(bytes)])),
        }));
        let read = async |response: Response<hyper::body::Incoming>| {
            let (head, body) = response.into_parts();
            Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
        };
        async move { read(call.await?).await }.boxed()
    })
}

fn adaptor(layer: &ApiVideoAuthLayer) -> Sender {
    let plain = || ::reqwest::Client::builder().no_proxy();
    let client = reqwest_middleware::ClientBuilder::new(plain().build().unwrap())
        .with(ApiVideoAuthMiddleware::new(layer, plain()).unwrap())
        .build();
    Box::new(move |request| {
        let client = client.clone();
        let mut extensions = request.extensions().clone();
        let request = request.map(|payload| match payload {
            Payload::Whole(bytes) => bytes.into(),
            Payload::Streamed(bytes) => {
                ::reqwest::Body::wrap_stream(stream::iter([io::Result::Ok(bytes)]))
            }
        });
        async move {
            let request = ::reqwest::Request::try_from(request)?;
            let call = client.execute_with_extensions(request, &mut extensions);
            let response: Response<::reqwest::Body> =
                call.map_err(crate::reqwest::unwrapped).await?.into();
            let (head, body) = response.into_parts();
            Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
        }
        .boxed()
    })
}

/// An adaptor under test.
struct Adaptor {
    api: FakeApi,
    clock: ManualClock,
    layer: ApiVideoAuthLayer,
    sender: Sender,
}

impl Adaptor {
    async fn new(transport: fn(&ApiVideoAuthLayer) -> Sender) -> Self {
        let clock = ManualClock::new();
        let api = FakeApi::builder()
            .clock(clock.clone())
            .serve()
            .await
            .unwrap();
        let layer = with_key(&api).clock(clock.clone()).build().unwrap();
        Self {
            sender: transport(&layer),
            api,
            clock,
            layer,
        }
    }

    fn get(&self, path: &str) -> request::Builder {
        Request::get(self.api.url() + path)
    }

    async fn send(
        &self,
        request: request::Builder,
        payload: Payload,
    ) -> Result<Response<Bytes>, BoxError> {
        (self.sender)(request.body(payload).unwrap()).await
    }

    /// Lists the videos.
    async fn list(&self) -> Result<u16, BoxError> {
        let response = self
            .send(self.get("/videos"), Payload::Whole(Bytes::new()))
            .await?;
        Ok(response.status().as_u16())
    }

    async fn echo(&self, payload: Payload) -> Response<Bytes> {
        let request = Request::post(self.api.url() + "/echo").header("content-type", "text/plain");
        self.send(request, payload).await.unwrap()
    }

    /// API calls and token calls so far.
    fn counts(&self) -> (usize, usize) {
        (self.api.counts().api_calls, self.api.counts().token_calls)
    }
}

macro_rules! over {
    ($transport:ident: $($check:ident)*) => {
        mod $transport {
            $(#[tokio::test]
            async fn $check() {
                super::$check(super::Adaptor::new(super::$transport).await).await;
            })*
        }
    };
}

macro_rules! contract {
    ($($check:ident)*) => {
        over! { http1: $($check)* }
        over! { http2: $($check)* }
        over! { adaptor: $($check)* }
    };
}

contract! {
    g1_callers_share_one_flight
    g2_a_dropped_caller_loses_no_pair
    g7_in_the_early_window_nobody_waits
    g8_a_failed_early_renewal_changes_nothing
    g10_a_wish_for_a_lifetime_renews_first
    g11_errors_are_ours_and_say_when_to_come_back
    g13_token_calls_follow_no_redirect
    g14_g15_a_revoked_token_is_cured_and_so_is_the_next
    g14_the_second_401_is_the_answer
    g14_if_the_renewal_fails_the_first_401_is_the_answer
    g14_403_is_not_ours
    g16_what_cannot_be_kept_is_sent_once
    g17_no_token_for_others_nor_for_auth_nor_for_upload
    g18_own_authorization_is_left_alone
}

async fn g1_callers_share_one_flight(it: Adaptor) {
    for age in [0, 3_600] {
        it.clock.advance(Duration::from_secs(age));
        let (calls, token_calls) = it.counts();
        let gate = it.api.gate(GatePoint::AfterCommit);
        let all = join_all((0..50).map(|_| it.list()));
        let (statuses, ()) = futures::join!(all, async {
            gate.reached(1).await;
            gate.open();
        });
        assert!(statuses.into_iter().all(|status| status.unwrap() == 200));
        assert_eq!(it.counts(), (calls + 50, token_calls + 1));
    }
    assert_eq!(it.api.counts().authorization_on_token_calls, 0);
    assert_eq!(it.api.most_presentations(), 1);
}

async fn g2_a_dropped_caller_loses_no_pair(it: Adaptor) {
    for point in [
        GatePoint::BeforeCommit,
        GatePoint::AfterCommit,
        GatePoint::MidBody,
    ] {
        let gate = it.api.gate(point);
        tokio::select! {
            _ = it.list() => panic!("the gate is shut"),
            () = gate.reached(1) => {}
        }
        gate.open();
        let (_, token_calls) = it.counts();
        assert_eq!(it.list().await.unwrap(), 200);
        assert_eq!(it.counts().1, token_calls, "{point:?}");
        it.clock.advance(Duration::from_secs(3_600));
    }
    assert_eq!(it.api.most_presentations(), 1);
}

async fn g7_in_the_early_window_nobody_waits(it: Adaptor) {
    it.list().await.unwrap();
    let mut renewals = it.layer.subscribe();
    it.clock.advance(Duration::from_secs(3_500));
    let gate = it.api.gate(GatePoint::BeforeCommit);
    for _ in 0..10 {
        assert_eq!(it.list().await.unwrap(), 200);
    }
    tokio::time::timeout(Duration::from_secs(2), gate.reached(1))
        .await
        .expect("one renewal in the background");
    gate.open();
    assert_eq!(
        crate::support::renewed(&mut renewals).await.unwrap().reason,
        apivideo_auth::RenewalReason::Early
    );
    assert_eq!(it.counts(), (11, 2));
}

async fn g8_a_failed_early_renewal_changes_nothing(it: Adaptor) {
    it.list().await.unwrap();
    it.api.refuse_api_key(true);
    it.api.revoke_refresh_tokens();
    it.clock.advance(Duration::from_secs(3_500));
    for _ in 0..10 {
        assert_eq!(it.list().await.unwrap(), 200);
    }
    it.clock.advance(Duration::from_secs(100));
    assert_eq!(
        ours(&it.list().await.unwrap_err()).kind(),
        ErrorKind::Refused
    );
}

async fn g10_a_wish_for_a_lifetime_renews_first(it: Adaptor) {
    it.list().await.unwrap();
    it.clock.advance(Duration::from_secs(2_000));
    for (asked, token_calls) in [(1_600, 1), (1_601, 2), (1_800, 2)] {
        let request = it
            .get("/videos")
            .extension(MinLifetime(Duration::from_secs(asked)));
        assert_eq!(
            it.send(request, Payload::Whole(Bytes::new()))
                .await
                .unwrap()
                .status(),
            200
        );
        assert_eq!(it.counts().1, token_calls, "{asked} s");
    }
}

async fn g11_errors_are_ours_and_say_when_to_come_back(it: Adaptor) {
    it.api.fault(Fault::rate_limited(40));
    for _ in 0..3 {
        let error = it.list().await.unwrap_err();
        assert_eq!(ours(&error).kind(), ErrorKind::Unavailable);
        assert!(ours(&error).is_transient());
        assert_eq!(
            ours(&error).retry_after().unwrap().as_secs_f64().round(),
            40.0
        );
    }
    assert_eq!(it.counts(), (0, 1));
    it.clock.advance(Duration::from_secs(40));
    assert_eq!(it.list().await.unwrap(), 200);
}

async fn g13_token_calls_follow_no_redirect(it: Adaptor) {
    let other = FakeApi::start().await.unwrap();
    for status in [302, 307, 308] {
        it.api
            .fault(Fault::redirect(status, other.url() + "/auth/api-key").always());
        assert_eq!(
            ours(&it.list().await.unwrap_err()).kind(),
            ErrorKind::Unavailable
        );
        it.clock.advance(Duration::from_secs(60));
    }
    assert!(other.journal().is_empty());
    assert_eq!(it.counts().0, 0);
}

async fn g14_g15_a_revoked_token_is_cured_and_so_is_the_next(it: Adaptor) {
    it.list().await.unwrap();
    for (round, size) in [0, 1, 70_000, MIB].into_iter().enumerate() {
        it.api.revoke_access_tokens();
        it.api.clear_journal();
        let response = it.echo(Payload::Whole(bytes(size))).await;
        assert_eq!(response.status(), 200);
        assert!(*response.body() == bytes(size));
        let sent: Vec<_> = it
            .api
            .journal()
            .into_iter()
            .filter(|sent| !sent.is_token_call)
            .collect();
        let [mut first, mut second] = <[_; 2]>::try_from(sent).unwrap();
        assert!(first.body == second.body && second.body == bytes(size));
        assert_ne!(
            first.headers.remove(header::AUTHORIZATION),
            second.headers.remove(header::AUTHORIZATION)
        );
        assert_eq!((first.headers, first.uri), (second.headers, second.uri));
        assert_eq!(it.counts().1, 2 + round);
    }
}

async fn g14_the_second_401_is_the_answer(it: Adaptor) {
    it.api.refuse_all_bearers(true);
    for n in 1..=20 {
        let response = it.echo(Payload::Whole("x".into())).await;
        assert_eq!(response.status(), 401);
        assert!(
            std::str::from_utf8(response.body())
                .unwrap()
                .contains("invalid-access-token")
        );
        assert_eq!(
            it.counts(),
            (1 + n, 2),
            "two calls for the first request, one for those in the guard"
        );
    }
}

async fn g14_if_the_renewal_fails_the_first_401_is_the_answer(it: Adaptor) {
    it.list().await.unwrap();
    it.api.revoke_access_tokens();
    it.api.fault(Fault::status(503).always());
    let response = it.echo(Payload::Whole("x".into())).await;
    assert_eq!(response.status(), 401);
    assert!(
        std::str::from_utf8(response.body())
            .unwrap()
            .contains("invalid-access-token")
    );
    assert_eq!(it.counts().0, 2);
    let calls = it.counts().1;
    // The token is put back in use, and the guard is closed.
    assert_eq!(it.list().await.unwrap(), 401);
    assert_eq!(it.counts().1, calls);
}

async fn g14_403_is_not_ours(it: Adaptor) {
    it.list().await.unwrap();
    it.api.suspend(true);
    assert_eq!(it.list().await.unwrap(), 403);
    assert_eq!(it.counts(), (2, 1));
}

async fn g16_what_cannot_be_kept_is_sent_once(it: Adaptor) {
    it.list().await.unwrap();
    let plain = Request::post;
    let trailer = |uri: String| Request::post(uri).header("trailer", "x-checksum");
    let cases: [(_, &dyn Fn(String) -> request::Builder, _); 3] = [
        ("a stream", &plain, Payload::Streamed(bytes(70_000))),
        ("too large", &plain, Payload::Whole(bytes(MIB + 1))),
        ("a trailer", &trailer, Payload::Whole(bytes(10))),
    ];
    for (name, request, payload) in cases {
        it.api.revoke_access_tokens();
        let (calls, token_calls) = it.counts();
        let response = it
            .send(request(it.api.url() + "/echo"), payload.clone())
            .await
            .unwrap();
        assert_eq!(response.status(), 401, "{name}");
        assert_eq!(it.counts(), (calls + 1, token_calls), "{name}");
        let response = it
            .send(request(it.api.url() + "/echo"), payload.clone())
            .await
            .unwrap();
        assert_eq!(response.status(), 200, "{name}");
        let (Payload::Whole(bytes) | Payload::Streamed(bytes)) = payload;
        assert!(*response.body() == bytes, "{name}");
        assert_eq!(it.counts(), (calls + 2, token_calls + 1), "{name}");
    }
}

async fn g17_no_token_for_others_nor_for_auth_nor_for_upload(it: Adaptor) {
    let other = FakeApi::start().await.unwrap();
    for (api, path) in [
        (&other, "/videos"),
        (&it.api, "/upload?token=test-only"),
        (&it.api, "/auth/other"),
    ] {
        let request = Request::post(api.url() + path);
        let _ = it.send(request, Payload::Whole("x".into())).await.unwrap();
        let journal = api.journal();
        assert!(
            !journal
                .last()
                .unwrap()
                .headers
                .contains_key(header::AUTHORIZATION),
            "{path}"
        );
    }
    assert_eq!(it.api.counts().logins, 0);
}

async fn g18_own_authorization_is_left_alone(it: Adaptor) {
    it.list().await.unwrap();
    let (calls, token_calls) = it.counts();
    let own = it.get("/videos").header("authorization", "Bearer other");
    let none = it.get("/videos").extension(NoAuth);
    for (request, sent) in [(own, Some("Bearer other")), (none, None)] {
        let response = it
            .send(request, Payload::Whole(Bytes::new()))
            .await
            .unwrap();
        assert_eq!(response.status(), 401);
        let journal = it.api.journal();
        let authorization = journal.last().unwrap().headers.get(header::AUTHORIZATION);
        assert_eq!(authorization.map(|value| value.to_str().unwrap()), sent);
    }
    assert_eq!(it.counts(), (calls + 2, token_calls));
    assert_eq!(it.list().await.unwrap(), 200);
    assert_eq!(it.counts().1, token_calls);
}
