//! Which requests an upload token is added to.
//!
//! The reverse of the rule for bearers: an upload token goes to `POST /upload` of one origin and
//! to nothing else. A request for anything else is an error rather than passed on, since it would
//! go out with no credential at all.

use std::fmt;

use http::{HeaderMap, HeaderValue, Method, Request, Uri, header, uri::PathAndQuery};

use super::token::UploadTokenSecret;
use crate::{
    error::{Error, ErrorKind},
    extensions::NoAuth,
    origin::Origin,
    origin_headers::add_application,
};

/// What is good for uploads, and where. The origin is the token's: it is of no use at another.
pub(super) struct Pass {
    token: UploadTokenSecret,
    origin: Origin,
    application: Option<HeaderValue>,
}

impl Pass {
    pub(super) fn new(
        token: UploadTokenSecret,
        origin: Origin,
        application: Option<HeaderValue>,
    ) -> Self {
        Self {
            token,
            origin,
            application,
        }
    }

    /// To look for it in errors.
    pub(super) fn token(&self) -> &UploadTokenSecret {
        &self.token
    }

    /// Adds the token to an upload; says why not, if the request is anything else.
    ///
    /// `Authorization` goes: a bearer beside an upload token would send a stronger credential where
    /// a weaker one is enough (<https://docs.api.video/vod/delegated-upload-tokens>).
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
            add_application(request.headers_mut(), self.application.as_ref());
            // An authentication layer below takes this for one with credentials of its own, which it is.
            request.extensions_mut().insert(NoAuth);
            *request.uri_mut() = self.uri(request.uri().query())?;
            return Ok(());
        };
        Err(Error::new(
            ErrorKind::WrongTarget,
            format!(
                "the request was not sent, for {why}: an upload token is for POST /upload of the API only"
            ),
        ))
    }

    /// By the same rules as for bearers: origin, and no `Host` header that names another.
    fn is_for(&self, uri: &Uri, headers: &HeaderMap) -> bool {
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
            return false;
        };
        self.origin.is_origin_of(scheme, authority) && self.origin.is_named_by(headers)
    }

    /// The same path with the token as one more parameter. It is put in as it is: it was checked
    /// for letters and digits.
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

/// By its exact name, in whatever place. Of two tokens, nobody knows which one a server takes.
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
