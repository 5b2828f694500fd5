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
///
/// `ManualClock`, with the feature `test-util`, is one for tests. An [`Arc`] of a clock is a clock
/// too, so that a test can keep a handle to the one that it gives away.
pub trait Clock: Send + Sync + 'static {
    /// Reads both clocks.
    ///
    /// This is called for every request and must be cheap: no lock that is held for long, no I/O. A
    /// resolution of a few milliseconds is enough. The two readings should be taken together, since
    /// a token is expired as soon as one of them says so.
    fn now(&self) -> Now;
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now(&self) -> Now {
        (**self).now()
    }
}

/// One reading of the wall clock and the monotonic clock.
///
/// A token's lifetime is counted on both: it is over as soon as either says so. So a wall clock
/// that is set back makes no token live longer, and neither does a monotonic clock that stood still
/// while the machine slept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Now {
    /// The time of day. It goes on while the machine sleeps and can be set by anyone.
    pub wall: SystemTime,
    /// The time since some fixed moment. It never goes back.
    pub monotonic: Duration,
}

impl Now {
    /// A reading made of its two parts, for a [`Clock`] of your own. Only differences between
    /// readings of `monotonic` count, so it may start anywhere.
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

/// The one place that reads the system's time on Linux and Android; stores, which have no
/// [`Clock`], use it too.
///
/// The coarse clocks cost a tenth of the fine ones and are at most a scheduler tick late: a few
/// milliseconds, where what is judged by them takes a tenth of a second at least.
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

/// The wall clock alone, in nanoseconds since 1970.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[inline]
fn system_wall() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    let seconds = time.tv_sec.cast_unsigned().wrapping_mul(1_000_000_000);
    seconds.wrapping_add(time.tv_nsec.cast_unsigned())
}

/// The wall clock alone, in nanoseconds since 1970.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[expect(
    clippy::disallowed_methods,
    reason = "this is the place that reads the time"
)]
fn system_wall() -> u64 {
    nanoseconds(SystemTime::now())
}

/// The one place that reads the system's time elsewhere. The monotonic reading counts from the
/// first call, since an `Instant` can't be told as a number.
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

/// Where a source reads the time: the clocks of the operating system, if the user gave none.
#[derive(Clone)]
pub(crate) enum SourceClock {
    System,
    Own(Arc<dyn Clock>),
}

impl SourceClock {
    #[inline]
    pub(crate) fn now(&self) -> Now {
        match self {
            Self::System => system_now(),
            Self::Own(clock) => clock.now(),
        }
    }

    /// Nobody has to look at `deadline` again while this lasts.
    pub(crate) fn calm_before(&self, deadline: &Deadline, now: Now) -> Calm {
        match self {
            Self::System => Calm::new(nanoseconds(now.wall), deadline.left(now)),
            // Its two readings are one, and cost what they cost.
            Self::Own(_) => Calm::default(),
        }
    }
}

/// How long the wall clock is trusted without a look at the monotonic one.
const CALM: Duration = Duration::from_millis(50);

/// A span of the system's wall clock in which a deadline can't have come, as both clocks said at its beginning. It is short,
/// so that a wall clock that stands still or is set back is noticed; set back before its beginning, or put forward
/// by sleep, it is outside at once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Calm {
    since: u64,
    nanoseconds: u64,
}

impl Calm {
    fn new(since: u64, left: Duration) -> Self {
        Self {
            since,
            nanoseconds: u64::try_from(left.min(CALM).as_nanos()).unwrap_or(0),
        }
    }

    /// Whether it lasts. On the hot path: one reading of one clock, and one comparison.
    #[inline]
    pub(crate) fn is_on(self) -> bool {
        self.covers(system_wall())
    }

    fn covers(self, wall: u64) -> bool {
        wall.wrapping_sub(self.since) < self.nanoseconds
    }
}

