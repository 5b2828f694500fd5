//! Clocks for tests, and a way to hold Tokio's paused time still.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::{Duration, SystemTime},
};

use crate::{Clock, Now};

/// The wall time a [`ManualClock`] starts at: a fixed moment of 2025, so that tests are repeatable.
const START: Duration = Duration::from_secs(1_750_000_000);

/// A clock that goes only as it is told. Clones share their state.
///
/// The wall clock starts at 2025-06-15T15:06:40Z, the monotonic clock at zero.
///
/// ```
/// use std::time::Duration;
///
/// use apivideo_auth::{ApiVideoAuthLayer, Clock, testing::{FakeApi, ManualClock}};
///
/// let clock = ManualClock::new();
/// let api = FakeApi::builder().clock(clock.clone()).build();
/// let layer = ApiVideoAuthLayer::builder().base_url(api.url()).clock(clock.clone()).build()?;
///
/// let before = clock.now();
/// clock.advance(Duration::from_secs(60));
/// clock.suspend(Duration::from_secs(60));
/// let after = clock.now();
/// assert_eq!(after.monotonic - before.monotonic, Duration::from_secs(60));
/// assert_eq!(after.wall.duration_since(before.wall).unwrap(), Duration::from_secs(120));
/// # Ok::<(), apivideo_auth::Error>(())
/// ```
#[derive(Clone)]
pub struct ManualClock(Arc<Inner>);

/// What clones share.
struct Inner {
    /// Where Tokio's time was when the clock was made, if it runs with that.
    tokio_origin: Option<tokio::time::Instant>,
    offsets: Mutex<Offsets>,
}

/// What the clock was told, on top of what has run by itself.
struct Offsets {
    wall: SystemTime,
    monotonic: Duration,
}

impl ManualClock {
    /// A clock that stands still until told to move.
    #[must_use]
    pub fn new() -> Self {
        Self::from_origin(None)
    }

    /// A clock that runs with [`tokio::time::Instant`], so that paused time drives it; what it is told comes
    /// on top. Make it and read it on the runtime whose time is paused.
    #[must_use]
    pub fn with_tokio() -> Self {
        Self::from_origin(Some(tokio::time::Instant::now()))
    }

    fn from_origin(tokio_origin: Option<tokio::time::Instant>) -> Self {
        let offsets = Offsets {
            wall: SystemTime::UNIX_EPOCH + START,
            monotonic: Duration::ZERO,
        };
        Self(Arc::new(Inner {
            tokio_origin,
            offsets: Mutex::new(offsets),
        }))
    }

    /// Time passes: both clocks go on by `duration`.
    pub fn advance(&self, duration: Duration) {
        self.change(|offsets| {
            offsets.wall += duration;
            offsets.monotonic += duration;
        });
    }

    /// Someone sets the wall clock forward. To a client, a token whose end has come by it is
    /// expired.
    pub fn advance_wall(&self, duration: Duration) {
        self.change(|offsets| offsets.wall += duration);
    }

    /// Someone sets the wall clock back.
    ///
    /// The monotonic clock goes on, so no token lives longer for it.
    ///
    /// # Panics
    ///
    /// If it would go further back than the system's time can tell.
    pub fn set_wall_back(&self, duration: Duration) {
        self.change(|offsets| offsets.wall -= duration);
    }

    /// The machine sleeps: the wall clock goes on, the monotonic clock stands still.
    ///
    /// Tokio's timers stand still as well, if nobody advances them.
    pub fn suspend(&self, duration: Duration) {
        self.advance_wall(duration);
    }

    /// One lock for both, so that no reading sees half of a change.
    fn change(&self, change: impl FnOnce(&mut Offsets)) {
        change(
            &mut self
                .0
                .offsets
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Now {
        let ran = self
            .0
            .tokio_origin
            .map_or(Duration::ZERO, |origin| origin.elapsed());
        let offsets = self
            .0
            .offsets
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Now::new(offsets.wall + ran, offsets.monotonic + ran)
    }
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ManualClock").field(&self.now()).finish()
    }
}

/// The clocks of the machine, as a server of its own would read them: this module uses the crate's
/// public face only.
pub(super) struct SystemClock(std::time::Instant);

impl SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the fake server's own clock")]
    pub(super) fn new() -> Self {
        Self(std::time::Instant::now())
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the fake server's own clock")]
    fn now(&self) -> Now {
        Now::new(SystemTime::now(), self.0.elapsed())
    }
}

/// Keeps Tokio's paused time from jumping ahead by itself, until the [`TimeHold`] is dropped.
///
/// `tokio::time::advance` still moves it. Where time is not paused, or outside a Tokio runtime, this does
/// nothing. See the [module docs](super#paused-time).
#[must_use = "time is held only as long as this value lives"]
pub fn hold_time() -> TimeHold {
    let (release, released) = mpsc::channel::<()>();
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        // Tokio does not advance paused time while a blocking task runs; this one ends with the `TimeHold`.
        runtime.spawn_blocking(move || released.recv());
    }
    TimeHold { _release: release }
}

/// Holds paused time still while it lives. Made by [`hold_time`].
#[derive(Debug)]
pub struct TimeHold {
    _release: mpsc::Sender<()>,
}
