//! The gateway as a router: what is not listed here does not exist, and what is not listed does not pass.

use std::{net::SocketAddr, time::Duration};

use apivideo_auth::{ApiVideoAuth, Error};
use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::get,
};
use http_body_util::{BodyExt, Limited};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use tokio::time::timeout;
use tower::{BoxError, ServiceExt};
use tower_http::csrf::CsrfLayer;

/// What the API gets to see of a browser's headers. Cookies, credentials, forwarding headers and method overrides are
/// none of its business.
const INWARDS: [HeaderName; 3] = [
    header::ACCEPT,
    header::ACCEPT_LANGUAGE,
    header::CONTENT_TYPE,
];

/// What the browser gets to see of the API's. That it sets cookies, or lets other sites read, ends here.
const OUTWARDS: [HeaderName; 2] = [header::CONTENT_TYPE, header::RETRY_AFTER];

const REQUEST_LIMIT: usize = 256 * 1024;
const RESPONSE_LIMIT: usize = 8 * 1024 * 1024;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A renewal of the token included.
const UPSTREAM_TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) type Upstream = ApiVideoAuth<Client<HttpConnector, Body>>;

/// Somebody who may use the account. Rules of your own for each user go into `forward`.
#[derive(Clone, Debug)]
pub(crate) struct User(pub(crate) String);

/// Your login goes here: a session's cookie, a token of your identity provider, whatever your users have.
pub(crate) trait Login: Clone + Send + Sync + 'static {
    /// Who sends this request, or the status for somebody who may not. It is asked for each request. Until this is
    /// filled in, nobody is let in.
    fn user(&self, _: &Parts) -> impl Future<Output = Result<User, StatusCode>> + Send {
        async { Err(StatusCode::UNAUTHORIZED) }
    }
}

pub(crate) fn gateway<L: Login>(upstream: Upstream, address: SocketAddr, login: L) -> Router {
    Router::new()
        .route("/api/videos", get(forward).post(forward))
        .route("/api/videos/{id}", get(forward).delete(forward))
        .with_state(upstream)
        .layer(from_fn_with_state((address, login), guard::<L>))
        // What changes something comes from our own pages: `Origin` and `Sec-Fetch-Site` say so.
        .layer(CsrfLayer::new())
}

async fn guard<L: Login>(
    State((address, login)): State<(SocketAddr, L)>,
    request: Request,
    next: Next,
) -> Response {
    // Another site's name can be pointed at this address. Each name that the request has must be ours.
    let names = [address.to_string(), format!("localhost:{}", address.port())];
    let is_own = |name: &[u8]| names.iter().any(|own| own.as_bytes() == name);
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let by_header = hosts.next().is_some_and(|name| is_own(name.as_bytes()));
    let by_uri = request.uri().authority().map(|name| name.as_str());
    if !by_header || hosts.next().is_some() || !by_uri.is_none_or(|name| is_own(name.as_bytes())) {
        return problem(421, "This is not the host you asked for.");
    }
    // A path passes if it means the same to everyone who reads it.
    let path = request.uri().path();
    let is_odd = |segment| matches!(segment, "" | "." | "..");
    if path.contains(['%', '\\', ';']) || path.split('/').skip(1).any(is_odd) {
        return problem(400, "The path is not in its plain form.");
    }
    let (mut parts, body) = request.into_parts();
    match login.user(&parts).await {
        Ok(user) => {
            tracing::info!(user = user.0, method = %parts.method, path = parts.uri.path(), "let in");
            parts.extensions.insert(user)
        }
        Err(status) => return problem(status.as_u16(), "Please log in."),
    };
    let mut response = next.run(Request::from_parts(parts, body)).await;
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

async fn forward(State(upstream): State<Upstream>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = match timeout(REQUEST_TIMEOUT, to_bytes(body, REQUEST_LIMIT)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return problem(413, "The request is too large."),
        Err(_) => return problem(408, "The request took too long."),
    };
    let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
    // Only a path is left: the layer sets scheme and host.
    let Some(Ok(uri)) = path.strip_prefix("/api").map(str::parse) else {
        return problem(400, "The path can't be forwarded.");
    };
    let mut request = Request::new(Body::from(body));
    *request.uri_mut() = uri;
    *request.headers_mut() = listed(&parts.headers, &INWARDS);
    *request.method_mut() = match parts.method {
        // To the router it is a GET whose body is left out.
        Method::HEAD => Method::GET,
        method => method,
    };
    let exchange = async {
        let (head, body) = upstream.oneshot(request).await?.into_parts();
        let body = Limited::new(body, RESPONSE_LIMIT).collect().await?;
        Ok::<_, BoxError>((head, body.to_bytes()))
    };
    match timeout(UPSTREAM_TIMEOUT, exchange).await {
        // A 401 would be about our token, and a redirect or a page would not be the API's.
        Ok(Ok((head, body)))
            if head.status != StatusCode::UNAUTHORIZED
                && !head.status.is_redirection()
                && (body.is_empty() || is_json(&head.headers)) =>
        {
            (head.status, listed(&head.headers, &OUTWARDS), body).into_response()
        }
        Ok(Ok((head, _))) => unavailable(&format!("status {}", head.status).into()),
        Ok(Err(error)) => unavailable(&error),
        Err(_) => problem(504, "The API takes too long. It may have done its part."),
    }
}

fn listed(headers: &HeaderMap, names: &[HeaderName]) -> HeaderMap {
    let pass = |name: &HeaderName| Some((name.clone(), headers.get(name)?.clone()));
    names.iter().filter_map(pass).collect()
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    kind.is_some_and(|kind| {
        kind.starts_with(b"application/json") || kind.starts_with(b"application/problem+json")
    })
}

/// 503 if it may come back by itself, else 502. What went wrong goes to the log.
fn unavailable(error: &BoxError) -> Response {
    tracing::warn!(%error, "not forwarded");
    let ours = error.downcast_ref::<Error>();
    let status = if ours.is_some_and(Error::is_transient) {
        503
    } else {
        502
    };
    let mut response = problem(status, "There is no access to the API at the moment.");
    if let Some(wait) = ours.and_then(Error::retry_after) {
        let seconds = wait.as_secs().max(1);
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

fn problem(status: u16, title: &str) -> Response {
    let body = serde_json::json!({ "title": title, "status": status }).to_string();
    let kind = [(header::CONTENT_TYPE, "application/problem+json")];
    let status = StatusCode::from_u16(status).expect("a status of HTTP");
    (status, kind, body).into_response()
}
