//! The page, and what it may ask its server for.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use apivideo_auth::testing::FakeService;
use axum::{
    Json, Router,
    body::{Body, to_bytes},
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::json;
use tokio::time::timeout;
use tower::{BoxError, ServiceExt};
use tower_http::csrf::CsrfLayer;

use super::{
    limits::Limits,
    sessions::Sessions,
    upload::{Token, Upload},
    uploads::Uploads,
};

/// The most that the API takes for one video.
const MAX_SIZE: u64 = 52_428_800_000;

/// A file's name, which becomes the video's title, is cut here.
const MAX_TITLE: usize = 200;

/// More than any request of the page has.
const BODY_LIMIT: usize = 8 * 1024;

/// For a request of the page to come in.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the page waits to hear what became of an upload. Later, its list says so.
const PATIENCE: Duration = Duration::from_secs(5);

struct Site {
    uploader: Vec<u8>,
    uploads: Arc<Uploads>,
    sessions: Sessions,
    limits: Limits,
}

/// What is not listed here does not exist.
pub(crate) fn router(
    uploads: Arc<Uploads>,
    api: FakeService,
    uploader: Vec<u8>,
    address: SocketAddr,
) -> Router {
    let site = Arc::new(Site {
        uploader,
        uploads,
        sessions: Sessions::default(),
        limits: Limits::default(),
    });
    let uploader =
        async |State(site): State<Arc<Site>>| asset("text/javascript", site.uploader.clone());
    Router::new()
        .route("/", get(page))
        .route(
            "/icon.svg",
            get(async || asset("image/svg+xml", include_str!("icon.svg"))),
        )
        .route(
            "/page.css",
            get(async || asset("text/css", include_str!("page.css"))),
        )
        .route(
            "/page.js",
            get(async || asset("text/javascript", include_str!("page.js"))),
        )
        .route("/uploader.js", get(uploader))
        .route("/session/upload", post(begin))
        .route("/session/token", post(renew))
        .route("/session/done", post(done))
        .route("/session/videos", get(videos))
        .with_state(site)
        .layer(middleware::from_fn(read_in_time))
        .layer(middleware::map_response(harden))
        // From here on it is the API's part, which is elsewhere in earnest.
        .route("/upload", post(move |request| upload(api, request)))
        .layer(CsrfLayer::new())
        .layer(middleware::from_fn_with_state(
            address,
            refuse_foreign_hosts,
        ))
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
    // HTTP/2 says it in the URI, HTTP/1 in a header.
    let mut hosts = request
        .headers()
        .get_all(header::HOST)
        .iter()
        .map(|host| host.to_str().unwrap_or_default());
    let asked = request
        .uri()
        .authority()
        .map(|authority| authority.as_str())
        .or_else(|| hosts.next());
    if asked.is_some_and(|asked| own.iter().any(|own| own == asked)) && hosts.next().is_none() {
        next.run(request).await
    } else {
        problem(
            StatusCode::MISDIRECTED_REQUEST,
            "This is not the host you asked for.",
        )
    }
}

/// The body alone has this time, and not what is done for it: that may make a video.
async fn read_in_time(request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    match timeout(REQUEST_TIMEOUT, to_bytes(body, BODY_LIMIT)).await {
        Ok(Ok(body)) => next.run(Request::from_parts(parts, body.into())).await,
        Ok(Err(_)) => problem(
            StatusCode::PAYLOAD_TOO_LARGE,
            "The request is too large, or broke off.",
        ),
        Err(_) => problem(StatusCode::REQUEST_TIMEOUT, "The request took too long."),
    }
}

async fn harden(mut response: Response) -> Response {
    const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
                          base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(POLICY),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn page(
    State(site): State<Arc<Site>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Response {
    let mut response = asset("text/html; charset=utf-8", include_str!("page.html"));
    // A page of another site may embed this one as an image, and is no visitor.
    let is_page = |to: &HeaderValue| to == "document";
    if headers.get("sec-fetch-dest").is_none_or(is_page) && site.sessions.find(&headers).is_none() {
        match site.sessions.begin(peer.ip()) {
            Some(cookie) => drop(response.headers_mut().insert(header::SET_COOKIE, cookie)),
            None => return problem(StatusCode::INTERNAL_SERVER_ERROR, "No session."),
        }
    }
    response
}

#[derive(Deserialize)]
struct Wanted {
    name: String,
    size: u64,
}

/// A video without a source, and a token to send one.
async fn begin(
    State(site): State<Arc<Site>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Json(wanted): Json<Wanted>,
) -> Response {
    let Some(session) = site.sessions.find(&headers) else {
        return no_session();
    };
    if !(1..=MAX_SIZE).contains(&wanted.size) {
        return problem(StatusCode::BAD_REQUEST, "The file is empty or too large.");
    }
    // Behind a proxy of yours this is the proxy's address, and the visitor's is what it says.
    let Some(place) = site.limits.begin(&session, peer.ip()) else {
        return problem(
            StatusCode::TOO_MANY_REQUESTS,
            "That was a lot of uploads. Please wait a minute.",
        );
    };
    match site.uploads.begin(title(&wanted.name), place).await {
        Ok((upload, token)) => {
            let response = for_page(&upload, &token);
            site.sessions.add(&session, upload);
            response
        }
        Err(error) => unavailable(&error),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Own {
    video_id: String,
    #[serde(default)]
    cancelled: bool,
}

/// A newer token for an upload of this session.
async fn renew(
    State(site): State<Arc<Site>>,
    headers: HeaderMap,
    Json(own): Json<Own>,
) -> Response {
    let Some(upload) = site.own(&headers, &own.video_id) else {
        return no_session();
    };
    match site.uploads.renew(Arc::clone(&upload)).await {
        Ok(token) => for_page(&upload, &token),
        Err(error) => unavailable(&error),
    }
}

/// An upload of this session has ended, well or not.
async fn done(State(site): State<Arc<Site>>, headers: HeaderMap, Json(own): Json<Own>) -> Response {
    let Some(upload) = site.own(&headers, &own.video_id) else {
        return no_session();
    };
    upload.end(own.cancelled);
    // An error is nobody's: the list will say it.
    let _ = timeout(PATIENCE, upload.settled()).await;
    StatusCode::NO_CONTENT.into_response()
}

/// The session's own videos, the newest first, as far as the API has them.
async fn videos(State(site): State<Arc<Site>>, headers: HeaderMap) -> Response {
    let Some(session) = site.sessions.find(&headers) else {
        return no_session();
    };
    let uploads = site.sessions.uploads(&session);
    let shown = uploads.iter().rev().filter_map(|upload| {
        let size = upload.complete()?;
        Some(json!({ "title": upload.title, "size": size }))
    });
    Json(shown.collect::<Vec<_>>()).into_response()
}

/// Stands for the API: another host, which gets none of our cookies and sets none.
async fn upload(api: FakeService, mut request: Request) -> Response {
    request.headers_mut().remove(header::COOKIE);
    let Ok(response) = api.oneshot(request).await else {
        return StatusCode::BAD_GATEWAY.into_response();
    };
    let (head, body) = response.into_parts();
    let kind = head.headers.get(header::CONTENT_TYPE).cloned();
    let kind = kind.map(|kind| [(header::CONTENT_TYPE, kind)]);
    (head.status, kind, Body::new(body)).into_response()
}

impl Site {
    /// An upload that this session has begun. What the page says is no more than a choice among those.
    fn own(&self, headers: &HeaderMap, video_id: &str) -> Option<Arc<Upload>> {
        let session = self.sessions.find(headers)?;
        let uploads = self.sessions.uploads(&session);
        uploads.into_iter().find(|it| it.video_id == video_id)
    }
}

fn for_page(upload: &Upload, token: &Token) -> Response {
    Json(json!({
        "videoId": upload.video_id, "token": token.token.expose(), "expiresIn": token.time_left().as_secs_f64(),
    }))
    .into_response()
}

fn title(name: &str) -> String {
    let plain = |letter: &char| !letter.is_control();
    let title: String = name.chars().filter(plain).take(MAX_TITLE).collect();
    match title.trim() {
        "" => "video".to_owned(),
        title => title.to_owned(),
    }
}

fn asset(kind: &'static str, body: impl Into<Body>) -> Response {
    ([(header::CONTENT_TYPE, kind)], body.into()).into_response()
}

fn no_session() -> Response {
    problem(StatusCode::FORBIDDEN, "Please load the page again.")
}

/// What went wrong goes to the log, not to the page.
fn unavailable(error: &BoxError) -> Response {
    eprintln!("not served: {error}");
    problem(
        StatusCode::SERVICE_UNAVAILABLE,
        "There is no access to the API at the moment.",
    )
}

fn problem(status: StatusCode, title: &str) -> Response {
    let body = json!({ "title": title, "status": status.as_u16() }).to_string();
    (
        status,
        [(header::CONTENT_TYPE, "application/problem+json")],
        body,
    )
        .into_response()
}
