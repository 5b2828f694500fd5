//! Bodies that are not `From<Bytes>`: a function makes them, for token calls and for replays.

use std::convert::Infallible;

use apivideo_auth::{
    ApiVideoAuth, ApiVideoAuthLayerBuilder, ErrorKind,
    middleware::{BodyFrom, Replay, ReplayPolicy, SameService, SeparateService, Transport},
    testing::{FakeBody, FakeService},
};
use http_body_util::{
    BodyExt, Either, Empty, Full,
    combinators::{BoxBody, UnsyncBoxBody},
};

use super::*;
use crate::support;

type Boxed = BoxBody<Bytes, Infallible>;
type Unsync = UnsyncBoxBody<Bytes, Infallible>;
type Builder<T> = ApiVideoAuthLayerBuilder<T, Replay>;

/// Sends bodies before and after the token is revoked, and says what arrived.
async fn bodies_sent<B, T>(api: &FakeApi, builder: Builder<T>, make: impl Fn() -> B) -> Vec<Bytes>
where
    B: http_body::Body<Data = Bytes, Error = Infallible> + Send + 'static,
    T: Transport<FakeService, B>,
    Replay: ReplayPolicy<B, FakeBody, T>,
{
    let client: ApiVideoAuth<FakeService, T> = builder.build().unwrap().layer(api.service());
    let send = async || {
        let post = Request::post("/echo").body(make()).unwrap();
        assert_eq!(client.clone().oneshot(post).await.unwrap().status(), 200);
    };
    send().await;
    api.revoke_access_tokens();
    send().await;
    sent(api).into_iter().map(|(_, body)| body).collect()
}

#[tokio::test(start_paused = true)]
async fn g16_bodies_in_boxes_log_in_and_are_sent_again() {
    let hello = Bytes::from_static(b"hello");
    let api = FakeApi::in_process();
    let builder = with_key(&api).body_from(|bytes: Bytes| -> Boxed { Full::new(bytes).boxed() });
    let body = || Full::new(hello.clone()).boxed();
    assert_eq!(bodies_sent(&api, builder, body).await, vec![&hello; 3]);

    let api = FakeApi::in_process();
    let builder =
        with_key(&api).body_from(|bytes: Bytes| -> Unsync { Full::new(bytes).boxed_unsync() });
    // Not there at once: it is read in full first.
    let body = || {
        slow(5, vec![Ok(Frame::data(hello.clone()))])
            .map_err(|_| unreachable!())
            .boxed_unsync()
    };
    assert_eq!(bodies_sent(&api, builder, body).await, vec![&hello; 3]);
}

/// What the guide says: neither a token service nor `no_replay` is needed.
#[tokio::test]
async fn g16_empty_bodies_become_full_ones_and_are_sent_again() {
    type Sent = Either<Empty<Bytes>, Full<Bytes>>;
    let api = FakeApi::in_process();
    let client = tower::ServiceBuilder::new()
        .map_request(|request: Request<Empty<Bytes>>| request.map(|_| support::Body::default()))
        .layer(with_key(&api).build().unwrap())
        .service(api.service());
    let either = with_key(&api).body_from(|bytes| -> Sent { Either::Right(Full::new(bytes)) });
    let either = either.build().unwrap().layer(api.service());
    for _ in 0..2 {
        let request = Request::post("/echo").body(Empty::new()).unwrap();
        assert_eq!(client.clone().oneshot(request).await.unwrap().status(), 200);
        let request = Request::post("/echo").body(Either::Left(Empty::new()));
        let response = either.clone().oneshot(request.unwrap()).await.unwrap();
        assert_eq!(response.status(), 200);
        api.revoke_access_tokens();
    }
    assert_eq!(
        sent(&api).len(),
        6,
        "two of the second round are sent again"
    );
}

#[tokio::test]
async fn g16_empty_bodies_are_sent_again_beside_a_token_service() {
    let api = FakeApi::in_process();
    let builder = with_key(&api)
        .token_service::<_, support::Body>(api.service())
        .body_from(|_| Empty::<Bytes>::new());
    assert_eq!(
        bodies_sent(&api, builder, Empty::<Bytes>::new).await,
        vec![Bytes::new(); 3]
    );
}

#[test]
fn g16_a_body_that_is_always_empty_can_carry_no_token_call() {
    let error = with_key(&FakeApi::in_process())
        .body_from(|_| Empty::<Bytes>::new())
        .build()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains("token_service"), "{error}");
}

#[tokio::test]
async fn g16_the_source_of_a_made_body_asks_for_no_type() {
    let api = FakeApi::in_process();
    let boxed = with_key(&api)
        .body_from(|bytes: Bytes| -> Boxed { Full::new(bytes).boxed() })
        .no_replay()
        .build()
        .unwrap();
    boxed.layer(api.service()).source().token().await.unwrap();
    let apart = with_key(&api)
        .token_service::<_, support::Body>(api.service())
        .body_from(|_| Empty::<Bytes>::new())
        .build()
        .unwrap();
    apart.layer(api.service()).source().token().await.unwrap();
    fn is<T>(_: &T) {}
    is::<ApiVideoAuth<FakeService, BodyFrom<Empty<Bytes>, SeparateService>>>(
        &apart.layer(api.service()),
    );
    is::<ApiVideoAuth<FakeService, SameService>>(
        &with_key(&api).build().unwrap().layer(api.service()),
    );
}
