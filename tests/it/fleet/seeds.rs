//! G26: refresh tokens that are given to the builder.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
};

use apivideo_auth::{
    Credentials,
    store::{EncryptedStore, EncryptionKey, Stored},
    testing::Fault,
};
use tokio::{sync::Notify, time::sleep};

use super::{stores::damaged, *};
use crate::traces::Traces;

#[tokio::test(start_paused = true)]
async fn g26_a_restart_with_the_old_seed_presents_nothing_twice() {
    let fleet = Fleet::new();
    let seed = fleet.api.mint_pair().1;
    for restart in 0..4 {
        let process = fleet.start(fleet.keyless().refresh_token(seed.as_str()));
        assert_eq!(process.list().await, Ok(200));
        assert_eq!(
            process.way(),
            Some(if restart == 0 {
                GrantType::RefreshToken
            } else {
                GrantType::Store
            })
        );
        sleep(HOUR).await;
        assert_eq!(process.list().await, Ok(200));
    }
    assert_eq!(
        (
            fleet.api.presentations(&seed),
            fleet.api.most_presentations()
        ),
        (1, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn g26_the_store_goes_before_the_seed() {
    let fleet = Fleet::logged_in().await;
    let seed = fleet.api.mint_pair().1;
    let process = fleet.start(fleet.keyless().refresh_token(seed.as_str()));
    assert_eq!(process.list().await, Ok(200));
    assert_eq!(process.way(), Some(GrantType::Store));
    sleep(HOUR).await;
    assert_eq!(process.list().await, Ok(200));
    assert_eq!(
        (fleet.api.presentations(&seed), fleet.api.counts().refreshes),
        (0, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn g26_twenty_processes_with_one_seed_present_it_once() {
    let fleet = Fleet::new();
    let seed = fleet.api.mint_pair().1;
    let start = || fleet.start(fleet.keyless().refresh_token(seed.as_str()));
    let processes: Vec<_> = (0..20).map(|_| start()).collect();
    for _ in 0..3 {
        let requests: Vec<_> = processes.iter().map(Process::spawn).collect();
        for request in requests {
            assert_eq!(request.await.unwrap(), Ok(200));
        }
        sleep(HOUR).await;
    }
    assert_eq!(
        (fleet.api.most_presentations(), fleet.api.counts().refreshes),
        (1, 3)
    );
}

#[tokio::test(start_paused = true)]
async fn g26_a_seed_replaces_a_refused_pair_but_never_when_spent() {
    let fleet = Fleet::logged_in().await;
    sleep(HOUR).await;
    let stored = fleet.stored();
    fleet.api.revoke_refresh_tokens();
    let seed = fleet.api.mint_pair().1;
    let process = fleet.start(fleet.keyless().refresh_token(seed.as_str()));
    assert_eq!(process.list().await, Ok(200));
    assert_eq!(
        (
            fleet.api.presentations(&stored),
            fleet.api.presentations(&seed)
        ),
        (1, 1)
    );
    assert_eq!(fleet.api.counts().logins, 1);
    // Its line ends as well: the seed does not come back.
    sleep(HOUR).await;
    fleet.api.revoke_refresh_tokens();
    for process in [
        process,
        fleet.start(fleet.keyless().refresh_token(seed.as_str())),
    ] {
        assert!(process.list().await.is_err());
        sleep(seconds(6.0)).await;
        assert!(process.list().await.is_err());
        sleep(seconds(6.0)).await;
    }
    assert_eq!(
        (
            fleet.api.presentations(&seed),
            fleet.api.counts().reuse_violations
        ),
        (1, 0)
    );
    // A fresh one is another thing.
    let fresh = fleet.api.mint_pair().1;
    assert_eq!(
        fleet
            .start(fleet.keyless().refresh_token(fresh.as_str()))
            .list()
            .await,
        Ok(200)
    );
}

#[tokio::test(start_paused = true)]
async fn g26_a_seed_outlives_a_transient_failure_and_its_process() {
    let fleet = Fleet::new();
    let seed = fleet.api.mint_pair().1;
    let first = fleet.start(fleet.keyless().refresh_token(seed.as_str()));
    fleet.api.fault(Fault::retry_after(503, 60));
    assert_eq!(first.list().await, Err(ErrorKind::Unavailable));
    drop(first);
    sleep(seconds(60.0)).await;
    // It is in the store by now: a process without it goes on.
    assert_eq!(fleet.start(fleet.keyless()).list().await, Ok(200));
    assert_eq!(fleet.api.counts().reuse_violations, 0);
}

#[tokio::test(start_paused = true)]
async fn g26_the_store_forgets_no_spent_seed_with_its_record() {
    for loss in [
        "deleted",
        "quarantined",
        "logged out",
        "refused",
        "replaced",
    ] {
        let fleet = Fleet::new();
        let seed = fleet.api.mint_pair().1;
        let start = || fleet.start(fleet.keyless().refresh_token(seed.as_str()));
        let first = start();
        assert_eq!(first.list().await, Ok(200));
        drop(first);
        let stored = fleet.store.read().expect("a pair");
        match loss {
            "deleted" => fleet.store.put(None),
            "logged out" => fleet.store.put(Some(Stored::new(stored.header, None))),
            "refused" => {
                sleep(HOUR).await;
                fleet.api.revoke_refresh_tokens();
            }
            "replaced" => fleet.log_in().await,
            _ => {
                fleet.store.put(Some(damaged(&stored)));
                fleet.log_in().await;
                fleet.store.put(None);
            }
        }
        let again = start();
        assert_eq!(again.list().await.is_ok(), loss == "replaced", "{loss}");
        assert_eq!(fleet.api.presentations(&seed), 1, "{loss}");
        assert_eq!(fleet.api.counts().reuse_violations, 0, "{loss}");
    }
}

/// Also where it was given to a process that died on its way, at whatever step.
#[tokio::test(start_paused = true)]
async fn g26_killed_at_any_step_a_seed_is_presented_once() {
    for step in 0.. {
        let fleet = Fleet::new();
        let seed = fleet.api.mint_pair().1;
        let seeded = || fleet.keyless().refresh_token(seed.as_str());
        let (steps, done) = (Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
        let store = fleet.faulty({
            let (steps, done) = (steps.clone(), done.clone());
            hook(move |_, _| {
                let (is_last, done) = (steps.fetch_add(1, SeqCst) == step, done.clone());
                async move {
                    if is_last {
                        done.notify_one();
                        pending::<()>().await;
                    }
                    Ok(())
                }
            })
        });
        let killed = fleet.start(seeded().store(store));
        let request = killed.spawn();
        let is_killed = tokio::select! {
            () = done.notified() => true,
            outcome = request => {
                assert_eq!(outcome.unwrap(), Ok(200));
                steps.load(SeqCst) > step
            }
        };
        fleet.store.lose_lock();
        sleep(seconds(100.0)).await;
        if !is_killed {
            assert!(step > 15, "{step}");
            return;
        }
        assert_eq!(fleet.start(seeded()).list().await, Ok(200), "{step}");
        fleet.store.put(None);
        let _ = fleet.start(seeded()).list().await;
        assert_eq!(fleet.api.presentations(&seed), 1, "{step}");
    }
}

#[tokio::test(start_paused = true)]
async fn g26_a_seed_is_not_presented_where_the_key_logs_in() {
    let fleet = Fleet::new();
    let seed = fleet.api.mint_pair().1;
    let traces = Traces::default();
    let _subscribed = traces.subscribe();
    let process = fleet.start(fleet.keyed().refresh_token(seed.as_str()));
    assert_eq!(process.list().await, Ok(200));
    assert_eq!(process.way(), Some(GrantType::ApiKey));
    assert!(
        traces
            .text()
            .contains("the given refresh token is not presented"),
        "{}",
        traces.text()
    );
    // Neither after a refusal of what the store has, nor after the store was emptied.
    sleep(HOUR).await;
    fleet.api.revoke_refresh_tokens();
    assert_eq!(process.list().await, Ok(200));
    fleet.store.put(None);
    let process = fleet.start(fleet.keyed().refresh_token(seed.as_str()));
    assert_eq!(process.list().await, Ok(200));
    assert_eq!(fleet.api.presentations(&seed), 0);
}

#[tokio::test(start_paused = true)]
async fn g26_a_seed_is_presented_where_the_key_is_refused() {
    let fleet = Fleet::new();
    let seed = fleet.api.mint_pair().1;
    fleet.api.refuse_api_key(true);
    let process = fleet.start(fleet.keyed().refresh_token(seed.as_str()));
    assert_eq!(process.list().await, Ok(200));
    assert_eq!(process.way(), Some(GrantType::RefreshToken));
    assert_eq!(fleet.api.counts().token_calls, 2);
}

/// A seed is worth nothing where nobody can note that it is spent.
#[tokio::test(start_paused = true)]
async fn g26_a_seed_that_cannot_be_noted_is_not_presented() {
    let fleet = Fleet::new();
    let seed = fleet.api.mint_pair().1;
    // The second save is that of the note.
    let saves = AtomicU32::new(0);
    let store = fleet.faulty(failing(move |op, when| {
        let is_save = matches!(op, Op::Pair | Op::Touch | Op::Mark) && when == When::Before;
        is_save && saves.fetch_add(1, SeqCst) == 1
    }));
    let process = fleet.start(fleet.keyless().refresh_token(seed.as_str()).store(store));
    assert_eq!(process.list().await, Err(ErrorKind::StoreUnavailable));
    assert_eq!(fleet.api.presentations(&seed), 0);
    sleep(seconds(30.0)).await;
    assert_eq!(process.list().await, Ok(200));
    assert_eq!(fleet.api.presentations(&seed), 1);
}

/// Somebody logs in beside the fleet, and gives it what the store has already.
#[tokio::test(start_paused = true)]
async fn g26_a_seed_that_is_the_stored_token_is_noted_too() {
    let fleet = Fleet::logged_in().await;
    let seed = fleet.stored();
    let start = || fleet.start(fleet.keyless().refresh_token(seed.as_str()));
    let process = start();
    sleep(HOUR).await;
    assert_eq!(process.list().await, Ok(200));
    drop(process);
    fleet.store.put(None);
    assert_eq!(start().list().await, Err(ErrorKind::NoCredentials));
    assert_eq!(fleet.api.presentations(&seed), 1);
}

/// A list that nobody can read would keep every seed back.
#[tokio::test(start_paused = true)]
async fn g26_spent_seeds_outlive_a_change_of_the_encryption_key() {
    let fleet = Fleet::new();
    let (old, new) = (fleet.api.mint_pair().1, fleet.api.mint_pair().1);
    let start = |key: u8, seed: &str| {
        let key = EncryptionKey::from_bytes([key; 32]);
        let store = EncryptedStore::new(fleet.store.clone(), key);
        fleet.start(fleet.keyless().refresh_token(seed).store(store))
    };
    assert_eq!(start(1, &old).list().await, Ok(200));
    fleet.store.put(None);
    assert_eq!(start(2, &old).list().await, Err(ErrorKind::NoCredentials));
    assert_eq!(fleet.api.presentations(&old), 1);
    sleep(HOUR).await;
    assert_eq!(start(2, &new).list().await, Ok(200));
}

#[tokio::test(start_paused = true)]
async fn g26_a_held_pair_is_written_back_but_no_log_out_undone() {
    for logs_out in [false, true] {
        let fleet = Fleet::logged_in().await;
        let process = fleet.start(fleet.keyless());
        assert_eq!(process.list().await, Ok(200));
        let stored = fleet.store.read().expect("a pair");
        fleet
            .store
            .put(logs_out.then(|| Stored::new(stored.header, None)));
        sleep(HOUR).await;
        assert_eq!(process.list().await.is_ok(), !logs_out);
        assert_eq!(fleet.store.refresh_token().is_some(), !logs_out);
        assert_eq!(fleet.api.counts().refreshes, u32::from(!logs_out) as usize);
    }
}

#[tokio::test(start_paused = true)]
async fn g26_new_credentials_end_a_permanent_error() {
    let fleet = Fleet::logged_in().await;
    sleep(HOUR).await;
    fleet.api.revoke_refresh_tokens();
    let process = fleet.start(fleet.keyless());
    assert_eq!(process.list().await, Err(ErrorKind::Refused));
    let seed = fleet.api.mint_pair().1;
    process
        .layer
        .set_credentials(Credentials::new().refresh_token(seed))
        .unwrap();
    assert_eq!(process.list().await, Ok(200));
    assert_eq!(fleet.start(fleet.keyless()).list().await, Ok(200));
    assert_eq!(fleet.api.counts().token_calls, 3);
}
