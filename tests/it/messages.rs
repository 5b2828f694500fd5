//! What people read after the mistakes that people make: all texts are in `messages.txt`, to be judged at a glance.

mod files;

use std::{
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    path::Path,
    time::Duration,
};

use apivideo_auth::{
    ApiVideoAuthLayer, Environment, Error,
    store::MemoryStore,
    testing::{FakeApi, Fault},
};
use http::{HeaderMap, Request, Response};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::net::TcpListener;
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{
    Body, Builder,
    faulty_store::{FaultyStore, Op, failing},
    with_key, with_refresh_token,
};

const EXPECTED: &str = include_str!("messages.txt");

/// Each message with its mistake, in order.
#[derive(Default)]
struct Messages(String);

impl Messages {
    fn add(&mut self, mistake: &str, error: &Error) {
        self.add_in(mistake, error, Path::new("/nowhere"));
    }

    /// What differs from run to run is replaced.
    fn add_in(&mut self, mistake: &str, error: &Error, folder: &Path) {
        let text = error
            .to_string()
            .replace(&*folder.to_string_lossy(), "FOLDER");
        let mut parts = text.split("127.0.0.1:");
        let mut text = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let rest = part.trim_start_matches(|letter: char| letter.is_ascii_digit());
            text.push_str(&format!("127.0.0.1:PORT{rest}"));
        }
        self.add_text(mistake, &format!("{}: {text}", sort(error)));
    }

    fn add_text(&mut self, mistake: &str, text: &str) {
        writeln!(self.0, "{mistake}\n    {text}").unwrap();
    }
}

fn sort(error: &Error) -> String {
    let lasts = match error.is_transient() {
        true => "transient",
        false => "lasts",
    };
    format!("{:?}, {lasts}", error.kind())
}

#[tokio::test]
async fn each_mistake_is_told_in_words_that_help() {
    let mut messages = Messages::default();
    settings(&mut messages);
    credentials(&mut messages).await;
    responses(&mut messages).await;
    connections(&mut messages).await;
    files::files(&mut messages).await;
    files::disks(&mut messages).await;
    stores(&mut messages).await;
    if std::env::var_os("MESSAGES").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/messages.txt");
        fs::write(path, &messages.0).unwrap();
    } else {
        let mut expected: Vec<_> = EXPECTED.lines().collect();
        if !files::is_root() {
            // Only root can be a user without a home.
            let homeless = expected.iter().position(|line| *line == files::NO_HOME);
            let homeless = homeless.expect("it is in the list");
            expected.drain(homeless..homeless + 2);
        }
        // A test that fails shows the first that differs.
        for (now, expected) in messages.0.lines().zip(&expected) {
            assert_eq!(now, *expected, "MESSAGES=write writes them anew");
        }
        assert_eq!(messages.0.lines().count(), expected.len());
    }
}

fn settings(messages: &mut Messages) {
    for url in [
        "",
        "ws.api.video",
        "ftp://ws.api.video",
        "http://ws.api.video",
        "https://ws.api.video/v1",
        "https://ws.api.video?key=x",
        "https://user:password@ws.api.video",
        "https://ws.api.video:99999",
        "https://ws api.video",
        "https:/ws.api.video",
        "https:ws.api.video",
    ] {
        let error = ApiVideoAuthLayer::builder()
            .base_url(url)
            .build()
            .unwrap_err();
        messages.add(&format!("base_url(\"{url}\")"), &error);
    }
    let mut refused = |mistake: &str, builder: Builder| {
        messages.add(mistake, &builder.build().unwrap_err());
    };
    let builder = ApiVideoAuthLayer::builder;
    refused("an API key that is empty", builder().api_key(""));
    refused(
        "an API key out of a file",
        builder().api_key("test-only-key\n"),
    );
    refused("a refresh token that is empty", builder().refresh_token(""));
    refused("call_timeout(0)", builder().call_timeout(Duration::ZERO));
    refused(
        "renewal_timeout(2 h)",
        builder().renewal_timeout(Duration::from_secs(7200)),
    );
    refused("account(\"../main\")", builder().account("../main"));
    refused(
        "application(\"my app\", \"1\")",
        builder().application("my app", "1"),
    );
}

async fn token(builder: Builder, api: &FakeApi) -> Error {
    let client = builder.build().unwrap().layer(api.service());
    client.source::<Body>().token().await.unwrap_err()
}

async fn credentials(messages: &mut Messages) {
    for environment in [Environment::Production, Environment::Sandbox] {
        let refusing = service_fn(|_: Request<Body>| async {
            let problem =
                r#"{"type": "https://docs.api.video/reference/authentication-invalid-api-key"}"#;
            let mut response = Response::new(Body::from(problem));
            *response.status_mut() = http::StatusCode::BAD_REQUEST;
            Ok::<_, io::Error>(response)
        });
        let builder = ApiVideoAuthLayer::builder()
            .environment(environment)
            .api_key("test-only-key");
        let client = builder.build().unwrap().layer(refusing);
        let error = client.source::<Body>().token().await.unwrap_err();
        messages.add(&format!("a wrong key in {environment:?}"), &error);
    }
    let api = FakeApi::in_process();
    let builder = || ApiVideoAuthLayer::builder().base_url(api.url());
    messages.add(
        "a wrong key elsewhere",
        &token(builder().api_key("test-only-wrong"), &api).await,
    );
    messages.add("no credential at all", &token(builder(), &api).await);
    let spent = builder().refresh_token("test-only-spent");
    messages.add("a spent refresh token", &token(spent, &api).await);
    api.suspend(true);
    messages.add("a suspended account", &token(with_key(&api), &api).await);
}

