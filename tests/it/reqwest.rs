//! The reqwest-middleware side, beyond what the contract suite asks of every adaptor.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use ::reqwest::{Client, ClientBuilder, Request, Response, Url};
use apivideo_auth::{
    ApiVideoAuthLayer, ApiVideoAuthMiddleware, ErrorKind,
    testing::{FakeApi, Fault},
};
use async_trait::async_trait;
use bytes::Bytes;
use http::{Extensions, header};
use reqwest_middleware::{ClientWithMiddleware, Error, Middleware, Next};
use reqwest_retry::{RetryError, RetryTransientMiddleware, policies::ExponentialBackoff};
use reqwest_tracing::TracingMiddleware;
use tower::{BoxError, Layer};

use crate::support::{client, list, with_key};

/// What the adaptor answers with, as the tower layer would.
pub(crate) fn unwrapped(error: Error) -> BoxError {
    match error {
        Error::Middleware(error) => match error.downcast::<apivideo_auth::Error>() {
            Ok(ours) => ours.into(),
            Err(other) => other.into(),
        },
        Error::Reqwest(error) => error.into(),
    }
}

fn plain() -> ClientBuilder {
    Client::builder().no_proxy()
}

fn auth(layer: &ApiVideoAuthLayer) -> ApiVideoAuthMiddleware {
    ApiVideoAuthMiddleware::new(layer, plain()).unwrap()
}

fn over(layer: &ApiVideoAuthLayer) -> ClientWithMiddleware {
    reqwest_middleware::ClientBuilder::new(plain().build().unwrap())
        .with(auth(layer))
        .build()
}

fn quick_retries() -> RetryTransientMiddleware<ExponentialBackoff> {
    let policy = ExponentialBackoff::builder()
        .retry_bounds(Duration::from_millis(1), Duration::from_millis(2))
        .build_with_max_retries(3);
    RetryTransientMiddleware::new_with_policy(policy)
}

async fn start() -> (FakeApi, ApiVideoAuthLayer) {
    let api = FakeApi::start().await.unwrap();
    let layer = with_key(&api).build().unwrap();
    (api, layer)
}

fn redirect(status: u16, location: String) -> http::Response<Bytes> {
    http::Response::builder()
        .status(status)
        .header("location", location)
        .body(Bytes::new())
        .unwrap()
}

fn status(status: u16) -> http::Response<Bytes> {
    http::Response::builder()
        .status(status)
        .body(Bytes::new())
        .unwrap()
}

#[tokio::test]
async fn g1_the_adaptor_and_a_tower_layer_share_one_token() {
    let (api, layer) = start().await;
    let tower = client(&layer, &api);
    let (reqwest, second) = (over(&layer), over(&layer));
    let url = api.url() + "/videos";
    assert_eq!(list(&tower).await.unwrap(), 200);
    assert_eq!(reqwest.get(&url).send().await.unwrap().status(), 200);
    assert_eq!(api.counts().token_calls, 1);

    api.revoke_access_tokens();
    assert_eq!(reqwest.get(&url).send().await.unwrap().status(), 200);
    assert_eq!(list(&tower).await.unwrap(), 200);
    assert_eq!(second.get(&url).send().await.unwrap().status(), 200);
    assert_eq!(
        (api.counts().token_calls, api.counts().unauthorized),
        (2, 1)
    );

    let adaptor = auth(&layer);
    let token = adaptor.source().token().await.unwrap();
    let generation = token.generation();
    layer.invalidate(&token);
    assert_eq!(
        adaptor.source().token().await.unwrap().generation(),
        generation + 1
    );
    let pair = adaptor.source().renew().await.unwrap();
    assert_eq!(
        adaptor.source().pair().await.unwrap().bearer().generation(),
        pair.generation()
    );
    let keeper = adaptor.source().keep_fresh().unwrap();
    drop(keeper);
    assert!(layer.shutdown(Duration::from_secs(1)).await);
    assert_eq!(api.counts().max_in_flight, 1);
}

/// Stands in for the wire, and keeps what goes out.
#[derive(Clone, Default)]
struct Wire(Arc<Mutex<Vec<Request>>>);

#[async_trait]
impl Middleware for Wire {
    async fn handle(
        &self,
        request: Request,
        _: &mut Extensions,
        _: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        self.0.lock().unwrap().push(request);
        Ok(http::Response::new("").into())
    }
}

