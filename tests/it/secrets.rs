//! G19: what we format shows no secret.

use std::{
    error::Error as StdError,
    fmt::{Debug, Write as _},
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use apivideo_auth::{
    ApiKey, ApiVideoAuthLayer, ApiVideoAuthMiddleware, Credentials, ErrorKind, GrantPreference,
    RefreshToken, TokenCall,
    testing::{FakeApi, Fault, GatePoint, ManualClock},
};
use axum::body::Body;
use bytes::Bytes;
use futures::{FutureExt, stream};
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::time::advance;
use tower::{BoxError, Layer, Service, ServiceExt};
use tower_http::trace::{DefaultMakeSpan, DefaultOnRequest, DefaultOnResponse, TraceLayer};
use tracing::Level;

use crate::{
    support::{Builder, get, ours, renewed, with_key, with_refresh_token},
    traces::Traces,
};

/// Every secret of the tests says this.
const SECRET: &str = "test-only";

fn check(shown: &str) {
    assert!(!shown.contains(SECRET), "{shown}");
}

fn check_debug(value: &dyn Debug) {
    check(&format!("{value:?} {value:#?}"));
}

/// In all its forms, with all its sources.
fn check_error(error: &(dyn StdError + 'static)) {
    let mut shown = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        write!(shown, "{error} {error:?} {error:#?} {error:#} ").unwrap();
        next = error.source();
    }
    check(&shown);
}

#[tokio::test]
async fn g19_no_public_type_shows_a_secret() {
    let api = FakeApi::start().await.unwrap();
    let builder = with_key(&api)
        .refresh_token("test-only-refresh-token")
        .application("app", "1");
    check_debug(&builder);
    let layer = builder
        .grant_preference(GrantPreference::ApiKey)
        .build()
        .unwrap();
    let client = layer.layer(api.service());
    let adaptor =
        ApiVideoAuthMiddleware::new(&layer, ::reqwest::Client::builder().no_proxy()).unwrap();
    let mut renewals = layer.subscribe();
    let pair = adaptor.source().pair().await.unwrap();
    let renewed = renewed(&mut renewals).await.unwrap();
    let separate = || {
        with_key(&api)
            .token_service::<_, Body>(api.service())
            .no_replay()
    };
    let keeper = adaptor.source().keep_fresh().unwrap();
    let gate = api.gate(GatePoint::ApiResponse);
    let values: [&dyn Debug; 20] = [
        &layer,
        &client,
        &adaptor,
        &pair,
        pair.access_token(),
        pair.refresh_token().unwrap(),
        pair.bearer(),
        &renewals,
        &renewed,
        &keeper,
        &separate(),
        &separate().build().unwrap().layer(api.service()),
        &ApiKey::from(api.api_key()),
        &RefreshToken::from("test-only-refresh-token"),
        &Credentials::new()
            .api_key(api.api_key())
            .refresh_token("test-only-refresh-token"),
        &(
            api.clone(),
            api.service(),
            api.journal(),
            FakeApi::builder(),
        ),
        &Fault::response(200, HeaderMap::new(), SECRET),
        &Fault::redirect(307, SECRET),
        &gate,
        &ManualClock::new(),
    ];
    for value in values {
        check_debug(value);
    }

    // Response futures, before and after they wait.
    let slow = Body::from_stream(stream::pending::<io::Result<Bytes>>());
    for request in [Body::from(SECRET), slow] {
        let mut client = layer.layer(api.service());
        let request = Request::post("/echo?token=test-only")
            .body(request)
            .unwrap();
        let mut response = client.call(request);
        check_debug(&response);
        assert!((&mut response).now_or_never().is_none());
        check_debug(&response);
    }
}

#[test]
fn g19_no_configuration_error_shows_a_secret() {
    let build = |edit: fn(Builder) -> Builder| edit(ApiVideoAuthLayer::builder()).build().map(drop);
    let layer = ApiVideoAuthLayer::builder().build().unwrap();
    for result in [
        build(|layer| layer.api_key("test-only-key\n")),
        build(|layer| layer.refresh_token("test-only tokén")),
        build(|layer| layer.base_url("https://test-only@ws.api.video")),
        build(|layer| layer.base_url("https://user:test-only@ws.api.video/x")),
        build(|layer| layer.base_url("https://ws.api.video/?token=test-only")),
        build(|layer| layer.base_url("https://ws.api.video#test-only")),
        build(|layer| layer.base_url("test-only-key-by-mistake")),
        build(|layer| layer.base_url("test-only key by mistake")),
        build(|layer| layer.allow_origin("https://ws.api.video/?token=test-only")),
        build(|layer| layer.application("name", "test-only-key-by-mistake")),
        layer.set_credentials(Credentials::new().api_key("test-only-key\n")),
        layer.set_credentials(Credentials::new().refresh_token("test-only ")),
    ] {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        check_error(&error);
    }
}

/// Fails in all ways there are, and checks what is said about it, by errors and by traces.
#[tokio::test(start_paused = true)]
async fn g19_no_error_and_no_trace_shows_a_secret() {
    let traces = Traces::default();
    let _guard = traces.subscribe();
    let clock = ManualClock::with_tokio();
    let api = FakeApi::builder().clock(clock.clone()).build();
    let headers = || {
        HeaderMap::from_iter([(
            http::header::CONTENT_TYPE,
            "application/json".parse().unwrap(),
        )])
    };
    let echo =
        r#"{"type":"https://docs/test-only","title":"test-only","access_token":"test-only \n"}"#;
    let mut faults = vec![
        Fault::disconnect(),
        Fault::disconnect().after_commit(),
        Fault::status(200),
        Fault::disconnect().mid_body(),
        Fault::response(200, http::HeaderMap::new(), "").after_commit(),
        Fault::huge(),
        Fault::drip(),
        Fault::latency(Duration::from_secs(100)),
        Fault::redirect(307, "https://evil.example/?token=test-only"),
        Fault::rate_limited(1),
        Fault::retry_after(503, "test-only"),
        Fault::problem(401, "authentication-invalid-refresh-token"),
        Fault::problem(401, "authentication-invalid-api-key"),
        Fault::problem(403, "authorization-suspended-account"),
        Fault::problem(400, "invalid-payload"),
        Fault::status(502).after_commit(),
        Fault::json(|pair| pair["access_token"] = "test-only with a space".into()),
        Fault::json(|pair| pair["token_type"] = "test-only".into()),
        Fault::json(|pair| *pair = "test-only".into()),
        Fault::json(|pair| pair["expires_in"] = "test-only".into()),
    ];
    faults.extend(
        [200, 201, 400, 401, 403, 404, 418, 500, 503, 504]
            .map(|status| Fault::response(status, headers(), echo)),
    );
    let mut kinds = std::collections::HashSet::new();
    for (n, fault) in faults.into_iter().enumerate() {
        for refresh_only in [false, true] {
            let builder = if refresh_only {
                with_refresh_token(&api)
            } else {
                with_key(&api).refresh_token(api.mint_pair().1)
            };
            let builder = builder
                .clock(clock.clone())
                .call_timeout(Duration::from_secs(5));
            let layer = builder.build().unwrap();
            api.fault(fault.clone().always());
            let client = layer.layer(
                TraceLayer::new_for_http()
                    .make_span_with(
                        DefaultMakeSpan::new()
                            .level(Level::TRACE)
                            .include_headers(true),
                    )
                    .on_request(DefaultOnRequest::new().level(Level::TRACE))
                    .on_response(DefaultOnResponse::new().level(Level::TRACE))
                    .layer(api.service()),
            );
            for _ in 0..2 {
                match client.clone().oneshot(get("/videos")).await {
                    Ok(response) => check_debug(&response.headers()),
                    Err(error) => {
                        check_error(&*error);
                        kinds.insert(ours(&error).kind());
                    }
                }
            }
            api.fault(None);
            advance(Duration::from_secs(400)).await;
            let _ = client.clone().oneshot(get("/videos")).await;
            api.revoke_access_tokens();
            let _ = client.clone().oneshot(get("/videos")).await;
            assert!(layer.shutdown(Duration::from_secs(100)).await);
            api.revoke_access_tokens();
            for _ in 0..2 {
                if let Err(error) = client.clone().oneshot(get("/videos")).await {
                    check_error(&*error);
                    kinds.insert(ours(&error).kind());
                }
            }
            assert!(
                !traces.text().contains(SECRET),
                "fault {n}:\n{}",
                around(&traces.text())
            );
        }
    }
    for kind in [
        ErrorKind::Refused,
        ErrorKind::Suspended,
        ErrorKind::Unavailable,
        ErrorKind::Ambiguous,
        ErrorKind::Protocol,
        ErrorKind::Closed,
    ] {
        assert!(
            kinds.contains(&kind),
            "{kind:?} was not seen among {kinds:?}"
        );
    }
    assert!(traces.text().contains("access token renewed"));
}

/// What stands around the first secret.
fn around(text: &str) -> String {
    text.lines()
        .find(|line| line.contains(SECRET))
        .unwrap_or_default()
        .chars()
        .take(2_000)
        .collect()
}

#[tokio::test]
async fn g19_an_error_that_quotes_the_credential_is_left_out() {
    let api = FakeApi::in_process();
    assert!(api.api_key().contains(SECRET));
    let quoting = tower::service_fn(|request: Request<Body>| async {
        let body = request.into_body().collect().await?.to_bytes();
        Err::<Response<Body>, BoxError>(format!("could not send {body:?}").into())
    });
    let layer = with_key(&api).token_service(quoting).build().unwrap();
    let client = layer.layer(api.service());
    let error = client.oneshot(get("/videos")).await.unwrap_err();
    check_error(ours(&error));
    assert!(format!("{error:?}").contains("left out"), "{error:?}");
}

#[tokio::test]
async fn g19_a_panic_of_the_token_service_is_told_without_its_words() {
    let traces = Traces::default();
    let _guard = traces.subscribe();
    let service = tower::service_fn(|request: Request<Body>| async move {
        // `resume_unwind` says nothing by itself.
        std::panic::resume_unwind(Box::new(format!("test-only: {:?}", request.uri())));
        #[expect(unreachable_code, reason = "gives the block its type")]
        Ok::<_, BoxError>(Response::new(Body::empty()))
    });
    let layer = ApiVideoAuthLayer::builder()
        .api_key("test-only-key")
        .token_service(service)
        .build()
        .unwrap();
    let error = layer.layer(()).source().token().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Panicked);
    check_error(&error);
    assert!(traces.text().contains("access token not renewed"));
    check(&traces.text());
}

