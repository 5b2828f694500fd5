//! How far an upload is while it is on its way.

use std::{pin::pin, time::Duration};

use tokio::{
    select,
    time::{self, MissedTickBehavior},
};

/// The shortest time between two reports: a bar that moves ten times a second looks smooth.
const INTERVAL: Duration = Duration::from_millis(100);

/// How far an upload is: told through [`on_progress`](super::UploadOptions::on_progress).
///
/// All are bytes of the source; forms and headers are not counted. After a [resume](super::UploadOptions::resume) they
/// count what was accepted before as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// How many the client has taken: those [in flight](Self::in_flight) and those accepted. This is what a bar shows. It
    /// goes back where a chunk is sent again.
    pub bytes: u64,
    /// How many the API has accepted, in whole chunks. They are safe.
    pub accepted: u64,
    /// How many there are, if that is known.
    pub total: Option<u64>,
}

impl Progress {
    /// How many are on their way: taken by the client, and not yet accepted. The last of them may still lie in a buffer
    /// of the client or of the system.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.bytes - self.accepted
    }
}

/// Runs `work` to its end, and tells of `progress` from time to time, from this task and outside of all locks.
pub(super) async fn reported<T>(
    work: impl Future<Output = T>,
    progress: impl Fn() -> Progress,
    mut call: impl FnMut(Progress),
) -> T {
    let mut told = None;
    let mut tell = || {
        let now = Some(progress());
        if now != told {
            told = now;
            now.into_iter().for_each(&mut call);
        }
    };
    let mut work = pin!(work);
    let mut ticks = time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let result = loop {
        select! {
            biased;
            _ = ticks.tick() => tell(),
            result = &mut work => break result,
        }
    };
    tell();
    result
}
