//! `google-cloud-auth`: the credentials of a user account, which present one refresh token again and again.

use std::time::Duration;

use google_cloud_auth::credentials::{CacheableResource, Credentials, user_account};
use http::{Extensions, Request, Response};
use tower::{BoxError, ServiceExt};

use crate::{
    api::Api,
    peer::{Body, Client, Inner, Peer},
    service::serve,
};

pub(crate) struct Google;

impl Peer for Google {
    const NAME: &'static str = "google-cloud-auth";
    const VERSION: &'static str = "google-cloud-auth 1.18.0";
    const NOTE: &'static str = "Presents the same refresh token at each renewal: none succeeds where one works once. Does nothing about a 401.";
    const SHORT_LIFETIME: Duration = Duration::from_secs(241);

    type Client<S: Inner> = Auth<S>;

    async fn client<S: Inner>(api: &Api, inner: S) -> Self::Client<S> {
        let url = serve(api).await.expect("a port of the loopback");
        let account = serde_json::json!({
            "type": "authorized_user",
            "client_id": "test-only",
            "client_secret": "test-only",
            "refresh_token": api.mint().refresh_token,
            "token_uri": format!("{url}/token"),
        });
        let credentials = user_account::Builder::new(account)
            .build()
            .expect("the account is complete");
        Auth { inner, credentials }
    }
}

#[derive(Clone)]
pub(crate) struct Auth<S> {
    inner: S,
    credentials: Credentials,
}

/// As Google's own clients do it: without an entity tag, so that the headers come with each request.
impl<S: Inner> Client for Auth<S> {
    async fn send(&mut self, mut request: Request<Body>) -> Result<Response<Body>, BoxError> {
        match self.credentials.headers(Extensions::new()).await? {
            CacheableResource::New { data, .. } => request.headers_mut().extend(data),
            CacheableResource::NotModified => return Err("no headers without an entity tag".into()),
        }
        self.inner.ready().await?.call(request).await
    }
}
