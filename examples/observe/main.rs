//! What does the crate do while tokens expire, are revoked, and the API is away?
//!
//! `cargo run --example observe` puts load on a fake api.video and serves a page on loopback that shows it live, with buttons
//! that do harm; `/metrics` beside it is for Prometheus. Ctrl-C or `--for SECONDS` ends it; `--check` presses the buttons itself.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    env,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    sync::{Arc, Mutex},
    time::Duration,
};

use apivideo_auth::{
    ApiVideoAuth, ApiVideoAuthLayer, Event, TokenSource,
    testing::{FakeApi, Fault},
};
use axum::{
    Router,
    extract::{Path, Request, State},
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{Html, IntoResponse, Response, Sse, sse},
    routing::{get, post},
};
use bytes::Bytes;
use futures::{Stream, stream};
use http_body_util::Full;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::{net::TcpListener, signal, sync::watch, time};
use tower::{BoxError, Layer, ServiceExt};
use tower_http::csrf::CsrfLayer;

type Api = ApiVideoAuth<Client<HttpConnector, Full<Bytes>>>;

/// So short a life that there is something to see.
const TOKEN_LIFETIME: Duration = Duration::from_secs(30);

/// Between two requests of the load.
const PAUSE: Duration = Duration::from_millis(20);

/// What is shown, and what the buttons act on.
struct Demo {
    api: FakeApi,
    source: TokenSource,
    requests: AtomicU64,
    failures: AtomicU64,
    renewals: Mutex<BTreeMap<String, u64>>,
    /// One figure a second, as JSON.
    figures: watch::Sender<String>,
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let metrics = PrometheusBuilder::new().install_recorder()?;
    let api = FakeApi::builder()
        .token_lifetime(TOKEN_LIFETIME)
        .journal(false)
        .serve()
        .await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let layer = ApiVideoAuthLayer::builder()
        .base_url(api.url())
        .api_key(api.api_key())
        .build()?;
    let client = layer.layer(Client::builder(TokioExecutor::new()).build_http());
    let demo = Arc::new(Demo {
        api,
        source: client.source::<Full<Bytes>>(),
        requests: AtomicU64::new(0),
        failures: AtomicU64::new(0),
        renewals: Mutex::default(),
        figures: watch::Sender::default(),
    });
    let app = Router::new()
        .route("/", get(Html(include_str!("page.html"))))
        .route("/figures", get(figures))
        .route("/do/{what}", post(harm))
        .with_state(demo.clone())
        .route("/metrics", get(move || async move { metrics.render() }))
        .layer(middleware::from_fn(
            move |request: Request, next: Next| async move {
                // Another site's name can be pointed at this address.
                let host = request.headers().get(header::HOST).cloned();
                match host.is_some_and(|host| host.as_bytes() == address.to_string().as_bytes()) {
                    true => next.run(request).await,
                    false => StatusCode::MISDIRECTED_REQUEST.into_response(),
                }
            },
        ))
        // The buttons are for this page alone.
        .layer(CsrfLayer::new());
    println!("Open http://{address}/ (and /metrics); Ctrl-C ends it");
    let result = tokio::select! {
        result = async { axum::serve(listener, app).await } => result.map_err(BoxError::from),
        never = load(&demo, client) => match never {},
        never = watch_events(&demo) => match never {},
        never = count(&demo) => match never {},
        result = end(&demo) => result,
    };
    layer.shutdown(Duration::from_secs(5)).await;
    result?;
    let (requests, renewals) = (
        demo.requests.load(Relaxed),
        demo.renewals.lock().map_or(0, |by| by.values().sum()),
    );
    println!(
        "observe: ok requests={requests} failures={} renewals={renewals}",
        demo.failures.load(Relaxed)
    );
    Ok(())
}

/// When to stop.
async fn end(demo: &Demo) -> Result<(), BoxError> {
    let mut arguments = env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        (None, _) => Ok(signal::ctrl_c().await?),
        (Some("--for"), Some(seconds)) => {
            time::sleep(Duration::from_secs(seconds.parse()?)).await;
            Ok(())
        }
        (Some("--check"), None) => check(demo).await,
        _ => Err("usage: observe [--for SECONDS | --check]".into()),
    }
}

/// The buttons, one after another. Whatever they do, no request may fail, but for those of an outage without a token.
async fn check(demo: &Demo) -> Result<(), BoxError> {
    let failures = || demo.failures.load(Relaxed);
    let rest = || time::sleep(Duration::from_secs(2));
    for what in ["revoke", "down", "up"] {
        rest().await;
        act(demo, what);
    }
    rest().await;
    let renewals = format!("{:?}", demo.renewals.lock().map_err(|_| "poisoned")?);
    let is_good =
        failures() == 0 && renewals.contains("Unauthorized") && demo.source.status().is_usable;
    let has_figures = demo.figures.borrow().contains("\"renewals\"");
    (is_good && has_figures)
        .then_some(())
        .ok_or_else(|| format!("{} failures, {renewals}", failures()).into())
}

/// Requests without an end.
async fn load(demo: &Demo, client: Api) -> Infallible {
    loop {
        let request = http::Request::get("/videos")
            .body(Full::default())
            .expect("a good request");
        let response = client.clone().oneshot(request).await;
        demo.requests.fetch_add(1, Relaxed);
        if !response.is_ok_and(|response| response.status() == StatusCode::OK) {
            demo.failures.fetch_add(1, Relaxed);
        }
        time::sleep(PAUSE).await;
    }
}

/// Counts the renewals by their reason.
async fn watch_events(demo: &Demo) -> Infallible {
    let mut events = demo.source.subscribe();
    loop {
        if let Some(Event::Renewed(token)) = events.next().await
            && let Ok(mut renewals) = demo.renewals.lock()
        {
            *renewals.entry(format!("{:?}", token.reason)).or_default() += 1;
        }
    }
}

/// The figures of each second.
async fn count(demo: &Demo) -> Infallible {
    let (mut seconds, mut before) = (time::interval(Duration::from_secs(1)), 0);
    loop {
        seconds.tick().await;
        let requests = demo.requests.load(Relaxed);
        let expires_at = demo.source.status().expires_at;
        let left =
            expires_at.and_then(|at| at.elapsed().err().map(|until| until.duration().as_secs()));
        let figures = serde_json::json!({
            "perSecond": requests - before,
            "failures": demo.failures.load(Relaxed),
            "expiresIn": left.unwrap_or(0),
            "renewals": demo.renewals.lock().map(|by| by.clone()).unwrap_or_default(),
        });
        before = requests;
        demo.figures.send_replace(figures.to_string());
    }
}

async fn figures(
    State(demo): State<Arc<Demo>>,
) -> Sse<impl Stream<Item = Result<sse::Event, Infallible>>> {
    let figures = demo.figures.subscribe();
    Sse::new(stream::unfold(figures, |mut figures| async move {
        figures.changed().await.ok()?;
        let event = sse::Event::default().data(figures.borrow_and_update().as_str());
        Some((Ok(event), figures))
    }))
}

async fn harm(State(demo): State<Arc<Demo>>, Path(what): Path<String>) -> Response {
    match act(&demo, &what) {
        true => StatusCode::NO_CONTENT.into_response(),
        false => StatusCode::NOT_FOUND.into_response(),
    }
}

fn act(demo: &Demo, what: &str) -> bool {
    match what {
        "revoke" => demo.api.revoke_access_tokens(),
        "down" => demo.api.fault(Fault::status(503).always()),
        "up" => demo.api.fault(None),
        _ => return false,
    }
    true
}
