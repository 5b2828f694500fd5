//! When nobody calls, and with which error: pure, numbers and errors in, a decision out (guarantee G11).

use std::time::Duration;

use super::policy;
use crate::{
    clock::{Deadline, Now},
    error::Error,
};

/// A failure that comes this long after the last one begins a new outage: nobody asked in between.
pub(super) const FORGET_OUTAGE: Duration = Duration::from_secs(300);

/// What a failed renewal asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Pause {
    /// By the length of the outage, or longer if the server asked for it.
    Outage {
        asked: Option<Duration>,
    },
    /// Exactly this long.
    For(Duration),
    /// There is nothing left to try.
    UntilCredentialsChange,
    None,
}

/// The failures without a success in between, and the pause that the last one has left behind.
#[derive(Debug, Default)]
pub(super) struct CoolDown {
    pause: Option<(Error, Option<Deadline>)>,
    outage: Option<Outage>,
}

/// In monotonic time.
#[derive(Clone, Copy, Debug)]
struct Outage {
    since: Duration,
    last: Duration,
}

/// What a caller finds.
#[derive(Debug)]
pub(super) enum Found {
    Clear,
    /// One call may be tried. Callers that do not want to wait for it get this error.
    Probe(Error),
    /// No call may be made.
    Paused(Error),
}

impl CoolDown {
    pub(super) fn look(&self, now: Now) -> Found {
        match &self.pause {
            None => Found::Clear,
            Some((error, None)) => Found::Paused(error.clone()),
            Some((error, Some(until))) if until.has_passed(now) => {
                Found::Probe(error.clone().after(None))
            }
            Some((error, Some(until))) => Found::Paused(error.clone().after(Some(until.left(now)))),
        }
    }

    /// Notes a failure of a renewal that began at `started`. Gives the error that tells callers how long to wait, and
    /// until when nobody calls. `jitter` (0 to 1) shortens the pause.
    pub(super) fn fail(
        &mut self,
        error: Error,
        pause: Pause,
        (started, now): (Now, Now),
        jitter: f64,
    ) -> (Error, Option<Deadline>) {
        if pause == Pause::None {
            self.pause = None;
            return (error, None);
        }
        let started = started.monotonic;
        let going_on = self
            .outage
            .filter(|outage| started.saturating_sub(outage.last) < FORGET_OUTAGE);
        let since = going_on.map_or(started, |outage| outage.since);
        self.outage = Some(Outage {
            since,
            last: now.monotonic,
        });
        let until = match pause {
            Pause::None | Pause::UntilCredentialsChange => None,
            Pause::For(wait) => Some(Deadline::after(now, wait)),
            Pause::Outage { asked } => {
                let outage = now.monotonic.saturating_sub(since);
                Some(Deadline::after(
                    now,
                    policy::cool_down(outage, asked, jitter),
                ))
            }
        };
        self.pause = Some((error.clone(), until));
        (error.after(until.map(|until| until.left(now))), until)
    }

    /// Ends the pause and the outage: a renewal succeeded, or there is something new to try.
    pub(super) fn end(&mut self) {
        *self = Self::default();
    }

    /// For how long the endpoint has been failing, and in what time it is asked again.
    pub(super) fn report(&self, now: Now) -> (Option<Duration>, Option<Duration>) {
        let outage = self
            .outage
            .map(|outage| now.monotonic.saturating_sub(outage.since));
        let next = self
            .pause
            .as_ref()
            .and_then(|(_, until)| until.map(|until| until.left(now)));
        (outage, next)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::error::ErrorKind;

    fn at(seconds: f64) -> Now {
        let since = Duration::from_secs_f64(seconds);
        Now::new(
            SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000) + since,
            since,
        )
    }

    fn error() -> Error {
        Error::new(ErrorKind::Unavailable, "test-only")
    }

    fn seconds(wait: Option<Duration>) -> Option<f64> {
        wait.map(|wait| (wait.as_secs_f64() * 10.0).round() / 10.0)
    }

    #[test]
    fn g11_an_outage_is_measured_from_its_first_failure() {
        let outage = Pause::Outage { asked: None };
        let mut cool_down = CoolDown::default();
        // (from, to) of each failed renewal, and the pause after it with the least jitter.
        for (started, now, pause) in [
            (0.0, 1.0, 0.9),
            (10.0, 11.0, 2.0),
            (100.0, 101.0, 18.2),
            (200.0, 201.0, 27.0),
            // Nobody asked for five minutes: a new outage.
            (600.0, 601.0, 0.9),
        ] {
            let (error, _) = cool_down.fail(error(), outage, (at(started), at(now)), 0.0);
            assert_eq!(seconds(error.retry_after()), Some(pause), "{started}");
            assert!(matches!(
                cool_down.look(at(now + pause - 0.1)),
                Found::Paused(_)
            ));
            assert!(
                matches!(cool_down.look(at(now + pause)), Found::Probe(error) if error.retry_after().is_none())
            );
        }
        cool_down.end();
        assert!(matches!(cool_down.look(at(602.0)), Found::Clear));
        assert_eq!(cool_down.report(at(602.0)), (None, None));
    }

    #[test]
    fn g11_a_wait_that_the_server_asked_for_is_kept() {
        let mut cool_down = CoolDown::default();
        let asked = Pause::Outage {
            asked: Some(Duration::from_secs(60)),
        };
        let (error, until) = cool_down.fail(error(), asked, (at(0.0), at(1.0)), 1.0);
        assert_eq!(seconds(error.retry_after()), Some(60.0));
        assert_eq!(
            until,
            Some(Deadline::after(at(1.0), Duration::from_secs(60)))
        );
        assert_eq!(
            cool_down.report(at(11.0)),
            (Some(Duration::from_secs(11)), Some(Duration::from_secs(50)))
        );
    }

    #[test]
    fn g11_without_credentials_only_new_ones_end_the_pause() {
        let mut cool_down = CoolDown::default();
        let (told, until) = cool_down.fail(
            error(),
            Pause::UntilCredentialsChange,
            (at(0.0), at(0.0)),
            0.5,
        );
        assert_eq!((told.retry_after(), until), (None, None));
        assert!(matches!(cool_down.look(at(1e9)), Found::Paused(_)));
        cool_down.fail(error(), Pause::None, (at(0.0), at(0.0)), 0.5);
        assert!(matches!(cool_down.look(at(0.0)), Found::Clear));
    }
}
