//! Stores that are damaged, foreign, locked, away, slow or broken.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use apivideo_auth::{
    Credentials,
    store::{InUseMark, MemoryStore, Record, StoreKey, Stored, TokenStore},
    testing::GatePoint,
};
use tokio::time::{Instant, sleep};

use super::{stores::damaged, *};

#[tokio::test(start_paused = true)]
async fn g22_a_corrupt_record_is_quarantined_by_a_holder_of_the_key() {
    for with_key in [false, true] {
        let fleet = Fleet::logged_in().await;
        let broken = damaged(&fleet.store.read().unwrap());
        fleet.store.put(Some(broken.clone()));
        let process = fleet.start(fleet.builder(with_key));
        if with_key {
            assert_eq!(process.list().await, Ok(200));
            assert_eq!(fleet.api.counts().logins, 2);
            assert_eq!(fleet.start(fleet.keyless()).list().await, Ok(200));
        } else {
            assert_eq!(process.list().await, Err(ErrorKind::StoreCorrupt));
            assert_eq!(
                fleet.store.read(),
                Some(broken),
                "a person may still mend it"
            );
            assert_eq!(fleet.api.counts().token_calls, 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn g22_a_record_of_a_newer_version_is_left_alone() {
    for with_key in [false, true] {
        let fleet = Fleet::logged_in().await;
        let header = fleet.store.read().unwrap().header;
        let newer = Stored::new(header, Some(Record::new(b"{\"form\":99}".to_vec())));
        fleet.store.put(Some(newer.clone()));
        let process = fleet.start(fleet.builder(with_key));
        assert_eq!(process.list().await, Err(ErrorKind::StoreUnreadable));
        assert_eq!(fleet.store.read(), Some(newer));
        assert_eq!(fleet.api.counts().token_calls, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn g25_a_pair_of_another_key_is_not_adopted_nor_overwritten() {
    let fleet = Fleet::logged_in().await;
    let before = fleet.store.read();
    let other = fleet.start(fleet.keyless().api_key("test-only-other-key"));
    let error = list(&other.client).await.unwrap_err();
    assert_eq!(ours(&error).kind(), ErrorKind::StoreForeign);
    assert!(
        error.to_string().contains("replace_foreign_pair") && !ours(&error).is_transient(),
        "{error}"
    );
    assert_eq!(
        (fleet.store.read(), fleet.api.counts().token_calls),
        (before, 1)
    );
    // A change of keys: the old line is left for a login, and its refresh token is not spent.
    fleet.api.revoke_refresh_tokens();
    let (old, spent) = (fleet.store.version(), fleet.stored());
    let stored = fleet.store.read().unwrap();
    let record = String::from_utf8(stored.record.unwrap().expose().to_vec()).unwrap();
    let key = record
        .split("\"api_key\":\"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap()
        .to_owned();
    let record = record.replace(&key, &"0".repeat(64));
    fleet.store.put(Some(Stored::new(
        stored.header,
        Some(Record::new(record.into_bytes())),
    )));
    assert_eq!(
        fleet.start(fleet.keyed()).list().await,
        Err(ErrorKind::StoreForeign)
    );
    let changed = fleet.start(fleet.keyed().replace_foreign_pair(true));
    assert_eq!(changed.list().await, Ok(200));
    assert_eq!(
        (fleet.api.presentations(&spent), fleet.api.counts().logins),
        (0, 2)
    );
    assert_ne!(fleet.store.version(), old);
    assert_eq!(fleet.start(fleet.keyed()).list().await, Ok(200));
    assert_eq!(
        fleet.start(fleet.keyless()).list().await,
        Ok(200),
        "who holds no key adopts"
    );
    assert_eq!(fleet.api.counts().token_calls, 2);
}

#[tokio::test(start_paused = true)]
async fn g21_a_lock_held_for_ever_is_an_error_that_names_its_holder() {
    let fleet = Fleet::logged_in().await;
    sleep(HOUR).await;
    let key = StoreKey::new("any", "any").unwrap();
    let _held = fleet.store.try_lock(&key).await.unwrap();
    let process = fleet.start(fleet.keyless());
    let begun = Instant::now();
    let error = list(&process.client).await.unwrap_err();
    assert_eq!(ours(&error).kind(), ErrorKind::StoreLocked);
    assert!(
        ours(&error).is_transient() && error.to_string().contains("the neighbour"),
        "{error}"
    );
    assert!(begun.elapsed() <= seconds(30.1) && begun.elapsed() > seconds(29.0));
    assert_eq!(fleet.api.counts().token_calls, 1, "it is no leave to go on");
}

#[tokio::test(start_paused = true)]
async fn g8_g23_a_usable_token_works_while_the_store_is_away() {
    let fleet = Fleet::logged_in().await;
    let is_away = Arc::new(AtomicBool::new(false));
    let asked = is_away.clone();
    let store = fleet.faulty(failing(move |_, when| {
        asked.load(Ordering::SeqCst) && when == When::Before
    }));
    let process = fleet.start(fleet.keyless().early_window(seconds(300.0)).store(store));
    assert_eq!(process.list().await, Ok(200));
    is_away.store(true, Ordering::SeqCst);
    for _ in 0..350 {
        assert_eq!(process.list().await, Ok(200));
        sleep(seconds(10.0)).await;
    }
    sleep(seconds(100.0)).await;
    let error = list(&process.client).await.unwrap_err();
    assert_eq!(ours(&error).kind(), ErrorKind::StoreUnavailable);
    assert!(ours(&error).is_transient() && ours(&error).retry_after().is_some());
    assert_eq!(fleet.api.counts().token_calls, 1, "fail closed");
    is_away.store(false, Ordering::SeqCst);
    sleep(seconds(30.0)).await;
    assert_eq!(process.list().await, Ok(200));
    assert_eq!(
        (fleet.api.counts().refreshes, fleet.api.counts().logins),
        (1, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn g5_a_panicking_store_is_an_error_and_poisons_nothing() {
    for place in [Op::Load, Op::Lock, Op::Mark, Op::Pair, Op::Unlock] {
        let fleet = Fleet::logged_in().await;
        sleep(HOUR).await;
        let once = Arc::new(AtomicBool::new(true));
        let store = fleet.faulty(hook(move |op, when| {
            let panics = op == place && when == When::Before && once.swap(false, Ordering::SeqCst);
            async move {
                assert!(!panics, "test-only panic");
                Ok(())
            }
        }));
        let process = fleet.start(fleet.keyless().store(store));
        let requests: Vec<_> = (0..20).map(|_| process.spawn()).collect();
        let works = matches!(place, Op::Pair | Op::Unlock);
        for request in requests {
            let expected = if works {
                Ok(200)
            } else {
                Err(ErrorKind::Panicked)
            };
            assert_eq!(
                request.await.expect("no caller panics"),
                expected,
                "{place:?}"
            );
        }
        sleep(seconds(1.0)).await;
        assert_eq!(process.list().await, Ok(200), "{place:?}");
        assert_eq!(
            fleet.start(fleet.keyless()).list().await,
            Ok(200),
            "{place:?}"
        );
        assert_eq!(
            (fleet.api.counts().refreshes, fleet.api.counts().logins),
            (1, 1),
            "{place:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn g24_a_store_that_hangs_is_an_error_in_time() {
    for place in [Op::Load, Op::Lock, Op::Mark, Op::Pair, Op::Unlock] {
        let fleet = Fleet::logged_in().await;
        sleep(HOUR).await;
        let hangs = Arc::new(AtomicBool::new(true));
        let asked = hangs.clone();
        let store = fleet.faulty(hook(move |op, when| {
            let hangs = op == place && when == When::Before && asked.load(Ordering::SeqCst);
            async move {
                if hangs {
                    pending::<()>().await;
                }
                Ok(())
            }
        }));
        let process = fleet.start(fleet.keyless().store(store));
        let works = matches!(place, Op::Pair | Op::Unlock);
        let begun = Instant::now();
        let outcome = process.list().await;
        assert_eq!(outcome.is_ok(), works, "{place:?}: {outcome:?}");
        assert!(begun.elapsed() < seconds(31.0));
        hangs.store(false, Ordering::SeqCst);
        sleep(seconds(30.0)).await;
        assert_eq!(process.list().await, Ok(200), "{place:?}");
        assert!(process.layer.shutdown(seconds(10.0)).await, "{place:?}");
        assert_eq!(
            fleet.start(fleet.keyless()).list().await,
            Ok(200),
            "{place:?}"
        );
        assert_eq!(fleet.api.counts().reuse_violations, 0, "{place:?}");
    }
}

/// In real time: whatever hangs in a store, its runtime can be dropped.
#[test]
fn g24_a_runtime_drops_at_once_though_its_store_hangs() {
    for hangs in [false, true] {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let begun = Instant::now();
        runtime.block_on(async {
            let api = FakeApi::in_process();
            let folder = tempfile::tempdir().expect("a folder");
            let store = apivideo_auth::store::FileStore::in_folder(folder.path().join("tokens"));
            let held = store
                .try_lock(&StoreKey::new(api.url(), "default").unwrap())
                .await
                .expect("locking");
            let hanging = hook(move |_, _| async move {
                if hangs {
                    pending::<()>().await;
                }
                Ok(())
            });
            let builder = ApiVideoAuthLayer::builder()
                .base_url(api.url())
                .api_key(api.api_key());
            let layer = builder
                .store(FaultyStore::new(store, hanging))
                .build()
                .unwrap();
            let client = client(&layer, &api);
            let request = tokio::spawn(async move { list(&client).await.is_ok() });
            sleep(seconds(0.1)).await;
            assert!(!request.is_finished());
            assert!(!layer.shutdown(seconds(0.1)).await);
            drop(held);
        });
        drop(runtime);
        assert!(begun.elapsed() < seconds(1.0), "{:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn g23_layers_of_one_program_share_a_memory_store() {
    let api = FakeApi::in_process();
    let store = MemoryStore::new();
    let build = |with_key: bool| {
        let builder = ApiVideoAuthLayer::builder()
            .base_url(api.url())
            .store(store.clone());
        let builder = if with_key {
            builder.api_key(api.api_key())
        } else {
            builder
        };
        builder.build().unwrap()
    };
    let clients: Vec<_> = (0..20).map(|at| client(&build(at == 0), &api)).collect();
    let gate = api.gate(GatePoint::BeforeCommit);
    let first = clients[0].clone();
    let first = tokio::spawn(async move { list(&first).await.is_ok() });
    gate.reached(1).await;
    let others = crate::support::many(19, &clients[1..]);
    gate.open();
    assert!(others.await.iter().all(Result::is_ok) && first.await.unwrap());
    assert_eq!(api.counts().token_calls, 1);
}

/// The wall clock was set back a day after something was stored.
#[tokio::test(start_paused = true)]
async fn g23_no_stored_pause_is_believed_for_over_five_minutes() {
    for with_mark in [false, true] {
        let fleet = Fleet::logged_in().await;
        sleep(HOUR).await;
        let mut stored = fleet.store.read().unwrap();
        if with_mark {
            stored.header.mark = Some(InUseMark {
                count: 1,
                settles_in: 24 * HOUR,
            });
        } else {
            stored.header.not_before = Some(24 * HOUR);
            let record = String::from_utf8(stored.record.unwrap().expose().to_vec()).unwrap();
            let asked = record.replace("was_asked\":false", "was_asked\":true");
            stored.record = Some(Record::new(asked.into_bytes()));
        }
        fleet.store.put(Some(stored));
        let process = fleet.start(fleet.keyless());
        let error = list(&process.client).await.unwrap_err();
        let wait = ours(&error).retry_after().unwrap();
        assert!(wait <= seconds(300.0), "mark {with_mark}: {wait:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn g11_new_credentials_end_a_pause_that_others_share() {
    let fleet = Fleet::logged_in().await;
    sleep(HOUR).await;
    let process = fleet.start(fleet.keyed());
    fleet.api.suspend(true);
    assert_eq!(process.list().await, Err(ErrorKind::Suspended));
    settle().await;
    fleet.api.suspend(false);
    assert_eq!(
        fleet.start(fleet.keyed()).list().await,
        Err(ErrorKind::Unavailable),
        "it is shared"
    );
    process
        .layer
        .set_credentials(Credentials::new().api_key(fleet.api.api_key()))
        .unwrap();
    assert_eq!(process.list().await, Ok(200));
}

#[tokio::test(start_paused = true)]
async fn g22_a_call_that_was_held_back_leaves_no_mark() {
    let fleet = Fleet::logged_in().await;
    sleep(HOUR).await;
    let is_slow = Arc::new(AtomicBool::new(true));
    let asked = is_slow.clone();
    let store = fleet.faulty(hook(move |op, when| {
        let waits = op == Op::Mark && when == When::Before && asked.load(Ordering::SeqCst);
        async move {
            if waits {
                sleep(seconds(1.2)).await;
            }
            Ok(())
        }
    }));
    let process = fleet.start(fleet.keyless().store(store));
    assert_eq!(process.list().await, Err(ErrorKind::StoreUnavailable));
    assert_eq!(
        (fleet.api.counts().refreshes, fleet.store.mark()),
        (0, None)
    );
    is_slow.store(false, Ordering::SeqCst);
    sleep(seconds(1.0)).await;
    assert_eq!(process.list().await, Ok(200));
    assert_eq!(
        (fleet.api.counts().refreshes, fleet.api.counts().logins),
        (1, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn g21_without_a_mark_nothing_is_presented() {
    for with_key in [true, false] {
        let fleet = Fleet::logged_in().await;
        sleep(HOUR).await;
        let store = fleet.faulty(failing(|op, when| (op, when) == (Op::Mark, When::Before)));
        let process = fleet.start(fleet.builder(with_key).store(store));
        let outcome = process.list().await;
        let counts = fleet.api.counts();
        if with_key {
            assert_eq!((outcome, counts.logins), (Ok(200), 2), "the key logs in");
        } else {
            assert_eq!(outcome, Err(ErrorKind::StoreUnavailable));
            assert_eq!(counts.logins, 1);
        }
        assert_eq!(counts.refreshes, 0);
        assert!(process.layer.shutdown(seconds(60.0)).await, "it is saved");
    }
}
