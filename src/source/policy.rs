//! Decisions as pure functions: numbers in, a decision out. A number that only one file needs stands there.

use std::time::Duration;

use crate::{clock::Deadline, token::Life};

/// Within this time of its expiry a token counts as expired. It covers clocks that differ a little, and the time that a
/// request travels.
pub(super) const SAFETY_MARGIN: Duration = Duration::from_secs(10);

/// How long after its first call a renewal may call again when the endpoint can't serve, and how long a caller waits for
/// the one call that ends a cool-down. A person hardly notices a second.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// A wait that the server asked for is waited out up to this long. A longer one becomes a cool-down, so that callers get
/// an error that says how long instead of standing still.
const LONGEST_WAIT: Duration = Duration::from_secs(3);

/// The safety margin of a token with this lifetime.
pub(super) fn margin(lifetime: Duration) -> Duration {
    SAFETY_MARGIN.min(lifetime / 10)
}

/// When a token turns stale and when it counts as expired.
///
/// `jitter` (0 to 1) shortens the early window by up to a quarter, so that a fleet does not renew in step.
pub(super) fn life(expires: Deadline, lifetime: Duration, window: Duration, jitter: f64) -> Life {
    let margin = margin(lifetime);
    let window = window
        .min(lifetime / 2)
        .mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 4.0);
    Life {
        fresh_until: expires.earlier_by(window.max(margin)),
        usable_until: expires.earlier_by(margin),
        expires,
        lifetime,
    }
}

/// The first cool-down, and the shortest.
const COOL_DOWN_MIN: Duration = Duration::from_secs(1);

/// The longest pause between two probes that we choose ourselves.
const COOL_DOWN_MAX: Duration = Duration::from_secs(30);

/// How long to leave the token endpoint alone after an outage that has lasted `outage` so far, so that it is
/// asked again within a fifth of that. `jitter` (0 to 1) only shortens it.
pub(super) fn cool_down(outage: Duration, asked: Option<Duration>, jitter: f64) -> Duration {
    let own = (outage / 5)
        .clamp(COOL_DOWN_MIN, COOL_DOWN_MAX)
        .mul_f64(0.9 - jitter.clamp(0.0, 1.0) / 5.0);
    // No client comes early to a wait that the server asked for.
    own.max(asked.unwrap_or_default())
}

/// The pause before a renewal calls again after `calls` failed ones, `running` after the first of them. `None` if it is
/// not to call again. `asked` is what the server wants.
pub(super) fn retry_pause(
    calls: u32,
    running: Duration,
    asked: Option<Duration>,
) -> Option<Duration> {
    match asked.filter(|asked| !asked.is_zero()) {
        Some(asked) => (asked <= LONGEST_WAIT).then_some(asked),
        None => {
            let pause =
                Duration::from_millis(100) * 2_u32.saturating_pow(calls.saturating_sub(1).min(6));
            (running + pause <= PATIENCE).then_some(pause)
        }
    }
}

/// What is left of the renewals that 401s may cause: so many at once, then one more each so often.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    tokens: f64,
    counted: Duration,
}

impl Budget {
    pub(super) fn full(size: u32) -> Self {
        Self {
            tokens: size.into(),
            counted: Duration::ZERO,
        }
    }

    /// Whether one is left, after adding what has been earned since the last look.
    pub(super) fn has(&mut self, now: Duration, size: u32, refill: Duration) -> bool {
        let earned = now.saturating_sub(self.counted).as_secs_f64() / refill.as_secs_f64();
        self.tokens = (self.tokens + earned).min(size.into());
        self.counted = now;
        self.tokens >= 1.0
    }

    pub(super) fn spend(&mut self) {
        self.tokens -= 1.0;
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::clock::Now;

    fn at(seconds: f64) -> Now {
        let since = Duration::from_secs_f64(seconds);
        Now::new(
            SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000) + since,
            since,
        )
    }

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn g7_the_early_window_and_the_margin_are_capped_by_the_lifetime() {
        for (lifetime, jitter, fresh, usable) in [
            (3600.0, 0.0, 3300.0, 3590.0),
            (3600.0, 1.0, 3375.0, 3590.0),
            (30.0, 0.0, 15.0, 27.0),
            (1.0, 0.0, 0.5, 0.9),
            (1.0, 1.0, 0.625, 0.9),
        ] {
            let life = life(
                Deadline::after(at(0.0), seconds(lifetime)),
                seconds(lifetime),
                seconds(300.0),
                jitter,
            );
            assert_eq!(
                life.fresh_until,
                Deadline::after(at(0.0), seconds(fresh)),
                "{lifetime} s"
            );
            assert_eq!(
                life.usable_until,
                Deadline::after(at(0.0), seconds(usable)),
                "{lifetime} s"
            );
        }
    }

    #[test]
    fn g7_no_early_window_means_no_early_renewal() {
        let life = life(
            Deadline::after(at(0.0), seconds(100.0)),
            seconds(100.0),
            Duration::ZERO,
            0.5,
        );
        assert_eq!(life.fresh_until, life.usable_until);
    }

    #[test]
    fn g11_the_source_recovers_within_a_fifth_of_the_outage() {
        for outage in [0.0, 0.5, 3.0, 5.0, 20.0, 100.0, 1e4, 1e9] {
            let limit = (outage / 5.0_f64).clamp(1.0, 30.0);
            for jitter in [0.0, 0.5, 1.0] {
                let pause = cool_down(seconds(outage), None, jitter).as_secs_f64();
                assert!(
                    pause <= limit && pause >= limit * 0.6,
                    "{outage} s: {pause} s"
                );
            }
        }
        assert_eq!(
            cool_down(Duration::MAX, Some(seconds(120.0)), 0.3),
            seconds(120.0)
        );
    }

    #[test]
    fn g11_short_waits_are_waited_out_and_long_ones_are_not() {
        for (calls, running, asked, pause) in [
            (1, 0.0, None, Some(0.1)),
            (3, 0.3, None, Some(0.4)),
            (4, 0.7, None, None),
            (1, 0.0, Some(0.0), Some(0.1)),
            (1, 9.0, Some(3.0), Some(3.0)),
            (1, 0.0, Some(3.1), None),
        ] {
            let got = retry_pause(calls, seconds(running), asked.map(seconds));
            assert_eq!(got, pause.map(seconds), "{calls} {running} {asked:?}");
        }
        assert_eq!(retry_pause(u32::MAX, seconds(0.0), None), None);
    }

    #[test]
    fn g15_the_budget_refills_with_time_and_never_overflows() {
        let mut budget = Budget::full(5);
        let mut spend = |now: f64| {
            let left = budget.has(seconds(now), 5, seconds(15.0));
            left.then(|| budget.spend()).is_some()
        };
        assert!((0..5).all(|_| spend(1.0)));
        assert!(!spend(2.0) && !spend(14.0) && spend(16.5) && !spend(17.0));
        assert!((0..5).all(|_| spend(1e9)) && !spend(1e9));
    }
}
