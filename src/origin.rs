//! Origins: where tokens may go. Everything here errs on the side of sending no token.

use std::{fmt, mem};

use http::{
    HeaderMap, Request, Uri, header,
    uri::{Authority, Scheme},
};

use crate::error::{Error, ErrorKind};

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
        if *scheme == Scheme::HTTP && !allow_http && !is_loopback(&host) {
            return Err(refuse(
                "would send tokens without TLS (see `danger_allow_http`, which allows it beyond loopback)",
            ));
        }
        Ok(Self {
            scheme: scheme.clone(),
            host,
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
        // Before the name is hashed: clients add `Host` below us, so most requests have none here.
        headers.is_empty()
            || headers.get_all(header::HOST).iter().all(|host| {
                host == self.authority.as_str()
                    || host
                        .to_str()
                        .ok()
                        .and_then(|host| host.parse().ok())
                        .is_some_and(|host| self.is_authority(&host))
            })
    }

    /// The first comparison is the common one and allocates nothing; the second knows that
    /// `API:443` is `api`.
    fn is_authority(&self, authority: &Authority) -> bool {
        authority.as_str() == self.authority.as_str()
            || parts(&self.scheme, authority)
                .is_some_and(|(host, port)| host == self.host && port == self.port)
    }
}

/// As the user wrote it, for a message: the port stands there only if it was given.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.authority)
    }
}

/// Whether a URI lacks scheme and authority, and is no `*` either.
pub(crate) fn is_path_only(uri: &Uri) -> bool {
    uri.scheme().is_none() && uri.authority().is_none() && uri.path().starts_with('/')
}

/// Host in lower case and port written out; `None` where there is user information, or the port is invalid.
///
/// User information has no place in a request with a bearer, and two parsers may not agree where
/// the host begins.
fn parts(scheme: &Scheme, authority: &Authority) -> Option<(String, u16)> {
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
    (!text.contains('@') && !host.is_empty()).then(|| (host.to_ascii_lowercase(), port))
}

/// Whether a host is this machine beyond doubt: `localhost`, 127.0.0.0/8 or `::1`, by their text.
/// No name is looked up: what a name stands for can change between the question and the connection.
pub(crate) fn is_loopback(host: &str) -> bool {
    if host == "localhost" {
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
