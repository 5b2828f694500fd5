//! Which requests get a token.

use std::time::Duration;

use http::{Extensions, HeaderMap, Method, Request, Uri, header};

use crate::origin::Origin;

/// A request extension: renew first if less than this is left of the token's lifetime.
///
/// Useful before a long upload. At most half the token's lifetime can be asked for, and a tenth of a lifetime lies
/// between two renewals for this reason. If the renewal fails, a usable token is used all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "it is its one field")]
pub struct MinLifetime(pub Duration);

/// A request extension: leave this request alone, as if it had an `Authorization` header of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "it is a flag")]
pub struct NoAuth;

/// Decides whether a request gets a token, and completes a URI that is only a path. The first of `origins` is the
/// API's.
pub(crate) fn admit<B>(origins: &[Origin], request: &mut Request<B>) -> bool {
    let spared = has_own(request.headers(), request.extensions());
    if let Some(api) = origins.first() {
        if spared {
            // Its headers stay as they are.
            api.complete_uri(request.uri_mut());
        } else {
            api.complete(request);
        }
    }
    !spared && is_for(origins, request.method(), request.uri(), request.headers())
}

/// Whether a complete URI leads to where tokens may go.
pub(crate) fn is_for(origins: &[Origin], method: &Method, uri: &Uri, headers: &HeaderMap) -> bool {
    let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
        return false;
    };
    method != Method::CONNECT
        && is_for_bearers(uri.path())
        && origins
            .iter()
            .any(|origin| origin.is_origin_of(scheme, authority) && origin.is_named_by(headers))
}

pub(crate) fn has_own(headers: &HeaderMap, extensions: &Extensions) -> bool {
    headers.contains_key(header::AUTHORIZATION) || extensions.get::<NoAuth>().is_some()
}

/// Login and refresh take no bearer, and an upload with a delegated token must not have one.
fn is_for_bearers(path: &str) -> bool {
    let path = path.strip_suffix('/').unwrap_or(path);
    !(path == "/upload" || path == "/auth" || path.starts_with("/auth/"))
}
