//! What must compile, and odd but real stacks that must work.

use std::{
    convert::Infallible,
    io,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use apivideo_auth::{
    AccessToken, ApiKey, ApiVideoAuth, ApiVideoAuthLayer, ApiVideoAuthMiddleware, Bearer, Clock,
    Credentials, Environment, Error, ErrorKind, Event, Events, GrantPreference, GrantType,
    KeepFresh, MinLifetime, NoAuth, RefreshToken, RenewalEvent, RenewalReason, ResponseFuture,
    TokenCall, TokenPair,
    middleware::{NoReplay, Replay, SeparateService},
    testing::{FakeApi, FakeBody, FakeService},
};
use axum::Router;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use tower::{
    BoxError, Layer, Service, ServiceBuilder, ServiceExt,
    util::{BoxCloneService, BoxCloneSyncService},
};

use crate::support::{Builder, get, with_key};

fn send<T: Send + 'static>(value: T) -> T {
    value
}

#[test]
fn public_types_are_what_they_promise() {
    fn plain<T: Send + Sync + Unpin + 'static>() {}
    fn clone<T: Clone + Send + Sync + Unpin + 'static>() {}
    fn error<T: std::error::Error + Clone + Send + Sync + 'static>() {}
    error::<Error>();
    clone::<ApiVideoAuthLayer>();
    clone::<ApiVideoAuthLayer<SeparateService, NoReplay>>();
    clone::<ApiVideoAuth<FakeService>>();
    clone::<ApiVideoAuth<Client<HttpConnector, Full<Bytes>>, SeparateService, NoReplay>>();
    clone::<ApiVideoAuthMiddleware>();
    clone::<(
        AccessToken,
        RefreshToken,
        ApiKey,
        Credentials,
        Bearer,
        TokenPair,
    )>();
    plain::<Events>();
    clone::<(
        Event,
        Environment,
        GrantPreference,
        RenewalReason,
        GrantType,
        RenewalEvent,
        ErrorKind,
    )>();
    clone::<(MinLifetime, NoAuth, TokenCall, apivideo_auth::Now)>();
    plain::<Builder>();
    plain::<KeepFresh>();
    // A clock is behind a pointer: the trait has to be object safe.
    plain::<Box<dyn Clock>>();
    // A service that is not `Sync` makes a client that is not, and nothing worse.
    fn sendable<T: Clone + Send + 'static>() {}
    sendable::<ApiVideoAuth<BoxCloneService<Request<Full<Bytes>>, Response<Full<Bytes>>, BoxError>>>(
    );
    fn future<T: Future<Output = Result<O, BoxError>> + Send + 'static, O>() {}
    type Answer<S, B, P> = ResponseFuture<S, B, SeparateService, P>;
    future::<Answer<Client<HttpConnector, Empty<Bytes>>, Empty<Bytes>, NoReplay>, _>();
    future::<Answer<Client<HttpConnector, Full<Bytes>>, Full<Bytes>, Replay>, _>();
}

/// A body that can neither be cloned nor shared, nor be made from bytes.
struct Loner {
    bytes: Option<Bytes>,
    _not_sync: PhantomData<std::cell::Cell<()>>,
}

impl Loner {
    fn new(bytes: &'static str) -> Self {
        Self {
            bytes: Some(bytes.into()),
            _not_sync: PhantomData,
        }
    }
}

impl Body for Loner {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.bytes.take().map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// Bodies of any type pass with a token service and without replay; the request after a 401 has a new token.
async fn over_http<B>(make: impl Fn() -> B, expected: &str)
where
    B: Body<Data: Send, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    let api = FakeApi::start().await.unwrap();
    let layer = with_key(&api)
        .token_service::<_, Full<Bytes>>(api.service())
        .no_replay()
        .build()
        .unwrap();
    let client = layer.layer(Client::builder(TokioExecutor::new()).build_http::<B>());
    for (status, token_calls) in [(200, 1), (401, 1), (200, 2)] {
        let request = Request::post(api.url() + "/echo").body(make()).unwrap();
        let response = client.clone().oneshot(request).await.unwrap();
        assert_eq!(
            (response.status().as_u16(), api.counts().token_calls),
            (status, token_calls)
        );
        if status == 200 {
            assert_eq!(
                response.into_body().collect().await.unwrap().to_bytes(),
                expected
            );
            api.revoke_access_tokens();
        }
    }
}

