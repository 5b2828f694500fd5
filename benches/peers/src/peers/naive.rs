//! What one writes oneself in an afternoon: a token behind a lock, and a boxed future.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use futures::future::BoxFuture;
use http::{HeaderValue, Request, Response, header};
use tokio::sync::RwLock;
use tower::{BoxError, Service};

use super::Source;
use crate::{
    api::Api,
    peer::{Body, Inner, Peer, Tower},
};

pub(crate) struct Naive;

impl Peer for Naive {
    const NAME: &'static str = "written by hand";
    const VERSION: &'static str = "tokio 1.54.1";
    const ROTATES: bool = true;
    const NOTE: &'static str = "Renews under the write lock, and does nothing about a 401.";

    type Client<S: Inner> = Tower<Auth<S>>;

    async fn client<S: Inner>(api: &Api, inner: S) -> Self::Client<S> {
        Tower(Auth {
            inner,
            token: Arc::default(),
            source: Arc::new(Source::new(api)),
        })
    }
}

#[derive(Clone)]
pub(crate) struct Auth<S> {
    inner: S,
    token: Arc<RwLock<Option<Token>>>,
    source: Arc<Source>,
}

struct Token {
    access_token: String,
    expires_at: Instant,
}

impl Token {
    fn is_usable(&self) -> bool {
        Instant::now() < self.expires_at
    }

    fn header(&self) -> Result<HeaderValue, BoxError> {
        Ok(HeaderValue::try_from(format!(
            "Bearer {}",
            self.access_token
        ))?)
    }
}

impl<S: Inner> Service<Request<Body>> for Auth<S> {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let (token, source) = (self.token.clone(), self.source.clone());
        Box::pin(async move {
            let header = bearer(&token, &source).await?;
            request.headers_mut().insert(header::AUTHORIZATION, header);
            inner.call(request).await
        })
    }
}

async fn bearer(token: &RwLock<Option<Token>>, source: &Source) -> Result<HeaderValue, BoxError> {
    if let Some(token) = token
        .read()
        .await
        .as_ref()
        .filter(|token| token.is_usable())
    {
        return token.header();
    }
    let mut token = token.write().await;
    if let Some(token) = token.as_ref().filter(|token| token.is_usable()) {
        return token.header();
    }
    let grant = source.renew().await?;
    let renewed = token.insert(Token {
        access_token: grant.access_token,
        expires_at: Instant::now() + grant.expires_in,
    });
    renewed.header()
}
