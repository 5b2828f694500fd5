//! G21: what others do while a pair is not saved, or saved without a word.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use apivideo_auth::{
    store::{StoreKey, StoreLock, TokenStore, TryLock},
    testing::GatePoint,
};
use tokio::time::sleep;

use super::*;

/// A store that has one fault for as long as the flag is set.
fn sick(fleet: &Fleet, fault: (Op, When)) -> (FaultyStore<TestStore>, Arc<AtomicBool>) {
    let is_sick = Arc::new(AtomicBool::new(true));
    let asked = is_sick.clone();
    let hook = failing(move |op, when| asked.load(Ordering::SeqCst) && (op, when) == fault);
    (fleet.faulty(hook), is_sick)
}

/// A fleet, and a process with an API key whose saves of pairs have this fault. It has a pair, and let go of the lock.
async fn unsaved(fault: When) -> (Fleet, Process, Arc<AtomicBool>) {
    let fleet = Fleet::logged_in().await;
    sleep(HOUR).await;
    let (store, is_sick) = sick(&fleet, (Op::Pair, fault));
    let process = fleet.start(fleet.keyed().store(store));
    assert_eq!(process.list().await, Ok(200));
    sleep(seconds(40.0)).await;
    (fleet, process, is_sick)
}

async fn locked(fleet: &Fleet) -> Box<dyn StoreLock> {
    let key = StoreKey::new(fleet.api.url(), "default").unwrap();
    match fleet.store.try_lock(&key).await {
        Ok(TryLock::Locked(lock)) => lock,
        other => panic!("{other:?}"),
    }
}

/// A pair that was saved without a word is everybody's: its token is not presented beside somebody else's lock.
#[tokio::test(start_paused = true)]
async fn g21_a_pair_saved_without_a_word_is_not_unsaved() {
    for word_comes in [true, false] {
        let (fleet, process, is_sick) = unsaved(When::After).await;
        is_sick.store(!word_comes, Ordering::SeqCst);
        let sibling = fleet.start(fleet.keyless());
        assert_eq!(sibling.list().await, Ok(200));
        assert_eq!(sibling.way(), Some(GrantType::Store));
        sleep(HOUR).await;
        let gate = fleet.api.gate(GatePoint::AfterCommit);
        let renewing = sibling.spawn();
        gate.reached(1).await;
        let joining = process.spawn();
        sleep(seconds(2.0)).await;
        gate.open();
        assert_eq!(renewing.await.unwrap(), Ok(200));
        assert_eq!(joining.await.unwrap(), Ok(200));
        assert_eq!(fleet.api.counts().reuse_violations, 0);
    }
}

/// The same where no look at the store has shown it yet: that of the next renewal does.
#[tokio::test(start_paused = true)]
async fn g21_a_look_shows_that_a_pair_was_saved() {
    let fleet = Fleet::logged_in().await;
    sleep(HOUR).await;
    let is_blind = Arc::new(AtomicBool::new(false));
    let asked = is_blind.clone();
    let store = fleet.faulty(failing(move |op, when| match op {
        Op::Pair => when == When::After,
        Op::Load => asked.load(Ordering::SeqCst),
        _ => false,
    }));
    let process = fleet.start(fleet.keyed().store(store));
    assert_eq!(process.list().await, Ok(200));
    is_blind.store(true, Ordering::SeqCst);
    sleep(seconds(40.0)).await;
    let token = fleet.api.live_refresh_token().unwrap();
    let lock = locked(&fleet).await;
    is_blind.store(false, Ordering::SeqCst);
    fleet.api.revoke_access_tokens();
    assert_eq!(process.list().await, Ok(200));
    assert_eq!(process.way(), Some(GrantType::ApiKey));
    assert_eq!(fleet.api.presentations(&token), 0);
    lock.unlock().await;
}

/// A refresh token that is presented beside the lock has its mark as soon as others can find it.
#[tokio::test(start_paused = true)]
async fn g21_a_pair_saved_during_its_renewal_is_marked() {
    let (fleet, process, is_sick) = unsaved(When::Before).await;
    let lock = locked(&fleet).await;
    is_sick.store(false, Ordering::SeqCst);
    // By now the saver waits for the lock, and will for three seconds more.
    sleep(seconds(3.0)).await;
    fleet.api.revoke_access_tokens();
    let gate = fleet.api.gate(GatePoint::AfterCommit);
    let renewing = process.spawn();
    gate.reached(1).await;
    lock.unlock().await;
    sleep(seconds(5.0)).await;
    let sibling = fleet.start(fleet.keyless()).spawn();
    sleep(seconds(3.0)).await;
    assert_eq!(gate.arrived(), 1, "the sibling waits for the mark");
    gate.open();
    assert_eq!(renewing.await.unwrap(), Ok(200));
    assert_eq!(sibling.await.unwrap(), Ok(200));
    assert_eq!(fleet.api.counts().reuse_violations, 0);
}

/// What was refreshed before a log-out does not undo it.
#[tokio::test(start_paused = true)]
async fn g26_an_unsaved_pair_does_not_undo_a_log_out() {
    let (fleet, _process, is_sick) = unsaved(When::Before).await;
    let mut lock = locked(&fleet).await;
    lock.clear(fleet.store.read().unwrap()).await.unwrap();
    lock.unlock().await;
    is_sick.store(false, Ordering::SeqCst);
    sleep(seconds(60.0)).await;
    assert_eq!(fleet.store.read().unwrap().record, None);
}

/// A pair whose refresh token was refused is not saved any more: a sibling would present it again.
#[tokio::test(start_paused = true)]
async fn g11_an_unsaved_pair_that_was_refused_is_forgotten() {
    let fleet = Fleet::logged_in().await;
    sleep(HOUR).await;
    let (store, is_sick) = sick(&fleet, (Op::Pair, When::Before));
    let process = fleet.start(fleet.keyless().store(store));
    assert_eq!(process.list().await, Ok(200));
    let token = fleet.api.live_refresh_token().unwrap();
    sleep(seconds(60.0)).await;
    fleet.api.revoke_refresh_tokens();
    fleet.api.revoke_access_tokens();
    assert_eq!(process.list().await, Ok(401));
    is_sick.store(false, Ordering::SeqCst);
    sleep(HOUR).await;
    let sibling = fleet.start(fleet.keyless());
    assert_eq!(sibling.list().await, Err(ErrorKind::Refused));
    assert_eq!(fleet.api.presentations(&token), 1);
    assert_eq!(process.list().await, Err(ErrorKind::Refused));
    assert!(process.layer.shutdown(seconds(1.0)).await);
}
