//! G21 to G26: sources that share a store. Each layer stands for a process.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use apivideo_auth::{
    ApiVideoAuthLayer, ApiVideoAuthLayerBuilder, Error, ErrorKind, Way,
    middleware::{Replay, SameService},
    store::{FileStore, MemoryStore, StoreKey, StoreLock, Stored, TokenStore, TryLock, Version},
    testing::{FakeApi, Fault, GatePoint, ManualClock},
};
use futures::future::BoxFuture;
use tokio::time;

use crate::support::{Body, client, list, ours, with_key};

type Builder = ApiVideoAuthLayerBuilder<SameService, Replay>;

/// A source that holds no credential of its own.
fn without_key(api: &FakeApi) -> Builder {
    ApiVideoAuthLayer::builder().base_url(api.url())
}

fn on(builder: Builder, store: &(impl TokenStore + Clone)) -> ApiVideoAuthLayer {
    builder.store(store.clone()).build().unwrap()
}

async fn works(layer: &ApiVideoAuthLayer, api: &FakeApi) {
    assert_eq!(list(&client(layer, api)).await.unwrap(), 200);
}

async fn fails(layer: &ApiVideoAuthLayer, api: &FakeApi) -> Error {
    ours(&list(&client(layer, api)).await.unwrap_err()).clone()
}

async fn renew(layer: &ApiVideoAuthLayer, api: &FakeApi) -> Result<u64, Error> {
    client(layer, api).renew::<Body>().await.map(|bearer| bearer.generation())
}

fn way(layer: &ApiVideoAuthLayer) -> Option<Way> {
    layer.subscribe().latest().map(|renewed| renewed.way)
}

fn key(api: &FakeApi) -> StoreKey {
    StoreKey::new(api.url(), "default").unwrap()
}

#[tokio::test]
async fn g21_a_restarted_process_goes_on_without_a_key_and_without_a_call() {
    let (api, store) = (FakeApi::in_process(), MemoryStore::new());
    works(&on(with_key(&api), &store), &api).await;
    let restarted = on(without_key(&api), &store);
    works(&restarted, &api).await;
    assert_eq!((api.counts().token_calls, way(&restarted)), (1, Some(Way::Adopted)));
    renew(&restarted, &api).await.unwrap();
    assert_eq!((api.counts().logins, api.counts().refreshes, way(&restarted)), (1, 1, Some(Way::Refresh)));
}

async fn of_eight_one_calls(store: impl TokenStore + Clone) {
    let api = FakeApi::in_process();
    let gate = api.gate(GatePoint::BeforeCommit);
    let layers: Vec<_> = (0..8).map(|_| on(with_key(&api), &store)).collect();
    let tasks: Vec<_> = layers
        .iter()
        .map(|layer| {
            let client = client(layer, &api);
            tokio::spawn(async move { list(&client).await })
        })
        .collect();
    gate.reached(1).await;
    // Each of the others has looked for the lock several times by then.
    time::sleep(Duration::from_millis(300)).await;
    assert_eq!(gate.arrived(), 1);
    gate.open();
    for task in tasks {
        assert_eq!(task.await.unwrap().unwrap(), 200);
    }
    assert_eq!(api.counts().token_calls, 1);
    let adopted = layers.iter().filter(|layer| way(layer) == Some(Way::Adopted)).count();
    assert_eq!(adopted, 7);
}

#[tokio::test]
async fn g23_of_eight_on_one_store_one_calls_and_seven_adopt() {
    of_eight_one_calls(MemoryStore::new()).await;
}

#[tokio::test]
async fn g23_of_eight_on_one_folder_one_calls_and_seven_adopt() {
    let folder = tempfile::tempdir().unwrap();
    of_eight_one_calls(FileStore::in_folder(folder.path().join("tokens"))).await;
}

