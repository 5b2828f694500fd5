//! Origins: where tokens may go, and which requests get one. Everything here errs on the side of sending no token.
//!
//! The decision is taken for each request that passes the layer, redirected ones included, and from
//! the request alone: a token is never sent to a place that is not on the list, whatever the caller
//! set up above or below. Who gets none is not refused: the request goes on as it is.

use std::{fmt, mem};

use http::{
    Extensions, HeaderMap, Method, Request, Uri, header,
    uri::{Authority, Scheme},
};

use crate::{
    error::{Error, ErrorKind},
    extensions::NoAuth,
};

/// Scheme, host and port of a server that may see a token.
///
/// Host and port are kept in one form (lower case, the port written out), the authority as the user
/// wrote it: the first is for comparing, the second for sending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    scheme: Scheme,
    host: String,
    port: u16,
    authority: Authority,
}

impl Origin {
    /// Reads an origin as a user writes it; a path other than `/`, a query or user information is
    /// refused.
    ///
    /// Nothing is mended: who gives a path expects it to be used, and a token sent elsewhere than
    /// expected is worse than an error at start. Without TLS, tokens go to this machine only,
    /// unless `allow_http`.
    pub(crate) fn parse(url: &str, allow_http: bool) -> Result<Self, Error> {
        let refuse = |why: &str| {
            // User information may be a password, a query a token, and what has no scheme may be a key by mistake.
            let is_plain = url.contains("://") && !url.contains(['@', '?', '#']);
            let shown = if is_plain {
                url
            } else {
                "the origin that was given"
            };
            Error::new(
                ErrorKind::Configuration,
                format!("{shown} {why}; give one like https://ws.api.video"),
            )
        };
        if url.contains('#') {
            return Err(refuse("has a fragment"));
        }
        let uri: Uri = url.parse().map_err(|_| refuse("is not a URL"))?;
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
            return Err(refuse("has no scheme or no host"));
        };
        if uri.path() != "/" && !uri.path().is_empty()
            || uri.query().is_some()
            || url.ends_with('?')
        {
            return Err(refuse("has a path or a query"));
        }
        let (host, port) = parts(scheme, authority).ok_or_else(|| {
            refuse(match scheme.as_str() {
                "http" | "https" if url.contains('@') => "has a user name",
                "http" | "https" => "has an invalid port",
                _ => "has a scheme other than http(s)",
            })
        })?;
        if *scheme == Scheme::HTTP && !allow_http && !is_loopback(host) {
            return Err(refuse(
                "would send tokens without TLS (see `danger_allow_http`, which allows it beyond loopback)",
            ));
        }
        Ok(Self {
            scheme: scheme.clone(),
            host: host.to_ascii_lowercase(),
            port,
            authority: authority.clone(),
        })
    }

    /// Scheme, host and port, all written out.
    ///
    /// Pairs are stored under it, so it must stay the same for the same server.
    pub(crate) fn name(&self) -> String {
        format!("{}://{}:{}", self.scheme, self.host, self.port)
    }

    /// Completes a request whose URI is only a path. A `Host` that names another server, a gateway's own for example,
    /// would contradict the URI, and goes.
    ///
    /// On an absolute URI a contradiction costs the token instead, see `is_named_by`: there nobody
    /// can know which of the two was meant.
    pub(crate) fn complete<B>(&self, request: &mut Request<B>) {
        if self.complete_uri(request.uri_mut()) && !self.is_named_by(request.headers()) {
            request.headers_mut().remove(header::HOST);
        }
    }

    /// Sets scheme and authority of a URI that is only a path, and says whether it is. Nothing is joined or parsed
    /// again: `//x` stays a path.
    pub(crate) fn complete_uri(&self, uri: &mut Uri) -> bool {
        let is_path = is_path_only(uri);
        if is_path {
            let mut parts = mem::take(uri).into_parts();
            parts.scheme = Some(self.scheme.clone());
            parts.authority = Some(self.authority.clone());
            *uri = Uri::from_parts(parts).expect("a path with scheme and authority is a URI");
        }
        is_path
    }

    /// For a URI that is built, as the user wrote it.
    pub(crate) fn scheme(&self) -> &Scheme {
        &self.scheme
    }

    /// For a URI that is built, as the user wrote it: the port stands there only if it was given.
    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Whether scheme and authority of a URI are this origin. An explicit default port makes no
    /// difference; a dot at the end of the host is another host.
    pub(crate) fn is_origin_of(&self, scheme: &Scheme, authority: &Authority) -> bool {
        *scheme == self.scheme && self.is_authority(authority)
    }

    /// Whether a `Host` header, if there is one, names this origin.
    ///
    /// All values have to: with two `Host` headers, nobody knows which one the server believes.
    pub(crate) fn is_named_by(&self, headers: &HeaderMap) -> bool {
        headers.get_all(header::HOST).iter().all(|host| {
            host == self.authority.as_str()
                || host
                    .to_str()
                    .ok()
                    .and_then(|host| host.parse().ok())
                    .is_some_and(|host| self.is_authority(&host))
        })
    }

    fn is_authority(&self, authority: &Authority) -> bool {
        authority.as_str() == self.authority.as_str() || self.is_same_place(authority)
    }

    /// Whether it is written in another way: `API:443` is `api`.
    #[cold]
    fn is_same_place(&self, authority: &Authority) -> bool {
        parts(&self.scheme, authority)
            .is_some_and(|(host, port)| host.eq_ignore_ascii_case(&self.host) && port == self.port)
    }
}

/// As the user wrote it, for a message: the port stands there only if it was given.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority)
    }
}

