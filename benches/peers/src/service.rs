//! The API by HTTP: as a service in this process, and as a server on the loopback.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    io,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::future::{BoxFuture, Either};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower::{BoxError, Service, service_fn};

use crate::{
    api::{Api, Denied, Grant},
    peer::Body,
};

/// The API key that logs in.
const API_KEY: &str = "test-only-api-key";

/// The API as a Tower service: `POST /auth/refresh` and `POST /auth/api-key` as api.video has them, and all else by its
/// bearer.
#[derive(Clone, Debug)]
pub(crate) struct ApiService(Api);

impl ApiService {
    pub(crate) fn of(api: &Api) -> Self {
        Self(api.clone())
    }
}

impl Service<Request<Body>> for ApiService {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Either<
        Ready<Result<Response<Body>, BoxError>>,
        BoxFuture<'static, Result<Response<Body>, BoxError>>,
    >;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let is_token_call = matches!(
            request.uri().path(),
            "/auth/refresh" | "/auth/api-key" | "/token"
        );
        if is_token_call && request.method() == Method::POST {
            return Either::Right(Box::pin(token_call(self.0.clone(), request)));
        }
        let mut response = Response::new(Body::default());
        *response.status_mut() = self.0.authorize(&request);
        if response.status() == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        Either::Left(ready(Ok(response)))
    }
}

/// The same by HTTP/1 on loopback, and `POST /token` with an OAuth form or the same as JSON. Returns its URL.
pub(crate) async fn serve(api: &Api) -> io::Result<String> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let url = format!("http://{}", listener.local_addr()?);
    let service = ApiService::of(api);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service.clone();
            let service = service_fn(move |request| answer(service.clone(), request));
            tokio::spawn(async move {
                let connection = auto::Builder::new(TokioExecutor::new());
                let service = TowerToHyperService::new(service);
                // A client that hangs up is its own affair.
                let _ = connection
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    Ok(url)
}

async fn answer(
    mut service: ApiService,
    request: Request<Incoming>,
) -> Result<Response<Body>, BoxError> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    service
        .call(Request::from_parts(head, Full::new(body)))
        .await
}

async fn token_call(api: Api, request: Request<Body>) -> Result<Response<Body>, BoxError> {
    let (head, body) = request.into_parts();
    let body = body
        .collect()
        .await
        .unwrap_or_else(|never: Infallible| match never {})
        .to_bytes();
    let is_oauth = head.uri.path() == "/token";
    let answer = match refresh_token(is_oauth, &body)? {
        Some(token) => api.refresh(&token).await,
        None => api.login().await,
    };
    let (status, json) = match answer {
        Ok(grant) => (StatusCode::OK, pair(&grant)),
        Err(Denied::Down) => (
            StatusCode::SERVICE_UNAVAILABLE,
            json!({ "title": "Down", "status": 503 }),
        ),
        Err(Denied::Spent) if is_oauth => {
            (StatusCode::BAD_REQUEST, json!({ "error": "invalid_grant" }))
        }
        Err(Denied::Spent) => (StatusCode::UNAUTHORIZED, refused()),
    };
    let response = Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/json");
    Ok(response.body(Body::from(json.to_string()))?)
}

/// The refresh token of a token call, or `None` for a login. No token of this API needs an escape.
fn refresh_token(is_oauth: bool, body: &Bytes) -> Result<Option<String>, BoxError> {
    // Google sends JSON instead of a form.
    if is_oauth && body.starts_with(b"{") {
        let json: Value = serde_json::from_slice(body)?;
        return Ok(json["refresh_token"].as_str().map(str::to_owned));
    }
    if is_oauth {
        let form = str::from_utf8(body)?;
        let token = form
            .split('&')
            .find_map(|field| field.strip_prefix("refresh_token="));
        return Ok(token.map(str::to_owned));
    }
    let json: Value = serde_json::from_slice(body)?;
    match (json["refreshToken"].as_str(), json["apiKey"].as_str()) {
        (Some(token), _) => Ok(Some(token.to_owned())),
        (None, Some(API_KEY)) => Ok(None),
        _ => Err("a token call without credentials".into()),
    }
}

fn pair(grant: &Grant) -> Value {
    json!({
        "token_type": "Bearer",
        "expires_in": grant.expires_in.as_secs(),
        "access_token": grant.access_token,
        "refresh_token": grant.refresh_token,
    })
}

fn refused() -> Value {
    json!({
        "type": "https://docs.api.video/reference/authentication-invalid-refresh-token",
        "title": "The refresh token is invalid.",
        "name": "refreshToken",
        "status": 401,
    })
}
