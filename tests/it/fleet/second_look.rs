//! G21: somebody saves between a process's first look and its lock.

use std::sync::{Arc, Mutex};

use tokio::time::sleep;

use super::*;
use crate::support::faulty_store::Stop;

/// Both have looked, and one of them renews before the other gets the lock.
#[tokio::test(start_paused = true)]
async fn g21_what_was_saved_before_the_lock_is_adopted() {
    for (is_warm, with_key) in [(false, true), (true, true), (true, false)] {
        let fleet = Fleet::new();
        if is_warm {
            fleet.log_in().await;
            sleep(HOUR).await;
        }
        let before = fleet.api.counts().token_calls;
        let stop = Stop::default();
        let (stops, done) = (
            stop.at((Op::Lock, When::Before)),
            Arc::new(Mutex::new(Vec::new())),
        );
        let log = done.clone();
        let watched = hook(move |op, when| {
            if when == When::Before {
                log.lock().unwrap().push(op);
            }
            stops(op, when)
        });
        let late = fleet.start(fleet.builder(with_key).store(fleet.faulty(watched)));
        let caller = late.spawn();
        stop.reached.notified().await;
        let first = fleet.start(fleet.builder(with_key));
        assert_eq!(first.list().await, Ok(200));
        stop.go_on.notify_one();
        assert_eq!(caller.await.unwrap(), Ok(200));
        assert_eq!(
            (late.way(), fleet.api.counts().token_calls - before),
            (Some(GrantType::Store), 1),
            "warm: {is_warm}, key: {with_key}"
        );
        assert_eq!(
            *done.lock().unwrap(),
            [Op::Load, Op::Lock, Op::Load, Op::Unlock],
            "nothing is marked or saved on the strength of the first look"
        );
    }
}