/// Decides whether a request gets a token, and completes a URI that is only a path. The first of
/// `origins` is the API's.
///
/// The order matters: the URI is completed first, so that the decision is about the place where the
/// request will really go. A request that is left alone has its URI completed too, or it could not
/// be sent, but no header of it is touched.
#[inline]
pub(crate) fn admit<B>(origins: &[Origin], request: &mut Request<B>) -> bool {
    if request.uri().authority().is_none() {
        complete(origins, request);
    }
    let (method, uri) = (request.method(), request.uri());
    is_for(
        origins,
        method,
        uri,
        request.headers(),
        request.extensions(),
    )
}

#[cold]
fn complete<B>(origins: &[Origin], request: &mut Request<B>) {
    let Some(api) = origins.first() else {
        return;
    };
    if has_own(request.headers(), request.extensions()) {
        // Its headers stay as they are.
        api.complete_uri(request.uri_mut());
    } else {
        api.complete(request);
    }
}

/// Whether a request with a complete URI leads to where tokens may go, and has no credentials of its own.
///
/// Everything that is not clearly the API is a no: a URI without scheme or authority, `CONNECT`, a
/// path that takes no bearer, an origin that is not on the list, and a `Host` header that names
/// another server than the URI does.
pub(crate) fn is_for(
    origins: &[Origin],
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    extensions: &Extensions,
) -> bool {
    let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
        return false;
    };
    // Clients add their headers below us, so most requests have none here, and hashing a name costs more than all else.
    let is_bare = headers.is_empty() && extensions.is_empty();
    method != Method::CONNECT
        && (is_bare || !has_own(headers, extensions))
        && is_for_bearers(uri.path())
        && origins.iter().any(|origin| {
            origin.is_origin_of(scheme, authority) && (is_bare || origin.is_named_by(headers))
        })
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
fn has_own(headers: &HeaderMap, extensions: &Extensions) -> bool {
    headers.contains_key(header::AUTHORIZATION) || extensions.get::<NoAuth>().is_some()
}

/// Login and refresh take no bearer, and an upload with an upload token must not have one
/// (<https://docs.api.video/reference/api/Authentication>,
/// <https://docs.api.video/vod/delegated-upload-tokens>). A slash at the end does not make it
/// another place: some servers take it for the same.
fn is_for_bearers(path: &str) -> bool {
    if !path.starts_with("/auth") && !path.starts_with("/upload") {
        return true;
    }
    let path = path.strip_suffix('/').unwrap_or(path);
    !(path == "/upload" || path == "/auth" || path.starts_with("/auth/"))
}

/// Whether a URI lacks scheme and authority, and is no `*` either.
fn is_path_only(uri: &Uri) -> bool {
    uri.scheme().is_none() && uri.authority().is_none() && uri.path().starts_with('/')
}

/// The host, and the port written out; `None` where there is user information, or the port is invalid.
///
/// User information has no place in a request with a bearer, and two parsers may not agree where
/// the host begins.
fn parts<'a>(scheme: &Scheme, authority: &'a Authority) -> Option<(&'a str, u16)> {
    let text = authority.as_str();
    let host = authority.host();
    let default = match scheme.as_str() {
        "https" => 443,
        "http" => 80,
        _ => return None,
    };
    let port = match text.strip_prefix(host)? {
        "" => default,
        port => port.strip_prefix(':')?.parse().ok()?,
    };
    (!text.contains('@') && !host.is_empty()).then_some((host, port))
}

/// Whether a host is this machine beyond doubt: `localhost`, 127.0.0.0/8 or `::1`, by their text.
/// No name is looked up: what a name stands for can change between the question and the connection.
pub(crate) fn is_loopback(host: &str) -> bool {
    if host.eq_ignore_ascii_case("localhost") {
        return true;
    }
    let literal = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    literal
        .parse()
        .is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g17_a_base_url_is_an_origin() {
        for good in [
            "https://ws.api.video",
            "https://ws.api.video/",
            "HTTPS://WS.API.VIDEO:443",
            "http://127.0.0.1:8080",
            "http://127.9.9.9",
            "http://[::1]:1",
            "http://localhost",
        ] {
            assert!(Origin::parse(good, false).is_ok(), "{good}");
        }
        for bad in [
            "",
            "/videos",
            "ws.api.video",
            "ftp://ws.api.video",
            "https://",
            "https://ws.api.video/v1",
            "https://ws.api.video?x",
            "https://ws.api.video/?",
            "https://ws.api.video#x",
            "https://user:pass@ws.api.video",
            "https://ws.api.video:",
            "https://ws.api.video:99999",
            "http://ws.api.video",
            "http://localhost.evil.example",
            "http://127.0.0.1.evil.example",
            "http://0x7f.1",
        ] {
            let error = Origin::parse(bad, false).expect_err(bad);
            assert_eq!(error.kind(), ErrorKind::Configuration);
            assert!(!format!("{error} {error:?}").contains("pass"), "{error}");
        }
        assert!(Origin::parse("http://ws.api.video", true).is_ok());
    }

    #[test]
    fn g17_origins_are_compared_as_browsers_do() {
        let origin = Origin::parse("https://ws.api.video", false).expect("a good origin");
        let same = |uri: &str| {
            let uri: Uri = uri.parse().expect("a URI");
            origin.is_origin_of(
                uri.scheme().expect("a scheme"),
                uri.authority().expect("an authority"),
            )
        };
        assert!(same("https://ws.api.video/videos"));
        assert!(same("https://WS.api.VIDEO:443/videos"));
        for other in [
            "http://ws.api.video/",
            "https://ws.api.video:444/",
            "https://ws.api.video./",
            "https://ws.api.video.evil.example/",
            "https://x@ws.api.video/",
            "https://xn--ws-api-video.example/",
            "https://[::1]/",
            "wss://ws.api.video/",
        ] {
            assert!(!same(other), "{other}");
        }
    }
}
