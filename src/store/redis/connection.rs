//! The way to Redis.
//!
//! One connection, shared by all calls of a store and replaced when it breaks. The library's own
//! manager is not used: the task that drives a connection belongs to one runtime, and a store may be
//! used from several.

use std::{
    fmt, io,
    net::{SocketAddr, ToSocketAddrs as _},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Cmd, ConnectionAddr, ErrorKind as RedisErrorKind,
    IntoConnectionInfo as _, RedisConnectionInfo, RedisError, Value, aio::MultiplexedConnection,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    runtime::{self, Handle},
    sync::{Mutex, OnceCell},
    task::AbortHandle,
    time,
};
use tokio_rustls::TlsConnector;
use tower::BoxError;

use crate::{
    error::{Error, ErrorKind},
    origin::is_loopback,
    store::blocking::blocking,
};

/// A call to Redis gets its response within this time, or fails. It is less than the lease, so that
/// a call that was given up is over before the lease is.
const DEADLINE: Duration = Duration::from_secs(3);

/// How long one address of Redis is tried. A name may have several, and not all of them may answer.
const CONNECT: Duration = Duration::from_secs(1);

/// Where Redis is, how to log in, and the connection that is open.
pub(super) struct Redis {
    address: Address,
    settings: RedisConnectionInfo,
    tls: Option<Tls>,
    /// Locked while connecting too, so that many callers make one connection.
    open: Mutex<Option<Open>>,
    /// Counts connections, so that a call that failed closes the one that it used and no newer one.
    opened: AtomicU64,
}

/// Where Redis listens. It is shown in errors, so nothing of the URL's user or password is in it.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Address {
    Tcp { host: String, port: u16, tls: bool },
    Unix(PathBuf),
}

/// TLS by rustls, with the certificates that are trusted: the given ones, or the system's.
struct Tls {
    roots: Option<Vec<CertificateDer<'static>>>,
    /// Made at the first connection: to read the system's certificates blocks, and building does no
    /// I/O.
    connector: OnceCell<TlsConnector>,
}

/// A connection is worth nothing on another runtime than the one that drives it.
///
/// When the runtime ends, the task that drives a connection ends with it, and a call over it would
/// wait for ever.
struct Open {
    connection: MultiplexedConnection,
    number: u64,
    runtime: runtime::Id,
    driver: AbortHandle,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Redis {
    /// Checks a URL, without connecting.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`]; the URL is not quoted, for it may hold a password.
    pub(super) fn new(
        url: &str,
        allow_plaintext: bool,
        root_certificates: Option<&[u8]>,
    ) -> Result<Self, Error> {
        // The URL may hold a password: it is not quoted, nor is an error about it.
        let refuse =
            |why: &str| Error::new(ErrorKind::Configuration, format!("the Redis URL {why}"));
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
            ConnectionAddr::Tcp(host, port) => Address::Tcp {
                host: host.clone(),
                port: *port,
                tls,
            },
            ConnectionAddr::Unix(path) if !tls && cfg!(unix) => Address::Unix(path.clone()),
            _ => return Err(refuse("can't be used on this platform")),
        };
        if let Address::Tcp {
            host, tls: false, ..
        } = &address
            && !allow_plaintext
            && !is_loopback(host)
        {
            return Err(refuse(
                "would send tokens without TLS; use `rediss://`, or see `RedisStoreBuilder::allow_plaintext`",
            ));
        }
        let tls = match (tls, root_certificates) {
            (false, None) => None,
            (false, Some(_)) => {
                return Err(refuse("is without TLS, so certificates are of no use"));
            }
            (true, None) => Some(Tls {
                roots: None,
                connector: OnceCell::new(),
            }),
            (true, Some(pem)) => {
                let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
                let roots = roots.ok().filter(|roots| !roots.is_empty());
                let message = "the root certificates for Redis are not in PEM form";
                let roots = roots.ok_or_else(|| Error::new(ErrorKind::Configuration, message))?;
                Some(Tls {
                    roots: Some(roots),
                    connector: OnceCell::new(),
                })
            }
        };
        Ok(Self {
            address,
            settings: info.redis_settings().clone(),
            tls,
            open: Mutex::new(None),
            opened: AtomicU64::new(0),
        })
    }

    /// For `Debug` of the store.
    pub(super) fn address(&self) -> &Address {
        &self.address
    }

    /// Carries out a call that can be sent twice.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::StoreUnavailable`] if Redis does not respond in time, can't be reached or
    /// declines; [`ErrorKind::StoreCorrupt`] if the key holds something of another type.
    ///
    /// # Cancel safety
    ///
    /// The call may or may not be carried out, as after an error.
    pub(super) async fn run(&self, call: &Cmd) -> Result<Value, Error> {
        let used = AtomicU64::new(0);
        match time::timeout(DEADLINE, self.try_twice(call, &used)).await {
            Ok(result) => result,
            Err(_) => {
                // What hangs on the connection would hold up what comes next.
                if let Ok(mut open) = self.open.try_lock() {
                    open.take_if(|open| open.number == used.load(Relaxed));
                }
                Err(self.unavailable("did not answer within 3 s", None))
            }
        }
    }

