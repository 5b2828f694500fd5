//! How does an axum server forward its users' requests to api.video without ever showing them a token?
//!
//! `cargo run --example axum_gateway` starts the gateway on a free port of this machine, against a fake api.video, and
//! then drives it as 200 browsers, an attacker and a revoked token would. The rules it keeps:
//!
//! - It binds loopback, and answers only to its own `Host`, so that no other site's name can be pointed at it.
//! - Requests that change something come from its own pages: `Origin` and `Sec-Fetch-Site` are checked.
//! - It forwards an allow-list of method and path. `..`, `//` and encoded separators are refused.
//! - Credentials and forwarding headers of the browser stay here, and so do cookies that the API sets.

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use apivideo_auth::{ApiVideoAuth, ApiVideoAuthLayer, ErrorKind, testing::FakeApi};
use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, Method, StatusCode, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use http_body_util::BodyExt;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{net::TcpListener, sync::oneshot, task::JoinSet};
use tower::{BoxError, ServiceExt};
use tower_http::{csrf::CsrfLayer, trace::TraceLayer};

type Upstream = ApiVideoAuth<Client<HttpConnector, Body>>;

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .init();
    match run().await {
        Ok(summary) => {
            println!("axum_gateway: ok {summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("axum_gateway: FAILED {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<String, BoxError> {
    let api = FakeApi::start().await?;
    let layer = ApiVideoAuthLayer::builder()
        .base_url(api.url())
        .api_key(api.api_key())
        .build()?;
    let hyper = Client::builder(TokioExecutor::new()).build_http::<Body>();

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let gateway = gateway(tower::Layer::layer(&layer, hyper), address);
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(async move {
        axum::serve(listener, gateway)
            .with_graceful_shutdown(async move { drop(stopped.await) })
            .await
    });
    println!("forwarding http://{address}/api/* to {}", api.url());

    let summary = drive(&api, address).await;
    drop(stop);
    server.await??;
    layer.shutdown(Duration::from_secs(5)).await;
    summary
}

/// The gateway as a router: everything that is not listed here does not exist.
fn gateway(upstream: Upstream, address: SocketAddr) -> Router {
    Router::new()
        .route("/api/videos", get(forward).post(forward))
        .route("/api/videos/{id}", get(forward).delete(forward))
        .with_state(upstream)
        .layer(middleware::from_fn(refuse_path_tricks))
        .layer(CsrfLayer::new())
        .layer(middleware::from_fn_with_state(
            address,
            refuse_foreign_hosts,
        ))
        .layer(TraceLayer::new_for_http())
}

async fn refuse_foreign_hosts(
    State(address): State<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let own = [
        format!("{address}"),
        format!("localhost:{}", address.port()),
    ];
    let mut hosts = request.headers().get_all(header::HOST).iter();
    match (
        hosts.next().and_then(|host| host.to_str().ok()),
        hosts.next(),
    ) {
        (Some(host), None) if own.iter().any(|own| own == host) => next.run(request).await,
        _ => problem(
            StatusCode::MISDIRECTED_REQUEST,
            "This is not the host you asked for.",
        ),
    }
}

async fn refuse_path_tricks(request: Request, next: Next) -> Response {
    if is_plain(request.uri().path()) {
        next.run(request).await
    } else {
        problem(
            StatusCode::BAD_REQUEST,
            "The path is not in its plain form.",
        )
    }
}

/// Whether a path means the same to everyone who reads it.
fn is_plain(path: &str) -> bool {
    let decoded_elsewhere = path.contains(['%', '\\', ';']);
    let odd = path
        .split('/')
        .skip(1)
        .any(|segment| matches!(segment, "" | "." | ".."));
    !decoded_elsewhere && !odd
}

async fn forward(State(upstream): State<Upstream>, request: Request) -> Response {
    let (mut head, body) = request.into_parts();
    let path = head.uri.path_and_query().map_or("", |path| path.as_str());
    let Ok(uri) = path.strip_prefix("/api").unwrap_or(path).parse::<Uri>() else {
        return problem(StatusCode::BAD_REQUEST, "The path can't be forwarded.");
    };
    // Only a path: the layer sets scheme and host, and takes our own `Host` off.
    head.uri = uri;
    strip(&mut head.headers, &INWARDS);
    match upstream.oneshot(Request::from_parts(head, body)).await {
        Ok(response) => {
            let (mut head, body) = response.into_parts();
            strip(&mut head.headers, &[header::SET_COOKIE]);
            Response::from_parts(head, Body::new(body))
        }
        Err(error) => unavailable(&error),
    }
}

/// What a browser sends that is none of the API's business.
const INWARDS: [HeaderName; 4] = [
    header::COOKIE,
    header::AUTHORIZATION,
    header::PROXY_AUTHORIZATION,
    header::FORWARDED,
];

/// Headers that belong to one connection (RFC 9110, section 7.6.1), besides those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

fn strip(headers: &mut HeaderMap, more: &[HeaderName]) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let forwarded: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("x-forwarded-"))
        .cloned()
        .collect();
    for name in named
        .iter()
        .chain(&forwarded)
        .chain(&HOP_BY_HOP)
        .chain(more)
    {
        headers.remove(name);
    }
}

/// No token, or no API: 503 if it may come back by itself, else 502. What went wrong goes to the log.
fn unavailable(error: &BoxError) -> Response {
    tracing::warn!(%error, "not forwarded");
    let Some(ours) = error.downcast_ref::<apivideo_auth::Error>() else {
        return problem(StatusCode::BAD_GATEWAY, "The API can't be reached.");
    };
    let status = match ours.kind() {
        ErrorKind::Closed => StatusCode::SERVICE_UNAVAILABLE,
        _ if ours.is_transient() => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::BAD_GATEWAY,
    };
    let mut response = problem(status, "There is no access to the API at the moment.");
    if let Some(wait) = ours.retry_after() {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, wait.as_secs().max(1).into());
    }
    response
}

fn problem(status: StatusCode, title: &str) -> Response {
    let body = serde_json::json!({ "title": title, "status": status.as_u16() }).to_string();
    (
        status,
        [(header::CONTENT_TYPE, "application/problem+json")],
        body,
    )
        .into_response()
}

const BROWSERS: usize = 200;

/// Plays the browsers, and those who mean no good.
async fn drive(api: &FakeApi, address: SocketAddr) -> Result<String, BoxError> {
    let browser = Client::builder(TokioExecutor::new()).build_http::<Body>();
    let send = |method: Method, path: &str, headers: &[(&str, &str)], body: &'static str| {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{address}{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (browser, request) = (browser.clone(), request.body(Body::from(body)));
        async move {
            let response = browser.request(request?).await?;
            let (head, body) = response.into_parts();
            Ok::<_, BoxError>((head, body.collect().await?.to_bytes()))
        }
    };

    let own = format!("http://{address}");
    let mut requests = JoinSet::new();
    for number in 0..BROWSERS {
        if number == BROWSERS / 2 {
            while requests
                .join_next()
                .await
                .transpose()?
                .transpose()?
                .is_some()
            {}
            api.revoke_access_tokens();
        }
        let headers = [
            ("cookie", "session=test-only"),
            ("authorization", "Bearer test-only-of-browser"),
            ("origin", &own),
        ];
        let request = match number % 4 {
            0 => send(
                Method::POST,
                "/api/videos",
                &headers,
                r#"{"title":"from a browser"}"#,
            ),
            _ => send(Method::GET, "/api/videos?pageSize=5", &headers, ""),
        };
        requests.spawn(async move {
            let (head, _) = request.await?;
            let leaked = head.headers.contains_key(header::SET_COOKIE);
            if head.status.is_success() && !leaked {
                Ok(())
            } else {
                Err(BoxError::from(format!("{}", head.status)))
            }
        });
    }
    while requests
        .join_next()
        .await
        .transpose()?
        .transpose()?
        .is_some()
    {}
    let forwarded = api.counts().api_calls;

    let evil = [
        ("origin", "https://evil.example"),
        ("sec-fetch-site", "cross-site"),
    ];
    let refused = [
        send(Method::POST, "/api/videos", &evil, "{}").await?,
        send(Method::GET, "/api/videos", &[("host", "evil.example")], "").await?,
        send(Method::GET, "/api/videos/../auth/refresh", &[], "").await?,
        send(Method::GET, "/api/videos/..%2f..%2fauth%2frefresh", &[], "").await?,
        send(Method::GET, "/api//evil.example/videos", &[], "").await?,
        send(Method::GET, "/api/upload-tokens", &[], "").await?,
        send(Method::POST, "/api/auth/api-key", &[("origin", &own)], "{}").await?,
        send(Method::PATCH, "/api/videos", &[("origin", &own)], "{}").await?,
    ];
    if let Some((head, _)) = refused
        .iter()
        .find(|(head, _)| !head.status.is_client_error())
    {
        return Err(format!("an attack was answered {}", head.status).into());
    }
    if api.counts().api_calls != forwarded {
        return Err("an attack was forwarded".into());
    }
    let journal = api.journal();
    let leaks = journal.iter().filter(|seen| {
        seen.headers.contains_key(header::COOKIE)
            || seen
                .headers
                .get_all(header::AUTHORIZATION)
                .iter()
                .any(|value| {
                    value
                        .to_str()
                        .is_ok_and(|value| value.contains("of-browser"))
                })
    });
    let (leaks, counts) = (leaks.count(), api.counts());
    if leaks != 0 || counts.max_in_flight != 1 || counts.token_calls != 2 {
        return Err(format!("leaks={leaks} {counts:?}").into());
    }
    Ok(format!(
        "browsers={BROWSERS} failures=0 refused={} token_calls={}",
        refused.len(),
        counts.token_calls
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g27_only_plain_paths_are_forwarded() {
        for good in ["/api/videos", "/api/videos/vi4k0jvEUuaTdRAEjQ4Jfagz"] {
            assert!(is_plain(good), "{good}");
        }
        for bad in [
            "/api//evil.example",
            "/api/videos/",
            "/api/../auth/refresh",
            "/api/./videos",
            "/api/videos/%2e%2e/auth",
            "/api/videos%2fauth",
            "/api/\\evil.example",
            "/api/videos;x",
        ] {
            assert!(!is_plain(bad), "{bad}");
        }
    }

    #[test]
    fn g27_headers_of_the_browser_and_of_the_connection_stay_here() {
        let mut headers = HeaderMap::new();
        let names = "cookie authorization proxy-authorization forwarded x-forwarded-for x-forwarded-port connection \
                     keep-alive te upgrade x-named";
        for name in names.split_whitespace() {
            headers.insert(
                name.parse::<HeaderName>().expect("a name"),
                "x".parse().expect("a value"),
            );
        }
        headers.insert(
            header::CONNECTION,
            "close, X-Named".parse().expect("a value"),
        );
        headers.insert(header::ACCEPT, "*/*".parse().expect("a value"));
        strip(&mut headers, &INWARDS);
        assert_eq!(headers.keys().collect::<Vec<_>>(), [header::ACCEPT]);
    }

    #[tokio::test]
    async fn g27_the_gateway_serves_its_own_pages_and_no_others() {
        run().await.expect("all that is driven in the example");
    }
}
