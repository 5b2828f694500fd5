//! The example `axum_gateway`: who may use it, and what passes.

#[path = "../../examples/axum_gateway/connections.rs"]
mod connections;
#[path = "../../examples/axum_gateway/gateway.rs"]
mod example;

use std::net::SocketAddr;

use apivideo_auth::{
    ApiVideoAuthLayer,
    testing::{FakeApi, Fault},
};
use axum::{
    Json, Router,
    body::Body,
    http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header, request::Parts},
    routing::{get, post},
};
use bytes::Bytes;
use example::{Login, User, gateway};
use futures::{StreamExt, future::join_all, stream};
use http_body_util::BodyExt;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};
use tower::{Layer, ServiceExt};

use crate::support::{HOUR, MIB, seconds};

const ADDRESS: ([u8; 4], u16) = ([127, 0, 0, 1], 8000);
const OWN: &str = "127.0.0.1:8000";
const FOREIGN: &str = "https://evil.example";

/// Lets in who shows the cookie.
#[derive(Clone)]
struct ByCookie;

impl Login for ByCookie {
    async fn user(&self, parts: &Parts) -> Result<User, StatusCode> {
        match parts.headers.get(header::COOKIE) {
            Some(cookie) if cookie == "session=test-only" => Ok(User("visitor".to_owned())),
            _ => Err(StatusCode::UNAUTHORIZED),
        }
    }
}

/// The login of somebody who has filled in nothing.
#[derive(Clone)]
struct NotYet;

impl Login for NotYet {}

fn before(url: &str, api_key: &str, login: impl Login) -> Router {
    let layer = ApiVideoAuthLayer::builder()
        .base_url(url)
        .api_key(api_key)
        .build()
        .unwrap();
    let upstream = layer.layer(Client::builder(TokioExecutor::new()).build_http());
    gateway(upstream, SocketAddr::from(ADDRESS), login)
}

fn before_fake(api: &FakeApi) -> Router {
    before(&api.url(), api.api_key(), ByCookie)
}

/// An upstream that is no api.video, behind a login that works.
async fn before_other(videos: axum::routing::MethodRouter) -> Router {
    let pair = json!({"token_type": "Bearer", "expires_in": 3600, "access_token": "test-only", "refresh_token": "test-only"});
    let app = Router::new()
        .route("/auth/api-key", post(async || Json(pair)))
        .route("/videos", videos);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, app).await });
    before(&url, "test-only-key", ByCookie)
}

