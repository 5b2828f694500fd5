//! Which 401s are worth a renewal (guarantee G15), and what a renewal for one that fails leaves behind (G8).

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{current::Current, policy::Budget};
use crate::clock::{Deadline, Now};

/// How long 401s are left alone after a renewal that did not help. Long enough to spare the token endpoint, short enough
/// for a person to wait for.
const CLOSED: Duration = Duration::from_secs(30);

/// The same after a renewal that failed: those that waited for it use the old token first. More is the cool-down's part.
/// A real revocation must not outlast a short outage.
const CLOSED_BY_FAILURE: Duration = Duration::from_secs(1);

/// So many renewals may be made for 401s at once. An operator who revokes tokens does so once or twice.
const BUDGET: u32 = 5;

/// The time that earns one more.
const REFILL: Duration = Duration::from_secs(15);

/// What the API's responses say of the generations.
#[derive(Debug)]
pub(super) struct RejectionGuard {
    /// Others may have saved a newer token: to look costs no token call.
    has_store: bool,
    guard: Mutex<Guard>,
}

#[derive(Debug)]
struct Guard {
    closed_until: Option<Deadline>,
    /// The generation that closed it last: it does so once.
    closed_by: u64,
    budget: Budget,
    /// The generation that a 401 has rejected and that nothing has replaced yet, or 0.
    rejected: u64,
    /// The last generation that was fetched while a 401 stood against the one before, or 0.
    fetched_for_401: u64,
    /// The last renewal for a 401 did not cure it. The next 401 may come from a path that always answers so: the token
    /// stays in use for all others until the new one is there.
    is_wary: bool,
}

impl RejectionGuard {
    pub(super) fn new(has_store: bool) -> Self {
        let guard = Guard {
            closed_until: None,
            closed_by: 0,
            budget: Budget::full(BUDGET),
            rejected: 0,
            fetched_for_401: 0,
            is_wary: false,
        };
        Self {
            has_store,
            guard: Mutex::new(guard),
        }
    }

    /// Whether a 401 stands against this generation.
    pub(super) fn is_rejected(&self, generation: u64) -> bool {
        self.guard().rejected == generation && generation != 0
    }

    /// A 401 for a first send with `generation`: whether it is worth a renewal, or has had one. That generation is then
    /// out of use, unless the guard is wary.
    pub(super) fn should_renew(
        &self,
        generation: u64,
        can_replay: bool,
        current: &Current,
        now: Now,
    ) -> bool {
        if current.live() != generation {
            // A newer token is there, or somebody else's renewal is on its way.
            return true;
        }
        let mut guard = self.guard();
        // Asked again under the lock: a renewal or another 401 may have come in between.
        if current.live() != generation || guard.rejected == generation {
            return true;
        }
        if guard
            .closed_until
            .is_some_and(|until| !until.has_passed(now))
        {
            return false;
        }
        let did_not_cure =
            guard.fetched_for_401 == generation && !current.generations().is_accepted(generation);
        if did_not_cure && guard.closed_by != generation {
            guard.close(generation, now, CLOSED);
            return false;
        }
        // Without a budget the renewal only looks. One that finds nothing closes the guard as any that fails: there is one look
        // a second at most.
        if !guard.has_budget(now) && !self.has_store {
            return false;
        }
        // Before the token goes out of use: a caller that finds none asks why.
        guard.rejected = generation;
        // A request that can't be replayed starts no renewal: the next one finds no token, and does.
        // It is an atomic: the lock of `current` would have to be taken before this guard.
        if !(guard.is_wary && can_replay) {
            current.take_out(generation);
        }
        true
    }

    /// Whether a renewal for a 401 may make a token call.
    pub(super) fn has_budget(&self, now: Now) -> bool {
        self.guard().has_budget(now)
    }

    /// The renewal for a 401 makes a token call.
    pub(super) fn spend(&self) {
        self.guard().budget.spend();
    }

    /// A new generation replaces another. It counts as fetched for a 401 if one stood against that, whatever the
    /// renewal was begun for.
    pub(super) fn replaced(&self, replaced: u64, generation: u64) {
        let mut guard = self.guard();
        if guard.rejected == replaced && replaced != 0 {
            guard.fetched_for_401 = generation;
        }
        guard.rejected = 0;
    }

