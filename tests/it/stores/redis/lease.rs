//! The lock in Redis: a lease that is extended, lost, and never taken for held.

use super::*;

#[tokio::test]
#[ignore = "needs redis-server; .ci/run runs it"]
async fn g23_a_lease_is_extended_until_its_runtime_ends() {
    let server = RedisServer::start();
    let url = server.url();
    let other = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let lock = runtime.block_on(async {
            let store = RedisStore::builder(url).build().expect("a good URL");
            locked(&store).await
        });
        drop(runtime);
        lock
    });
    let orphan = other.join().expect("a lock");
    let store = store(&server);
    match store.try_lock(&key()).await.expect("asking") {
        TryLock::Busy(Some(holder)) => {
            assert!(holder.starts_with(&format!("process {} on ", std::process::id())))
        }
        other => panic!("{other:?}"),
    }
    let left = || left(&server);
    let mut lock = loop {
        assert!(left() <= 5000, "nobody extends it");
        match store.try_lock(&key()).await.expect("asking") {
            TryLock::Locked(lock) => break lock,
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    // Longer than a lease.
    let held = Instant::now();
    while held.elapsed() < Duration::from_millis(5500) {
        assert!(left() > 2000, "it is extended every 1.5 s");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop(orphan);
    tokio::time::sleep(Duration::from_millis(50)).await;
    lock.save(None, stored(version(1, 1), b"test-only-pair"))
        .await
        .expect("the lock is still this one's");
    lock.unlock().await;
    assert_eq!(left(), -2, "released");
    drop(locked(&store).await);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(left(), -2, "released by a drop");
}

#[tokio::test]
#[ignore = "needs redis-server; .ci/run runs it"]
async fn g23_a_lost_lease_changes_nothing_and_frees_no_other() {
    let server = RedisServer::start();
    let (one, two) = (store(&server), store(&server));
    let mut late = locked(&one).await;
    late.save(None, stored(version(1, 1), b"test-only-first"))
        .await
        .expect("saving");
    server.command(&["DEL", LOCK]);
    let mut owner = locked(&two).await;
    owner
        .save(
            Some(version(1, 1)),
            stored(version(1, 2), b"test-only-second"),
        )
        .await
        .expect("saving");

    let save = late
        .save(
            Some(version(1, 2)),
            stored(version(1, 3), b"test-only-late"),
        )
        .await;
    assert_eq!(kind(save), Some(ErrorKind::StoreConflict));
    let again = late
        .save(None, stored(version(1, 1), b"test-only-first"))
        .await;
    assert_eq!(kind(again), Some(ErrorKind::StoreConflict));
    assert_eq!(
        kind(late.quarantine().await),
        Some(ErrorKind::StoreConflict)
    );
    late.unlock().await;
    assert!(
        matches!(
            one.try_lock(&key()).await.expect("asking"),
            TryLock::Busy(_)
        ),
        "still the other one's"
    );
    owner
        .save(
            Some(version(1, 2)),
            stored(version(1, 3), b"test-only-third"),
        )
        .await
        .expect("saving");
    assert_eq!(record(&one).await, b"test-only-third");
    owner.unlock().await;
}

#[tokio::test]
#[ignore = "needs redis-server; .ci/run runs it"]
async fn g23_a_lease_outlives_two_extensions_that_hang() {
    let server = RedisServer::start();
    let proxy = Proxy::start(&server);
    let store = RedisStore::builder(proxy.url())
        .build()
        .expect("a good URL");
    let mut lock = locked(&store).await;
    proxy.block();
    // The first extension hangs on the connection that is there, the next one on a connection of its own.
    while proxy.connections() < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    proxy.pass_new();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    // More than a lease after it was taken.
    let save = lock.save(None, stored(version(1, 1), b"x")).await;
    assert_eq!(kind(save), None, "the lock is still this one's");
}

#[tokio::test]
#[ignore = "needs redis-server; .ci/run runs it"]
async fn g23_a_save_extends_the_lease() {
    let server = RedisServer::start();
    let mut lock = locked(&store(&server)).await;
    // Not yet extended otherwise.
    tokio::time::sleep(Duration::from_millis(1000)).await;
    lock.save(None, stored(version(1, 1), b"x"))
        .await
        .expect("saving");
    assert!(left(&server) > 4500, "{} ms", left(&server));
}

#[test]
#[ignore = "needs redis-server; .ci/run runs it"]
fn g5_a_lease_goes_with_whoever_saves_under_it() {
    let server = RedisServer::start();
    let (one, two) = (runtime(), runtime());
    let mut lock = one.block_on(locked(&store(&server)));
    drop(one);
    two.block_on(async {
        lock.save(None, stored(version(1, 1), b"x"))
            .await
            .expect("saving");
        tokio::time::sleep(Duration::from_millis(2000)).await;
        assert!(left(&server) > 3200, "{} ms: not extended", left(&server));
    });
}

#[tokio::test]
#[ignore = "needs redis-server; .ci/run runs it"]
async fn g23_machines_from_one_snapshot_do_not_share_a_lease() {
    let server = RedisServer::start();
    let (one, two) = (store(&server), store(&server));
    fastrand::seed(1);
    let _lock = locked(&one).await;
    fastrand::seed(1);
    let other = two.try_lock(&key()).await.expect("asking");
    assert!(matches!(other, TryLock::Busy(_)), "{other:?}");
}

/// How long the lock lives, in ms.
fn left(server: &RedisServer) -> i64 {
    let left = server.command(&["PTTL", LOCK]);
    left.trim_start_matches(':').parse().expect("a number")
}
