use std::{fmt, sync::Arc};

use http::{HeaderMap, Method, Request, Uri, header, uri::PathAndQuery};
use tower_layer::Layer;

use super::{service::DelegatedUpload, token::DelegatedToken};
use crate::{
    admission::NoAuth,
    credentials::Environment,
    error::{Error, ErrorKind},
    origin::Origin,
};

/// Lets a service upload with nothing but a delegated token. See the [module docs](super).
///
/// Clones share the token.
#[derive(Clone)]
pub struct UploadTokenLayer(Arc<Pass>);

/// What is good for uploads, and where.
pub(super) struct Pass {
    pub(super) token: DelegatedToken,
    origin: Origin,
}

/// Builds an [`UploadTokenLayer`].
#[must_use]
pub struct UploadTokenLayerBuilder {
    token: DelegatedToken,
    base_url: String,
    allow_http: bool,
}

impl UploadTokenLayer {
    /// Starts with a delegated token, and with production as the place it is for.
    pub fn builder(token: impl Into<DelegatedToken>) -> UploadTokenLayerBuilder {
        UploadTokenLayerBuilder {
            token: token.into(),
            base_url: Environment::default().base_url().to_owned(),
            allow_http: false,
        }
    }
}

impl UploadTokenLayerBuilder {
    /// Which of api.video's environments the token is of. Default: production.
    pub fn environment(self, environment: Environment) -> Self {
        self.base_url(environment.base_url())
    }

    /// The origin of the API, such as `http://127.0.0.1:8080` for a test server. Replaces the environment's.
    pub fn base_url(mut self, origin: impl Into<String>) -> Self {
        self.base_url = origin.into();
        self
    }

    /// Allows an `http` origin that is not on this machine. Whoever sits on the way can then read the token.
    pub fn danger_allow_http(mut self) -> Self {
        self.allow_http = true;
        self
    }

    /// Checks the settings and makes the layer.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`], with what to do, if the base URL is no origin or the token can't be one.
    pub fn build(self) -> Result<UploadTokenLayer, Error> {
        self.token.check()?;
        let origin = Origin::parse(&self.base_url, self.allow_http)?;
        Ok(UploadTokenLayer(Arc::new(Pass {
            token: self.token,
            origin,
        })))
    }
}

impl<S> Layer<S> for UploadTokenLayer {
    type Service = DelegatedUpload<S>;

    fn layer(&self, inner: S) -> DelegatedUpload<S> {
        DelegatedUpload::new(inner, self.0.clone())
    }
}

impl Pass {
    /// Adds the token to an upload; says why not, if the request is anything else.
    pub(super) fn admit<B>(&self, request: &mut Request<B>) -> Result<(), Error> {
        let uri = request.uri();
        let is_path = uri.scheme().is_none() && uri.authority().is_none();
        let why = if request.method() != Method::POST {
            "its method is not POST"
        } else if uri.path() != "/upload" {
            "its path is not /upload"
        } else if !is_path && !self.is_for(uri, request.headers()) {
            "it is for another origin"
        } else if uri.query().is_some_and(has_token) {
            "it has a token already"
        } else {
            let headers = request.headers_mut();
            headers.remove(header::AUTHORIZATION);
            if is_path && !self.origin.is_named_by(headers) {
                headers.remove(header::HOST);
            }
            // An authentication layer below takes this for one with credentials of its own, which it is.
            request.extensions_mut().insert(NoAuth);
            *request.uri_mut() = self.uri(request.uri().query())?;
            return Ok(());
        };
        Err(Error::new(
            ErrorKind::WrongTarget,
            format!(
                "the request was not sent, for {why}: a delegated token is for POST /upload of the API only"
            ),
        ))
    }

    fn is_for(&self, uri: &Uri, headers: &HeaderMap) -> bool {
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
            return false;
        };
        self.origin.is_origin_of(scheme, authority) && self.origin.is_named_by(headers)
    }

    fn uri(&self, query: Option<&str>) -> Result<Uri, Error> {
        let token = self.token.expose();
        let path = match query {
            Some(query) if !query.is_empty() => format!("/upload?{query}&token={token}"),
            _ => format!("/upload?token={token}"),
        };
        let too_long = |_| {
            Error::new(
                ErrorKind::WrongTarget,
                "the request was not sent, for its query is too long",
            )
        };
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(self.origin.scheme().clone());
        parts.authority = Some(self.origin.authority().clone());
        parts.path_and_query = Some(PathAndQuery::from_maybe_shared(path).map_err(too_long)?);
        Ok(Uri::from_parts(parts).expect("a path with scheme and authority is a URI"))
    }
}

fn has_token(query: &str) -> bool {
    query
        .split('&')
        .any(|pair| pair.split('=').next() == Some("token"))
}

impl fmt::Debug for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pass")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for UploadTokenLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UploadTokenLayer")
            .field("origin", &self.0.origin)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for UploadTokenLayerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A base URL that was not checked may have a password in it.
        f.debug_struct("UploadTokenLayerBuilder")
            .field("allow_http", &self.allow_http)
            .finish_non_exhaustive()
    }
}
