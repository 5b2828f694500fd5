//! The page, and what it may ask its server for.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use apivideo_auth::{
    ApiVideoAuth, UploadTokens, testing::FakeService, upload_token::DelegatedToken,
};
use axum::{
    Json, Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_rustls::rustls::crypto::ring;
use tower::ServiceExt;
use tower_http::csrf::CsrfLayer;

pub(crate) type Account = ApiVideoAuth<FakeService>;

/// How many tokens a session gets in a minute.
const TOKENS_A_MINUTE: usize = 10;

/// How many sessions are kept; the oldest goes first.
const MAX_SESSIONS: usize = 1000;

/// What a token's lifetime reckons with, in bytes per second: a poor mobile connection.
const SLOWEST: u64 = 64 * 1024;

/// The most that the API takes for one video.
const MAX_SIZE: u64 = 52_428_800_000;

struct Site {
    account: Account,
    tokens: UploadTokens<Account, Body>,
    uploader: Vec<u8>,
    sessions: Mutex<Sessions>,
}

#[derive(Default)]
struct Sessions {
    all: HashMap<String, Session>,
    by_age: VecDeque<String>,
}

#[derive(Default)]
struct Session {
    minted: VecDeque<Instant>,
    /// Tokens that are good for an upload under way.
    tokens: HashSet<String>,
    videos: Vec<String>,
}

/// Everything that is not listed here does not exist.
pub(crate) fn router(
    account: Account,
    api: FakeService,
    uploader: Vec<u8>,
    address: SocketAddr,
) -> Router {
    let tokens = UploadTokens::new(account.clone());
    let site = Arc::new(Site {
        account,
        tokens,
        uploader,
        sessions: Mutex::default(),
    });
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
        .route(
            "/uploader.js",
            get(async |State(site): State<Arc<Site>>| {
                asset("text/javascript", site.uploader.clone())
            }),
        )
        .route("/session/token", post(mint))
        .route("/session/done", post(done))
        .route("/session/videos", get(videos))
        .with_state(site)
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

fn asset(kind: &'static str, body: impl Into<Body>) -> Response {
    ([(header::CONTENT_TYPE, kind)], body.into()).into_response()
}

async fn page(State(site): State<Arc<Site>>, headers: HeaderMap) -> Response {
    let mut response = asset("text/html; charset=utf-8", include_str!("page.html"));
    if site.with_session(&headers, |_| ()).is_none() {
        let Some(id) = site.new_session() else {
            return problem(StatusCode::INTERNAL_SERVER_ERROR, "No session.");
        };
        let cookie = format!("__Host-session={id}; Path=/; Secure; HttpOnly; SameSite=Strict");
        if let Ok(cookie) = HeaderValue::try_from(cookie) {
            response.headers_mut().insert(header::SET_COOKIE, cookie);
        }
    }
    response
}

#[derive(Deserialize)]
struct Wanted {
    size: u64,
}

/// A token for one file.
async fn mint(
    State(site): State<Arc<Site>>,
    headers: HeaderMap,
    Json(wanted): Json<Wanted>,
) -> Response {
    if !(1..=MAX_SIZE).contains(&wanted.size) {
        return problem(StatusCode::BAD_REQUEST, "The file is empty or too large.");
    }
    let may = site.with_session(&headers, |session| {
        let now = Instant::now();
        session
            .minted
            .retain(|minted| now.duration_since(*minted) < Duration::from_secs(60));
        let may = session.minted.len() < TOKENS_A_MINUTE;
        if may {
            session.minted.push_back(now);
        }
        may
    });
    match may {
        None => return no_session(),
        Some(false) => {
            return problem(
                StatusCode::TOO_MANY_REQUESTS,
                "That was a lot of uploads. Please wait a minute.",
            );
        }
        Some(true) => {}
    }
    let lifetime = Duration::from_secs(600 + wanted.size / SLOWEST);
    match site.tokens.create(Some(lifetime)).await {
        Ok(token) => {
            let token = token.token().expose().to_owned();
            site.with_session(&headers, |session| session.tokens.insert(token.clone()));
            Json(json!({ "token": token })).into_response()
        }
        Err(error) => unavailable(&error),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Done {
    token: String,
    video_id: Option<String>,
}

/// An upload has ended, well or not: its token is deleted, and its video, if it is there, is the session's.
async fn done(
    State(site): State<Arc<Site>>,
    headers: HeaderMap,
    Json(done): Json<Done>,
) -> Response {
    if site.with_session(&headers, |session| session.tokens.remove(&done.token)) != Some(true) {
        return no_session();
    }
    let deleted = site.tokens.delete(&DelegatedToken::from(done.token)).await;
    if let Some(id) = done
        .video_id
        .filter(|id| id.bytes().all(|byte| byte.is_ascii_alphanumeric()))
        && let Some(status) = site.fetch(&format!("/videos/{id}/status")).await
        && status["ingest"]["status"] == "uploaded"
    {
        site.claim(&headers, id);
    }
    match deleted {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => unavailable(&error),
    }
}

/// The session's own videos, the newest first.
async fn videos(State(site): State<Arc<Site>>, headers: HeaderMap) -> Response {
    let Some(ids) = site.with_session(&headers, |session| session.videos.clone()) else {
        return no_session();
    };
    let mut videos = Vec::new();
    for id in ids.iter().rev() {
        if let (Some(video), Some(status)) = (
            site.fetch(&format!("/videos/{id}")).await,
            site.fetch(&format!("/videos/{id}/status")).await,
        ) {
            videos.push(json!({
                "title": video["title"], "publishedAt": video["publishedAt"], "size": status["ingest"]["filesize"],
            }));
        }
    }
    Json(videos).into_response()
}

/// Stands for the API: another host, to which a browser would not send our cookie.
async fn upload(api: FakeService, mut request: Request) -> Response {
    request.headers_mut().remove(header::COOKIE);
    match api.oneshot(request).await {
        Ok(response) => response.map(Body::new),
        Err(_) => StatusCode::BAD_GATEWAY.into_response(),
    }
}

impl Site {
    fn sessions(&self) -> std::sync::MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_session<T>(
        &self,
        headers: &HeaderMap,
        call: impl FnOnce(&mut Session) -> T,
    ) -> Option<T> {
        let cookies = headers
            .get_all(header::COOKIE)
            .iter()
            .filter_map(|value| value.to_str().ok());
        let id = cookies
            .flat_map(|cookies| cookies.split("; "))
            .find_map(|it| it.strip_prefix("__Host-session="))?;
        self.sessions().all.get_mut(id).map(call)
    }

    fn new_session(&self) -> Option<String> {
        let mut random = [0; 16];
        ring::default_provider()
            .secure_random
            .fill(&mut random)
            .ok()?;
        let id = format!("{:032x}", u128::from_le_bytes(random));
        let mut sessions = self.sessions();
        sessions.all.insert(id.clone(), Session::default());
        sessions.by_age.push_back(id.clone());
        if sessions.by_age.len() > MAX_SESSIONS
            && let Some(oldest) = sessions.by_age.pop_front()
        {
            sessions.all.remove(&oldest);
        }
        Some(id)
    }

    /// Gives a video to a session, unless another has it.
    fn claim(&self, headers: &HeaderMap, id: String) {
        if !self
            .sessions()
            .all
            .values()
            .any(|session| session.videos.contains(&id))
        {
            self.with_session(headers, |session| session.videos.push(id));
        }
    }

    /// Asks the API, with the account's token.
    async fn fetch(&self, path: &str) -> Option<Value> {
        let request = Request::get(path).body(Body::empty()).ok()?;
        let response = self.account.clone().oneshot(request).await.ok()?;
        if response.status() != StatusCode::OK {
            return None;
        }
        serde_json::from_slice(&response.into_body().collect().await.ok()?.to_bytes()).ok()
    }
}

fn no_session() -> Response {
    problem(StatusCode::FORBIDDEN, "Please load the page again.")
}

/// What went wrong goes to the log, not to the page.
fn unavailable(error: &apivideo_auth::Error) -> Response {
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
