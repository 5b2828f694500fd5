//! What a URL says: where Redis is, and how to log in.

use std::{fmt, path::PathBuf};

use redis::{ConnectionAddr, IntoConnectionInfo as _, RedisConnectionInfo};
use tower::BoxError;

use crate::{
    error::{Error, ErrorKind},
    origin::is_loopback,
};

/// Where Redis listens. It is shown in errors, so nothing of the URL's user or password is in it.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Address {
    Tcp { host: String, port: u16, tls: bool },
    Unix(PathBuf),
}

impl Address {
    /// Reads a URL, without connecting.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`]; the URL is not quoted, for it may hold a password.
    pub(super) fn parse(
        url: &str,
        allow_plaintext: bool,
    ) -> Result<(Self, RedisConnectionInfo), Error> {
        // The library would bring its own TLS, which reads certificates on the runtime's thread.
        let (tls, plain) = match url.split_once("://") {
            Some(("rediss", rest)) => (true, format!("redis://{rest}")),
            Some(("valkeys", rest)) => (true, format!("valkey://{rest}")),
            _ => (false, url.to_owned()),
        };
        if url.contains('#') {
            return Err(refuse("has a fragment (`#`; write `%23` in a password)"));
        }
        let info = zeroize::Zeroizing::new(plain)
            .as_str()
            .into_connection_info();
        let info = info.map_err(|_| refuse("is not like `rediss://user:password@host:6379/0`"))?;
        let address = match info.addr() {
            ConnectionAddr::Tcp(host, port) => Self::Tcp {
                host: host.clone(),
                port: *port,
                tls,
            },
            ConnectionAddr::Unix(path) if !tls && cfg!(unix) => Self::Unix(path.clone()),
            _ => return Err(refuse("can't be used on this platform")),
        };
        if let Self::Tcp {
            host, tls: false, ..
        } = &address
            && !allow_plaintext
            && !is_loopback(host)
        {
            return Err(refuse(
                "would send tokens without TLS; use `rediss://`, or see `RedisStoreBuilder::allow_plaintext`",
            ));
        }
        Ok((address, info.redis_settings().clone()))
    }

    /// An error that names the address, since a program may have several.
    pub(super) fn unavailable(&self, what: &str, cause: Option<BoxError>) -> Error {
        Error::store(
            ErrorKind::StoreUnavailable,
            format!("Redis at {self:?} {what}"),
            cause,
        )
    }
}

/// The URL may hold a password: it is not quoted, nor is an error about it.
pub(super) fn refuse(why: &str) -> Error {
    Error::new(ErrorKind::Configuration, format!("the Redis URL {why}"))
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port, .. } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}
