//! Upload tokens: used without a bearer, for uploads, and never printed.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use apivideo_auth::{
    ErrorKind, UploadTokenLayer, UploadTokens,
    testing::{FakeApi, FakeBody},
    upload_token::{Source, UploadBody, UploadOptions, upload},
};
use http::{Method, Request, Response, StatusCode, header};
use tower::{BoxError, Layer, Service, ServiceExt, service_fn};

use crate::{
    support::{Body, ours, with_key},
    traces::Traces,
    upload_tokens::{known, layer, mint, post, tokens},
};

#[tokio::test]
async fn g17_an_upload_token_goes_to_post_upload_only() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let service = service_fn(|request: Request<Body>| {
        seen.lock().unwrap().push(request.uri().clone());
        std::future::ready(Ok::<_, BoxError>(Response::new(Body::default())))
    });
    let layer = UploadTokenLayer::builder("to-test-only").build().unwrap();
    let mut service = layer.layer(service);
    for (uri, sent) in [
        ("/upload", "https://ws.api.video/upload?token=to-test-only"),
        (
            "/upload?a=b&c",
            "https://ws.api.video/upload?a=b&c&token=to-test-only",
        ),
        ("/upload?", "https://ws.api.video/upload?token=to-test-only"),
        (
            "https://ws.api.video/upload",
            "https://ws.api.video/upload?token=to-test-only",
        ),
        (
            "https://WS.api.video:443/upload?x=1",
            "https://ws.api.video/upload?x=1&token=to-test-only",
        ),
    ] {
        service
            .ready()
            .await
            .unwrap()
            .call(post(uri))
            .await
            .unwrap();
        assert_eq!(seen.lock().unwrap().pop().unwrap().to_string(), sent);
    }

    let with = |method: Method, uri: &str, host: Option<&str>| {
        let mut request = Request::builder().method(method).uri(uri);
        if let Some(host) = host {
            request = request.header(header::HOST, host);
        }
        request.body(Body::default()).unwrap()
    };
    for refused in [
        with(Method::GET, "/upload", None),
        with(Method::PUT, "/upload", None),
        with(Method::OPTIONS, "/upload", None),
        with(Method::CONNECT, "ws.api.video:443", None),
        with(Method::POST, "/videos", None),
        with(Method::POST, "/upload/", None),
        with(Method::POST, "//upload", None),
        with(Method::POST, "/upload/x", None),
        with(Method::POST, "/upload%2f", None),
        with(Method::POST, "/auth/api-key", None),
        with(Method::POST, "/upload-tokens", None),
        with(Method::POST, "/upload?token=to-another", None),
        with(Method::POST, "/upload?a=b&token", None),
        with(Method::POST, "http://ws.api.video/upload", None),
        with(Method::POST, "https://ws.api.video./upload", None),
        with(Method::POST, "https://ws.api.video:444/upload", None),
        with(Method::POST, "https://sandbox.api.video/upload", None),
        with(Method::POST, "https://user@ws.api.video/upload", None),
        with(Method::POST, "https://evil.example/upload", None),
        with(
            Method::POST,
            "https://ws.api.video/upload",
            Some("evil.example"),
        ),
    ] {
        let shown = format!("{refused:?}");
        let error = service
            .ready()
            .await
            .unwrap()
            .call(refused)
            .await
            .unwrap_err();
        assert_eq!(ours(&error).kind(), ErrorKind::WrongTarget, "{shown}");
        assert!(!format!("{error} {error:?}").contains("test-only"));
    }
    assert!(seen.lock().unwrap().is_empty());
    // A gateway's own `Host` does not contradict a mere path.
    let request = with(Method::POST, "/upload", Some("gateway.example"));
    service.ready().await.unwrap().call(request).await.unwrap();
    assert_eq!(seen.lock().unwrap().len(), 1);
}

/// Sends a film in two chunks, and a request with an `Authorization` of its own.
async fn use_token<S>(service: S)
where
    S: Service<Request<UploadBody>, Response = Response<FakeBody>, Error = BoxError> + Clone,
{
    let film = vec![1; 6 * 1024 * 1024];
    let options = UploadOptions::new().chunk_size(5 * 1024 * 1024);
    upload(service.clone(), Source::new(&film[..]), options)
        .await
        .expect("an upload");
    let mut own = post("/upload").map(|_| UploadBody::default());
    own.headers_mut().append(
        header::AUTHORIZATION,
        "Bearer test-only".parse().expect("a header"),
    );
    own.headers_mut().append(
        header::AUTHORIZATION,
        "Basic test-only".parse().expect("a header"),
    );
    assert_eq!(
        service.oneshot(own).await.expect("a response").status(),
        StatusCode::BAD_REQUEST
    );
}

#[tokio::test]
async fn g18_no_request_with_an_upload_token_has_authorization() {
    let api = FakeApi::in_process();
    let token = mint(&api).await;
    let (auth, with_token) = (with_key(&api).build().unwrap(), layer(&api, &token));
    api.clear_journal();
    use_token(with_token.layer(api.service())).await;
    use_token(with_token.layer(auth.layer(api.service()))).await;
    use_token(auth.layer(with_token.layer(api.service()))).await;

    let journal = api.journal();
    assert_eq!(journal.len(), 9);
    for exchange in journal {
        assert_eq!(exchange.uri.path(), "/upload");
        assert!(!exchange.headers.contains_key(header::AUTHORIZATION));
    }
}