    /// The response to a replay with this generation: if it was fetched for a 401, it did not cure or it did.
    pub(super) fn replayed(&self, generation: u64, is_accepted: bool, now: Now) {
        let mut guard = self.guard();
        if is_accepted {
            guard.is_wary = false;
        } else if guard.fetched_for_401 == generation {
            guard.close(generation, now, CLOSED);
        }
    }

    /// Callers do not wait for the renewal any longer: a token that a 401 took out of use is put back for them. It still
    /// counts as rejected.
    pub(super) fn put_back(&self, current: &Current) {
        self.end_rejection(current, None);
    }

    /// A renewal failed. If a 401 had taken the token out of use, it is put back: one path that answers 401 for reasons of
    /// its own must not take the API from everybody.
    pub(super) fn renewal_failed(&self, current: &Current, now: Now) {
        self.end_rejection(current, Some(now));
    }

    fn end_rejection(&self, current: &Current, failed: Option<Now>) {
        // First the token, then the guard, as where a token is published. The other way round two threads would wait for
        // each other.
        current.put_back(|| {
            let mut guard = self.guard();
            let rejected = guard.rejected;
            if let Some(now) = failed.filter(|_| rejected != 0) {
                guard.rejected = 0;
                guard.close(rejected, now, CLOSED_BY_FAILURE);
            }
            rejected
        });
    }

    /// The user takes the newest generation out of use: nothing puts it back.
    pub(super) fn invalidate(&self, generation: u64, current: &Current) {
        let mut guard = self.guard();
        if guard.rejected == generation {
            guard.rejected = 0;
        }
        current.take_out(generation);
    }

    /// The credentials were replaced: a token that a 401 took out of use belongs to others, and nothing puts it back.
    pub(super) fn forget_rejected(&self) {
        self.guard().rejected = 0;
    }

