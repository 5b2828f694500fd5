//! Blocking work on a thread of its own: it never holds up the runtime, nor the end of the program.
//!
//! Tokio's own blocking pool is not used, for two reasons: a program waits at its end for what runs
//! in it, which a network disk that hangs can make long; and the tasks of others may fill it.

use std::{future::Future, thread, time::Duration};

use tokio::{
    sync::oneshot,
    time::{self, Instant},
};

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
#[cfg(feature = "redis-store")]
pub(super) async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    limited(what, Instant::now() + LIMIT, async {
        start(what, work)?.await
    })
    .await
}

/// One operation after another.
///
/// What its caller gave up but is still at work is waited for, within the same limit, and what did not get its turn in time
/// never starts. So a save that was given up is never carried out after a later one, and a disk or keyring that hangs costs
/// one thread, not one for each try.
#[cfg(feature = "file-store")]
#[derive(Clone, Debug, Default)]
pub(super) struct Turn(std::sync::Arc<tokio::sync::Mutex<()>>);

#[cfg(feature = "file-store")]
impl Turn {
    /// Runs `work` in its turn and waits for it, with the errors and the cancel safety of [`blocking`].
    pub(super) fn run<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> futures::future::BoxFuture<'static, Result<T, Error>> {
        let turn = self.0.clone();
        Box::pin(async move {
            let until = Instant::now() + LIMIT;
            let Ok(turn) = time::timeout_at(until, turn.lock_owned()).await else {
                return Err(failed(
                    what,
                    "did not begin within 5 s: an earlier operation hangs",
                ));
            };
            limited(what, until, async {
                // The work has the turn for as long as it takes, whoever waits for it.
                start(what, move || {
                    let _turn = turn;
                    work()
                })?
                .await
            })
            .await
        })
    }
}

/// Bounds the wait, not the work: a blocked thread can't be stopped.
async fn limited<T>(
    what: &'static str,
    until: Instant,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    time::timeout_at(until, work)
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

#[cfg(all(test, feature = "file-store"))]
mod tests {
    use std::sync::{Arc, Mutex, mpsc};

    use futures::future::join_all;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn g24_a_disk_that_hangs_costs_one_thread_whatever_is_tried() {
        let turn = Turn::default();
        let (disk, mended) = mpsc::channel::<()>();
        // Each thread holds a count of it, and so does what waits to be started.
        let mended = Arc::new(Mutex::new(mended));
        let hangs = || {
            let mended = mended.clone();
            turn.run("reading the token file", move || {
                let _ = mended.lock().map(|mended| mended.recv());
                Ok(())
            })
        };
        let threads = || Arc::strong_count(&mended) - 1;
        let error = hangs().await.expect_err("it hangs");
        assert!(error.to_string().contains("within 5 s"), "{error}");
        assert_eq!(threads(), 1);
        for _ in 0..5 {
            let begun = Instant::now();
            let outcomes = join_all((0..20).map(|_| hangs())).await;
            assert_eq!(threads(), 1);
            let waited = begun.elapsed();
            assert!(waited <= LIMIT + Duration::from_millis(1), "{waited:?}");
            for outcome in outcomes {
                let error = outcome.expect_err("it still hangs");
                assert_eq!(error.kind(), ErrorKind::StoreUnavailable);
                assert!(error.to_string().contains("earlier"), "{error}");
            }
        }
        drop(disk);
        time::resume();
        hangs().await.expect("the disk is mended");
    }
}
