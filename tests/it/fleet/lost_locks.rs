//! What a process leaves behind that stops, is held up, or loses its lock; and stores that lose what was saved.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use apivideo_auth::testing::{Fault, GatePoint};
use tokio::time::{Instant, sleep};

use super::*;
use crate::support::faulty_store::Stop;

/// The marked token of a process that died is presented again only when its mark is settled, or never.
#[tokio::test(start_paused = true)]
async fn g22_a_marked_token_waits_for_its_deadline_or_an_api_key() {
    for (with_key, spent) in [(true, true), (true, false), (false, true), (false, false)] {
        let fleet = Fleet::logged_in().await;
        sleep(HOUR).await;
        let token = fleet.stored();
        let dead = fleet.start(hasty(fleet.keyless()));
        // Its response never comes, and others find its lock free: so it is with a dead process.
        let gate = fleet.api.gate(GatePoint::AfterCommit);
        if !spent {
            fleet.api.fault(Fault::latency(HOUR));
        }
        let _request = dead.spawn();
        while fleet.api.presentations(&token) == 0 {
            settle().await;
        }
        if spent {
            gate.reached(1).await;
        }
        fleet.store.lose_lock();
        let begun = Instant::now();
        let next = fleet.start(fleet.builder(with_key));
        let mut other = next.spawn();
        while fleet.api.counts().token_calls == 2 {
            sleep(seconds(0.01)).await;
            if other.is_finished() {
                // A caller waits for its renewal; the mark may take longer.
                assert_eq!(other.await.unwrap(), Err(ErrorKind::Ambiguous));
                sleep(seconds(0.1)).await;
                other = next.spawn();
            }
        }
        let waited = begun.elapsed();
        gate.open();
        let outcome = other.await.unwrap();
        if with_key {
            assert_eq!((outcome, fleet.api.counts().logins), (Ok(200), 2));
            assert!(waited < seconds(1.0), "it need not wait: {waited:?}");
            assert_eq!(fleet.api.presentations(&token), 1);
        } else {
            assert_eq!(
                outcome,
                if spent {
                    Err(ErrorKind::Refused)
                } else {
                    Ok(200)
                }
            );
            assert!(
                waited >= SETTLED && waited < SETTLED + seconds(1.0),
                "{waited:?}"
            );
            assert_eq!(fleet.api.presentations(&token), 2);
        }
    }
}

/// A leader that others gave up may still get its response: then it can save, since nobody holds the lock while waiting.
#[tokio::test(start_paused = true)]
async fn g21_while_a_mark_is_waited_for_its_owner_can_lock() {
    let fleet = Fleet::logged_in().await;
    sleep(HOUR).await;
    let token = fleet.stored();
    fleet.api.fault(Fault::latency(seconds(12.0)));
    let slow = fleet.start(fleet.keyless());
    let first = slow.spawn();
    sleep(seconds(0.5)).await;
    fleet.store.lose_lock();
    let waiting = fleet.start(fleet.keyless());
    let second = waiting.spawn();
    // The caller of the slow one need not wait; its response is awaited all the same.
    assert_eq!(
        (first.await.unwrap(), second.await.unwrap()),
        (Err(ErrorKind::Ambiguous), Ok(200))
    );
    assert_eq!(slow.list().await, Ok(200));
    assert_eq!(waiting.way(), Some(GrantType::Store));
    assert_eq!(
        (
            fleet.api.presentations(&token),
            fleet.api.counts().reuse_violations
        ),
        (1, 0)
    );
}

