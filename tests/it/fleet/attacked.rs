//! What attacks on a store and its fleet found.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use apivideo_auth::{
    Credentials,
    testing::{Fault, GatePoint},
};
use tokio::time::sleep;

use super::{stores::field, *};

/// What one process has seen refused, and cleared from the store, is as good as refused for all.
#[tokio::test(start_paused = true)]
async fn g11_a_refusal_that_is_stored_counts_for_all() {
    let fleet = Fleet::logged_in().await;
    let members: Vec<_> = (0..4).map(|_| fleet.start(fleet.keyless())).collect();
    for member in &members {
        assert_eq!(member.list().await, Ok(200));
    }
    let token = fleet.stored();
    sleep(HOUR).await;
    fleet.api.revoke_refresh_tokens();
    for member in &members {
        assert_eq!(member.list().await, Err(ErrorKind::Refused));
        sleep(seconds(10.0)).await;
    }
    assert_eq!(fleet.api.presentations(&token), 1);
}

/// A pair that was bought with a replaced key is saved as that key's, for the siblings that hold it.
#[tokio::test(start_paused = true)]
async fn g6_a_pair_is_stored_as_that_of_its_own_key() {
    let fleet = Fleet::logged_in().await;
    sleep(HOUR).await;
    let process = fleet.start(fleet.keyed());
    let key = field(&fleet.store.read().unwrap(), "api_key");
    let gate = fleet.api.gate(GatePoint::AfterCommit);
    let caller = process.spawn();
    gate.reached(1).await;
    process
        .layer
        .set_credentials(Credentials::new().api_key("test-only-other-account"))
        .unwrap();
    gate.open();
    let _ = caller.await.unwrap();
    assert_eq!(field(&fleet.store.read().unwrap(), "api_key"), key);
    let sibling = fleet.start(fleet.keyed());
    assert_eq!(sibling.list().await, Ok(200));
    assert_eq!(sibling.way(), Some(GrantType::Store));
}

/// A store whose marks hang, or always conflict, is a store that fails: the key logs in.
#[tokio::test(start_paused = true)]
async fn g8_a_key_logs_in_where_a_mark_hangs_or_conflicts() {
    for hangs in [true, false] {
        let fleet = Fleet::logged_in().await;
        sleep(HOUR).await;
        let store = fleet.faulty(hook(move |op, when| {
            let is_mark = (op, when) == (Op::Mark, When::Before);
            async move {
                match (is_mark, hangs) {
                    (true, true) => pending().await,
                    (true, false) => Err(apivideo_auth::Error::store(
                        ErrorKind::StoreConflict,
                        "test-only",
                        None,
                    )),
                    (false, _) => Ok(()),
                }
            }
        }));
        let process = fleet.start(fleet.keyed().store(store));
        assert_eq!(process.list().await, Ok(200), "hangs: {hangs}");
        assert_eq!(fleet.api.counts().refreshes, 0);
    }
}

/// A refresh token that came alone has no end of life that is known: it is saved as soon as that is possible.
#[tokio::test(start_paused = true)]
async fn g21_a_lone_refresh_token_is_saved_later() {
    let fleet = Fleet::logged_in().await;
    sleep(HOUR).await;
    let is_full = Arc::new(AtomicBool::new(true));
    let asked = is_full.clone();
    let store = fleet.faulty(failing(move |op, when| {
        asked.load(Ordering::SeqCst) && (op, when) == (Op::Pair, When::Before)
    }));
    let process = fleet.start(fleet.keyless().store(store));
    fleet.api.fault(Fault::json(|pair| {
        pair.as_object_mut().unwrap().remove("access_token");
    }));
    fleet.api.fault(Fault::retry_after(503, 100));
    assert!(process.list().await.is_err());
    sleep(seconds(5.0)).await;
    is_full.store(false, Ordering::SeqCst);
    sleep(seconds(30.0)).await;
    assert_eq!(fleet.store.refresh_token(), fleet.api.live_refresh_token());
}

/// Callers do not wait for an unlocking that hangs, nor does the next renewal.
#[tokio::test(start_paused = true)]
async fn g24_an_unlocking_that_hangs_holds_up_no_renewal() {
    let fleet = Fleet::logged_in().await;
    sleep(HOUR).await;
    let store = fleet.faulty(hook(|op, when| async move {
        if (op, when) == (Op::Unlock, When::After) {
            sleep(HOUR).await;
        }
        Ok(())
    }));
    let process = fleet.start(fleet.keyless().store(store));
    for _ in 0..4 {
        assert_eq!(process.list().await, Ok(200));
        sleep(seconds(1.0)).await;
        fleet.api.revoke_access_tokens();
    }
}
