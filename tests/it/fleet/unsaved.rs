//! G21: a pair that can't be saved for long, and those who share the store with it.

use std::{
    fs,
    future::pending,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use apivideo_auth::{
    Credentials, Error,
    store::{FileStore, StoreKey, TokenStore, TryLock},
    testing::Fault,
};
use tokio::{
    runtime::Handle,
    time::{Instant, sleep},
};

use super::*;
use crate::support::faulty_store::Hook;

/// Takes no new pairs until it is told to.
#[derive(Clone)]
struct Quota(Arc<AtomicBool>);

impl Quota {
    fn used_up() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }

    fn raise(&self) {
        self.0.store(false, Ordering::SeqCst);
    }

    fn hook(&self) -> Hook {
        let is_used_up = self.0.clone();
        failing(move |op, when| {
            is_used_up.load(Ordering::SeqCst) && (op, when) == (Op::Pair, When::Before)
        })
    }
}

/// A fleet, and a process without an API key that has a pair which it can't save.
async fn unsaved() -> (Fleet, Process, Quota) {
    let fleet = Fleet::logged_in().await;
    sleep(HOUR).await;
    let quota = Quota::used_up();
    let holder = fleet.start(fleet.keyless().store(fleet.faulty(quota.hook())));
    assert_eq!(holder.list().await, Ok(200));
    (fleet, holder, quota)
}

fn presented_twice(fleet: &Fleet) -> (u64, bool) {
    let counts = fleet.api.counts();
    (
        counts.reuse_violations as u64,
        fleet.api.most_presentations() > 1,
    )
}

#[tokio::test(start_paused = true)]
async fn g21_keyless_siblings_wait_for_a_pair_of_ten_minutes() {
    let (fleet, holder, quota) = unsaved().await;
    let sibling = fleet.start(fleet.keyless());
    let begun = Instant::now();
    while begun.elapsed() < seconds(600.0) {
        assert_eq!(sibling.list().await, Err(ErrorKind::StoreLocked));
        assert_eq!(holder.list().await, Ok(200));
        sleep(seconds(1.0)).await;
    }
    quota.raise();
    let raised = Instant::now();
    // The saver tries every 5 s.
    while sibling.list().await != Ok(200) {
        assert!(raised.elapsed() < seconds(7.0), "{:?}", raised.elapsed());
        sleep(seconds(0.1)).await;
    }
    assert_eq!(sibling.way(), Some(GrantType::Store));
    assert_eq!(fleet.api.counts().refreshes, 1);
    assert_eq!(presented_twice(&fleet), (0, false));
}

#[tokio::test(start_paused = true)]
async fn g21_a_keyed_sibling_works_within_the_marks_span() {
    let (fleet, holder, quota) = unsaved().await;
    let sibling = fleet.start(fleet.keyed());
    let begun = Instant::now();
    while sibling.list().await != Ok(200) {
        assert!(begun.elapsed() < SETTLED, "{:?}", begun.elapsed());
        sleep(seconds(0.1)).await;
    }
    assert_eq!(
        (sibling.way(), fleet.api.counts().logins),
        (Some(GrantType::ApiKey), 2)
    );
    // Once in a lifetime, whatever it is asked for; what it holds unsaved is renewed on.
    for _ in 0..5 {
        sleep(seconds(60.0)).await;
        fleet.api.revoke_access_tokens();
        assert_eq!(sibling.list().await, Ok(200));
        assert_eq!(holder.list().await, Ok(200));
    }
    assert_eq!(fleet.api.counts().logins, 2);
    quota.raise();
    sleep(seconds(60.0)).await;
    for process in [&sibling, &holder] {
        assert_eq!(process.list().await, Ok(200));
    }
    // Whichever was saved first stands, and all come to it.
    sleep(HOUR).await;
    for process in [&holder, &sibling, &fleet.start(fleet.keyless())] {
        assert_eq!(process.list().await, Ok(200));
    }
    assert_eq!(fleet.store.refresh_token(), fleet.api.live_refresh_token());
    assert_eq!(presented_twice(&fleet), (0, false));
}