    /// Sends the call, and once more over a new connection if an old one broke: Redis may have been
    /// restarted since. `used` tells the caller which connection to close if time runs out.
    async fn try_twice(&self, call: &Cmd, used: &AtomicU64) -> Result<Value, Error> {
        for may_be_stale in [true, false] {
            let (mut connection, number, kept) = self.connection().await?;
            // Before the call: if time runs out in it, `run` has to know which connection hangs.
            used.store(number, Relaxed);
            let failed = match call.query_async(&mut connection).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            // Another call may have replaced it already.
            self.open.lock().await.take_if(|open| open.number == number);
            let declined = matches!(
                failed.kind(),
                RedisErrorKind::Server(_) | RedisErrorKind::Extension
            );
            // A connection that was kept may have ended with the Redis of then.
            if declined || !(may_be_stale && kept) {
                return Err(self.explain(failed));
            }
        }
        Err(self.unavailable("broke the connection", None))
    }

    /// A connection, its number, and whether it was there before.
    ///
    /// One that belongs to another runtime is left to it: it may be in use there.
    async fn connection(&self) -> Result<(MultiplexedConnection, u64, bool), Error> {
        let mut open = self.open.lock().await;
        let runtime = Handle::current().id();
        if let Some(open) = open.as_ref().filter(|open| open.runtime == runtime) {
            return Ok((open.connection.clone(), open.number, true));
        }
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let stream = self.connect().await?;
        let (connection, driver) =
            MultiplexedConnection::new_with_config(&self.settings, stream, config)
                .await
                .map_err(|error| self.explain(error))?;
        let driver = tokio::spawn(driver).abort_handle();
        let number = 1 + self.opened.fetch_add(1, Relaxed);
        *open = Some(Open {
            connection: connection.clone(),
            number,
            runtime,
            driver,
        });
        Ok((connection, number, false))
    }

    /// A stream to Redis, encrypted where the URL asks for it. TLS proves that it is the right
    /// server: the name in its certificate is the URL's host.
    async fn connect(&self) -> Result<Box<dyn Stream>, Error> {
        let unreachable = |error| self.unavailable("can't be reached", Some(error));
        match &self.address {
            #[cfg(unix)]
            Address::Unix(path) => {
                let stream = tokio::net::UnixStream::connect(path).await;
                stream
                    .map(|stream| Box::new(stream) as _)
                    .map_err(|error| unreachable(error.into()))
            }
            #[cfg(not(unix))]
            Address::Unix(_) => Err(unreachable("no such sockets on this platform".into())),
            Address::Tcp { host, port, .. } => {
                let stream = tcp(host, *port)
                    .await
                    .map_err(|error| unreachable(error.into()))?;
                let Some(tls) = &self.tls else {
                    return Ok(Box::new(stream));
                };
                let name = ServerName::try_from(host.clone())
                    .map_err(|error| unreachable(error.into()))?;
                let connector = tls
                    .connector
                    .get_or_try_init(|| connector(tls.roots.clone()))
                    .await?;
                let stream = connector
                    .connect(name, stream)
                    .await
                    .map_err(|error| unreachable(error.into()))?;
                Ok(Box::new(stream))
            }
        }
    }

    /// Redis's own word for an error decides; its text is kept as the source.
    fn explain(&self, error: RedisError) -> Error {
        if error.code() == Some("WRONGTYPE") {
            let message = "what Redis holds is not a record of this crate";
            return Error::with_source(ErrorKind::StoreCorrupt, message, error);
        }
        let what = match error.kind() {
            RedisErrorKind::Server(_) | RedisErrorKind::Extension => "declined",
            RedisErrorKind::AuthenticationFailed => "refused the user name or password",
            _ => "broke the connection",
        };
        self.unavailable(what, Some(error.into()))
    }

    /// Names the address, since a program may have several.
    fn unavailable(&self, what: &str, cause: Option<BoxError>) -> Error {
        Error::store(
            ErrorKind::StoreUnavailable,
            format!("Redis at {:?} {what}", self.address),
            cause,
        )
    }
}

/// What TCP, a Unix socket and TLS have in common.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Tries the addresses of a name, one after another.
async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    // Tokio's own look-up would hold up the end of the program.
    let host = host.to_owned();
    let addresses = blocking("looking up Redis", move || {
        let found = (host.as_str(), port).to_socket_addrs();
        let found = found.map(|found| found.collect::<Vec<SocketAddr>>());
        found.map_err(|error| {
            Error::with_source(ErrorKind::StoreUnavailable, "the name was not found", error)
        })
    });
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses.await.map_err(io::Error::other)? {
        match time::timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Ok(Err(error)) => last = error,
            Err(elapsed) => last = elapsed.into(),
        }
    }
    Err(last)
}

/// TLS with the certificates that are trusted, read on a thread of its own.
async fn connector(roots: Option<Vec<CertificateDer<'static>>>) -> Result<TlsConnector, Error> {
    blocking("reading the trusted certificates", move || {
        let roots = roots.unwrap_or_else(|| rustls_native_certs::load_native_certs().certs);
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(roots);
        // The program may have chosen another provider, or none: this one is not meant for all of it.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| {
                Error::with_source(ErrorKind::StoreUnavailable, "no TLS for Redis", error)
            })?;
        let config = config.with_root_certificates(store).with_no_client_auth();
        Ok(TlsConnector::from(Arc::new(config)))
    })
    .await
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port, .. } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}
