//! G17 and G18: which requests get a token, and which are left alone.

use std::{
    io,
    sync::{Arc, Mutex},
};

use apivideo_auth::{
    ApiVideoAuth, ApiVideoAuthLayer, ErrorKind, NoAuth,
    middleware::{Replay, SeparateService},
    testing::{FakeApi, FakeService},
};
use axum::body::Body;
use bytes::Bytes;
use futures::future::{BoxFuture, ready};
use http::{HeaderValue, Method, Request, Response, header, request};
use http_body_util::BodyExt;
use tower::{BoxError, Layer, Service, ServiceExt};

use crate::support::{Builder, get, list, with_key};

pub(crate) const API: &str = "https://ws.api.video";

/// Complete URIs, and whether a request to them gets a token.
pub(crate) const ABSOLUTE: &[(&str, bool)] = &[
    ("https://ws.api.video/videos", true),
    ("https://ws.api.video", true),
    (
        "https://ws.api.video/videos?next=https://evil.example/",
        true,
    ),
    ("https://WS.Api.VIDEO/videos", true),
    ("HTTPS://ws.api.video/videos", true),
    ("https://ws.api.video:443/videos", true),
    ("https://ws.api.video//evil.example/x", true),
    // Another port, scheme or host.
    ("https://ws.api.video:444/videos", false),
    ("https://ws.api.video:80/videos", false),
    ("http://ws.api.video/videos", false),
    ("http://ws.api.video:443/videos", false),
    ("https://sandbox.api.video/videos", false),
    ("https://api.video/videos", false),
    ("https://evil.example/videos", false),
    ("https://evil.example/https://ws.api.video/videos", false),
    ("https://ws.api.video.evil.example/videos", false),
    ("https://evil-ws.api.video/videos", false),
    ("https://ws.api.video./videos", false),
    ("https://ws.api.video.:443/videos", false),
    ("https://[::1]/videos", false),
    ("https://[::ffff:127.0.0.1]:443/videos", false),
    ("https://127.0.0.1/videos", false),
    // ẃs.api.video and ws.аpi.video (with a Cyrillic letter).
    ("https://xn--s-btm.api.video/videos", false),
    ("https://ws.xn--pi-6kc.video/videos", false),
    // User information.
    ("https://user@ws.api.video/videos", false),
    ("https://user:password@ws.api.video/videos", false),
    ("https://@ws.api.video/videos", false),
    ("https://ws.api.video@evil.example/videos", false),
    ("https://ws.api.video:443@evil.example/videos", false),
    // Not for bearers.
    ("https://ws.api.video/auth/refresh", false),
    ("https://ws.api.video/auth/api-key", false),
    ("https://ws.api.video/auth/", false),
    ("https://ws.api.video/auth", false),
    ("https://ws.api.video/upload", false),
    ("https://ws.api.video/upload/", false),
    ("https://ws.api.video/upload?token=test-only", false),
    ("https://ws.api.video/upload-tokens", true),
    ("https://ws.api.video/uploads", true),
    ("https://ws.api.video/authors", true),
    ("https://ws.api.video/videos/auth/upload", true),
];

/// Takes what comes out below the layer.
#[derive(Clone, Default)]
struct Below(Arc<Mutex<Option<request::Parts>>>);

impl Service<Request<Body>> for Below {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), BoxError>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        *self.0.lock().unwrap() = Some(request.into_parts().0);
        Box::pin(ready(Ok(Response::default())))
    }
}

/// A layer, and what comes out below it.
struct Stack {
    below: Below,
    client: ApiVideoAuth<Below, SeparateService, Replay>,
}

impl Stack {
    fn new(base_url: &str) -> Self {
        Self::with(base_url, |layer| layer)
    }

    fn with(base_url: &str, settings: impl FnOnce(Builder) -> Builder) -> Self {
        let api = FakeApi::in_process();
        let builder = settings(with_key(&api).base_url(base_url));
        let layer = builder
            .token_service::<FakeService, Body>(api.service())
            .build()
            .unwrap();
        let below = Below::default();
        Self {
            client: layer.layer(below.clone()),
            below,
        }
    }

    async fn send(&self, request: Request<Body>) -> request::Parts {
        self.client.clone().oneshot(request).await.unwrap();
        self.below.0.lock().unwrap().take().unwrap()
    }

    async fn gets_token(&self, uri: &str) -> bool {
        has_token(
            &self
                .send(Request::get(uri).body(Body::empty()).unwrap())
                .await,
        )
    }
}

fn has_token(parts: &request::Parts) -> bool {
    let values: Vec<_> = parts
        .headers
        .get_all(header::AUTHORIZATION)
        .iter()
        .collect();
    match values[..] {
        [] => false,
        [value] => {
            assert!(value.is_sensitive());
            assert!(
                value
                    .to_str()
                    .unwrap()
                    .starts_with("Bearer eyJ0eXAi.test-only-access-")
            );
            true
        }
        _ => panic!("several tokens"),
    }
}

