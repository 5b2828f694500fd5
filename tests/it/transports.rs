//! G11: which errors of a transport prove that a token call never left.

use std::{
    error::Error as StdError,
    fmt, io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use ::reqwest::dns::{Name, Resolve, Resolving};
use apivideo_auth::{ApiVideoAuthLayer, ErrorKind};
use http::{Request, Response};
use hyper_util::{
    client::legacy::{
        self,
        connect::{Connect, HttpConnector, dns},
    },
    rt::TokioExecutor,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tower::{BoxError, Layer, ServiceExt, service_fn, util::BoxCloneSyncService};

use crate::support::{Body, get, ours};

type Net = BoxCloneSyncService<Request<Body>, Response<Body>, BoxError>;

fn hyper<C: Connect + Clone + Send + Sync + 'static>(connector: C) -> Net {
    let client = legacy::Client::builder(TokioExecutor::new()).build::<_, Body>(connector);
    Net::new(
        client
            .map_response(|response| response.map(|_| Body::default()))
            .map_err(BoxError::from),
    )
}

fn reqwest(client: ::reqwest::ClientBuilder) -> Net {
    let client = client.no_proxy().build().expect("a client");
    Net::new(service_fn(move |request: Request<Body>| {
        let client = client.clone();
        async move {
            let request = ::reqwest::Request::try_from(request.map(::reqwest::Body::wrap))?;
            client.execute(request).await?;
            Ok(Response::new(Body::default()))
        }
    }))
}

fn failing<E: StdError + Send + Sync + 'static>(
    error: impl Fn() -> E + Clone + Send + Sync + 'static,
) -> Net {
    Net::new(service_fn(move |_: Request<Body>| {
        let error = BoxError::from(error());
        async move { Err(error) }
    }))
}

struct NoSuchHost;

impl Resolve for NoSuchHost {
    fn resolve(&self, _: Name) -> Resolving {
        Box::pin(async { Err("test-only: no such host".into()) })
    }
}

/// Where nobody listens.
async fn closed() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .await
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
}

/// Reads a request to its end, or a TLS greeting, sends `response` and closes the connection.
async fn listener(response: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut read = Vec::new();
            while !read.ends_with(b"}") && !read.starts_with(&[0x16]) {
                if stream.read_buf(&mut read).await.unwrap_or(0) == 0 {
                    break;
                }
            }
            stream
                .write_all(response)
                .await
                .expect("a client that reads");
        }
    });
    address
}

/// What a source with nothing but a refresh token makes of a transport that always fails: the error's kind, and
/// whether the token was presented more often than once and once more.
async fn outcome(base_url: &str, net: Net, excused: &'static str) -> (ErrorKind, bool) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = {
        let calls = calls.clone();
        service_fn(move |request: Request<Body>| {
            calls.fetch_add(1, Ordering::SeqCst);
            net.clone().oneshot(request)
        })
    };
    let layer = ApiVideoAuthLayer::builder()
        .base_url(base_url)
        .danger_allow_http()
        .refresh_token("test-only-refresh")
        .never_sent(move |error| !excused.is_empty() && error.to_string().contains(excused))
        .build()
        .expect("good settings");
    let error = layer
        .layer(counted)
        .oneshot(get("/videos"))
        .await
        .expect_err("no token is to be had");
    (ours(&error).kind(), calls.load(Ordering::SeqCst) > 2)
}

/// Not sent: an outage, in which the call is repeated for a second. Else it may be spent, and is presented once more.
const NOT_SENT: (ErrorKind, bool) = (ErrorKind::Unavailable, true);
const AMBIGUOUS: (ErrorKind, bool) = (ErrorKind::Ambiguous, false);

#[tokio::test]
async fn g11_failed_connections_prove_that_nothing_was_sent() {
    let refused = format!("http://{}", closed().await);
    let unknown = "http://api.invalid";
    let resolver = service_fn(|_: dns::Name| async {
        Err::<std::vec::IntoIter<SocketAddr>, _>(io::Error::other("test-only: no such host"))
    });
    let no_tls = format!(
        "https://localhost:{}",
        listener(b"this is no TLS\r\n").await.port()
    );
    let tls = hyper_rustls::HttpsConnectorBuilder::new()
        .with_provider_and_webpki_roots(rustls::crypto::ring::default_provider())
        .unwrap()
        .https_or_http()
        .enable_http1()
        .build();
    let plain = HttpConnector::new();
    let builder = ::reqwest::Client::builder;

    assert_eq!(outcome(&refused, hyper(plain), "").await, NOT_SENT);
    assert_eq!(outcome(&refused, hyper(tls.clone()), "").await, NOT_SENT);
    let mismatch = (ErrorKind::Configuration, NOT_SENT.1);
    assert_eq!(outcome(&no_tls, hyper(tls), "").await, mismatch);
    assert_eq!(
        outcome(
            unknown,
            hyper(HttpConnector::new_with_resolver(resolver)),
            ""
        )
        .await,
        NOT_SENT
    );
    assert_eq!(outcome(&refused, reqwest(builder()), "").await, NOT_SENT);
    let client = builder().dns_resolver(Arc::new(NoSuchHost));
    assert_eq!(outcome(unknown, reqwest(client), "").await, NOT_SENT);
}

#[tokio::test]
async fn g11_a_connection_lost_after_sending_is_ambiguous() {
    for response in [&b""[..], b"HTTP/1.1 20", b"nonsense\r\n\r\n"] {
        let url = format!("http://{}", listener(response).await);
        assert_eq!(
            outcome(&url, hyper(HttpConnector::new()), "").await,
            AMBIGUOUS,
            "{response:?}"
        );
        assert_eq!(
            outcome(&url, reqwest(::reqwest::Client::builder()), "").await,
            AMBIGUOUS,
            "{response:?}"
        );
    }
}

/// An error of a transport that we don't know.
#[derive(Debug)]
struct Opaque<E>(E);

impl<E> fmt::Display for Opaque<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("test-only failure of the pool")
    }
}

impl<E: StdError + 'static> StdError for Opaque<E> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.0)
    }
}

#[tokio::test]
async fn g11_only_unreachable_or_excused_errors_were_never_sent() {
    use io::ErrorKind::*;
    let url = "http://127.0.0.1:1";
    for (kind, expected) in [
        (ConnectionRefused, NOT_SENT),
        (HostUnreachable, AMBIGUOUS),
        (NetworkUnreachable, AMBIGUOUS),
        (ConnectionReset, AMBIGUOUS),
        (ConnectionAborted, AMBIGUOUS),
        (BrokenPipe, AMBIGUOUS),
        (TimedOut, AMBIGUOUS),
        (UnexpectedEof, AMBIGUOUS),
        (Other, AMBIGUOUS),
    ] {
        assert_eq!(
            outcome(url, failing(move || io::Error::from(kind)), "").await,
            expected,
            "{kind}"
        );
        let wrapped = move || Opaque(Opaque(io::Error::from(kind)));
        assert_eq!(
            outcome(url, failing(wrapped), "").await,
            expected,
            "wrapped {kind}"
        );
        assert_eq!(
            outcome(url, failing(wrapped), "of the pool").await,
            NOT_SENT,
            "excused {kind}"
        );
        assert_eq!(
            outcome(url, failing(wrapped), "of something else").await,
            expected,
            "{kind}"
        );
    }
}
