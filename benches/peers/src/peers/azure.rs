//! `azure_core`: the bearer policy, alone in a pipeline, that also answers challenges.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use azure_core::{
    Error, Result as AzureResult,
    credentials::{AccessToken, TokenCredential, TokenRequestOptions},
    error::ErrorKind,
    http::{
        AsyncRawResponse, Context, Method, Request as AzureRequest, StatusCode,
        headers::Headers,
        policies::{
            Policy, PolicyResult,
            auth::{Authorizer, BearerTokenAuthorizationPolicy, OnChallenge},
        },
    },
};
use http::{Request, Response};
use http_body_util::BodyExt;
use tower::{BoxError, ServiceExt};

use super::Source;
use crate::{
    api::Api,
    hot::lap::{Head, Lap},
    peer::{Body, Client, Inner, Peer},
};

const SCOPE: &str = "test-only";

pub(crate) struct Azure;

impl Peer for Azure {
    const NAME: &'static str = "azure_core";
    const VERSION: &'static str = "azure_core 1.1.0";
    const ROTATES: bool = true;
    const NOTE: &'static str = "Renews in the request that finds the token within 5 min of its end. Repeats a request after \
                                a 401 with a challenge. Its own request type is not counted.";
    const REPLAYS: bool = true;
    const SHORT_LIFETIME: Duration = Duration::from_secs(301);

    type Client<S: Inner> = Auth;

    async fn client<S: Inner>(api: &Api, inner: S) -> Self::Client<S> {
        Auth {
            policies: [bearer(api), Arc::new(Transport(inner))].into(),
        }
    }
}

fn bearer(api: &Api) -> Arc<dyn Policy> {
    let policy =
        BearerTokenAuthorizationPolicy::new(Arc::new(Credential(Source::new(api))), [SCOPE]);
    Arc::new(policy.with_on_challenge(Arc::new(Again)))
}

#[derive(Debug)]
struct Credential(Source);

#[async_trait]
impl TokenCredential for Credential {
    async fn get_token(
        &self,
        _: &[&str],
        _: Option<TokenRequestOptions<'_>>,
    ) -> AzureResult<AccessToken> {
        let grant = self
            .0
            .renew()
            .await
            .map_err(|error| Error::new(ErrorKind::Credential, error))?;
        Ok(AccessToken::new(
            grant.access_token,
            (SystemTime::now() + grant.expires_in).into(),
        ))
    }
}

/// A challenge drops the cached token; this gets the next one.
#[derive(Debug)]
struct Again;

#[async_trait]
impl OnChallenge for Again {
    async fn on_challenge(
        &self,
        _: &Context,
        request: &mut AzureRequest,
        authorizer: &dyn Authorizer,
        _: &Headers,
    ) -> AzureResult<()> {
        authorizer
            .authorize(request, &[SCOPE], TokenRequestOptions::default())
            .await
    }
}

#[derive(Clone)]
pub(crate) struct Auth {
    policies: Arc<[Arc<dyn Policy>]>,
}

impl Auth {
    async fn through(&self, request: &mut AzureRequest) -> PolicyResult {
        self.policies[0]
            .send(&Context::new(), request, &self.policies[1..])
            .await
    }
}

impl Client for Auth {
    async fn send(&mut self, request: Request<Body>) -> Result<Response<Body>, BoxError> {
        let (parts, body) = request.into_parts();
        let mut request = AzureRequest::new(
            parts.uri.to_string().parse()?,
            parts.method.as_str().parse()?,
        );
        for (name, value) in &parts.headers {
            request.insert_header(name.as_str().to_owned(), value.to_str()?.to_owned());
        }
        request.set_body(body.collect().await?.to_bytes());
        let (status, headers, body) = self.through(&mut request).await?.deconstruct();
        let mut response = Response::builder().status(u16::from(status));
        for (name, value) in headers.iter() {
            response = response.header(name.as_str(), value.as_str());
        }
        Ok(response.body(body.collect().await?.into())?)
    }
}

/// The end of the pipeline: a Tower service.
struct Transport<S>(S);

impl<S> fmt::Debug for Transport<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Transport")
    }
}

impl<S: Inner> Transport<S> {
    async fn answer(&self, request: &AzureRequest) -> Result<AsyncRawResponse, BoxError> {
        let mut sent = Request::builder()
            .method(request.method().as_ref())
            .uri(request.url().as_str());
        for (name, value) in request.headers().iter() {
            sent = sent.header(name.as_str(), value.as_str());
        }
        let response = self
            .0
            .clone()
            .oneshot(sent.body(Body::new(request.body().into()))?)
            .await?;
        let (parts, body) = response.into_parts();
        let mut headers = Headers::new();
        for (name, value) in &parts.headers {
            headers.insert(name.as_str().to_owned(), value.to_str()?.to_owned());
        }
        let body = body.collect().await?.to_bytes();
        Ok(AsyncRawResponse::from_bytes(
            parts.status.as_u16().into(),
            headers,
            body,
        ))
    }
}

#[async_trait]
impl<S: Inner> Policy for Transport<S> {
    async fn send(
        &self,
        _: &Context,
        request: &mut AzureRequest,
        _: &[Arc<dyn Policy>],
    ) -> PolicyResult {
        self.answer(request)
            .await
            .map_err(|error| Error::new(ErrorKind::Io, error))
    }
}

/// A pipeline for the hot path, with the bearer policy and without: the difference is what the policy costs.
pub(crate) fn pipelines(api: &Api) -> [Auth; 2] {
    let end: Arc<dyn Policy> = Arc::new(End);
    [
        Auth {
            policies: [end.clone()].into(),
        },
        Auth {
            policies: [bearer(api), end].into(),
        },
    ]
}

#[derive(Debug)]
struct End;

#[async_trait]
impl Policy for End {
    async fn send(&self, _: &Context, _: &mut AzureRequest, _: &[Arc<dyn Policy>]) -> PolicyResult {
        Ok(AsyncRawResponse::from_bytes(
            StatusCode::Ok,
            Headers::new(),
            bytes::Bytes::new(),
        ))
    }
}

impl Lap for Auth {
    async fn run(&mut self, head: &Head) {
        let mut request = AzureRequest::new(head.url.clone(), Method::Get);
        for (name, value) in head.headers {
            request.insert_header(*name, *value);
        }
        let response = self
            .through(&mut request)
            .await
            .expect("the end of the pipeline answers");
        std::hint::black_box(response.status());
    }
}
