//! Connections, and how long they may take to say what they want.

use std::{pin::pin, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, time};

/// For the head of a request to come in.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// For requests that are under way at the end.
const GRACE: Duration = Duration::from_secs(10);

/// Serves until `end` is there, and returns that. `axum::serve` waits for half a head for ever.
pub(crate) async fn serve<T>(
    listener: TcpListener,
    pages: Router,
    end: impl Future<Output = T>,
) -> T {
    let mut server = http1::Builder::new();
    server
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT);
    let connections = GracefulShutdown::new();
    let mut end = pin!(end);
    let result = loop {
        tokio::select! {
            result = &mut end => break result,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let pages = TowerToHyperService::new(pages.clone());
                    let connection = server.serve_connection(TokioIo::new(stream), pages);
                    tokio::spawn(connections.watch(connection));
                }
                // Most likely there are too many open files: some connection will end.
                Err(_) => time::sleep(Duration::from_millis(10)).await,
            },
        }
    };
    // A client that never finishes its request keeps nobody here.
    let _ = time::timeout(GRACE, connections.shutdown()).await;
    result
}