async fn responses(messages: &mut Messages) {
    let page = "<html><h1>Welcome to our hotel</h1></html>";
    for (mistake, fault) in [
        ("429", Fault::rate_limited(60)),
        ("503", Fault::status(503)),
        ("404", Fault::status(404)),
        ("302", Fault::redirect(302, "https://elsewhere.example")),
        (
            "a captive portal",
            Fault::response(200, HeaderMap::new(), page),
        ),
        (
            "a proxy that wants a login",
            Fault::response(401, HeaderMap::new(), page),
        ),
        (
            "an empty response",
            Fault::response(200, HeaderMap::new(), ""),
        ),
        ("a response without an end", Fault::huge()),
        ("a connection that breaks", Fault::disconnect()),
    ] {
        for (with, is_key) in [("the key", true), ("a refresh token", false)] {
            let api = FakeApi::in_process();
            let builder = if is_key {
                with_key(&api)
            } else {
                with_refresh_token(&api)
            };
            api.fault(fault.clone().always());
            messages.add(
                &format!("{mistake}, with {with}"),
                &token(builder, &api).await,
            );
        }
    }
}

async fn connections(messages: &mut Messages) {
    type Hyper<C> = Client<C, Body>;
    async fn through<C>(messages: &mut Messages, mistake: &str, url: String, client: Hyper<C>)
    where
        C: hyper_util::client::legacy::connect::Connect + Clone + Send + Sync + 'static,
    {
        // A dummy as short as this is found in many a text.
        let builder = ApiVideoAuthLayer::builder().base_url(url).api_key("e");
        let client = builder.build().unwrap().layer(client);
        messages.add(mistake, &client.source::<Body>().token().await.unwrap_err());
    }
    let plain = || Client::builder(TokioExecutor::new()).build_http::<Body>();
    let tls = hyper_rustls::HttpsConnectorBuilder::new()
        .with_provider_and_webpki_roots(rustls::crypto::ring::default_provider())
        .unwrap()
        .https_or_http()
        .enable_http1()
        .build();
    let tls = Client::builder(TokioExecutor::new()).build::<_, Body>(tls);
    let api = FakeApi::start().await.unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    through(
        messages,
        "a closed port",
        format!("http://127.0.0.1:{port}"),
        plain(),
    )
    .await;
    let nowhere = HttpConnector::new_with_resolver(service_fn(|_| async {
        Err::<std::iter::Empty<std::net::SocketAddr>, _>(io::Error::other("no such host"))
    }));
    let mut nowhere = nowhere;
    nowhere.enforce_http(false);
    let nowhere = Client::builder(TokioExecutor::new()).build::<_, Body>(nowhere);
    through(
        messages,
        "no DNS",
        "https://ws.api.video".to_owned(),
        nowhere,
    )
    .await;
    let url = "https://127.0.0.1:1".to_owned();
    through(messages, "a client without TLS", url, plain()).await;
    let url = api.url().replace("http://", "https://");
    through(messages, "TLS against a plain port", url, tls).await;

    let encrypted = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", encrypted.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = encrypted.accept().await {
            // An alert: a protocol that it does not know.
            let mut stream = stream.into_std().unwrap();
            let _ = stream.write_all(&[21, 3, 3, 0, 2, 2, 70]);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    through(messages, "plain against a TLS port", url, plain()).await;

    // To HTTP that is the name of a host: it passes as it is, and the client's own error is what comes.
    let client = with_key(&api).build().unwrap().layer(plain());
    let request = Request::get("videos").body(Body::default()).unwrap();
    let error = client.oneshot(request).await.unwrap_err();
    let mut chain = format!("of the client: {error}");
    let mut next = error.source();
    while let Some(error) = next {
        write!(chain, ": {error}").unwrap();
        next = error.source();
    }
    messages.add_text("Request::get(\"videos\"), with no slash", &chain);
}

async fn stores(messages: &mut Messages) {
    let api = FakeApi::in_process();
    let empty = ApiVideoAuthLayer::builder()
        .base_url(api.url())
        .store(MemoryStore::new());
    messages.add("an empty store", &token(empty, &api).await);

    let hook = failing(|op, _| op == Op::Mark);
    let full = with_refresh_token(&api).store(FaultyStore::new(MemoryStore::new(), hook));
    messages.add("a store that saves nothing", &token(full, &api).await);

    let store = MemoryStore::new();
    let layer = with_key(&api).store(store.clone()).build().unwrap();
    layer
        .layer(api.service())
        .source::<Body>()
        .token()
        .await
        .unwrap();
    let other = ApiVideoAuthLayer::builder()
        .base_url(api.url())
        .api_key("test-only-other-key")
        .store(store);
    messages.add("the pair of another key", &token(other, &api).await);

    let source = with_key(&api)
        .build()
        .unwrap()
        .layer(api.service())
        .source::<Body>();
    let outside = std::thread::spawn(move || futures::executor::block_on(source.token()));
    messages.add("no runtime", &outside.join().unwrap().unwrap_err());
    let layer = with_key(&api).build().unwrap();
    assert!(layer.shutdown(Duration::ZERO).await);
    let closed = layer.layer(api.service()).source::<Body>().token().await;
    messages.add("after shutdown", &closed.unwrap_err());
}