#[tokio::test]
async fn g23_renewals_of_a_fleet_take_turns_and_present_nothing_twice() {
    let (api, store) = (FakeApi::in_process(), MemoryStore::new());
    let layers: Vec<_> = (0..4).map(|_| on(with_key(&api), &store)).collect();
    works(&layers[0], &api).await;
    for round in 0..3 {
        for layer in &layers {
            works(layer, &api).await;
        }
        let renewals = layers.iter().map(|layer| renew(layer, &api));
        for renewed in futures::future::join_all(renewals).await {
            renewed.unwrap();
        }
        // Who comes second finds a newer pair than the one it wanted to replace.
        assert_eq!(api.counts().refreshes, round + 1);
    }
    assert_eq!((api.counts().logins, api.counts().reuse_violations, api.most_presentations()), (1, 0, 1));
}

#[tokio::test]
async fn g26_a_seed_is_presented_once_however_often_the_process_restarts() {
    let (api, store) = (FakeApi::in_process(), MemoryStore::new());
    let (_, seed) = api.mint_pair();
    for _ in 0..3 {
        let layer = on(without_key(&api).refresh_token(seed.as_str()), &store);
        works(&layer, &api).await;
        renew(&layer, &api).await.unwrap();
    }
    assert_eq!((api.presentations(&seed), api.counts().refreshes, api.counts().reuse_violations), (1, 4, 0));

    // Even where nothing else is left, a seed that is known as spent stays unused.
    api.revoke_refresh_tokens();
    let layer = on(without_key(&api).refresh_token(seed.as_str()), &store);
    works(&layer, &api).await;
    assert_eq!(renew(&layer, &api).await.unwrap_err().kind(), ErrorKind::Refused);
    assert_eq!(api.presentations(&seed), 1);

    // A new one is taken up when the stored pair was refused.
    let (_, seed) = api.mint_pair();
    let layer = on(without_key(&api).refresh_token(seed.as_str()), &store);
    api.revoke_access_tokens();
    works(&layer, &api).await;
    assert_eq!(api.presentations(&seed), 1);
}

#[tokio::test]
async fn g26_the_store_goes_before_the_seed() {
    let (api, store) = (FakeApi::in_process(), MemoryStore::new());
    works(&on(with_key(&api), &store), &api).await;
    let (_, seed) = api.mint_pair();
    let layer = on(without_key(&api).refresh_token(seed.as_str()), &store);
    works(&layer, &api).await;
    renew(&layer, &api).await.unwrap();
    assert_eq!(api.presentations(&seed), 0);
}

#[tokio::test]
async fn g25_a_pair_of_another_key_is_neither_adopted_nor_overwritten() {
    let (api, store) = (FakeApi::in_process(), MemoryStore::new());
    works(&on(with_key(&api), &store), &api).await;
    let calls = api.counts().token_calls;
    let foreign = || without_key(&api).api_key("test-only-other-key");
    assert_eq!(fails(&on(foreign(), &store), &api).await.kind(), ErrorKind::StoreForeign);
    assert_eq!(api.counts().token_calls, calls);

    // A change of keys is meant: it logs in, which fails here, and what is stored stays.
    assert_eq!(
        fails(&on(foreign().replace_foreign_pair(true), &store), &api).await.kind(),
        ErrorKind::Refused
    );
    works(&on(without_key(&api), &store), &api).await;

    let elsewhere = on(foreign().account("other"), &store);
    assert_eq!(fails(&elsewhere, &api).await.kind(), ErrorKind::Refused);
}

#[tokio::test]
async fn g25_an_emptied_store_gets_the_pair_back_from_a_process_that_has_it() {
    let (api, store) = (FakeApi::in_process(), MemoryStore::new());
    let layer = on(with_key(&api), &store);
    works(&layer, &api).await;
    let mut lock = locked(&store, &api).await;
    let older = store.load(&key(&api)).await.unwrap();
    assert!(older.is_some());
    lock.set_aside().await.unwrap();
    lock.unlock().await;
    renew(&layer, &api).await.unwrap();
    assert_eq!((api.counts().logins, api.counts().refreshes), (1, 1));

    // The same with a store that was restored from an older copy.
    let mut lock = locked(&store, &api).await;
    let newest = store.load(&key(&api)).await.unwrap().unwrap();
    lock.save(Some(newest.header.version), older.unwrap()).await.unwrap();
    lock.unlock().await;
    renew(&layer, &api).await.unwrap();
    assert_eq!((api.counts().logins, api.counts().refreshes, api.counts().reuse_violations), (1, 2, 0));
}

