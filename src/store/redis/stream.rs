//! A stream to Redis: a Unix socket, TCP, or TLS over TCP.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs as _},
    sync::{Arc, OnceLock},
    time::Duration,
};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time,
};
use tokio_rustls::TlsConnector;

use super::address::Address;
use crate::{
    error::{Error, ErrorKind},
    store::blocking::blocking,
};

/// How long one address of Redis is tried. A name may have several, and not all of them may answer.
const CONNECT: Duration = Duration::from_secs(1);

/// What TCP, a Unix socket and TLS have in common.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// TLS by rustls. What is trusted of the system is read at the first connection, since that blocks.
pub(super) struct Tls {
    /// Set once it can be made. No runtime waits for another one here: each may make it.
    connector: OnceLock<TlsConnector>,
}

impl Tls {
    /// Trusts the certificates in this PEM, or those of the system.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] if it is not PEM, or holds no certificate or one that can't be read.
    pub(super) fn new(pem: Option<&[u8]>) -> Result<Self, Error> {
        let connector = OnceLock::new();
        if let Some(pem) = pem {
            // The library's error is not kept: it may quote what was given, a key perhaps.
            let refuse = || {
                let message = "the root certificates for Redis are not certificates in PEM form";
                Error::new(ErrorKind::Configuration, message)
            };
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(|_| refuse())?;
                roots.add(certificate).map_err(|_| refuse())?;
            }
            if roots.is_empty() {
                return Err(refuse());
            }
            let _ = connector.set(trusting(roots)?);
        }
        Ok(Self { connector })
    }

    async fn connector(&self) -> Result<&TlsConnector, Error> {
        if let Some(connector) = self.connector.get() {
            return Ok(connector);
        }
        let read = || trusting(roots_of_system()?);
        let connector = blocking("reading the trusted certificates", read).await?;
        Ok(self.connector.get_or_init(|| connector))
    }
}

/// A stream to Redis, encrypted where the URL asks for it. TLS proves that it is the right
/// server: the name in its certificate is the URL's host.
pub(super) async fn connect(
    address: &Address,
    tls: Option<&Tls>,
) -> Result<Box<dyn Stream>, Error> {
    let unreachable = |error| address.unavailable("can't be reached", Some(error));
    match address {
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
            let Some(tls) = tls else {
                return Ok(Box::new(stream));
            };
            let name =
                ServerName::try_from(host.clone()).map_err(|error| unreachable(error.into()))?;
            let connector = tls.connector().await?;
            let stream = connector
                .connect(name, stream)
                .await
                .map_err(|error| unreachable(error.into()))?;
            Ok(Box::new(stream))
        }
    }
}

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

/// What the system trusts. Of its certificates some may be unreadable, as long as one is left.
fn roots_of_system() -> Result<RootCertStore, Error> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if !roots.is_empty() {
        return Ok(roots);
    }
    let message = "this system trusts no certificate, so no Redis can prove that it is the right one; install CA \
         certificates, or give some with `RedisStoreBuilder::root_certificates`";
    let reason = found.errors.into_iter().next();
    Err(Error::store(
        ErrorKind::StoreUnavailable,
        message,
        reason.map(Into::into),
    ))
}

fn trusting(roots: RootCertStore) -> Result<TlsConnector, Error> {
    // The program may have chosen another provider, or none: this one is not meant for all of it.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| {
            Error::with_source(ErrorKind::StoreUnavailable, "no TLS for Redis", error)
        })?;
    let config = config.with_root_certificates(roots).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
