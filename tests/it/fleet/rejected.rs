//! G15: 401s in a fleet. What a sibling has saved is adopted, whatever has become of the budget.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use apivideo_auth::testing::Fault;
use tokio::time::{Instant, sleep};

use super::*;

/// A server that ends the old access token at each refresh, and nothing stored yet.
fn strict(lifetime: Duration) -> Fleet {
    let clock = ManualClock::with_tokio();
    let api = FakeApi::builder()
        .clock(clock.clone())
        .refresh_kills_access_token(true)
        .token_lifetime(lifetime)
        .build();
    Fleet {
        api,
        clock,
        store: TestStore::default(),
    }
}

/// A process with a clock of its own, which counts how often it asks for the store's lock.
fn counted(fleet: &Fleet, locks: &Arc<AtomicUsize>) -> Process {
    let locks = locks.clone();
    let store = fleet.faulty(hook(move |op, when| {
        if (op, when) == (Op::Lock, When::Before) {
            locks.fetch_add(1, Ordering::Relaxed);
        }
        async { Ok(()) }
    }));
    fleet.start(
        fleet
            .keyless()
            .clock(ManualClock::with_tokio())
            .store(store),
    )
}

#[tokio::test(start_paused = true)]
async fn g15_an_empty_budget_still_looks_at_the_store() {
    let fleet = strict(HOUR);
    fleet.log_in().await;
    let locks = Arc::default();
    let process = counted(&fleet, &locks);
    assert_eq!(process.list().await, Ok(200));
    for _ in 0..5 {
        fleet.api.revoke_access_tokens();
        assert_eq!(process.list().await, Ok(200));
    }
    // Nobody has anything newer, and no budget is left to buy it.
    fleet.api.revoke_access_tokens();
    let (calls, looked) = (
        fleet.api.counts().token_calls,
        locks.load(Ordering::Relaxed),
    );
    let begun = Instant::now();
    while begun.elapsed() < seconds(3.0) {
        assert_eq!(process.list().await, Ok(401));
        sleep(seconds(0.01)).await;
    }
    let looked = locks.load(Ordering::Relaxed) - looked;
    assert!((2..=4).contains(&looked), "{looked} looks in 3 s");
    assert_eq!(fleet.api.counts().token_calls, calls);

    // A sibling has: each of its pairs ends the one before.
    let sibling = fleet.start(fleet.keyless());
    sibling
        .client
        .source::<Body>()
        .token()
        .await
        .expect("the stored one");
    sleep(seconds(1.0)).await;
    for _ in 0..20 {
        sibling
            .client
            .source::<Body>()
            .renew()
            .await
            .expect("a pair");
        let calls = fleet.api.counts().token_calls;
        assert_eq!(process.list().await, Ok(200));
        assert_eq!(fleet.api.counts().token_calls, calls);
        assert_eq!(process.way(), Some(GrantType::Store));
    }
}

/// Three processes whose tokens live for a second, and each renewal of one ends what the others use.
#[tokio::test(start_paused = true)]
async fn g15_no_401_reaches_a_fleet_with_short_tokens() {
    for latency in [Fault::latency, |by| Fault::latency(by).after_commit()] {
        let fleet = strict(seconds(1.0));
        fleet.log_in().await;
        fleet.api.fault(latency(Duration::from_millis(30)).always());
        let begun = Instant::now();
        let processes = [7, 11, 13].map(|pause| {
            let builder = fleet.keyless().clock(ManualClock::with_tokio());
            let process = fleet.start(builder.early_window(HOUR));
            tokio::spawn(async move {
                let (mut requests, mut adopted) = (0, 0);
                while begun.elapsed() < seconds(20.0) {
                    assert_eq!(process.list().await, Ok(200), "after {:?}", begun.elapsed());
                    requests += 1;
                    adopted += usize::from(process.way() == Some(GrantType::Store));
                    sleep(Duration::from_millis(pause)).await;
                }
                (requests, adopted, process)
            })
        });
        for process in processes {
            let (requests, adopted, process) = process.await.expect("no 401");
            assert!(requests > 500 && adopted > 100, "{requests} {adopted}");
            assert!(process.layer.shutdown(HOUR).await);
        }
        let counts = fleet.api.counts();
        assert!(
            counts.refreshes < 50,
            "one for each token: {}",
            counts.refreshes
        );
        assert_eq!(counts.reuse_violations, 0);
    }
}
