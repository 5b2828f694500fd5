//! Blocking work on a thread of its own: it never holds up the runtime, nor the end of the program.
//!
//! Tokio's own blocking pool is not used, for two reasons: a program waits at its end for what runs
//! in it, which a network disk that hangs can make long; and the tasks of others may fill it.

use std::{future::Future, thread, time::Duration};

use tokio::{sync::oneshot, time};

use crate::error::{Error, ErrorKind};

/// Local disks and keyrings answer in milliseconds; a network disk that hangs does not get more
/// than this. It is less than the 10 s that the source gives a store, so that the message names the
/// cause.
const LIMIT: Duration = Duration::from_secs(5);

/// Runs `work` and waits for it, for a limited time.
///
/// # Errors
///
/// [`ErrorKind::StoreUnavailable`] if it takes too long, panics or can't be started; else its own.
///
/// # Cancel safety
///
/// Dropped or timed out, the work still runs to its end: it must hold on to what protects it, a
/// lock for example.
pub(super) async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    limited(what, async { start(what, work)?.await }).await
}

/// The same, one after another: what its caller gave up but is still at work is waited for, within
/// the same limit, and what did not get its turn in time never starts. So a save that was given up
/// is never carried out after a later one.
#[cfg(feature = "file-store")]
pub(super) async fn in_turn<G: Send + 'static, T: Send + 'static>(
    what: &'static str,
    turn: &std::sync::Arc<tokio::sync::Mutex<G>>,
    work: impl FnOnce(&mut G) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let turn = turn.clone();
    limited(what, async move {
        let mut turn = turn.lock_owned().await;
        start(what, move || work(&mut turn))?.await
    })
    .await
}

/// Bounds the wait, not the work: a blocked thread can't be stopped.
async fn limited<T>(
    what: &'static str,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    time::timeout(LIMIT, work)
        .await
        .unwrap_or_else(|_| Err(failed(what, "did not answer within 5 s")))
}

/// Starts the work before the first poll, on a thread of its own. Threads are rare here: one or two
/// for each renewal.
fn start<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<impl Future<Output = Result<T, Error>>, Error> {
    let (report, result) = oneshot::channel();
    thread::Builder::new()
        .name("apivideo-auth store".to_owned())
        .spawn(move || drop(report.send(work())))
        .map_err(|error| {
            Error::with_source(
                ErrorKind::StoreUnavailable,
                "no thread for the token store",
                error,
            )
        })?;
    Ok(async move {
        result
            .await
            .unwrap_or_else(|_| Err(failed(what, "panicked")))
    })
}

/// Only `what` is named: a payload or a path could hold a secret.
fn failed(what: &str, why: &str) -> Error {
    Error::new(ErrorKind::StoreUnavailable, format!("{what} {why}"))
}