#[tokio::test]
async fn g16_bodies_not_made_from_bytes_pass_without_replay() {
    over_http(Empty::<Bytes>::new, "").await;
    over_http(|| Loner::new("alone"), "alone").await;
    over_http(
        || BoxBody::new(Full::new(Bytes::from("boxed")).map_err(io::Error::other)),
        "boxed",
    )
    .await;
    over_http(
        || {
            Full::new(Bytes::from("full"))
                .map_err(io::Error::other)
                .boxed_unsync()
        },
        "full",
    )
    .await;
    over_http(|| axum::body::Body::from("axum"), "axum").await;
    over_http(|| ::reqwest::Body::from("reqwest"), "reqwest").await;
}

/// Sends a request, revokes the token, and sends it again: both are served.
async fn served_twice<S, B>(api: &FakeApi, client: S)
where
    S: Service<Request<B>, Response: Answer, Error: std::fmt::Debug> + Clone,
    B: From<Bytes>,
{
    for _ in 0..2 {
        let request = Request::post("/echo")
            .body(B::from(Bytes::from("same")))
            .unwrap();
        let response = client.clone().oneshot(request).await.unwrap();
        assert_eq!(response.code(), 200);
        api.revoke_access_tokens();
    }
    assert_eq!((api.counts().api_calls, api.counts().token_calls), (3, 2));
}

trait Answer {
    fn code(&self) -> StatusCode;
}

impl<R> Answer for Response<R> {
    fn code(&self) -> StatusCode {
        self.status()
    }
}

/// The fake as a service for one body type.
fn unboxed(
    api: &FakeApi,
) -> impl Service<Request<Full<Bytes>>, Response = Response<FakeBody>, Error = BoxError, Future: Send>
+ Clone
+ Send
+ Sync
+ 'static {
    ServiceExt::<Request<Full<Bytes>>>::map_err(api.service(), BoxError::from)
}

/// The fake as a service that never fails, as axum asks.
fn router(api: &FakeApi) -> Router {
    let fake = api.service();
    Router::new().fallback_service(tower::service_fn(
        move |request: Request<axum::body::Body>| {
            let fake = fake.clone();
            async move { Ok::<_, Infallible>(fake.oneshot(request).await.unwrap()) }
        },
    ))
}

#[tokio::test]
async fn odd_stacks_serve_and_replay() {
    let api = FakeApi::in_process();
    let layer = with_key(&api).build().unwrap();
    served_twice::<_, axum::body::Body>(&api, layer.layer(router(&api))).await;

    let api = FakeApi::in_process();
    let layer = with_key(&api).build().unwrap();
    served_twice(&api, layer.layer(BoxCloneService::new(unboxed(&api)))).await;

    let api = FakeApi::in_process();
    let layer = with_key(&api).build().unwrap();
    served_twice(&api, layer.layer(BoxCloneSyncService::new(unboxed(&api)))).await;

    // Boxed above, and with other layers on both sides.
    let api = FakeApi::in_process();
    let stack = ServiceBuilder::new()
        .timeout(Duration::from_secs(5))
        .layer(with_key(&api).build().unwrap())
        .concurrency_limit(1)
        .layer(tower_http::trace::TraceLayer::new_for_http())
        .service(unboxed(&api));
    served_twice(&api, BoxCloneSyncService::new(stack)).await;

    // Twice the layer: the outer one decides, the inner one leaves its requests alone.
    let api = FakeApi::in_process();
    let (outer, inner) = (
        with_key(&api).build().unwrap(),
        with_key(&api).build().unwrap(),
    );
    served_twice(&api, outer.layer(inner.layer(unboxed(&api)))).await;

    let api = FakeApi::in_process();
    let layer = with_key(&api).build().unwrap();
    served_twice::<_, ::reqwest::Body>(&api, layer.layer(api.service())).await;
}

#[tokio::test]
async fn odd_stacks_over_http_serve_and_replay() {
    for http2 in [false, true] {
        let api = FakeApi::start().await.unwrap();
        let client = Client::builder(TokioExecutor::new())
            .http2_only(http2)
            .build_http();
        let layer = with_key(&api).build().unwrap();
        served_twice::<_, Full<Bytes>>(&api, layer.layer(client)).await;
    }
    let api = FakeApi::start().await.unwrap();
    let client = ServiceBuilder::new()
        .layer(tower_http::decompression::DecompressionLayer::new())
        .layer(with_key(&api).build().unwrap())
        .layer(tower_http::follow_redirect::FollowRedirectLayer::new())
        .service(Client::builder(TokioExecutor::new()).build_http());
    served_twice::<_, Full<Bytes>>(&api, client).await;
}

