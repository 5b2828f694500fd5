//! G23: what it costs a store that many wait for its lock. `docs/benchmarks.md` has the numbers.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use apivideo_auth::store::{FileStore, RedisStore, StoreKey, TokenStore, TryLock};
use tokio::time::{Instant, sleep};

use super::*;
use crate::redis_server::RedisServer;

const WAITERS: usize = 200;

/// How often a store was read, and its lock asked for.
#[derive(Clone, Default)]
struct Operations(Arc<[AtomicUsize; 2]>);

impl Operations {
    fn hook(&self) -> Hook {
        let counts = self.0.clone();
        hook(move |op, when| {
            match (op, when) {
                (Op::Load, When::Before) => counts[0].fetch_add(1, Ordering::Relaxed),
                (Op::Lock, When::Before) => counts[1].fetch_add(1, Ordering::Relaxed),
                _ => 0,
            };
            async { Ok(()) }
        })
    }

    fn counts(&self) -> [usize; 2] {
        [0, 1].map(|at| self.0[at].load(Ordering::Relaxed))
    }
}

/// What 200 processes that wait for a lock ask of their store in a second, when they have waited for 3 s: looks, tries, and
/// what the store itself has counted.
async fn waiting<S: TokenStore + Clone>(
    store: S,
    over: Duration,
    counted: impl Fn() -> usize,
) -> [f64; 3] {
    let api = FakeApi::in_process();
    let key = StoreKey::new(api.url(), "default").unwrap();
    let TryLock::Locked(held) = store.try_lock(&key).await.expect("locking") else {
        panic!("it is free")
    };
    let operations = Operations::default();
    let waiters: Vec<_> = (0..WAITERS)
        .map(|_| {
            let store = FaultyStore::new(store.clone(), operations.hook());
            let builder = ApiVideoAuthLayer::builder().base_url(api.url());
            let layer = builder.store(store).build().expect("good settings");
            let client = client(&layer, &api);
            tokio::spawn(async move { list(&client).await.is_ok() })
        })
        .collect();
    sleep(seconds(3.0)).await;
    let counts = || {
        let [looks, tries] = operations.counts();
        [looks, tries, counted()]
    };
    let (begun, before) = (Instant::now(), counts());
    sleep(over).await;
    let (after, elapsed) = (counts(), begun.elapsed().as_secs_f64());
    assert!(waiters.iter().all(|waiter| !waiter.is_finished()));
    for waiter in waiters {
        waiter.abort();
    }
    held.unlock().await;
    [0, 1, 2].map(|at| (after[at] - before[at]) as f64 / elapsed)
}

#[tokio::test(start_paused = true)]
async fn g23_those_who_wait_look_twice_a_second_and_lock_rarely() {
    let [looks, tries, _] = waiting(TestStore::default(), seconds(20.0), || 0).await;
    println!("{WAITERS} waiting processes, in a second: {looks:.0} looks, {tries:.0} tries");
    let most = 2.0 * WAITERS as f64;
    assert!(looks <= most && tries <= most / 4.0, "{looks} {tries}");
}

/// In real time, on real stores: `cargo test --all-features --test it waiters -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs redis-server; .ci/run runs it"]
async fn g23_waiting_costs_real_stores_little() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = FileStore::in_folder(folder.path().join("tokens"));
    let [looks, tries, _] = waiting(store, seconds(10.0), || 0).await;
    println!(
        "{WAITERS} waiting processes on files, in a second: {looks:.0} looks, {tries:.0} tries"
    );
    let server = RedisServer::start();
    let store = RedisStore::builder(server.url())
        .build()
        .expect("a good URL");
    let commands = || {
        let stats = server.command(&["INFO", "commandstats"]);
        let calls = |line: &str| line.split(['=', ',']).nth(1)?.parse::<usize>().ok();
        stats.lines().filter_map(calls).sum()
    };
    let [looks, tries, commands] = waiting(store, seconds(10.0), commands).await;
    println!(
        "{WAITERS} waiting processes on one Redis, in a second: {looks:.0} looks, {tries:.0} tries, {commands:.0} commands"
    );
    let most = 2.0 * WAITERS as f64;
    assert!(looks <= most && tries <= most / 4.0, "{looks} {tries}");
}
