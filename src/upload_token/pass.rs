//! Which requests a delegated token is added to.

use std::fmt;

use http::{HeaderMap, Method, Request, Uri, header, uri::PathAndQuery};

use super::token::DelegatedToken;
use crate::{
    admission::NoAuth,
    error::{Error, ErrorKind},
    origin::Origin,
};

/// What is good for uploads, and where.
pub(super) struct Pass {
    token: DelegatedToken,
    origin: Origin,
}

impl Pass {
    pub(super) fn new(token: DelegatedToken, origin: Origin) -> Self {
        Self { token, origin }
    }

    pub(super) fn token(&self) -> &DelegatedToken {
        &self.token
    }

    /// Adds the token to an upload; says why not, if the request is anything else.
    pub(super) fn admit<B>(&self, request: &mut Request<B>) -> Result<(), Error> {
        self.origin.complete(request);
        let uri = request.uri();
        let why = if request.method() != Method::POST {
            "its method is not POST"
        } else if uri.path() != "/upload" {
            "its path is not /upload"
        } else if !self.is_for(uri, request.headers()) {
            "it is for another origin"
        } else if uri.query().is_some_and(has_token) {
            "it has a token already"
        } else {
            request.headers_mut().remove(header::AUTHORIZATION);
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