#[tokio::test]
async fn g19_an_error_that_quotes_the_token_is_left_out() {
    let layer = UploadTokenLayer::builder("to-test-only").build().unwrap();
    let quoting = layer.layer(service_fn(|request: Request<Body>| async move {
        let inner = io::Error::other(format!("error sending request for url ({})", request.uri()));
        Err::<Response<Body>, BoxError>(Box::new(io::Error::other(inner)))
    }));
    let error = quoting.oneshot(post("/upload")).await.unwrap_err();
    assert_eq!(ours(&error).kind(), ErrorKind::Ambiguous);
    assert!(!format!("{error} {error:?}").contains("test-only"));

    let other = layer.layer(service_fn(|_: Request<Body>| async {
        Err::<Response<Body>, _>(io::Error::from(io::ErrorKind::BrokenPipe))
    }));
    let error = other.oneshot(post("/upload")).await.unwrap_err();
    assert_eq!(
        error.downcast_ref::<io::Error>().unwrap().kind(),
        io::ErrorKind::BrokenPipe
    );
}

#[tokio::test]
async fn g19_upload_tokens_are_never_printed() {
    let traces = Traces::default();
    let _subscribed = traces.subscribe();
    let api = FakeApi::in_process();
    let tokens = tokens(&api);
    let token = tokens.create(Some(Duration::from_secs(60))).await.unwrap();
    let with_token = layer(&api, &token);
    let service = with_token.layer(api.service());
    use_token(service.clone()).await;
    tokens.delete(token.secret()).await.unwrap();
    let not_found = tokens.get(token.secret()).await.unwrap_err();
    let source = Source::new(&b"a film"[..]);
    let refused = upload(service.clone(), source, UploadOptions::new())
        .await
        .unwrap_err();

    let mut shown = format!(
        "{token:?} {:?} {tokens:?} {with_token:?} {service:?} {:?} {:?}",
        token.secret(),
        UploadTokenLayer::builder(token.secret().clone()),
        api.journal(),
    );
    for error in [not_found, refused] {
        let mut next: Option<&dyn std::error::Error> = Some(&error);
        while let Some(error) = next {
            shown += &format!(" {error} {error:?}");
            next = error.source();
        }
    }
    shown += &traces.text();
    assert!(shown.contains("access token renewed"), "nothing was traced");
    assert!(!shown.contains(known(&token)), "{shown}");
}

#[tokio::test]
async fn g20_readiness_passes_and_a_refused_request_is_not_sent() {
    let layer = UploadTokenLayer::builder("to-test-only").build().unwrap();
    let (mut service, mut handle) =
        tower_test::mock::spawn_layer::<Request<Body>, Response<Body>, _>(layer);
    handle.allow(0);
    tokio_test::assert_pending!(service.poll_ready());
    handle.allow(2);
    tokio_test::assert_ready_ok!(service.poll_ready());
    let mut refused = tokio_test::task::spawn(service.call(post("/videos")));
    assert_eq!(
        ours(&tokio_test::assert_ready_err!(refused.poll())).kind(),
        ErrorKind::WrongTarget
    );
    tokio_test::assert_pending!(handle.poll_request());

    tokio_test::assert_ready_ok!(service.poll_ready());
    let mut sent = tokio_test::task::spawn(service.call(post("/upload")));
    tokio_test::assert_pending!(sent.poll());
    let (request, response) = handle.next_request().await.unwrap();
    assert_eq!(request.uri().path(), "/upload");
    response.send_response(Response::new(Body::default()));
    tokio_test::assert_ready_ok!(sent.poll());
}

#[tokio::test]
async fn the_crates_own_calls_say_who_makes_them() {
    let api = FakeApi::in_process();
    let layer = with_key(&api).application("my-app", "1.2").build().unwrap();
    let client = crate::support::client(&layer, &api);
    let tokens = UploadTokens::<_, Body>::new(client.clone());
    let token = tokens.create(None).await.unwrap();
    tokens.get(token.secret()).await.unwrap();
    let video = post("/videos");
    client.clone().oneshot(video).await.unwrap();
    let with_token = UploadTokenLayer::builder(token.secret().clone())
        .base_url(api.url())
        .application("camera", "3")
        .build()
        .unwrap()
        .layer(api.service());
    upload(
        with_token,
        Source::new(&b"a film"[..]),
        UploadOptions::new(),
    )
    .await
    .unwrap();

    let said: Vec<_> = api
        .journal()
        .into_iter()
        .map(|it| {
            let header = |name| {
                it.headers
                    .get(name)
                    .map(|value| value.to_str().unwrap().to_owned())
            };
            (
                it.uri.path().to_owned(),
                header("av-origin-client"),
                header("av-origin-app"),
            )
        })
        .collect();
    let [login, own @ .., upload] = &said[..] else {
        panic!("{said:?}")
    };
    assert!(login.1.as_ref().unwrap().starts_with("apivideo-auth:"));
    for call in own {
        let is_own = call.0 != "/videos";
        assert_eq!(
            call.1.as_ref(),
            login.1.as_ref().filter(|_| is_own),
            "{call:?}"
        );
        assert_eq!(
            call.2.as_deref(),
            is_own.then_some("my-app:1.2"),
            "{call:?}"
        );
    }
    assert_eq!(
        (&upload.1, upload.2.as_deref()),
        (&login.1, Some("camera:3"))
    );
    let odd = UploadTokenLayer::builder("to1").application("a b", "1");
    assert_eq!(odd.build().unwrap_err().kind(), ErrorKind::Configuration);
}
