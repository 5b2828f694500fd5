//! G21: a granted pair that can't be saved.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::time::{Instant, sleep};

use super::*;

/// Fails or panics at saves of new pairs for some time after the first one.
fn failing_saves(time: Duration, panics: bool) -> Hook {
    let first = OnceLock::new();
    failing(move |op, when| {
        let fails = (op, when) == (Op::Pair, When::Before)
            && first.get_or_init(Instant::now).elapsed() < time;
        assert!(!(fails && panics), "test-only panic");
        fails
    })
}

#[tokio::test(start_paused = true)]
async fn g21_an_unsaved_pair_is_used_and_siblings_wait_for_its_save() {
    for panics in [false, true] {
        let fleet = Fleet::logged_in().await;
        sleep(HOUR).await;
        let token = fleet.stored();
        let leader = fleet.start(
            fleet
                .keyless()
                .store(fleet.faulty(failing_saves(seconds(3.0), panics))),
        );
        assert_eq!(leader.list().await, Ok(200));
        assert_eq!(leader.way(), Some(GrantType::RefreshToken));
        assert!(fleet.store.mark().is_some());
        let begun = Instant::now();
        let siblings = fleet.start_keyless(2);
        let requests: Vec<_> = siblings.iter().map(Process::spawn).collect();
        for request in requests {
            assert_eq!(request.await.unwrap(), Ok(200));
        }
        let waited = begun.elapsed();
        assert!(waited > seconds(2.0) && waited < seconds(8.0), "{waited:?}");
        assert_eq!(
            (
                fleet.api.presentations(&token),
                fleet.api.counts().refreshes
            ),
            (1, 1)
        );
        assert_eq!(
            (fleet.store.mark(), fleet.api.live_refresh_token()),
            (None, Some(fleet.stored()))
        );
        assert!(leader.layer.shutdown(seconds(1.0)).await);
    }
}

#[tokio::test(start_paused = true)]
async fn g21_killed_before_the_save_only_an_api_key_helps() {
    for with_key in [true, false] {
        let fleet = Fleet::logged_in().await;
        sleep(HOUR).await;
        let token = fleet.stored();
        let store = fleet.faulty(failing(|op, when| (op, when) == (Op::Pair, When::Before)));
        let leader = fleet.start(hasty(fleet.keyless()).store(store));
        assert_eq!(leader.list().await, Ok(200));
        // Killed: it never saves, and its lock is free.
        fleet.store.lose_lock();
        let begun = Instant::now();
        let siblings = [
            fleet.start(fleet.builder(with_key)),
            fleet.start(fleet.builder(with_key)),
        ];
        let requests: Vec<_> = siblings.iter().map(Process::spawn).collect();
        for request in requests {
            let outcome = request.await.unwrap();
            assert_eq!(outcome.is_ok(), with_key, "{outcome:?}");
        }
        assert_eq!(
            fleet.api.presentations(&token),
            if with_key { 1 } else { 2 }
        );
        assert_eq!(begun.elapsed() < seconds(1.0), with_key);
        assert_eq!(fleet.api.counts().logins, if with_key { 2 } else { 1 });
    }
}

#[tokio::test(start_paused = true)]
async fn g21_a_save_that_is_lost_on_the_way_back_is_no_conflict() {
    let fleet = Fleet::logged_in().await;
    sleep(HOUR).await;
    let lost = AtomicUsize::new(0);
    let store = fleet.faulty(failing(move |op, when| {
        (op, when) == (Op::Pair, When::After) && lost.fetch_add(1, Ordering::SeqCst) < 2
    }));
    let process = fleet.start(fleet.keyless().store(store));
    assert_eq!(process.list().await, Ok(200));
    assert!(process.layer.shutdown(seconds(5.0)).await);
    assert_eq!(fleet.api.live_refresh_token(), fleet.store.refresh_token());
    assert_eq!(fleet.api.counts().refreshes, 1);
}

#[tokio::test(start_paused = true)]
async fn g21_a_pair_that_stays_unsaved_is_renewed_on_and_then_saved() {
    let fleet = Fleet::logged_in().await;
    sleep(HOUR).await;
    let is_away = Arc::new(AtomicBool::new(true));
    let asked = is_away.clone();
    let store = fleet.faulty(failing(move |op, when| {
        asked.load(Ordering::SeqCst) && (op, when) == (Op::Pair, When::Before)
    }));
    let process = fleet.start(fleet.keyless().store(store));
    assert_eq!(process.list().await, Ok(200));
    sleep(HOUR + seconds(60.0)).await;
    let unsaved = fleet.api.live_refresh_token().unwrap();
    assert_ne!(unsaved, fleet.stored());
    is_away.store(false, Ordering::SeqCst);
    assert_eq!(process.list().await, Ok(200));
    assert_eq!(
        (
            fleet.api.presentations(&unsaved),
            fleet.api.counts().reuse_violations
        ),
        (1, 0)
    );
    assert_eq!(fleet.api.live_refresh_token(), fleet.store.refresh_token());
}

/// The lease ended while the store was away; the lock is taken anew to save what was granted.
#[tokio::test(start_paused = true)]
async fn g21_a_lock_that_was_lost_is_taken_anew_to_save() {
    let fleet = Fleet::logged_in().await;
    sleep(HOUR).await;
    let leader = fleet.start(
        fleet
            .keyless()
            .store(fleet.faulty(failing_saves(seconds(4.0), false))),
    );
    assert_eq!(leader.list().await, Ok(200));
    fleet.store.lose_lock();
    let sibling = fleet.start(fleet.keyless());
    let begun = Instant::now();
    assert_eq!(sibling.list().await, Ok(200));
    assert!(
        begun.elapsed() < SETTLED,
        "its mark kept the sibling waiting, not the lock"
    );
    assert_eq!(sibling.way(), Some(GrantType::Store));
    assert_eq!(
        (
            fleet.api.counts().refreshes,
            fleet.api.counts().reuse_violations
        ),
        (1, 0)
    );
}
