//! Time, read in one place.
//!
//! A token's lifetime is judged by two clocks at once, because each of them lies in its own way: the wall
//! clock can be set back, and the monotonic clock of most systems stands still while the machine sleeps. A
//! [`Clock`] gives both in one [`Now`]. Only tests have a reason to bring their own.
//!
//! ```
//! use apivideo_auth::{ApiVideoAuthLayer, Clock, Now};
//!
//! /// A clock that stands still.
//! struct Stopped(Now);
//!
//! impl Clock for Stopped {
//!     fn now(&self) -> Now {
//!         self.0
//!     }
//! }
//!
//! let noon = Now::new(std::time::SystemTime::now(), std::time::Duration::ZERO);
//! let layer = ApiVideoAuthLayer::builder().api_key("test-only-key").clock(Stopped(noon)).build()?;
//! # Ok::<(), apivideo_auth::Error>(())
//! ```

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

/// A source of time. See the [module docs](self).
pub trait Clock: Send + Sync + 'static {
    /// Reads both clocks.
    ///
    /// This is called for every request and must be cheap. A resolution of a few milliseconds is enough.
    fn now(&self) -> Now;
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now(&self) -> Now {
        (**self).now()
    }
}

/// One reading of the wall clock and the monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Now {
    /// The time of day. It goes on while the machine sleeps and can be set by anyone.
    pub wall: SystemTime,
    /// The time since some fixed moment. It never goes back.
    pub monotonic: Duration,
}

impl Now {
    /// A reading made of its two parts.
    #[must_use]
    pub fn new(wall: SystemTime, monotonic: Duration) -> Self {
        Self { wall, monotonic }
    }
}

/// The clocks of the operating system.
#[derive(Debug)]
pub(crate) struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Now {
        system_now()
    }
}

// The coarse clocks cost a tenth of the fine ones and are at most a scheduler tick late.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn system_now() -> Now {
    let read = |id| {
        let time = rustix::time::clock_gettime(id);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
    };
    Now {
        wall: SystemTime::UNIX_EPOCH + read(rustix::time::ClockId::RealtimeCoarse),
        monotonic: read(rustix::time::ClockId::MonotonicCoarse),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[expect(
    clippy::disallowed_methods,
    reason = "this is the place that reads the time"
)]
pub(crate) fn system_now() -> Now {
    use std::{sync::OnceLock, time::Instant};
    static START: OnceLock<Instant> = OnceLock::new();
    Now {
        wall: SystemTime::now(),
        monotonic: START.get_or_init(Instant::now).elapsed(),
    }
}

/// A moment kept on both clocks. It has come as soon as either of them says so.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Deadline {
    wall: SystemTime,
    monotonic: Duration,
}

/// Further away than any program runs, and near enough for every clock.
const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

impl Deadline {
    pub(crate) fn after(start: Now, wait: Duration) -> Self {
        Self {
            wall: start.wall.checked_add(wait.min(FAR)).unwrap_or(start.wall),
            monotonic: start.monotonic.saturating_add(wait),
        }
    }

    pub(crate) fn earlier_by(self, lead: Duration) -> Self {
        Self {
            wall: self
                .wall
                .checked_sub(lead)
                .unwrap_or(SystemTime::UNIX_EPOCH),
            monotonic: self.monotonic.saturating_sub(lead),
        }
    }

    pub(crate) fn left(&self, now: Now) -> Duration {
        let wall = self.wall.duration_since(now.wall).unwrap_or(Duration::ZERO);
        wall.min(self.monotonic.saturating_sub(now.monotonic))
    }

    pub(crate) fn has_passed(&self, now: Now) -> bool {
        now.wall >= self.wall || now.monotonic >= self.monotonic
    }

    pub(crate) fn wall(&self) -> SystemTime {
        self.wall
    }
}

impl fmt::Debug for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.wall.fmt(f)
    }
}