/// A member that was stopped, or hangs, with the lock of a store that knows no lease.
#[tokio::test(start_paused = true)]
async fn g21_a_keyed_sibling_logs_in_once_beside_a_held_lock() {
    let fleet = Fleet::logged_in().await;
    sleep(HOUR).await;
    let key = StoreKey::new(fleet.api.url(), "default").unwrap();
    let TryLock::Locked(held) = fleet.store.try_lock(&key).await.unwrap() else {
        panic!("it is free")
    };
    let process = fleet.start(fleet.keyed());
    let begun = Instant::now();
    assert_eq!(process.list().await, Ok(200));
    assert!(begun.elapsed() < SETTLED, "{:?}", begun.elapsed());
    held.unlock().await;
    sleep(seconds(10.0)).await;
    assert_eq!(fleet.store.refresh_token(), fleet.api.live_refresh_token());
    assert_eq!(fleet.api.counts().logins, 2);
}

/// What a process with an unsaved pair is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Asked {
    Unauthorized,
    NewSeed,
    NewKey,
}

#[tokio::test(start_paused = true)]
async fn g21_a_process_renews_beside_its_own_unsaved_pair() {
    for asked in [Asked::Unauthorized, Asked::NewSeed, Asked::NewKey] {
        let (fleet, holder, quota) = unsaved().await;
        sleep(seconds(60.0)).await;
        // One that is at the lock all the time. A fleet that holds the key can log in, and gets it.
        let waiting = (asked != Asked::NewKey).then(|| {
            let sibling = fleet.start(fleet.keyless());
            tokio::spawn(async move {
                loop {
                    let _ = sibling.list().await;
                    sleep(seconds(0.01)).await;
                }
            })
        });
        for _ in 0..3 {
            sleep(seconds(20.0)).await;
            let begun = Instant::now();
            let credentials = match asked {
                Asked::Unauthorized => None,
                Asked::NewSeed => Some(Credentials::new().refresh_token(fleet.api.mint_pair().1)),
                Asked::NewKey => Some(Credentials::new().api_key(fleet.api.api_key())),
            };
            if let Some(credentials) = credentials {
                holder.layer.set_credentials(credentials).unwrap();
                holder.client.source::<Body>().renew().await.unwrap();
            } else {
                fleet.api.revoke_access_tokens();
                assert_eq!(holder.list().await, Ok(200));
            }
            assert!(begun.elapsed() < seconds(1.0), "{:?}", begun.elapsed());
        }
        assert_eq!(presented_twice(&fleet), (0, false), "{asked:?}");
        // The newest is saved, and not one that it has replaced.
        quota.raise();
        sleep(seconds(60.0)).await;
        if let Some(waiting) = waiting {
            waiting.abort();
        }
        assert_eq!(holder.list().await, Ok(200));
        let source = holder.client.source::<Body>();
        let token = source.token().await.unwrap().expose().to_owned();
        let stored = super::stores::field(&fleet.store.read().unwrap(), "access_token");
        assert_eq!(stored, Some(token), "{asked:?}");
        assert_eq!(presented_twice(&fleet), (0, false), "{asked:?}");
        assert!(holder.layer.shutdown(seconds(1.0)).await, "{asked:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn g21_an_unsaved_pair_ends_with_its_source() {
    for is_shut_down in [true, false] {
        let (fleet, holder, _quota) = unsaved().await;
        if is_shut_down {
            assert!(!holder.layer.shutdown(seconds(1.0)).await);
        } else {
            drop(holder);
        }
        let key = StoreKey::new(fleet.api.url(), "default").unwrap();
        let begun = Instant::now();
        while !matches!(
            fleet.store.try_lock(&key).await.unwrap(),
            TryLock::Locked(_)
        ) {
            let bound = if is_shut_down { seconds(0.1) } else { SETTLED };
            assert!(begun.elapsed() <= bound, "{:?}", begun.elapsed());
            sleep(seconds(0.01)).await;
        }
    }
}

fn record(folder: &Path) -> PathBuf {
    let entries = fs::read_dir(folder).expect("the folder");
    let mut paths = entries.map(|entry| entry.expect("an entry").path());
    paths
        .find(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .expect("a record")
}

/// Between lock and save, on a real disk.
#[tokio::test]
async fn g21_the_newest_pair_replaces_a_record_that_was_spoilt() {
    type Spoil = fn(&Path);
    let open: Spoil = |path| {
        fs::set_permissions(path, fs::Permissions::from_mode(0o640)).expect("a mode");
    };
    let damage: Spoil = |path| fs::write(path, "{").expect("a file");
    for (spoil, place) in [open, damage]
        .into_iter()
        .flat_map(|spoil| [Op::Mark, Op::Pair].map(|place| (spoil, place)))
    {
        let api = FakeApi::in_process();
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tokens");
        let store = FileStore::in_folder(&path);
        let builder = || ApiVideoAuthLayer::builder().base_url(api.url());
        let operator = builder().api_key(api.api_key()).store(store.clone());
        let operator = operator.build().unwrap();
        let source = client(&operator, &api).source::<Body>();
        source.renew().await.unwrap();
        assert!(operator.shutdown(seconds(5.0)).await);

        let done = AtomicBool::new(false);
        let spoilt = path.clone();
        let hook = hook(move |op, when| {
            if (op, when) == (place, When::Before) && !done.swap(true, Ordering::SeqCst) {
                spoil(&record(&spoilt));
            }
            async { Ok(()) }
        });
        let layer = builder().store(FaultyStore::new(store.clone(), hook));
        let layer = layer.build().unwrap();
        let source = client(&layer, &api).source::<Body>();
        source.token().await.unwrap();
        source.renew().await.unwrap();
        assert!(layer.shutdown(seconds(5.0)).await, "it is saved");
        let sibling = builder().store(store).build().unwrap();
        let sibling = client(&sibling, &api);
        assert_eq!(list(&sibling).await.unwrap(), 200, "{place:?}");
        assert_eq!(
            (api.counts().token_calls, api.most_presentations()),
            (2, 1),
            "{place:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn g2_nothing_runs_after_a_shutdown_that_returned_true() {
    let fleet = Fleet::logged_in().await;
    sleep(HOUR).await;
    let alive = || Handle::current().metrics().num_alive_tasks();
    let before = alive();
    let quota = Quota::used_up();
    let process = fleet.start(fleet.keyless().store(fleet.faulty(quota.hook())));
    let _keeper = process.client.source::<Body>().keep_fresh().unwrap();
    assert_eq!(process.list().await, Ok(200));
    assert_eq!(alive() - before, 2, "a keeper and a saver");
    quota.raise();
    assert!(process.layer.shutdown(seconds(10.0)).await);
    settle().await;
    assert_eq!(alive(), before);
}

/// What is left to do when the last client goes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Left {
    Unsaved,
    HungResponse,
    LateResponse,
    HungStore,
    HeldLock,
}

/// Tasks of ours after the last client is gone, in each way that leaves something to do.
#[tokio::test(start_paused = true)]
async fn g2_nothing_runs_65_s_after_the_last_client() {
    let alive = || Handle::current().metrics().num_alive_tasks();
    for left in [
        Left::Unsaved,
        Left::HungResponse,
        Left::LateResponse,
        Left::HungStore,
        Left::HeldLock,
    ] {
        let fleet = Fleet::logged_in().await;
        sleep(HOUR).await;
        let before = alive();
        let hangs = hook(move |op, when| async move {
            match (left, op, when) {
                (Left::HungStore, _, When::Before) => pending().await,
                (Left::Unsaved, Op::Pair, When::Before) => {
                    Err(Error::store(ErrorKind::StoreUnavailable, "no room", None))
                }
                _ => Ok(()),
            }
        });
        let process = fleet.start(fleet.keyless().store(fleet.faulty(hangs)));
        let key = StoreKey::new(fleet.api.url(), "default").unwrap();
        let mut locks = Vec::new();
        if left == Left::HeldLock {
            locks.push(fleet.store.try_lock(&key).await.unwrap());
        }
        match left {
            Left::HungResponse => fleet.api.fault(Fault::latency(HOUR)),
            Left::LateResponse => fleet.api.fault(Fault::latency(seconds(59.5))),
            _ => {}
        }
        let caller = process.spawn();
        sleep(seconds(0.1)).await;
        assert_eq!(caller.is_finished(), left == Left::Unsaved);
        caller.abort();
        if left == Left::LateResponse {
            // It has to wait to be saved, too.
            fleet.store.lose_lock();
            locks.push(fleet.store.try_lock(&key).await.unwrap());
        }
        drop(process);
        sleep(seconds(1.0)).await;
        assert_eq!(
            alive() - before,
            if left == Left::HungResponse || left == Left::LateResponse {
                2
            } else {
                1
            },
            "{left:?}"
        );
        sleep(seconds(64.1)).await;
        assert_eq!(alive(), before, "{left:?}");
    }
}