/// A leader that is stopped after its mark and loses its lock: what it does when it goes on.
#[tokio::test(start_paused = true)]
async fn g23_a_leader_stopped_after_its_mark_presents_nothing() {
    for with_key in [true, false] {
        let fleet = Fleet::logged_in().await;
        sleep(HOUR).await;
        let token = fleet.stored();
        let stop = Stop::default();
        let leader = fleet.start(
            hasty(fleet.builder(with_key)).store(fleet.faulty(stop.at((Op::Mark, When::After)))),
        );
        let request = leader.spawn();
        stop.reached.notified().await;
        fleet.store.lose_lock();
        let other = fleet.start(fleet.builder(with_key));
        let begun = Instant::now();
        assert_eq!(other.list().await, Ok(200));
        assert_eq!(begun.elapsed() < seconds(1.0), with_key);
        sleep(seconds(6.0)).await;
        let (version, stored) = (fleet.store.version(), fleet.stored());
        stop.go_on.notify_one();
        let outcome = request.await.unwrap();
        // Without a key the mark has to be settled first, which is longer than a store, or a call, may take.
        assert!(
            outcome == Ok(200)
                || !with_key
                    && matches!(
                        outcome,
                        Err(ErrorKind::StoreUnavailable | ErrorKind::Unavailable)
                    ),
            "{outcome:?}"
        );
        sleep(seconds(2.0)).await;
        assert_eq!(leader.list().await, Ok(200));
        assert_eq!(leader.way(), Some(GrantType::Store));
        assert_eq!(
            (fleet.store.version(), fleet.stored()),
            (version, stored),
            "nothing older comes over it"
        );
        assert_eq!(fleet.api.presentations(&token), usize::from(!with_key));
        assert_eq!(fleet.api.counts().reuse_violations, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn g23_the_late_refusal_of_a_leader_erases_nothing() {
    for with_key in [true, false] {
        let fleet = Fleet::logged_in().await;
        sleep(HOUR).await;
        let leader = fleet.start(fleet.builder(with_key));
        let gate = fleet.api.gate(GatePoint::BeforeCommit);
        let request = leader.spawn();
        gate.reached(1).await;
        // While it is stopped, the operator logs in anew, which kills the old token.
        fleet.store.lose_lock();
        fleet.api.revoke_refresh_tokens();
        let (access, refresh) = fleet.api.mint_pair();
        let mut stored = fleet.store.read().unwrap();
        let record = stored.record.as_ref().unwrap().expose().to_vec();
        let mut record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        record["access_token"] = access.into();
        record["refresh_token"] = refresh.clone().into();
        stored.header.version.family ^= 1;
        stored.header.mark = None;
        stored.header.expires_in = Some(HOUR);
        stored.record = Some(apivideo_auth::store::Record::new(
            record.to_string().into_bytes(),
        ));
        fleet.store.put(Some(stored));
        gate.open();
        assert_eq!(request.await.unwrap(), Ok(200));
        assert_eq!(leader.way(), Some(GrantType::Store));
        assert_eq!((fleet.stored(), fleet.api.counts().logins), (refresh, 1));
    }
}

/// An ambiguous outcome whose lock was lost: another process has a pair by then.
#[tokio::test(start_paused = true)]
async fn g11_the_store_is_read_again_before_a_second_presentation() {
    let fleet = Fleet::logged_in().await;
    sleep(HOUR).await;
    let token = fleet.stored();
    let leader = fleet.start(fleet.keyless());
    fleet.api.fault(Fault::disconnect());
    let gate = fleet.api.gate(GatePoint::BeforeCommit);
    let request = leader.spawn();
    gate.reached(1).await;
    fleet.store.lose_lock();
    let operator = fleet.start(fleet.keyed());
    let login = operator.spawn();
    gate.reached(2).await;
    gate.open();
    let (first, second) = (request.await.unwrap(), login.await.unwrap());
    assert_eq!(second, Ok(200));
    assert_eq!(first, Ok(200));
    assert_eq!(
        (fleet.api.presentations(&token), fleet.api.counts().logins),
        (1, 2)
    );
}

#[tokio::test(start_paused = true)]
async fn g23_g25_an_older_or_empty_store_gets_the_newer_pair_back() {
    for with_key in [true, false] {
        for empty in [true, false] {
            let fleet = Fleet::logged_in().await;
            let processes: Vec<_> = (0..3)
                .map(|_| fleet.start(fleet.builder(with_key)))
                .collect();
            let dump = fleet.store.read();
            sleep(HOUR).await;
            for process in &processes {
                assert_eq!(process.list().await, Ok(200));
            }
            fleet.store.put(if empty { None } else { dump });
            // Their tokens are usable: the store is of no interest.
            for process in &processes {
                assert_eq!(process.list().await, Ok(200));
            }
            sleep(HOUR).await;
            for process in &processes {
                assert_eq!(process.list().await, Ok(200));
            }
            assert_eq!(
                (
                    fleet.api.most_presentations(),
                    fleet.api.counts().reuse_violations
                ),
                (1, 0)
            );
            assert_eq!(fleet.api.counts().token_calls, 3);
            assert_eq!(fleet.api.live_refresh_token(), fleet.store.refresh_token());
        }
    }
}

/// The pair was refused and forgotten; the dump brings back an older one of the same line.
#[tokio::test(start_paused = true)]
async fn g23_an_older_pair_of_a_refused_family_is_not_presented() {
    let fleet = Fleet::logged_in().await;
    let process = fleet.start(fleet.keyless());
    assert_eq!(process.list().await, Ok(200));
    let (dump, spent) = (fleet.store.read(), fleet.stored());
    sleep(HOUR).await;
    assert_eq!(process.list().await, Ok(200));
    fleet.api.revoke_refresh_tokens();
    sleep(HOUR).await;
    assert_eq!(process.list().await, Err(ErrorKind::Refused));
    fleet.store.put(dump);
    sleep(seconds(6.0)).await;
    process.list().await.expect_err("there is nothing left");
    assert_eq!(
        (
            fleet.api.presentations(&spent),
            fleet.api.counts().reuse_violations
        ),
        (1, 0)
    );
}

/// A record read while its mark stood is as good as any once the mark is cleared.
#[tokio::test(start_paused = true)]
async fn g21_a_cleared_mark_leaves_no_doubt_with_those_who_saw_it() {
    let fleet = Fleet::logged_in().await;
    sleep(HOUR - seconds(100.0)).await;
    // An early renewal is out, and will fail.
    let early = fleet.start(fleet.keyless().early_window(seconds(300.0)));
    fleet.api.fault(Fault::retry_after(503, 60));
    let gate = fleet.api.gate(GatePoint::BeforeCommit);
    assert_eq!(early.list().await, Ok(200));
    let _ = early.list().await;
    gate.reached(1).await;
    let other = fleet.start(fleet.keyed());
    assert_eq!(other.list().await, Ok(200));
    assert!(fleet.store.mark().is_some());
    gate.open();
    settle().await;
    assert_eq!(fleet.store.mark(), None);
    sleep(seconds(100.0)).await;
    assert_eq!(other.list().await, Ok(200));
    assert_eq!(
        (other.way(), fleet.api.counts().logins),
        (Some(GrantType::RefreshToken), 1)
    );
}

#[tokio::test(start_paused = true)]
async fn g12_a_lone_refresh_token_is_stored_at_once() {
    let fleet = Fleet::logged_in().await;
    sleep(HOUR).await;
    let token = fleet.stored();
    let process = fleet.start(fleet.keyless());
    fleet.api.fault(Fault::json(|pair| {
        pair.as_object_mut().unwrap().remove("access_token");
    }));
    let calls = Arc::new(Mutex::new(Vec::new()));
    let gate = fleet.api.gate(GatePoint::AfterCommit);
    let request = process.spawn();
    gate.reached(1).await;
    let second = fleet.api.gate(GatePoint::BeforeCommit);
    let new = fleet.api.live_refresh_token();
    gate.open();
    second.reached(1).await;
    calls.lock().unwrap().push(fleet.store.refresh_token());
    assert_eq!(
        calls.lock().unwrap()[0],
        new,
        "who is killed now has lost nothing"
    );
    second.open();
    assert_eq!(request.await.unwrap(), Ok(200));
    assert_eq!(
        (
            fleet.api.presentations(&token),
            fleet.api.counts().reuse_violations
        ),
        (1, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn g21_a_late_response_is_stored_when_the_store_is_back() {
    let fleet = Fleet::logged_in().await;
    sleep(HOUR).await;
    let is_away = Arc::new(AtomicBool::new(false));
    let asked = is_away.clone();
    let store = fleet.faulty(failing(move |op, when| {
        asked.load(Ordering::SeqCst) && op != Op::Unlock && when == When::Before
    }));
    let process = fleet.start(
        fleet
            .keyless()
            .store(store)
            .call_timeout(seconds(1.0))
            .renewal_timeout(seconds(2.0)),
    );
    fleet.api.fault(Fault::latency(seconds(20.0)));
    fleet.api.fault(Fault::disconnect());
    let request = process.spawn();
    request.await.unwrap().expect_err("no response yet");
    is_away.store(true, Ordering::SeqCst);
    sleep(seconds(20.0)).await;
    assert_eq!(process.list().await, Ok(200));
    is_away.store(false, Ordering::SeqCst);
    sleep(seconds(10.0)).await;
    assert_eq!(fleet.store.refresh_token(), fleet.api.live_refresh_token());
}
