//! One flight for a fleet.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use apivideo_auth::testing::{Fault, GatePoint};
use tokio::time::{Instant, sleep};

use super::{stores::Lockless, *};

#[tokio::test(start_paused = true)]
async fn g23_processes_that_share_a_store_make_one_call() {
    for locks in [true, false] {
        for warm in [true, false] {
            let fleet = Fleet::new();
            if warm {
                fleet.log_in().await;
                sleep(HOUR).await;
            }
            let before = fleet.api.counts().token_calls;
            let processes: Vec<_> = (0..8)
                .map(|_| {
                    // Without a key the mark would keep them from it, lock or not.
                    let builder = fleet.builder(!locks || !warm);
                    fleet.start(if locks {
                        builder
                    } else {
                        builder.store(Lockless(fleet.store.clone()))
                    })
                })
                .collect();
            let gate = fleet.api.gate(GatePoint::BeforeCommit);
            let requests: Vec<_> = processes.iter().map(Process::spawn).collect();
            gate.reached(1).await;
            // Each has looked at the store many times by then.
            sleep(seconds(2.0)).await;
            let calls = fleet.api.counts().token_calls - before;
            if !locks {
                assert!(calls > 1, "without a lock all call");
                continue;
            }
            gate.open();
            for request in requests {
                assert_eq!(request.await.expect("no panic"), Ok(200));
            }
            assert_eq!(fleet.api.counts().token_calls - before, 1);
            let adoptions = processes
                .iter()
                .filter(|process| process.way() == Some(GrantType::Store))
                .count();
            assert_eq!(adoptions, 7);
            assert_eq!(
                (fleet.api.counts().reuse_violations, fleet.store.mark()),
                (0, None)
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn g23_renewals_that_are_asked_for_take_turns_and_are_one() {
    let fleet = Fleet::logged_in().await;
    let processes: Vec<_> = (0..4).map(|_| fleet.start(fleet.keyed())).collect();
    for round in 1..4 {
        for process in &processes {
            assert_eq!(process.list().await, Ok(200));
        }
        let renewals = processes
            .iter()
            .map(|process| process.client.source::<Body>().renew());
        for renewed in futures::future::join_all(renewals).await {
            renewed.unwrap();
        }
        // Who comes second finds a newer pair than the one it wanted to replace.
        assert_eq!(fleet.api.counts().refreshes, round);
    }
    assert_eq!(
        (fleet.api.counts().logins, fleet.api.most_presentations()),
        (1, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn g21_look_lock_look_mark_call_save_publish_unlock() {
    let fleet = Fleet::logged_in().await;
    sleep(HOUR).await;
    let log = Arc::new(Mutex::new(Vec::new()));
    let layer = Arc::new(Mutex::new(None::<ApiVideoAuthLayer>));
    let (steps, api, watched) = (log.clone(), fleet.api.clone(), layer.clone());
    let calls = api.counts().token_calls;
    let store = fleet.faulty(hook(move |op, when| {
        if when == When::Before {
            let published = watched
                .lock()
                .unwrap()
                .as_ref()
                .is_some_and(|layer: &ApiVideoAuthLayer| layer.subscribe().latest().is_some());
            steps
                .lock()
                .unwrap()
                .push((op, api.counts().token_calls - calls, published));
        }
        async { Ok(()) }
    }));
    let process = fleet.start(fleet.keyless().store(store));
    *layer.lock().unwrap() = Some(process.layer.clone());
    assert_eq!(process.list().await, Ok(200));
    assert!(process.layer.shutdown(HOUR).await);
    layer.lock().unwrap().take();
    let log = log.lock().unwrap().clone();
    assert_eq!(
        log,
        [
            (Op::Load, 0, false),
            (Op::Lock, 0, false),
            (Op::Load, 0, false),
            (Op::Mark, 0, false),
            (Op::Pair, 1, false),
            (Op::Unlock, 1, true),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn g21_g22_a_mark_stands_until_a_transient_outcome_clears_it() {
    let fleet = Fleet::logged_in().await;
    sleep(HOUR).await;
    let token = fleet.stored();
    let process = fleet.start(fleet.keyless());
    fleet.api.fault(Fault::status(503).always());
    let gate = fleet.api.gate(GatePoint::BeforeCommit);
    let request = process.spawn();
    gate.reached(1).await;
    let mark = fleet.store.mark().expect("a mark");
    assert_eq!(mark.count, 1);
    assert!(
        mark.settles_in > seconds(14.0) && mark.settles_in <= SETTLED,
        "{mark:?}"
    );
    gate.open();
    assert_eq!(request.await.unwrap(), Err(ErrorKind::Unavailable));
    settle().await;
    assert_eq!(fleet.store.mark(), None);
    fleet.api.fault(None);
    sleep(seconds(1.0)).await;
    // Without a mark nobody waits for one to be settled.
    let begun = Instant::now();
    let other = fleet.start(fleet.keyless());
    assert_eq!(other.list().await, Ok(200));
    assert!(begun.elapsed() < seconds(0.5));
    assert_eq!(
        (
            fleet.api.presentations(&token) > 1,
            fleet.api.counts().reuse_violations
        ),
        (true, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn g23_a_cool_down_is_shared_by_all() {
    let fleet = Fleet::logged_in().await;
    sleep(HOUR).await;
    let processes = fleet.start_keyless(20);
    fleet.api.fault(Fault::retry_after(503, 60).always());
    let before = fleet.api.counts().token_calls;
    let begun = Instant::now();
    while begun.elapsed() < seconds(59.0) {
        for process in &processes {
            assert_eq!(process.list().await, Err(ErrorKind::Unavailable));
        }
        sleep(seconds(1.0)).await;
    }
    assert_eq!(fleet.api.counts().token_calls - before, 1);
    fleet.api.fault(None);
    sleep(seconds(3.0)).await;
    for process in &processes {
        assert_eq!(process.list().await, Ok(200));
    }
    assert_eq!(
        (
            fleet.api.counts().token_calls - before,
            fleet.api.counts().reuse_violations
        ),
        (2, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn g23_twenty_processes_probe_an_outage_once_a_second() {
    let fleet = Fleet::logged_in().await;
    sleep(HOUR).await;
    let processes = fleet.start_keyless(20);
    fleet.api.fault(Fault::disconnect().always());
    let before = fleet.api.counts().token_calls;
    let begun = Instant::now();
    while begun.elapsed() < seconds(60.0) {
        let requests: Vec<_> = processes.iter().map(Process::spawn).collect();
        for request in requests {
            request.await.unwrap().expect_err("an outage");
        }
        sleep(seconds(0.1)).await;
    }
    let calls = fleet.api.counts().token_calls - before;
    println!("20 processes, 60 s of outage: {calls} token calls");
    assert!(calls < 90, "{calls}");
}

#[tokio::test(start_paused = true)]
async fn g9_clocks_that_differ_by_hours_do_not_matter() {
    let fleet = Fleet::new();
    let clocks = [seconds(7200.0), seconds(0.0)].map(|ahead| {
        let clock = ManualClock::with_tokio();
        if ahead.is_zero() {
            clock.set_wall_back(seconds(7200.0));
        } else {
            clock.advance_wall(ahead);
        }
        clock
    });
    let [ahead, behind] = clocks.map(|clock| fleet.start(fleet.keyed().clock(clock)));
    for round in 0..3 {
        let (first, second) = if round % 2 == 0 {
            (&ahead, &behind)
        } else {
            (&behind, &ahead)
        };
        assert_eq!(
            (first.list().await, second.list().await),
            (Ok(200), Ok(200))
        );
        assert_eq!(second.way(), Some(GrantType::Store));
        let expiry = first
            .client
            .source::<Body>()
            .token()
            .await
            .unwrap()
            .expose()
            .to_owned();
        assert_eq!(
            second
                .client
                .source::<Body>()
                .token()
                .await
                .unwrap()
                .expose(),
            expiry
        );
        sleep(HOUR - seconds(20.0)).await;
        assert_eq!(
            (first.list().await, second.list().await),
            (Ok(200), Ok(200))
        );
        assert_eq!(fleet.api.counts().token_calls, round + 1);
        sleep(seconds(30.0)).await;
    }
    assert_eq!(
        (
            fleet.api.counts().unauthorized,
            fleet.api.counts().reuse_violations
        ),
        (0, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn g21_a_pair_that_expired_during_the_wait_is_not_adopted() {
    let fleet = Fleet::new();
    fleet.api.set_token_lifetime(seconds(5.0));
    let leader = fleet.start(fleet.keyed());
    assert_eq!(leader.list().await, Ok(200));
    sleep(seconds(5.0)).await;
    // The leader saves, but lets go only when what it saved has expired.
    let store = fleet.faulty(hook(|op, when| async move {
        if (op, when) == (Op::Unlock, When::Before) {
            sleep(seconds(6.0)).await;
        }
        Ok(())
    }));
    let slow = fleet.start(fleet.keyed().store(store));
    let looks = Arc::new(AtomicUsize::new(0));
    let counted = looks.clone();
    let blind = fleet.faulty(hook(move |op, when| {
        // Sees nothing of what was saved until it is old.
        let early =
            op == Op::Load && when == When::Before && counted.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            if early {
                sleep(seconds(5.5)).await;
            }
            Ok(())
        }
    }));
    let gate = fleet.api.gate(GatePoint::BeforeCommit);
    let first = slow.spawn();
    gate.reached(1).await;
    let second = fleet.start(fleet.keyed().store(blind));
    let request = second.spawn();
    settle().await;
    gate.open();
    assert_eq!(
        (first.await.unwrap(), request.await.unwrap()),
        (Ok(200), Ok(200))
    );
    assert_eq!(second.way(), Some(GrantType::RefreshToken));
    assert_eq!(
        (
            fleet.api.counts().unauthorized,
            fleet.api.counts().reuse_violations
        ),
        (0, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn g11_a_new_login_ends_the_permanent_error_of_all_processes() {
    let fleet = Fleet::logged_in().await;
    sleep(HOUR).await;
    fleet.api.revoke_refresh_tokens();
    let processes = fleet.start_keyless(3);
    for _ in 0..3 {
        for process in &processes {
            assert_eq!(process.list().await, Err(ErrorKind::Refused));
        }
        sleep(seconds(7.0)).await;
    }
    assert_eq!(fleet.api.counts().refreshes, 1, "only one of them asked");
    for process in &processes {
        let _ = process.list().await;
    }
    // None of them keeps the operator from it.
    let operator = fleet.start(fleet.keyed());
    assert_eq!(operator.list().await, Ok(200));
    sleep(seconds(5.1)).await;
    for process in &processes {
        assert_eq!(process.list().await, Ok(200));
        assert_eq!(process.way(), Some(GrantType::Store));
    }
    assert_eq!(fleet.api.counts().token_calls, 3);
}

#[tokio::test(start_paused = true)]
async fn g15_a_401_is_answered_by_one_renewal_for_all() {
    let fleet = Fleet::logged_in().await;
    let processes = fleet.start_keyless(5);
    for round in 1..4 {
        for process in &processes {
            assert_eq!(process.list().await, Ok(200));
        }
        fleet.api.revoke_access_tokens();
        let requests: Vec<_> = processes.iter().map(Process::spawn).collect();
        for request in requests {
            assert_eq!(request.await.unwrap(), Ok(200));
        }
        assert_eq!(fleet.api.counts().token_calls, 1 + round);
    }
    assert_eq!(fleet.api.counts().reuse_violations, 0);
}
