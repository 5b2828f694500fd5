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
#[derive(Clone)]
pub struct ManualClock(Arc<Inner>);

struct Inner {
    tokio_origin: Option<tokio::time::Instant>,
    offsets: Mutex<Offsets>,
}

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

    /// Someone sets the wall clock forward.
    pub fn advance_wall(&self, duration: Duration) {
        self.change(|offsets| offsets.wall += duration);
    }

    /// Someone sets the wall clock back.
    pub fn set_wall_back(&self, duration: Duration) {
        self.change(|offsets| offsets.wall -= duration);
    }

    /// The machine sleeps: the wall clock goes on, the monotonic clock stands still.
    pub fn suspend(&self, duration: Duration) {
        self.advance_wall(duration);
    }

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

/// The clocks of the machine.
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