fn nanoseconds(wall: SystemTime) -> u64 {
    let since = wall.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(0))
}

/// A moment kept on both clocks. It has come as soon as either of them says so.
///
/// Each clock lies in its own way and only in one direction that does harm: the wall clock when it
/// is set back, the monotonic one when it sleeps. The earlier of the two is the safe one for a
/// token's end of life, and for a pause: no pause becomes endless because somebody set the clock.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Deadline {
    wall: SystemTime,
    monotonic: Duration,
}

/// Further away than any program runs, and near enough for every clock: a sum with it does not
/// overflow.
const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

impl Deadline {
    /// The moment `wait` after `start`. A wall clock that can't count so far stays where it is, and
    /// the moment has come at once: a token with an absurd lifetime is renewed, not trusted.
    pub(crate) fn after(start: Now, wait: Duration) -> Self {
        Self {
            wall: start.wall.checked_add(wait.min(FAR)).unwrap_or(start.wall),
            monotonic: start.monotonic.saturating_add(wait),
        }
    }

    /// The same moment, `lead` earlier on both clocks; never before their beginnings.
    pub(crate) fn earlier_by(self, lead: Duration) -> Self {
        Self {
            wall: self
                .wall
                .checked_sub(lead)
                .unwrap_or(SystemTime::UNIX_EPOCH),
            monotonic: self.monotonic.saturating_sub(lead),
        }
    }

    /// What is left until it has come, by the clock that is nearer to it; zero afterwards.
    pub(crate) fn left(&self, now: Now) -> Duration {
        let wall = self.wall.duration_since(now.wall).unwrap_or(Duration::ZERO);
        wall.min(self.monotonic.saturating_sub(now.monotonic))
    }

    /// Whether it has come.
    pub(crate) fn has_passed(&self, now: Now) -> bool {
        now.wall >= self.wall || now.monotonic >= self.monotonic
    }

    /// By the wall clock, for people and for stores to read: a monotonic reading means nothing to
    /// others.
    pub(crate) fn wall(&self) -> SystemTime {
        self.wall
    }
}

impl fmt::Debug for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.wall.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(wall: Duration, monotonic: Duration) -> Now {
        Now::new(SystemTime::UNIX_EPOCH + wall, monotonic)
    }

    #[test]
    fn g9_one_clock_is_trusted_for_a_moment_only() {
        let hour = Duration::from_secs(3600);
        let (wall, millisecond) = (hour * 1000, Duration::from_millis(1));
        let deadline = Deadline::after(at(wall, hour), hour);
        let covers =
            |calm: Calm, wall: Duration| calm.covers(nanoseconds(SystemTime::UNIX_EPOCH + wall));
        let calm = SourceClock::System.calm_before(&deadline, at(wall, hour));
        for (wall, lasts) in [
            (wall, true),
            (wall + 49 * millisecond, true),
            (wall + CALM, false),
            (wall + 2 * hour, false),
            // Set back.
            (wall - millisecond, false),
            (Duration::ZERO, false),
        ] {
            assert_eq!(covers(calm, wall), lasts, "{wall:?}");
        }
        // It ends with the deadline, by whichever clock that comes first.
        let left =
            |wall, monotonic| SourceClock::System.calm_before(&deadline, at(wall, monotonic));
        for calm in [
            left(wall, 2 * hour - 3 * millisecond),
            left(wall + hour - 3 * millisecond, hour),
        ] {
            let since = Duration::from_nanos(calm.since);
            assert!(covers(calm, since + 2 * millisecond));
            assert!(!covers(calm, since + 3 * millisecond));
        }
        assert!(!covers(left(wall, 2 * hour), wall));
        assert!(!covers(left(wall + hour, hour), wall + hour));
        // A clock of the user's own is read in whole each time.
        let own = SourceClock::Own(Arc::new(SystemClock));
        assert!(!covers(own.calm_before(&deadline, at(wall, hour)), wall));
    }
}
