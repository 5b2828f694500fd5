//! Which requests get a token.
//!
//! The decision is taken for each request that passes the layer, redirected ones included, and from
//! the request alone: a token is never sent to a place that is not on the list, whatever the caller
//! set up above or below. Who gets none is not refused: the request goes on as it is.

use std::time::Duration;

use http::{Extensions, HeaderMap, Method, Request, Uri, header};

use crate::origin::{Origin, is_path_only};

/// A request extension: renew first if less than this is left of the token's lifetime.
///
/// It is for long requests whose body can't be kept for a replay, such as the upload of a large file:
/// should the token expire on the way, their 401 would stand. Others need none of it.
///
/// ```
/// use std::time::Duration;
///
/// use apivideo_auth::MinLifetime;
///
/// let mut request = http::Request::post("/videos/vi1234/source").body(())?;
/// request.extensions_mut().insert(MinLifetime(Duration::from_secs(20 * 60)));
/// # Ok::<(), http::Error>(())
/// ```
///
/// At most half the token's lifetime can be asked for (half an hour of api.video's hour; more
/// counts as that), and a tenth of a lifetime lies between two renewals for this reason. So a wish
/// that can never be met costs few renewals and delays few requests. If the renewal fails, a usable
/// token is used all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "it is its one field")]
pub struct MinLifetime(pub Duration);

/// A request extension: leave this request alone, as if it had an `Authorization` header of its
/// own.
///
/// It gets no token, causes no renewal, and its 401 is its own: it is passed on and says nothing of
/// the source's token. A path-only URI is still completed with the API's origin.
///
/// ```
/// use apivideo_auth::NoAuth;
///
/// // What is public needs no token.
/// let mut request = http::Request::get("/videos/vi1234/status").body(())?;
/// request.extensions_mut().insert(NoAuth);
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "it is a flag")]
pub struct NoAuth;

/// A request extension: no replay after a 401. What sends the request sends it again by itself, and counts that.
#[cfg_attr(
    not(feature = "upload-tokens"),
    expect(dead_code, reason = "uploads alone ask for it")
)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct SentOnce;

/// Decides whether a request gets a token, and completes a URI that is only a path. The first of
/// `origins` is the API's.
///
/// The order matters: the URI is completed first, so that the decision is about the place where the
/// request will really go. A request that is left alone has its URI completed too, or it could not
/// be sent, but no header of it is touched.
pub(crate) fn admit<B>(origins: &[Origin], request: &mut Request<B>) -> bool {
    let spared = has_own(request.headers(), request.extensions());
    if is_path_only(request.uri())
        && let Some(api) = origins.first()
    {
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
///
/// Everything that is not clearly the API is a no: a URI without scheme or authority, `CONNECT`, a
/// path that takes no bearer, an origin that is not on the list, and a `Host` header that names
/// another server than the URI does.
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

/// The origin of a request that got no token because of it: no secret of its URI is in the text.
pub(crate) fn foreign_origin(
    origins: &[Origin],
    uri: &Uri,
    headers: &HeaderMap,
    extensions: &Extensions,
) -> Option<String> {
    let (scheme, authority) = (uri.scheme()?, uri.authority()?);
    let is_listed = |origin: &Origin| origin.is_origin_of(scheme, authority);
    if has_own(headers, extensions) || origins.iter().any(is_listed) {
        return None;
    }
    let port = authority
        .port()
        .map_or(String::new(), |port| format!(":{port}"));
    Some(format!("{scheme}://{}{port}", authority.host()))
}

/// Whether the caller has taken care of the credentials. Any `Authorization` counts, also an empty
/// one or several: to replace it would be to guess what the caller meant.
#[inline]
pub(crate) fn has_own(headers: &HeaderMap, extensions: &Extensions) -> bool {
    // Most requests have neither, and hashing a name costs more than all else here.
    (!headers.is_empty() && headers.contains_key(header::AUTHORIZATION))
        || (!extensions.is_empty() && extensions.get::<NoAuth>().is_some())
}

/// Login and refresh take no bearer, and an upload with an upload token must not have one
/// (<https://docs.api.video/reference/api/Authentication>,
/// <https://docs.api.video/vod/delegated-upload-tokens>). A slash at the end does not make it
/// another place: some servers take it for the same.
fn is_for_bearers(path: &str) -> bool {
    let path = path.strip_suffix('/').unwrap_or(path);
    !(path == "/upload" || path == "/auth" || path.starts_with("/auth/"))
}
