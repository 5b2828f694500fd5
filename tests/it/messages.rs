//! What people read after the mistakes that people make: all texts are in `messages.txt`, to be judged at a glance.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

use apivideo_auth::{
    ApiVideoAuthLayer, Environment, Error, ErrorKind,
    store::{FileStore, MemoryStore},
    testing::{FakeApi, Fault},
};
use http::{HeaderMap, Request, Response};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::net::TcpListener;
use tower::{Layer, service_fn};

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
        let lasts = if error.is_transient() {
            "transient"
        } else {
            "lasts"
        };
        writeln!(self.0, "{mistake}\n    {:?}, {lasts}: {text}", error.kind()).unwrap();
    }
}

#[tokio::test]
async fn each_mistake_is_told_in_words_that_help() {
    let mut messages = Messages::default();
    settings(&mut messages);
    credentials(&mut messages).await;
    responses(&mut messages).await;
    connections(&mut messages).await;
    files(&mut messages).await;
    stores(&mut messages).await;
    if std::env::var_os("MESSAGES").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/messages.txt");
        fs::write(path, &messages.0).unwrap();
    } else {
        // A test that fails shows the first that differs.
        for (now, expected) in messages.0.lines().zip(EXPECTED.lines()) {
            assert_eq!(now, expected, "MESSAGES=write writes them anew");
        }
        assert_eq!(messages.0.lines().count(), EXPECTED.lines().count());
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
}

/// Saves a pair, and says where.
async fn saved(api: &FakeApi, folder: &Path) -> PathBuf {
    let layer = with_key(api)
        .store(FileStore::in_folder(folder))
        .build()
        .unwrap();
    layer
        .layer(api.service())
        .source::<Body>()
        .token()
        .await
        .unwrap();
    layer.shutdown(Duration::from_secs(5)).await;
    let files = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path());
    let records = files.filter(|path| path.extension().is_some_and(|end| end == "json"));
    records.min().unwrap()
}

async fn files(messages: &mut Messages) {
    type Spoil = fn(&Path);
    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let cases: [(&str, Spoil); 9] = [
        ("a file that others may read", |file| mode(file, 0o644)),
        ("a folder that others may write to", |file| {
            mode(file.parent().unwrap(), 0o777)
        }),
        ("a symbolic link", |file| {
            let other = file.with_extension("other");
            fs::rename(file, &other).unwrap();
            symlink(other, file).unwrap();
        }),
        ("a hard link", |file| {
            fs::hard_link(file, file.with_extension("other")).unwrap()
        }),
        ("a damaged file", |file| {
            fs::write(file, "{\"oops\"").unwrap()
        }),
        ("a file cut short", |file| {
            let bytes = fs::read(file).unwrap();
            fs::write(file, &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("an empty file", |file| fs::write(file, "").unwrap()),
        ("a folder in place of the file", |file| {
            fs::remove_file(file).unwrap();
            fs::create_dir(file).unwrap();
        }),
        ("a file that is gone", |file| fs::remove_file(file).unwrap()),
    ];
    for (mistake, spoil) in cases {
        let api = FakeApi::in_process();
        let folder = tempfile::tempdir().unwrap();
        mode(folder.path(), 0o700);
        spoil(&saved(&api, folder.path()).await);
        let store = FileStore::in_folder(folder.path());
        let builder = ApiVideoAuthLayer::builder()
            .base_url(api.url())
            .store(store);
        messages.add_in(mistake, &token(builder, &api).await, folder.path());
    }
    let api = FakeApi::in_process();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let builder = with_refresh_token(&api).store(FileStore::in_folder(file.join("tokens")));
    let error = token(builder, &api).await;
    messages.add_in("a file in place of the folder", &error, folder.path());
    let builder = with_refresh_token(&api).store(FileStore::in_folder("/proc/missing"));
    messages.add("a folder that can't be made", &token(builder, &api).await);
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

    let error = Error::store(
        ErrorKind::StoreUnavailable,
        "/var/tokens can't be used",
        Some(io::Error::from(io::ErrorKind::StorageFull).into()),
    );
    messages.add("a disk that is full", &error);

    let source = with_key(&api)
        .build()
        .unwrap()
        .layer(api.service())
        .source::<Body>();
    let outside = std::thread::spawn(move || futures::executor::block_on(source.token()));
    messages.add("no runtime", &outside.join().unwrap().unwrap_err());
    let layer = with_key(&api).build().unwrap();
    layer.shutdown(Duration::ZERO).await;
    let closed = layer.layer(api.service()).source::<Body>().token().await;
    messages.add("after shutdown", &closed.unwrap_err());
}
