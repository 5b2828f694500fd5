//! One TLS origin for the page and the API, with a certificate made at the start.

use std::{sync::Arc, time::Duration};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use rcgen::CertifiedKey;
use tokio::{net::TcpListener, task::JoinSet, time};
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
            Ok((stream, _)) = listener.accept() => {
                let (acceptor, pages) = (acceptor.clone(), pages.clone());
                connections.spawn(async move {
                    let Ok(Ok(stream)) = time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await else { return };
                    let server = auto::Builder::new(TokioExecutor::new());
                    // An error is the client's to see.
                    let _ = server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(pages)).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}