#[tokio::test]
async fn g17_the_adaptor_sends_tokens_where_the_layer_does() {
    let api = FakeApi::start().await.unwrap();
    let layer = with_key(&api)
        .base_url(crate::origins::API)
        .token_service::<_, axum::body::Body>(api.service())
        .build()
        .unwrap();
    // Filled through the layer: the adaptor's own token calls would go to api.video.
    layer.layer(api.service()).source().token().await.unwrap();
    let wire = Wire::default();
    let client = reqwest_middleware::ClientBuilder::new(plain().build().unwrap())
        .with(ApiVideoAuthMiddleware::new(&layer, plain()).unwrap())
        .with(wire.clone())
        .build();
    for (uri, gets_token) in crate::origins::ABSOLUTE {
        // What reqwest makes of an empty user name is a URL without one.
        let gets_token = *gets_token || *uri == "https://@ws.api.video/videos";
        let request = Request::new(http::Method::GET, Url::parse(uri).unwrap());
        client.execute(request).await.unwrap();
        let sent = wire.0.lock().unwrap().pop().unwrap();
        let values: Vec<_> = sent
            .headers()
            .get_all(header::AUTHORIZATION)
            .iter()
            .collect();
        assert_eq!(values.len(), usize::from(gets_token), "{uri}");
        assert!(values.iter().all(|value| value.is_sensitive()), "{uri}");
    }
    for (host, gets_token) in [("ws.api.video", true), ("evil.example", false)] {
        client
            .get(crate::origins::API)
            .header("host", host)
            .send()
            .await
            .unwrap();
        let sent = wire.0.lock().unwrap().pop().unwrap();
        assert_eq!(
            sent.headers().contains_key(header::AUTHORIZATION),
            gets_token,
            "{host}"
        );
    }
    // User information becomes the request's own authorization in a builder.
    client
        .get("https://user:password@ws.api.video/videos")
        .send()
        .await
        .unwrap();
    let sent = wire.0.lock().unwrap().pop().unwrap();
    assert!(
        sent.headers()[header::AUTHORIZATION]
            .to_str()
            .unwrap()
            .starts_with("Basic ")
    );
    // A backslash is a slash to `Url`, and a path to everybody.
    client
        .get("https://ws.api.video/\\evil.example/x")
        .send()
        .await
        .unwrap();
    let sent = wire.0.lock().unwrap().pop().unwrap();
    assert_eq!(sent.url().host_str(), Some("ws.api.video"));
}

#[tokio::test]
async fn g17_reqwests_redirects_to_another_host_carry_no_token() {
    let (api, layer) = start().await;
    let other = FakeApi::start().await.unwrap();
    let reqwest = over(&layer);
    for code in [301, 302, 303, 307, 308] {
        let location = other.url() + "/videos";
        api.on_api_request(move |_| Some(redirect(code, location.clone())));
        let response = reqwest
            .post(api.url() + "/videos")
            .body("x")
            .send()
            .await
            .unwrap();
        assert_eq!(
            response.status(),
            401,
            "{code}: the other server never saw a token"
        );
        let journal = other.journal();
        assert!((1..=2).contains(&journal.len()), "{code}: {journal:?}");
        assert!(
            journal
                .iter()
                .all(|sent| !sent.headers.contains_key(header::AUTHORIZATION)),
            "{code}"
        );
        other.clear_journal();
    }
    // On the same host it stays.
    let location = api.url() + "/videos";
    api.on_api_request(move |request| {
        (request.uri.path() == "/echo").then(|| redirect(307, location.clone()))
    });
    assert_eq!(
        reqwest
            .get(api.url() + "/echo")
            .send()
            .await
            .unwrap()
            .status(),
        200
    );
}

#[tokio::test]
async fn g13_token_calls_are_neither_redirected_nor_repeated() {
    let (api, layer) = start().await;
    let other = FakeApi::start().await.unwrap();
    let retries = ::reqwest::retry::for_host("127.0.0.1")
        .max_retries_per_request(5)
        .classify_fn(|attempt| {
            if attempt.status().is_none_or(|s| s != 200) {
                attempt.retryable()
            } else {
                attempt.success()
            }
        });
    let calls = plain()
        .redirect(::reqwest::redirect::Policy::limited(10))
        .retry(retries);
    let auth = ApiVideoAuthMiddleware::new(&layer, calls).unwrap();
    assert_eq!(auth.source().token().await.unwrap().generation(), 1);
    let refresh_token = api.live_refresh_token().unwrap();

    api.fault(Fault::redirect(307, other.url() + "/auth/refresh"));
    api.refuse_api_key(true);
    auth.source().renew().await.unwrap();
    assert!(other.journal().is_empty());
    assert_eq!(
        api.presentations(&refresh_token),
        2,
        "the redirect is a failure, tried again by the flight"
    );

    api.fault(Fault::disconnect().after_commit());
    api.refuse_api_key(false);
    let refresh_token = api.live_refresh_token().unwrap();
    auth.source().renew().await.unwrap();
    assert_eq!(api.presentations(&refresh_token), 1);
    assert_eq!(api.counts().reuse_violations, 0);
}