#[tokio::test]
async fn g17_a_token_goes_to_the_apis_origin_and_nowhere_else() {
    let stack = Stack::new(API);
    for (uri, gets_token) in ABSOLUTE {
        let request = Request::get(*uri)
            .header("x-other", "1")
            .body(Body::empty())
            .unwrap();
        let sent = request.uri().clone();
        let parts = stack.send(request).await;
        assert_eq!(has_token(&parts), *gets_token, "{uri}");
        assert_eq!(parts.uri, sent);
        assert_eq!(parts.headers["x-other"], "1");
    }
    // Letters beyond ASCII do not even make a URI.
    for uri in [
        "https://ẃs.api.video/",
        "https://ws.аpi.video/",
        "https://ws。api。video/",
    ] {
        assert!(Request::get(uri).body(()).is_err(), "{uri}");
    }
}

#[tokio::test]
async fn g17_a_path_goes_to_the_api_and_stays_a_path() {
    for (base_url, authority) in [
        (API, "ws.api.video"),
        ("https://ws.api.video:8443/", "ws.api.video:8443"),
        ("http://127.0.0.1:8080", "127.0.0.1:8080"),
        ("http://[::1]:8080", "[::1]:8080"),
        ("http://localhost", "localhost"),
    ] {
        let stack = Stack::with(base_url, |layer| {
            layer.allow_origin("https://other.example")
        });
        for (path, gets_token) in [
            ("/", true),
            ("/videos", true),
            ("/videos?page=1&next=//evil.example", true),
            ("//evil.example/x", true),
            ("//user@evil.example:443/x", true),
            ("///evil.example/x", true),
            ("/\\evil.example/x", true),
            ("/@evil.example/x", true),
            ("/:443/x", true),
            ("/https://evil.example/x", true),
            ("/auth/refresh", false),
            ("/auth/api-key?x", false),
            ("/upload", false),
            ("/upload?token=test-only", false),
        ] {
            let request = Request::get(path).body(Body::empty()).unwrap();
            let parts = stack.send(request).await;
            assert_eq!(has_token(&parts), gets_token, "{path}");
            assert_eq!(parts.uri.authority().unwrap(), authority, "{path}");
            assert_eq!(
                parts.uri.scheme_str().unwrap(),
                &base_url[..base_url.find(':').unwrap()]
            );
            assert_eq!(parts.uri.path_and_query().unwrap().as_str(), path);
        }
    }
}

#[tokio::test]
async fn g17_connect_and_other_forms_pass_as_they_are() {
    let stack = Stack::new(API);
    for (method, uri) in [
        (Method::CONNECT, "ws.api.video:443"),
        (Method::CONNECT, "https://ws.api.video/"),
        (Method::GET, "ws.api.video:443"),
        (Method::GET, "ws.api.video"),
        (Method::OPTIONS, "*"),
    ] {
        let request = Request::builder()
            .method(&method)
            .uri(uri)
            .body(Body::empty())
            .unwrap();
        let sent = request.uri().clone();
        let parts = stack.send(request).await;
        assert!(!has_token(&parts), "{method} {uri}");
        assert_eq!((parts.method, parts.uri), (method, sent));
    }
}

#[tokio::test]
async fn g17_a_host_header_that_differs_gets_no_token() {
    let stack = Stack::new(API);
    for (hosts, same) in [
        (&["ws.api.video"][..], true),
        (&["WS.API.VIDEO:443"], true),
        (&["evil.example"], false),
        (&["ws.api.video:444"], false),
        (&["ws.api.video."], false),
        (&["user@ws.api.video"], false),
        (&["ws.api.video, evil.example"], false),
        (&[""], false),
        (&["ws.api.video", "evil.example"], false),
        (&["localhost:3000"], false),
    ] {
        let request = |uri: &str| {
            let mut request = Request::get(uri);
            for host in hosts {
                request = request.header("host", *host);
            }
            request.body(Body::empty()).unwrap()
        };
        let kept = |parts: &request::Parts| parts.headers.get_all("host").iter().count();
        let parts = stack.send(request("https://ws.api.video/videos")).await;
        assert_eq!(
            (has_token(&parts), kept(&parts)),
            (same, hosts.len()),
            "{hosts:?}"
        );
        let parts = stack.send(request("/videos")).await;
        assert_eq!(
            (has_token(&parts), kept(&parts)),
            (true, if same { hosts.len() } else { 0 }),
            "{hosts:?}"
        );
    }
}

