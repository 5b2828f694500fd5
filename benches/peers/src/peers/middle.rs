//! `middle`: a task of its own renews; requests take a finished header from behind a lock of std.

use std::{sync::Arc, time::Duration};

use ::middle::{
    Authorizer, BasicClientCredentialAuthorizer, BasicClientCredentialAuthorizerBuilder,
};
use http::{Request, Response, header};
use tower::{BoxError, ServiceExt};

use crate::{
    api::Api,
    peer::{Body, Client, Inner, Peer},
    service::serve,
};

pub(crate) struct Middle;

impl Peer for Middle {
    const NAME: &'static str = "middle";
    const VERSION: &'static str = "middle 0.5.0";
    const NOTE: &'static str =
        "Client credentials only: holds no refresh token. Does nothing about a 401.";
    const SHORT_LIFETIME: Duration = Duration::from_secs(31);

    type Client<S: Inner> = Auth<S>;

    async fn client<S: Inner>(api: &Api, inner: S) -> Self::Client<S> {
        let url = serve(api).await.expect("a port of the loopback");
        let url = format!("{url}/token").parse().expect("a good URL");
        let authorizer = BasicClientCredentialAuthorizerBuilder::new("test-only", "test-only", url)
            .build()
            .await;
        Auth {
            inner,
            authorizer: authorizer.expect("the first token is granted"),
        }
    }
}

#[derive(Clone)]
pub(crate) struct Auth<S> {
    inner: S,
    authorizer: BasicClientCredentialAuthorizer,
}

/// What its own client does, which is bound to reqwest.
impl<S: Inner> Client for Auth<S> {
    async fn send(&mut self, mut request: Request<Body>) -> Result<Response<Body>, BoxError> {
        let header = self.authorizer.authorization_header()?;
        if !request.headers().contains_key(header::AUTHORIZATION) {
            request
                .headers_mut()
                .insert(header::AUTHORIZATION, Arc::unwrap_or_clone(header));
        }
        self.inner.ready().await?.call(request).await
    }
}
