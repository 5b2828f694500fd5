//! One TLS origin for the page and the API, with a certificate made at the start.

use std::{sync::Arc, time::Duration};

use axum::{Extension, Router, extract::ConnectInfo};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use rcgen::CertifiedKey;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivatePkcs8KeyDer},
};
use tower::BoxError;

/// A client that takes longer to say hello is not one.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) fn acceptor() -> Result<TlsAcceptor, BoxError> {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(names)?;
    let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key.into())?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves until aborted; the connections end with this task.
pub(crate) async fn serve(listener: TcpListener, acceptor: TlsAcceptor, pages: Router) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let pages = pages.clone().layer(Extension(ConnectInfo(peer)));
                    connections.spawn(connection(stream, acceptor.clone(), pages));
                }
                // Most likely there are too many open files: some connection will end.
                Err(_) => time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, pages: Router) {
    let Ok(Ok(stream)) = time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await else {
        return;
    };
    let mut server = auto::Builder::new(TokioExecutor::new());
    // With a timer there is a limit to how slowly headers may come.
    server.http1().timer(TokioTimer::new());
    // An error is the client's to see.
    let _ = server
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(pages))
        .await;
}
