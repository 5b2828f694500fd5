//! Which 401s are worth a renewal (guarantee G15).

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use super::{builder::Settings, policy::Budget};
use crate::clock::{Deadline, Now};

/// What to do about a 401.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Replay, with a renewal first if no usable token is there.
    Renew,
    /// The response stands.
    Stands,
}

/// What the API's responses say of the generations.
#[derive(Debug)]
pub(super) struct Refusals {
    /// The newest generation that the API has accepted.
    accepted: AtomicU64,
    /// The last generation that a 401 took out of use.
    refused: AtomicU64,
    /// The last generation that was fetched because of a 401.
    renewed: AtomicU64,
    guard: Mutex<Guard>,
}

#[derive(Debug)]
struct Guard {
    closed_until: Option<Deadline>,
    /// The generation that closed it last: it does so once.
    closed_by: u64,
    budget: Budget,
}

impl Refusals {
    pub(super) fn new(budget: u32) -> Self {
        let guard = Guard {
            closed_until: None,
            closed_by: 0,
            budget: Budget::full(budget),
        };
        Self {
            accepted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            renewed: AtomicU64::new(0),
            guard: Mutex::new(guard),
        }
    }

    pub(super) fn accept(&self, generation: u64) {
        if self.accepted.load(Ordering::Relaxed) < generation {
            self.accepted.fetch_max(generation, Ordering::AcqRel);
        }
    }

    pub(super) fn renewed(&self, generation: u64) {
        self.renewed.store(generation, Ordering::Release);
    }

    /// Whether a 401 took this generation out of use.
    pub(super) fn was_refused(&self, generation: u64) -> bool {
        self.refused.load(Ordering::Acquire) == generation
    }

    /// A first 401 for the generation in use. If it is worth a renewal, that generation is taken out of use, by
    /// setting `live` to 0.
    pub(super) fn judge(
        &self,
        generation: u64,
        live: &AtomicU64,
        settings: &Settings,
        now: Now,
    ) -> Verdict {
        let mut guard = self.guard();
        if live.load(Ordering::Acquire) != generation {
            // Somebody else's renewal, which is paid for.
            return Verdict::Renew;
        }
        if guard
            .closed_until
            .is_some_and(|until| !until.has_passed(now))
        {
            return Verdict::Stands;
        }
        let did_not_cure = self.renewed.load(Ordering::Acquire) == generation
            && self.accepted.load(Ordering::Acquire) < generation;
        if did_not_cure && guard.closed_by != generation {
            guard.close(generation, settings, now);
            return Verdict::Stands;
        }
        if !guard.budget.has(
            now.monotonic,
            settings.unauthorized_budget,
            settings.unauthorized_refill,
        ) {
            return Verdict::Stands;
        }
        // Before `live`: who finds that at 0 asks why.
        self.refused.store(generation, Ordering::Release);
        // Only the one that takes the generation out of use pays for the renewal; the others ride along.
        if live
            .compare_exchange(generation, 0, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
        {
            guard.budget.spend();
        }
        Verdict::Renew
    }

    /// A replay with this generation got a 401 too: if it was fetched for a 401, it did not cure.
    pub(super) fn replay_refused(&self, generation: u64, settings: &Settings, now: Now) {
        if self.renewed.load(Ordering::Acquire) == generation {
            self.guard().close(generation, settings, now);
        }
    }

    fn guard(&self) -> MutexGuard<'_, Guard> {
        self.guard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guard {
    fn close(&mut self, generation: u64, settings: &Settings, now: Now) {
        self.closed_by = generation;
        self.closed_until = Some(Deadline::after(now, settings.unauthorized_guard));
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::ApiVideoAuthLayer;

    #[test]
    fn g15_who_meets_a_renewal_that_is_paid_for_rides_along() {
        let layer = ApiVideoAuthLayer::builder()
            .unauthorized_budget(1, Duration::from_secs(15))
            .build()
            .expect("good settings");
        let (settings, now) = (
            layer.source.manager().settings(),
            Now::new(SystemTime::UNIX_EPOCH, Duration::ZERO),
        );
        let (refusals, live) = (Refusals::new(1), AtomicU64::new(7));
        // Both saw generation 7 in use before either took the guard.
        for _ in 0..2 {
            assert!(matches!(
                refusals.judge(7, &live, settings, now),
                Verdict::Renew
            ));
        }
        live.store(8, Ordering::Release);
        assert!(
            matches!(refusals.judge(8, &live, settings, now), Verdict::Stands),
            "the budget is out"
        );
    }
}