#[tokio::test]
async fn g19_what_is_sent_is_marked_sensitive() {
    let api = FakeApi::in_process();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (fake, log) = (api.service(), seen.clone());
    let inner = tower::service_fn(move |request: Request<Body>| {
        let (head, body) = request.into_parts();
        log.lock().unwrap().push(head.clone());
        fake.clone().oneshot(Request::from_parts(head, body))
    });
    let client = with_key(&api).build().unwrap().layer(inner);
    for _ in 0..4 {
        // The first on the slow path, the next from the shared header, the others from a copy of the clone's own.
        let mut client = client.clone();
        for _ in 0..3 {
            let ready = ServiceExt::<Request<Body>>::ready(&mut client)
                .await
                .unwrap();
            ready
                .call(get("/videos").map(|_| Body::empty()))
                .await
                .unwrap();
        }
        api.revoke_access_tokens();
    }
    let seen = seen.lock().unwrap();
    assert_eq!(
        seen.iter()
            .filter(|head| head.extensions.get::<TokenCall>().is_some())
            .count(),
        4
    );
    for head in seen.iter() {
        check_debug(head);
        assert!(
            head.headers
                .get_all("authorization")
                .iter()
                .all(http::HeaderValue::is_sensitive)
        );
    }
}

#[tokio::test]
async fn g19_nothing_is_traced_over_http_either() {
    for http2 in [false, true] {
        let api = FakeApi::start().await.unwrap();
        let client = Client::builder(TokioExecutor::new())
            .http2_only(http2)
            .build_http::<Body>();
        let layer = with_key(&api).build().unwrap();
        let traces = Traces::default();
        let guard = traces.subscribe();
        let client = layer.layer(client);
        for _ in 0..3 {
            let request = Request::post(api.url() + "/echo")
                .body(Body::from("x"))
                .unwrap();
            assert_eq!(client.clone().oneshot(request).await.unwrap().status(), 200);
            api.revoke_access_tokens();
        }
        drop(guard);
        let traced: String = traces
            .text()
            .lines()
            .filter(|line| line.contains("apivideo_auth"))
            .collect::<Vec<_>>()
            .join("\n");
        assert!(traced.contains("access token renewed"));
        check(&traced);
    }
}