#[tokio::test]
async fn g17_other_origins_can_be_allowed_one_by_one() {
    let stack = Stack::with(API, |layer| {
        layer
            .allow_origin("https://gateway.example:8443")
            .allow_origin("http://127.0.0.1:8080/")
    });
    for (uri, gets_token) in [
        ("https://ws.api.video/videos", true),
        ("https://gateway.example:8443/videos", true),
        ("http://127.0.0.1:8080/videos", true),
        ("https://gateway.example/videos", false),
        ("http://gateway.example:8443/videos", false),
        ("http://127.0.0.1/videos", false),
        ("http://localhost:8080/videos", false),
        ("https://gateway.example:8443/auth/refresh", false),
        ("https://gateway.example:8443/upload", false),
    ] {
        assert_eq!(stack.gets_token(uri).await, gets_token, "{uri}");
    }
    let error = ApiVideoAuthLayer::builder()
        .allow_origin("http://gateway.example")
        .build()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    let stack = Stack::with("http://gateway.example", |layer| layer.danger_allow_http());
    assert!(stack.gets_token("http://gateway.example/videos").await);
    assert!(!stack.gets_token("https://gateway.example/videos").await);
}

/// Requests that bring their own authorization, or ask to be left alone.
fn spared() -> Vec<(&'static str, Request<()>)> {
    let with = |values: &[&[u8]]| {
        let mut request = Request::new(());
        for value in values {
            request.headers_mut().append(
                header::AUTHORIZATION,
                HeaderValue::from_bytes(value).unwrap(),
            );
        }
        request
    };
    let mut no_auth = Request::new(());
    no_auth.extensions_mut().insert(NoAuth);
    vec![
        ("a bearer", with(&[b"Bearer other"])),
        ("Basic", with(&[b"Basic dGVzdC1vbmx5Og=="])),
        ("empty", with(&[b""])),
        ("several", with(&[b"Bearer one", b"Bearer two"])),
        ("no text", with(&[b"\xff\xfe"])),
        ("NoAuth", no_auth),
    ]
}

#[tokio::test]
async fn g18_a_request_with_its_own_authorization_is_left_alone() {
    let stack = Stack::new(API);
    for uri in [
        "https://ws.api.video/videos",
        "/videos",
        "https://evil.example/",
    ] {
        for (name, request) in spared() {
            let mut request = request.map(|()| Body::empty());
            *request.uri_mut() = uri.parse().unwrap();
            request
                .headers_mut()
                .insert(header::HOST, HeaderValue::from_static("localhost:3000"));
            request
                .headers_mut()
                .insert("trailer", HeaderValue::from_static("x-checksum"));
            let headers = request.headers().clone();
            assert_eq!(
                stack.send(request).await.headers,
                headers,
                "{name} to {uri}"
            );
        }
    }
}

#[tokio::test]
async fn g18_its_401_is_not_ours_and_causes_no_renewal() {
    let api = FakeApi::in_process();
    let client = with_key(&api).build().unwrap().layer(api.service());
    for warm in [false, true] {
        if warm {
            assert_eq!(list(&client).await.unwrap(), 200);
        }
        let token_calls = api.counts().token_calls;
        for (name, request) in spared() {
            for stream in [false, true] {
                let body = if stream {
                    Body::from_stream(futures::stream::iter([Ok::<_, io::Error>("same ")]))
                } else {
                    Body::from("same ")
                };
                let mut request = request.clone().map(|()| body);
                (*request.uri_mut(), *request.method_mut()) =
                    ("/echo".parse().unwrap(), Method::POST);
                api.clear_journal();
                let response = client.clone().oneshot(request).await.unwrap();
                assert_eq!(response.status(), 401, "{name}");
                let [sent] = &api.journal()[..] else {
                    panic!("{name}: not one request")
                };
                assert_eq!(sent.body, "same ", "{name}");
            }
        }
        assert_eq!(api.counts().token_calls, token_calls);
    }
    // The token in use is not harmed.
    assert_eq!(list(&client).await.unwrap(), 200);
    assert_eq!(api.counts().token_calls, 1);
}

#[tokio::test]
async fn g18_it_needs_no_credentials_and_its_body_is_not_read() {
    let layer = ApiVideoAuthLayer::builder().build().unwrap();
    let client = layer.layer(tower::service_fn(|request: Request<Body>| async {
        Ok::<_, BoxError>(Response::new(request.into_body()))
    }));
    for (name, request) in spared() {
        let body = Bytes::from_static(b"the very bytes");
        let at = body.as_ptr();
        let response = client
            .clone()
            .oneshot(request.map(|()| Body::from(body)))
            .await
            .unwrap();
        let back = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(
            (back.as_ptr(), &back[..]),
            (at, &b"the very bytes"[..]),
            "{name}"
        );
    }
    // What the layer does not know passes, too, and what it knows says what is missing.
    let client = layer.layer(FakeApi::in_process().service());
    assert_eq!(
        client
            .clone()
            .oneshot(get("https://evil.example/"))
            .await
            .unwrap()
            .status(),
        404
    );
    let error = client.oneshot(get("/videos")).await.unwrap_err();
    assert_eq!(
        crate::support::ours(&error).kind(),
        ErrorKind::NoCredentials
    );
}