async fn locked(store: &impl TokenStore, api: &FakeApi) -> Box<dyn StoreLock> {
    match store.try_lock(&key(api)).await.unwrap() {
        TryLock::Locked(lock) => lock,
        other => panic!("{other:?}"),
    }
}

/// A process that dies after its refresh was carried out and before it was answered.
async fn killed_in_mid_refresh(api: &FakeApi, store: &MemoryStore) -> String {
    works(&on(with_key(api), store), api).await;
    let token = api.live_refresh_token().unwrap();
    let gate = api.gate(GatePoint::AfterCommit);
    let victim = on(without_key(api), store);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let task = {
        let (victim, api) = (victim.clone(), api.clone());
        runtime.spawn(async move {
            works(&victim, &api).await;
            renew(&victim, &api).await
        })
    };
    gate.reached(1).await;
    runtime.shutdown_background();
    task.await.unwrap_err();
    gate.open();
    assert_eq!(api.presentations(&token), 1);
    token
}

#[tokio::test]
async fn g22_after_a_kill_a_holder_of_the_key_logs_in_and_presents_nothing_twice() {
    let (api, store) = (FakeApi::in_process(), MemoryStore::new());
    let token = killed_in_mid_refresh(&api, &store).await;
    let next = on(with_key(&api), &store);
    works(&next, &api).await;
    renew(&next, &api).await.unwrap();
    assert_eq!((way(&next), api.presentations(&token)), (Some(Way::ApiKey), 1));
    assert_eq!(api.counts().reuse_violations, 0);
}

#[tokio::test]
async fn g22_after_a_kill_the_marked_token_waits_for_its_deadline() {
    let (api, store) = (FakeApi::in_process(), MemoryStore::new());
    let token = killed_in_mid_refresh(&api, &store).await;
    let short = without_key(&api).flight_timeout(Duration::from_millis(500));
    let next = on(short.call_timeout(Duration::from_millis(200)), &store);
    works(&next, &api).await;
    let error = renew(&next, &api).await.unwrap_err();
    assert_eq!((error.kind(), api.presentations(&token)), (ErrorKind::Ambiguous, 1));
    assert!(error.retry_after().is_some_and(|wait| wait > Duration::from_secs(5)), "{error:?}");
}

#[tokio::test]
async fn g23_a_cool_down_is_shared() {
    let (api, store) = (FakeApi::in_process(), MemoryStore::new());
    api.always(Some(Fault::retry_after(503, 100)));
    let error = fails(&on(with_key(&api), &store), &api).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    for _ in 0..20 {
        let error = fails(&on(with_key(&api), &store), &api).await;
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.retry_after().is_some_and(|wait| wait > Duration::from_secs(90)), "{error:?}");
    }
    assert_eq!(api.counts().token_calls, 1);
}

#[tokio::test]
async fn g11_a_permanent_error_ends_when_the_store_shows_another_pair() {
    let (api, store, clock) = (FakeApi::in_process(), MemoryStore::new(), ManualClock::new());
    let (_, seed) = api.mint_pair();
    api.revoke_refresh_tokens();
    let layer = on(without_key(&api).refresh_token(seed.as_str()).clock(clock.clone()), &store);
    assert_eq!(fails(&layer, &api).await.kind(), ErrorKind::Refused);
    let calls = api.counts().token_calls;
    fails(&layer, &api).await;
    assert_eq!(api.counts().token_calls, calls);

    works(&on(with_key(&api), &store), &api).await;
    fails(&layer, &api).await;
    clock.advance(Duration::from_secs(6));
    works(&layer, &api).await;
    assert_eq!(way(&layer), Some(Way::Adopted));
}