    fn guard(&self) -> MutexGuard<'_, Guard> {
        self.guard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guard {
    fn has_budget(&mut self, now: Now) -> bool {
        self.budget.has(now.monotonic, BUDGET, REFILL)
    }

    fn close(&mut self, generation: u64, now: Now, wait: Duration) {
        self.closed_by = generation;
        self.closed_until = Some(Deadline::after(now, wait));
        self.is_wary = true;
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Barrier, thread, time::SystemTime};

    use super::*;
    use crate::{
        source::{
            events::{GrantType, RenewalEvent, RenewalReason},
            policy,
        },
        token::Bearer,
    };

    fn at(seconds: u64) -> Now {
        let since = Duration::from_secs(seconds);
        Now::new(SystemTime::UNIX_EPOCH + since, since)
    }

    /// Publishes the next generation as a renewal does.
    fn renew(guard: &RejectionGuard, current: &Current) -> u64 {
        let hour = Duration::from_secs(3600);
        let bearer = current.replace(|replaced, generation| {
            let life = policy::life(Deadline::after(at(0), hour), hour, Duration::ZERO, 0.0);
            let bearer = Bearer::new("test-only".into(), generation, life)?;
            guard.replaced(replaced, generation);
            let event = RenewalEvent {
                generation,
                reason: RenewalReason::Requested,
                grant: GrantType::ApiKey,
                expires_at: bearer.expires_at(),
                fallbacks: 0,
            };
            Some((bearer, event))
        });
        bearer.expect("a good token").0.generation()
    }

    #[test]
    fn g15_the_budget_bounds_the_renewals_for_401s() {
        let (guard, current) = (RejectionGuard::new(false), Current::new());
        for _ in 0..BUDGET {
            let generation = renew(&guard, &current);
            current.generations().accept(generation);
            // Both saw the token in use: the second joins the renewal of the first.
            assert!((0..2).all(|_| guard.should_renew(generation, true, &current, at(1))));
            assert_eq!((current.live(), guard.is_rejected(generation)), (0, true));
            guard.spend();
        }
        let generation = renew(&guard, &current);
        current.generations().accept(generation);
        assert!(
            !guard.should_renew(generation, true, &current, at(2)),
            "the budget is out"
        );
        assert_eq!(current.live(), generation, "and the token stays in use");
        assert!(
            guard.should_renew(generation, true, &current, at(20)),
            "it refills"
        );
        assert!(
            guard.should_renew(generation - 1, true, &current, at(20)),
            "an older one has been replaced"
        );
    }

    #[test]
    fn g15_a_renewal_that_did_not_cure_closes_the_guard() {
        for is_replayed in [true, false] {
            let (guard, current) = (RejectionGuard::new(false), Current::new());
            let first = renew(&guard, &current);
            assert!(guard.should_renew(first, true, &current, at(0)));
            let second = renew(&guard, &current);
            if is_replayed {
                guard.replayed(second, false, at(0));
            }
            assert!(!guard.should_renew(second, true, &current, at(1)));
            assert!(!guard.should_renew(second, true, &current, at(29)));
            current.generations().accept(second);
            assert!(guard.should_renew(second, true, &current, at(31)));
            assert_eq!(
                current.live(),
                second,
                "others go on with it in the meantime"
            );
            let third = renew(&guard, &current);
            guard.replayed(third, true, at(31));
            current.generations().accept(third);
            assert!(guard.should_renew(third, true, &current, at(32)));
            assert_eq!(current.live(), 0, "a renewal that cured ends the doubt");
        }
    }

    #[test]
    fn g8_a_failed_renewal_puts_the_rejected_token_back() {
        let (guard, current) = (RejectionGuard::new(false), Current::new());
        let generation = renew(&guard, &current);
        assert!(guard.should_renew(generation, true, &current, at(0)));
        guard.renewal_failed(&current, at(1));
        assert_eq!(current.live(), generation);
        assert!(
            !guard.should_renew(generation, true, &current, at(1)),
            "the guard is closed"
        );
        assert!(guard.should_renew(generation, true, &current, at(2)));
        assert_eq!(
            current.live(),
            generation,
            "the next renewal takes it from nobody"
        );

        // What the user took out stays out, and so does the token of replaced credentials.
        for take_out in [
            (|guard, current| guard.invalidate(current.generation(), current))
                as fn(&RejectionGuard, &Current),
            |guard, _| guard.forget_rejected(),
        ] {
            let (guard, current) = (RejectionGuard::new(false), Current::new());
            assert!(guard.should_renew(renew(&guard, &current), true, &current, at(0)));
            take_out(&guard, &current);
            guard.renewal_failed(&current, at(1));
            assert_eq!(current.live(), 0);
        }
    }

    /// Where a token is published, the guard is locked under the lock of the token. What takes the two the other way round
    /// waits for the other for ever.
    #[test]
    fn g15_the_guard_is_not_held_while_the_token_is_waited_for() {
        type Use = fn(&RejectionGuard, &Current);
        let uses: [Use; 6] = [
            |guard, current| guard.renewal_failed(current, at(1)),
            |guard, current| guard.put_back(current),
            |guard, current| assert!(guard.should_renew(1, true, current, at(1))),
            |guard, current| guard.invalidate(1, current),
            |guard, _| guard.replayed(1, false, at(1)),
            |guard, _| guard.forget_rejected(),
        ];
        for with in uses {
            let (guard, current) = (&RejectionGuard::new(false), &Current::new());
            let generation = renew(guard, current);
            assert!(guard.should_renew(generation, true, current, at(0)));
            let begin = &Barrier::new(uses.len());
            thread::scope(|scope| {
                let publisher = || {
                    current.replace(|_, _| {
                        begin.wait();
                        for _ in 0..20 {
                            // They have all come to the lock by now, or will.
                            thread::sleep(Duration::from_millis(1));
                            assert!(is_free(guard), "held by one that waits for the token");
                        }
                        None
                    })
                };
                scope.spawn(publisher);
                for _ in 1..uses.len() {
                    scope.spawn(|| {
                        begin.wait();
                        with(guard, current);
                    });
                }
            });
        }
    }

    /// Whether the guard is free at least now and then: others hold it for a few instructions.
    fn is_free(guard: &RejectionGuard) -> bool {
        (0..1000).any(|_| {
            thread::yield_now();
            guard.guard.try_lock().is_ok()
        })
    }
}
