//! `aws-smithy-runtime`: the lazy identity cache, with the header made as its bearer signer makes it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_smithy_async::{rt::sleep::TokioSleep, time::SystemTimeSource};
use aws_smithy_runtime::client::{
    auth::http::BearerAuthScheme, identity::IdentityCache,
    orchestrator::endpoints::StaticUriEndpointResolver, retries::strategy::NeverRetryStrategy,
};
use aws_smithy_runtime_api::{
    client::{
        auth::{http::HTTP_BEARER_AUTH_SCHEME_ID, static_resolver::StaticAuthSchemeOptionResolver},
        identity::{
            Identity, IdentityFuture, ResolveCachedIdentity, ResolveIdentity, SharedIdentityCache,
            SharedIdentityResolver, http::Token,
        },
        runtime_components::{RuntimeComponents, RuntimeComponentsBuilder},
    },
    shared::IntoShared,
};
use aws_smithy_types::config_bag::ConfigBag;
use http::{HeaderValue, Request, Response, header};
use tower::{BoxError, ServiceExt};

use super::Source;
use crate::{
    api::Api,
    peer::{Body, Client, Inner, ORIGIN, Peer},
};

pub(crate) struct Aws;

impl Peer for Aws {
    const NAME: &'static str = "aws-smithy-runtime";
    const VERSION: &'static str = "aws-smithy-runtime 1.16.2";
    const ROTATES: bool = true;
    const NOTE: &'static str = "Renews in the request that finds the token within 10 s of its end. Does nothing about a 401.";
    const SHORT_LIFETIME: Duration = Duration::from_secs(11);

    type Client<S: Inner> = Auth<S>;

    async fn client<S: Inner>(api: &Api, inner: S) -> Self::Client<S> {
        let resolver: SharedIdentityResolver = Resolver(Source::new(api)).into_shared();
        let cache = IdentityCache::lazy().build();
        let components = RuntimeComponentsBuilder::new("peers")
            .with_auth_scheme(BearerAuthScheme::new())
            .with_auth_scheme_option_resolver(Some(StaticAuthSchemeOptionResolver::new(vec![
                HTTP_BEARER_AUTH_SCHEME_ID,
            ])))
            .with_endpoint_resolver(Some(StaticUriEndpointResolver::uri(ORIGIN)))
            .with_identity_cache(Some(cache.clone()))
            .with_identity_resolver(HTTP_BEARER_AUTH_SCHEME_ID, resolver.clone())
            .with_retry_strategy(Some(NeverRetryStrategy::new()))
            .with_sleep_impl(Some(TokioSleep::new()))
            .with_time_source(Some(SystemTimeSource::new()))
            .build()
            .expect("all that is required is there");
        Auth {
            inner,
            identities: Arc::new(Identities {
                resolver,
                cache,
                components,
                bag: ConfigBag::base(),
            }),
        }
    }
}

#[derive(Clone)]
pub(crate) struct Auth<S> {
    inner: S,
    identities: Arc<Identities>,
}

struct Identities {
    resolver: SharedIdentityResolver,
    cache: SharedIdentityCache,
    components: RuntimeComponents,
    bag: ConfigBag,
}

impl<S: Inner> Client for Auth<S> {
    async fn send(&mut self, mut request: Request<Body>) -> Result<Response<Body>, BoxError> {
        let Identities {
            resolver,
            cache,
            components,
            bag,
        } = &*self.identities;
        let identity = cache
            .resolve_cached_identity(resolver.clone(), components, bag)
            .await?;
        let token = identity.data::<Token>().ok_or("the identity is no token")?;
        let header = HeaderValue::from_str(&format!("Bearer {}", token.token()))?;
        request.headers_mut().insert(header::AUTHORIZATION, header);
        self.inner.ready().await?.call(request).await
    }
}

#[derive(Debug)]
struct Resolver(Source);

impl ResolveIdentity for Resolver {
    fn resolve_identity<'a>(
        &'a self,
        _: &'a RuntimeComponents,
        _: &'a ConfigBag,
    ) -> IdentityFuture<'a> {
        IdentityFuture::new(async move {
            let grant = self.0.renew().await?;
            let expires_at = Some(SystemTime::now() + grant.expires_in);
            Ok(Identity::new(
                Token::new(grant.access_token, expires_at),
                expires_at,
            ))
        })
    }
}