#[tokio::test]
async fn g21_a_refusal_counts_only_if_the_store_has_no_other_pair() {
    let (api, store) = (FakeApi::in_process(), MemoryStore::new());
    let layer = on(without_key(&api).refresh_token(api.mint_pair().1), &store);
    works(&layer, &api).await;
    // The refresh is refused, while somebody who does not keep to the lock has stored a pair of another line.
    let foreign = MemoryStore::new();
    works(&on(with_key(&api), &foreign), &api).await;
    let other = foreign.load(&key(&api)).await.unwrap().unwrap();
    let intruder = Intruder { inner: store.clone(), other: Arc::new(other), armed: Arc::default() };
    let layer = on(without_key(&api), &intruder);
    works(&layer, &api).await;
    api.fault(Fault::problem(401, "authentication-invalid-refresh-token"));
    intruder.armed.store(true, Ordering::SeqCst);
    renew(&layer, &api).await.unwrap();
    assert_eq!(way(&layer), Some(Way::Adopted));
}

/// A store in which another pair appears, as after a lost lease, when a refresh token has been marked.
#[derive(Clone)]
struct Intruder {
    inner: MemoryStore,
    other: Arc<Stored>,
    armed: Arc<AtomicBool>,
}

impl TokenStore for Intruder {
    fn load<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<Option<Stored>, Error>> {
        Box::pin(async move {
            let stored = self.inner.load(key).await?;
            let marked = stored.as_ref().is_some_and(|stored| stored.header.mark.is_some());
            let intrudes = marked && self.armed.load(Ordering::SeqCst);
            Ok(if intrudes { Some((*self.other).clone()) } else { stored })
        })
    }

    fn try_lock<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<TryLock, Error>> {
        self.inner.try_lock(key)
    }
}

/// A store whose saves, from a given one on, fail or panic, and which can be out of reach.
#[derive(Clone, Default)]
struct Faulty {
    inner: MemoryStore,
    saves_left: Arc<AtomicUsize>,
    limited: Arc<AtomicBool>,
    panics: Arc<AtomicBool>,
    away: Arc<AtomicBool>,
}

impl Faulty {
    fn fail_after(&self, saves: usize) {
        self.saves_left.store(saves, Ordering::SeqCst);
        self.limited.store(true, Ordering::SeqCst);
    }

    fn mend(&self) {
        for flag in [&self.limited, &self.panics, &self.away] {
            flag.store(false, Ordering::SeqCst);
        }
    }
}

fn away() -> Error {
    Error::store(ErrorKind::StoreUnavailable, "away", None)
}

impl TokenStore for Faulty {
    fn load<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<Option<Stored>, Error>> {
        assert!(!self.panics.load(Ordering::SeqCst), "test-only-panic");
        if self.away.load(Ordering::SeqCst) {
            return Box::pin(async { Err(away()) });
        }
        self.inner.load(key)
    }

    fn try_lock<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<TryLock, Error>> {
        Box::pin(async move {
            Ok(match self.inner.try_lock(key).await? {
                TryLock::Locked(lock) => TryLock::Locked(Box::new(FaultyLock { lock, store: self.clone() })),
                busy => busy,
            })
        })
    }
}

struct FaultyLock {
    lock: Box<dyn StoreLock>,
    store: Faulty,
}

impl StoreLock for FaultyLock {
    fn save<'a>(&'a mut self, expected: Option<Version>, stored: Stored) -> BoxFuture<'a, Result<(), Error>> {
        let left = &self.store.saves_left;
        let spend = |left: usize| left.checked_sub(1);
        if self.store.limited.load(Ordering::SeqCst)
            && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, spend).is_err()
        {
            return Box::pin(async { Err(away()) });
        }
        self.lock.save(expected, stored)
    }

    fn set_aside(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        self.lock.set_aside()
    }

    fn unlock(self: Box<Self>) -> BoxFuture<'static, ()> {
        self.lock.unlock()
    }
}

