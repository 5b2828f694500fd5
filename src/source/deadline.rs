//! The one timer that knows it overslept.
//!
//! A laptop whose lid was closed, a process that was stopped by a signal and a runtime that is only polled now and then
//! have one thing in common: their timers fire long after their time. Such a timer says nothing about a server. What it
//! was waiting for may lie in a socket or a channel already, and deserves one more look.

use std::{future::Future, pin::pin, time::Duration};

use tokio::time::{self, Instant, error::Elapsed};

/// A timer that fires this late says that we were asleep, not that the other side was slow.
const OVERSLEPT: Duration = Duration::from_millis(100);

/// What the awaited future gets on top in that case. Two tasks that both slept need a moment to pass a result on.
const GRACE: Duration = Duration::from_secs(1);

/// Waits for `future` until `until`, and a little longer if the timer itself was late.
///
/// # Errors
///
/// [`Elapsed`] if the future was not ready in time.
pub(super) async fn timeout_unless_overslept<F: Future>(
    until: Instant,
    future: F,
) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    match time::timeout_at(until, &mut future).await {
        Err(_) if Instant::now() > until + OVERSLEPT => time::timeout(GRACE, future).await,
        result => result,
    }
}
