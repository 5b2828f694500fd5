//! G21 to G26: sources that share a store. Each layer stands for a process.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use apivideo_auth::{
    ApiVideoAuthLayer, ApiVideoAuthLayerBuilder, Error, ErrorKind, GrantType,
    middleware::{Replay, SameService},
    store::{FileStore, MemoryStore, StoreKey, StoreLock, Stored, TokenStore, TryLock},
    testing::{FakeApi, Fault},
};
use futures::future::BoxFuture;

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
    client(layer, api)
        .renew::<Body>()
        .await
        .map(|bearer| bearer.generation())
}

fn way(layer: &ApiVideoAuthLayer) -> Option<GrantType> {
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
    assert_eq!(
        (api.counts().token_calls, way(&restarted)),
        (1, Some(GrantType::Store))
    );
    renew(&restarted, &api).await.unwrap();
    assert_eq!(
        (api.counts().logins, api.counts().refreshes, way(&restarted)),
        (1, 1, Some(GrantType::RefreshToken))
    );
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
    assert_eq!(
        (
            api.counts().logins,
            api.counts().reuse_violations,
            api.most_presentations()
        ),
        (1, 0, 1)
    );
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
async fn g25_an_emptied_store_gets_the_pair_back_from_a_process_that_has_it() {
    let (api, store) = (FakeApi::in_process(), MemoryStore::new());
    let layer = on(with_key(&api), &store);
    works(&layer, &api).await;
    let mut lock = locked(&store, &api).await;
    let older = store.load(&key(&api)).await.unwrap();
    assert!(older.is_some());
    lock.quarantine().await.unwrap();
    lock.unlock().await;
    renew(&layer, &api).await.unwrap();
    assert_eq!((api.counts().logins, api.counts().refreshes), (1, 1));

    // The same with a store that was restored from an older copy.
    let mut lock = locked(&store, &api).await;
    let newest = store.load(&key(&api)).await.unwrap().unwrap();
    lock.save(Some(newest.header.version), older.unwrap())
        .await
        .unwrap();
    lock.unlock().await;
    renew(&layer, &api).await.unwrap();
    assert_eq!(
        (
            api.counts().logins,
            api.counts().refreshes,
            api.counts().reuse_violations
        ),
        (1, 2, 0)
    );
}

async fn locked(store: &impl TokenStore, api: &FakeApi) -> Box<dyn StoreLock> {
    match store.try_lock(&key(api)).await.unwrap() {
        TryLock::Locked(lock) => lock,
        other => panic!("{other:?}"),
    }
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
    let intruder = Intruder {
        inner: store.clone(),
        other: Arc::new(other),
        armed: Arc::default(),
    };
    let layer = on(without_key(&api), &intruder);
    works(&layer, &api).await;
    api.fault(Fault::problem(401, "authentication-invalid-refresh-token"));
    intruder.armed.store(true, Ordering::SeqCst);
    renew(&layer, &api).await.unwrap();
    assert_eq!(way(&layer), Some(GrantType::Store));
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
            let marked = stored
                .as_ref()
                .is_some_and(|stored| stored.header.mark.is_some());
            let intrudes = marked && self.armed.load(Ordering::SeqCst);
            Ok(if intrudes {
                Some((*self.other).clone())
            } else {
                stored
            })
        })
    }

    fn try_lock<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<TryLock, Error>> {
        self.inner.try_lock(key)
    }
}

#[tokio::test]
async fn g22_a_transient_outcome_clears_the_mark() {
    let (api, store) = (FakeApi::in_process(), MemoryStore::new());
    let layer = on(with_key(&api), &store);
    works(&layer, &api).await;
    api.fault(Fault::status(503));
    renew(&layer, &api).await.unwrap();
    assert_eq!((api.counts().logins, api.counts().refreshes), (1, 2));
    assert_eq!(
        store.load(&key(&api)).await.unwrap().unwrap().header.mark,
        None
    );
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
    let names = || {
        std::fs::read_dir(store.folder())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
    };
    assert!(names().any(|name| name.to_string_lossy().contains(".rejected-")));
    works(&on(without_key(&api), &store), &api).await;

    std::fs::write(&path, "{\"form\":99}").unwrap();
    let error = fails(&on(with_key(&api), &store), &api).await;
    assert_eq!(error.kind(), ErrorKind::StoreUnreadable, "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"form\":99}");
}