#[tokio::test]
async fn g16_g17_a_gateway_forwards_incoming_bodies() {
    let api = FakeApi::start().await.unwrap();
    let upstream = Client::builder(TokioExecutor::new()).build_http::<Incoming>();
    let layer = with_key(&api)
        .token_service::<_, Full<Bytes>>(api.service())
        .no_replay()
        .build()
        .unwrap();
    let gateway = TowerToHyperService::new(layer.layer(upstream));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let server = hyper::server::conn::http1::Builder::new();
            tokio::spawn(server.serve_connection(TokioIo::new(stream), gateway.clone()));
        }
    });
    let browser = Client::builder(TokioExecutor::new()).build_http();
    for (status, body) in [(200, "one"), (401, "two"), (200, "three")] {
        let request = Request::post(format!("http://{address}/echo?a=b"))
            .body(Full::<Bytes>::from(body))
            .unwrap();
        let response = browser.request(request).await.unwrap();
        assert_eq!(response.status(), status, "{body}");
        api.revoke_access_tokens();
    }
    let sent = api.journal();
    let sent: Vec<_> = sent.iter().filter(|sent| !sent.is_token_call).collect();
    assert_eq!(
        sent.iter().map(|sent| &sent.body[..]).collect::<Vec<_>>(),
        [&b"one"[..], b"two", b"three"]
    );
    // The gateway's own `Host` is not the API's.
    assert_eq!(sent[0].headers["host"], api.url()["http://".len()..]);
    assert_eq!(sent[0].uri, "/echo?a=b");
}

#[tokio::test]
async fn the_body_type_is_inferred_where_there_is_one() {
    let api = FakeApi::start().await.unwrap();
    let layer = with_key(&api).build().unwrap();
    // The wrapped service takes one body type.
    let one = layer.layer(Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>());
    let generation = one.source().token().await.unwrap().generation();
    assert_eq!(
        layer
            .layer(BoxCloneService::new(unboxed(&api)))
            .source()
            .pair()
            .await
            .unwrap()
            .bearer()
            .generation(),
        generation
    );
    // Several.
    let several = layer.layer(api.service());
    assert_eq!(
        several
            .source::<Full<Bytes>>()
            .token()
            .await
            .unwrap()
            .generation(),
        generation
    );
    assert_eq!(
        layer
            .layer(router(&api))
            .source::<axum::body::Body>()
            .token()
            .await
            .unwrap()
            .generation(),
        generation
    );
    // A separate token service, whatever is wrapped, even what is no service.
    let layer = with_key(&api)
        .token_service::<_, Full<Bytes>>(api.service())
        .build()
        .unwrap();
    let separate = layer.layer(());
    assert_eq!(separate.source().renew().await.unwrap().generation(), 1);
    drop(separate.source().keep_fresh().unwrap());
    assert_eq!(api.counts().token_calls, 2);
}

#[tokio::test]
async fn futures_are_send_and_hold_no_client() {
    let api = FakeApi::in_process();
    let layer = with_key(&api).build().unwrap();
    let make = || layer.layer(api.service());
    let (token, pair) = (
        send(make().source::<Full<Bytes>>().token()),
        send(make().source::<Full<Bytes>>().pair()),
    );
    let request = send(make().oneshot(get("/videos")));
    let shutdown = send(layer.shutdown(Duration::from_secs(1)));
    assert_eq!(tokio::spawn(token).await.unwrap().unwrap().generation(), 1);
    assert_eq!(
        tokio::spawn(pair)
            .await
            .unwrap()
            .unwrap()
            .bearer()
            .generation(),
        1
    );
    assert_eq!(tokio::spawn(request).await.unwrap().unwrap().status(), 200);
    let renew = send(make().source::<Full<Bytes>>().renew());
    assert_eq!(tokio::spawn(renew).await.unwrap().unwrap().generation(), 2);
    assert!(tokio::spawn(shutdown).await.unwrap());
    let adaptor =
        ApiVideoAuthMiddleware::new(&layer, ::reqwest::Client::builder().no_proxy()).unwrap();
    drop((
        send(adaptor.source().token()),
        send(adaptor.source().renew()),
        send(adaptor.source().pair()),
    ));
}