#[tokio::test]
async fn order_below_retry_each_attempt_gets_the_token_of_its_time() {
    let (api, layer) = start().await;
    let client = reqwest_middleware::ClientBuilder::new(plain().build().unwrap())
        .with(quick_retries())
        .with(auth(&layer))
        .build();
    let url = api.url() + "/videos";
    assert_eq!(client.get(&url).send().await.unwrap().status(), 200);
    // 503, then the token is revoked, then 503 again: the third attempt meets the 401 and cures it.
    let unavailable = Fault::status(503).on(|call| call.uri.path() == "/videos");
    api.fault(unavailable.times(2));
    api.revoke_access_tokens();
    assert_eq!(client.get(&url).send().await.unwrap().status(), 200);
    assert_eq!((api.counts().api_calls, api.counts().token_calls), (5, 2));

    // A source that can't serve now is worth no retries of the request: our error comes through them.
    api.suspend(true);
    layer.invalidate(&auth(&layer).source().token().await.unwrap());
    let error = client.get(&url).send().await.unwrap_err();
    assert_eq!(found_in(&error).kind(), ErrorKind::Suspended);
    assert_eq!(api.counts().token_calls, 3);
}

/// Our error, also in `reqwest-retry`'s own, whose `source()` does not show it.
fn found_in(error: &Error) -> apivideo_auth::Error {
    let Error::Middleware(error) = error else {
        panic!("{error:?}")
    };
    match (
        error.downcast_ref::<apivideo_auth::Error>(),
        error.downcast_ref(),
    ) {
        (Some(ours), _) => ours.clone(),
        (_, Some(RetryError::Error(error) | RetryError::WithRetries { err: error, .. })) => {
            found_in(error)
        }
        _ => panic!("{error:?}"),
    }
}

#[tokio::test]
async fn order_above_retry_works_too() {
    let (api, layer) = start().await;
    let client = reqwest_middleware::ClientBuilder::new(plain().build().unwrap())
        .with(auth(&layer))
        .with(quick_retries())
        .build();
    let url = api.url() + "/videos";
    let count = Mutex::new(0);
    api.on_api_request(move |_| {
        let mut count = count.lock().unwrap();
        *count += 1;
        (*count <= 2).then(|| status(503))
    });
    assert_eq!(client.get(&url).send().await.unwrap().status(), 200);
    api.revoke_access_tokens();
    assert_eq!(client.get(&url).send().await.unwrap().status(), 200);
    assert_eq!((api.counts().api_calls, api.counts().token_calls), (5, 2));
}

#[tokio::test]
async fn g19_tracing_above_sees_neither_the_token_nor_the_first_401() {
    let (api, layer) = start().await;
    let client = reqwest_middleware::ClientBuilder::new(plain().build().unwrap())
        .with(TracingMiddleware::default())
        .with(auth(&layer))
        .build();
    let traces = crate::traces::Traces::default();
    let guard = traces.subscribe();
    let url = api.url() + "/videos";
    client.get(&url).send().await.unwrap();
    api.revoke_access_tokens();
    assert_eq!(client.get(&url).send().await.unwrap().status(), 200);
    drop(guard);
    let traced = traces.text();
    assert!(traced.contains("status_code=200"), "{traced}");
    assert!(!traced.contains("status_code=401"), "{traced}");
    assert!(!traced.contains("test-only"), "{traced}");
}

#[tokio::test]
async fn g19_errors_are_ours_and_name_no_url_of_a_request() {
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let layer = ApiVideoAuthLayer::builder()
        .base_url(format!("http://{nobody}"))
        .api_key("test-only-key")
        .build()
        .unwrap();
    let request = over(&layer).get(format!(
        "http://{nobody}/videos?token=test-only-in-the-query"
    ));
    let Error::Middleware(error) = request.send().await.unwrap_err() else {
        panic!("not ours")
    };
    let shown = format!("{error} {error:?} {error:#}");
    assert!(!shown.contains("test-only"), "{shown}");
    let ours = error.downcast::<apivideo_auth::Error>().unwrap();
    assert_eq!(
        ours.kind(),
        ErrorKind::Unavailable,
        "a refused connection is known as such"
    );
    assert!(ours.is_transient());

    let none = ApiVideoAuthLayer::builder()
        .base_url(format!("http://{nobody}"))
        .build()
        .unwrap();
    let error = over(&none)
        .get(format!("http://{nobody}/videos"))
        .send()
        .await
        .unwrap_err();
    assert_eq!(found_in(&error).kind(), ErrorKind::NoCredentials);
}

#[tokio::test]
async fn errors_of_the_wrapped_client_pass_as_they_are() {
    let (api, layer) = start().await;
    auth(&layer).source().token().await.unwrap();
    let client = over(&layer);
    let url = api.url() + "/videos";
    drop(api);
    tokio::time::sleep(Duration::from_millis(20)).await;
    let error = client.get(url).send().await.unwrap_err();
    assert!(
        matches!(&error, Error::Reqwest(error) if error.is_connect() || error.is_request()),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_client_that_reqwest_cannot_make_is_a_configuration_error() {
    let (_api, layer) = start().await;
    let error = ApiVideoAuthMiddleware::new(&layer, plain().user_agent("two\nlines")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(std::error::Error::source(&error).is_some());
}
