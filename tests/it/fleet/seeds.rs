//! G26: refresh tokens that are given to the builder.

use apivideo_auth::{Credentials, testing::Fault};
use tokio::time::sleep;

use super::*;

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
async fn g26_a_spent_seed_is_not_planted_in_an_emptied_store() {
    for with_key in [true, false] {
        let fleet = Fleet::new();
        let seed = fleet.api.mint_pair().1;
        let process = fleet.start(fleet.builder(with_key).refresh_token(seed.as_str()));
        assert_eq!(process.list().await, Ok(200));
        sleep(HOUR).await;
        fleet.api.revoke_refresh_tokens();
        fleet.api.refuse_api_key(true);
        assert_eq!(process.list().await, Err(ErrorKind::Refused));
        fleet.store.put(None);
        fleet.api.refuse_api_key(false);
        sleep(seconds(301.0)).await;
        assert_eq!(process.list().await.is_ok(), with_key);
        assert_eq!(
            (
                fleet.api.presentations(&seed),
                fleet.api.counts().reuse_violations
            ),
            (1, 0)
        );
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
