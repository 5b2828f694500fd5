//! The one timer that knows it overslept.
//!
//! A laptop whose lid was closed, a process that was stopped by a signal and a runtime that is only polled now and then
//! have one thing in common: their timers fire long after their time. Such a timer says nothing about a server. What it
//! was waiting for may lie in a socket or a channel already, and deserves one more look.

use std::{future::Future, time::Duration};

use tokio::time::{self, Instant, error::Elapsed};

/// A timer that fires this late says that we were asleep, not that the other side was slow.
const OVERSLEPT: Duration = Duration::from_millis(100);

/// What the awaited future gets on top in that case. Two tasks that both slept need a moment to pass a result on.
const GRACE: Duration = Duration::from_secs(1);

/// Waits for `future` until `until`, and a little longer if the timer itself was late. Thousands may wait here: pin the
/// future where it is and pass a reference, since an async function holds its arguments twice.
///
/// # Errors
///
/// [`Elapsed`] if the future was not ready in time.
pub(super) async fn timeout_unless_overslept<F: Future + Unpin>(
    until: Instant,
    mut future: F,
) -> Result<F::Output, Elapsed> {
    // A variable, so that the first timer is gone when the second one starts: thousands may wait here.
    let result = time::timeout_at(until, &mut future).await;
    if result.is_err() && Instant::now() > until + OVERSLEPT {
        return time::timeout(GRACE, future).await;
    }
    result
}