/// A request as the gateway's own pages send it, with `headers` in place of what they would have.
fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Request<Body> {
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", OWN)
        .header("origin", format!("http://{OWN}"))
        .header("cookie", "session=test-only")
        .header("content-type", "application/json")
        .body(Body::from(r#"{"title":"from a browser"}"#))
        .unwrap();
    for (name, value) in headers {
        let value = HeaderValue::from_str(value).unwrap();
        let name: header::HeaderName = name.parse().unwrap();
        request.headers_mut().insert(name, value);
    }
    request
}

async fn send(app: &Router, request: Request<Body>) -> (StatusCode, HeaderMap, Bytes) {
    let exchange = async {
        let (head, body) = app.clone().oneshot(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (head.status, head.headers, body)
    };
    let exchange = tokio::time::timeout(seconds(60), exchange).await;
    exchange.expect("a response in time")
}

fn names(headers: &HeaderMap) -> String {
    let mut names: Vec<_> = headers.keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    names.join(" ")
}

async fn status(app: &Router, request: Request<Body>) -> StatusCode {
    send(app, request).await.0
}

#[tokio::test]
async fn g27_nobody_is_let_in_until_the_login_is_there() {
    let api = FakeApi::start().await.unwrap();
    let app = before(&api.url(), api.api_key(), NotYet);
    for (method, path) in [
        ("GET", "/api/videos"),
        ("POST", "/api/videos"),
        ("DELETE", "/api/videos/vi1"),
        ("GET", "/elsewhere"),
    ] {
        assert_eq!(status(&app, request(method, path, &[])).await, 401);
    }
    assert_eq!(api.counts().token_calls + api.counts().api_calls, 0);
}

#[tokio::test]
async fn g27_each_request_is_asked_who_sends_it() {
    let api = FakeApi::start().await.unwrap();
    let app = before_fake(&api);
    assert_eq!(status(&app, request("GET", "/api/videos", &[])).await, 200);
    let stranger = request("GET", "/api/videos", &[("cookie", "session=other")]);
    assert_eq!(status(&app, stranger).await, 401);
    assert_eq!(api.counts().api_calls, 1);
}

#[tokio::test]
async fn g27_headers_go_in_by_a_list() {
    let api = FakeApi::start().await.unwrap();
    let app = before_fake(&api);
    let others = "x-http-method-override x-http-method x-method-override x-original-url x-rewrite-url forwarded via \
                 x-forwarded-for x-forwarded-host x-real-ip x-api-key proxy-authorization referer user-agent expect \
                 av-origin-client te upgrade x-anything";
    let many: Vec<_> = others
        .split_whitespace()
        .map(|name| (name, "DELETE"))
        .collect();
    let listed = [("accept", "*/*"), ("accept-language", "en")];
    let mut all = request("POST", "/api/videos", &[&many[..], &listed].concat());
    let own = HeaderValue::from_static("Bearer test-only-of-the-browser");
    all.headers_mut().insert(header::AUTHORIZATION, own.clone());
    assert_eq!(status(&app, all).await, 201);

    let journal = api.journal();
    let seen = &journal.last().unwrap().headers;
    let expected = "accept accept-language authorization content-length content-type host";
    assert_eq!(names(seen), expected);
    assert_ne!(seen[header::AUTHORIZATION], own);
    assert_eq!(seen[header::HOST], api.url()["http://".len()..]);
}

#[tokio::test]
async fn g27_headers_come_out_by_a_list() {
    for cors in [FOREIGN, "*"] {
        let api = FakeApi::builder()
            .cors(cors)
            .response_header("set-cookie", "balancer=test-only; Path=/");
        let api = api.serve().await.unwrap();
        let app = before_fake(&api);
        let from_foreign = || request("GET", "/api/videos", &[("origin", FOREIGN)]);
        let (_, headers, _) = send(&app, from_foreign()).await;
        assert_eq!(
            names(&headers),
            "cache-control content-length content-type x-content-type-options"
        );
        api.on_api_request(|_| {
            Some(
                Response::builder()
                    .status(429)
                    .header("content-type", "application/problem+json")
                    .header("retry-after", "7")
                    .header("set-cookie", "of=the-api; Path=/")
                    .header("set-cookie", "second=one")
                    .header("access-control-allow-credentials", "true")
                    .header("access-control-expose-headers", "*")
                    .header("x-powered-by", "the-api")
                    .header("connection", "x-named")
                    .header("x-named", "1")
                    .body("{}".into())
                    .unwrap(),
            )
        });
        let (status, headers, body) = send(&app, from_foreign()).await;
        let expected =
            "cache-control content-length content-type retry-after x-content-type-options";
        assert_eq!(names(&headers), expected);
        assert_eq!((status.as_u16(), &body[..]), (429, &b"{}"[..]));
        assert_eq!(headers[header::RETRY_AFTER], "7");
    }
}

#[tokio::test]
async fn g27_what_is_not_on_the_list_is_not_forwarded() {
    let api = FakeApi::start().await.unwrap();
    let app = before_fake(&api);
    let cross_site = [("origin", FOREIGN), ("sec-fetch-site", "cross-site")];
    for (expected, method, path, headers) in [
        (403, "POST", "/api/videos", &cross_site[..]),
        (403, "DELETE", "/api/videos/vi1", &cross_site),
        (403, "POST", "/api/videos", &[("origin", "null")]),
        (421, "GET", "/api/videos", &[("host", "evil.example")]),
        (
            421,
            "GET",
            "/api/videos",
            &[("host", "127.0.0.1:8000.evil.example")],
        ),
        (421, "GET", "http://evil.example/api/videos", &[]),
        (400, "GET", "/api/videos/../auth/refresh", &[]),
        (400, "GET", "/api/videos/./x", &[]),
        (400, "GET", "/api/videos/%2e%2e", &[]),
        (400, "GET", "/api/videos/..%2f..%2fauth%2frefresh", &[]),
        (400, "GET", "/api/videos/..%5cauth", &[]),
        (400, "GET", "/api/videos/\\evil.example", &[]),
        (400, "GET", "/api/videos;x", &[]),
        (400, "GET", "/api//evil.example/videos", &[]),
        (400, "GET", "//evil.example/api/videos", &[]),
        (400, "GET", "/api/videos/", &[]),
        (404, "GET", "/api/upload-tokens", &[]),
        (404, "GET", "/videos", &[]),
        (404, "GET", "/api/videos/vi1/source", &[]),
        (404, "POST", "/api/auth/api-key", &[]),
        (405, "PATCH", "/api/videos/vi1", &[]),
        (405, "PUT", "/api/videos", &[]),
        (
            405,
            "OPTIONS",
            "/api/videos",
            &[("access-control-request-method", "GET")],
        ),
        (405, "DELETE", "/api/videos", &[]),
    ] {
        let status = status(&app, request(method, path, headers)).await;
        assert_eq!(status, expected, "{method} {path} {headers:?}");
    }
    let mut two = request("GET", "/api/videos", &[]);
    two.headers_mut()
        .append(header::HOST, HeaderValue::from_static(OWN));
    assert_eq!(status(&app, two).await, 421);
    let mut none = request("GET", "/api/videos", &[]);
    none.headers_mut().remove(header::HOST);
    assert_eq!(status(&app, none).await, 421);
    assert_eq!(api.counts().api_calls, 0);

    for host in [OWN, "localhost:8000"] {
        let own = request(
            "GET",
            "/api/videos?pageSize=10&title=a%2Fb",
            &[("host", host)],
        );
        assert_eq!(status(&app, own).await, 200);
    }
    let forwarded = api.journal().last().unwrap().uri.to_string();
    assert_eq!(forwarded, "/videos?pageSize=10&title=a%2Fb");
}

#[tokio::test]
async fn g27_a_head_request_is_a_get_without_the_body() {
    let api = FakeApi::start().await.unwrap();
    let (status, _, body) = send(&before_fake(&api), request("HEAD", "/api/videos", &[])).await;
    assert_eq!((status.as_u16(), body.len()), (200, 0));
    assert_eq!(api.journal().last().unwrap().method, "GET");
}

#[tokio::test(start_paused = true)]
async fn g27_an_api_that_hangs_is_a_504_in_time() {
    let api = FakeApi::start().await.unwrap();
    let app = before_fake(&api);
    assert_eq!(status(&app, request("GET", "/api/videos", &[])).await, 200);
    let hangs = Fault::latency(HOUR).on(|request| request.uri.path() == "/videos");
    for hangs in [hangs.clone(), hangs.mid_body()] {
        api.fault(hangs);
        let begun = Instant::now();
        assert_eq!(status(&app, request("GET", "/api/videos", &[])).await, 504);
        assert_eq!(begun.elapsed().as_secs(), 30);
    }
}

#[tokio::test(start_paused = true)]
async fn g27_what_a_browser_sends_has_a_limit_and_a_time() {
    let api = FakeApi::start().await.unwrap();
    let app = before_fake(&api);
    let with = |body| {
        let mut request = request("POST", "/api/videos", &[]);
        *request.body_mut() = body;
        request
    };
    let large = format!("{{\"title\":\"{}\"}}", "x".repeat(MIB));
    assert_eq!(status(&app, with(Body::from(large))).await, 413);
    let endless = stream::repeat(vec![b' '; 1024]).map(Ok::<_, std::io::Error>);
    assert_eq!(status(&app, with(Body::from_stream(endless))).await, 413);

    let drip = stream::repeat(()).then(async |()| {
        tokio::time::sleep(seconds(1)).await;
        Ok::<_, std::io::Error>(" ")
    });
    let begun = Instant::now();
    assert_eq!(status(&app, with(Body::from_stream(drip))).await, 408);
    assert_eq!(begun.elapsed(), seconds(10));
    assert_eq!(api.counts().api_calls, 0);
}

#[tokio::test]
async fn g27_only_what_the_api_says_itself_comes_out() {
    type Answer = (u16, [(&'static str, &'static str); 1], &'static str);
    let odd: [Answer; 4] = [
        (
            200,
            [("content-type", "text/html")],
            "<script>alert(1)</script>",
        ),
        (502, [("content-type", "text/html")], "<h1>Bad Gateway</h1>"),
        (302, [("location", "https://evil.example/")], ""),
        (401, [("content-type", "application/json")], "{}"),
    ];
    for (status, header, body) in odd {
        let code = StatusCode::from_u16(status).unwrap();
        let app = before_other(get(async move || (code, header, body))).await;
        let (status, headers, body) = send(&app, request("GET", "/api/videos", &[])).await;
        assert_eq!(status, 502, "{code}");
        assert_eq!(headers[header::CONTENT_TYPE], "application/problem+json");
        assert!(!headers.contains_key(header::LOCATION));
        assert!(!String::from_utf8_lossy(&body).contains('<'), "{code}");
    }
}

#[tokio::test]
async fn g27_no_api_is_told_apart_from_no_luck() {
    let api = FakeApi::start().await.unwrap();
    api.refuse_api_key(true);
    let (status, headers, _) = send(&before_fake(&api), request("GET", "/api/videos", &[])).await;
    assert_eq!(status, 502);
    assert!(headers.contains_key(header::RETRY_AFTER));

    api.refuse_api_key(false);
    api.fault(Fault::retry_after(503, 60));
    let (status, headers, _) = send(&before_fake(&api), request("GET", "/api/videos", &[])).await;
    assert_eq!(status, 503);
    assert_eq!(headers[header::RETRY_AFTER], "60");
}

#[tokio::test]
async fn g1_g27_many_browsers_make_one_token_call() {
    let api = FakeApi::start().await.unwrap();
    let app = before_fake(&api);
    for round in 1..=2 {
        let sent = (0..100).map(|number| {
            let method = if number % 4 == 0 { "POST" } else { "GET" };
            send(&app, request(method, "/api/videos", &[]))
        });
        for (status, ..) in join_all(sent).await {
            assert!(status.is_success(), "{status}");
        }
        assert_eq!(
            (api.counts().token_calls, api.counts().max_in_flight),
            (round, 1)
        );
        // The browsers see nothing of it.
        api.revoke_access_tokens();
    }
}

#[tokio::test(start_paused = true)]
async fn g27_half_a_request_is_not_waited_for() {
    for sent in ["", "GET /api/videos HTTP/1.1\r\nHost: x"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = async {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(sent.as_bytes()).await.unwrap();
            let mut response = Vec::new();
            let ended = client.read_to_end(&mut response);
            timeout(seconds(60), ended).await
        };
        let ended = connections::serve(listener, Router::new(), client).await;
        assert!(ended.is_ok(), "{sent:?} keeps a connection open");
    }
}