#[tokio::test]
async fn g21_a_pair_that_cannot_be_saved_is_used_and_its_sibling_presents_nothing() {
    let (api, store) = (FakeApi::in_process(), Faulty::default());
    let short = |builder: Builder| {
        builder.flight_timeout(Duration::from_secs(1)).call_timeout(Duration::from_millis(700))
    };
    let one = on(short(with_key(&api)), &store);
    works(&one, &api).await;
    let two = on(short(without_key(&api)), &store);
    works(&two, &api).await;
    let spent = api.live_refresh_token().unwrap();

    // The mark is saved, the pair is not.
    store.fail_after(1);
    renew(&one, &api).await.unwrap();
    works(&one, &api).await;
    let error = renew(&two, &api).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StoreLocked, "{error:?}");
    assert!(error.to_string().contains("another layer of this process"), "{error}");

    store.mend();
    assert!(one.shutdown(Duration::from_secs(10)).await, "it is saved as soon as that can be done");
    let again = on(short(without_key(&api)), &store);
    works(&again, &api).await;
    renew(&again, &api).await.unwrap();
    assert_eq!((api.presentations(&spent), api.counts().reuse_violations), (1, 0));
}

#[tokio::test]
async fn g21_without_a_mark_nothing_is_presented() {
    let (api, store) = (FakeApi::in_process(), Faulty::default());
    let layer = on(with_key(&api), &store);
    works(&layer, &api).await;
    store.fail_after(0);
    assert_eq!(renew(&layer, &api).await.unwrap_err().kind(), ErrorKind::StoreUnavailable);
    assert_eq!(api.counts().refreshes, 0);
    works(&layer, &api).await;
}

#[tokio::test]
async fn g24_a_store_that_is_away_leaves_the_usable_token_and_fails_closed() {
    let (api, store) = (FakeApi::in_process(), Faulty::default());
    let layer = on(with_key(&api), &store);
    works(&layer, &api).await;
    store.away.store(true, Ordering::SeqCst);
    works(&layer, &api).await;
    let error = renew(&layer, &api).await.unwrap_err();
    assert!(error.is_transient() && error.kind() == ErrorKind::StoreUnavailable, "{error:?}");
    works(&layer, &api).await;
    assert_eq!(api.counts().token_calls, 1);
    store.mend();
    layer.invalidate(1);
    time::sleep(Duration::from_secs(1)).await;
    works(&layer, &api).await;
}

#[tokio::test]
async fn g5_a_store_that_panics_is_an_error_and_poisons_nothing() {
    let (api, store) = (FakeApi::in_process(), Faulty::default());
    let layer = on(with_key(&api), &store);
    store.panics.store(true, Ordering::SeqCst);
    let error = fails(&layer, &api).await;
    assert_eq!(error.kind(), ErrorKind::Panicked);
    assert!(!format!("{error:?}").contains("test-only-panic"));
    store.mend();
    time::sleep(Duration::from_secs(1)).await;
    works(&layer, &api).await;
}

#[tokio::test]
async fn g22_a_transient_outcome_clears_the_mark() {
    let (api, store) = (FakeApi::in_process(), MemoryStore::new());
    let layer = on(with_key(&api), &store);
    works(&layer, &api).await;
    api.fault(Fault::status(503));
    renew(&layer, &api).await.unwrap();
    assert_eq!((api.counts().logins, api.counts().refreshes), (1, 2));
    assert_eq!(store.load(&key(&api)).await.unwrap().unwrap().header.mark, None);
}

#[tokio::test]
async fn g22_a_damaged_record_costs_a_login_with_a_key_and_is_a_clear_error_without() {
    let (api, folder) = (FakeApi::in_process(), tempfile::tempdir().unwrap());
    let store = FileStore::in_folder(folder.path().join("tokens"));
    works(&on(with_key(&api), &store), &api).await;
    let path = store.folder().join(format!("{}.json", key(&api).name()));
    std::fs::write(&path, "{\"form\":1,").unwrap();
    let error = fails(&on(without_key(&api), &store), &api).await;
    assert_eq!(error.kind(), ErrorKind::StoreCorrupt, "{error}");
    works(&on(with_key(&api), &store), &api).await;
    assert_eq!(api.counts().logins, 2);
    let names = || std::fs::read_dir(store.folder()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(names().any(|name| name.to_string_lossy().contains(".rejected-")));
    works(&on(without_key(&api), &store), &api).await;

    std::fs::write(&path, "{\"form\":99}").unwrap();
    let error = fails(&on(with_key(&api), &store), &api).await;
    assert_eq!(error.kind(), ErrorKind::StoreUnreadable, "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"form\":99}");
}
