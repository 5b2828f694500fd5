//! G22, G23: processes that are killed or stopped at any step of a renewal, for real.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use apivideo_auth::{
    ApiVideoAuth, ApiVideoAuthLayer, ApiVideoAuthLayerBuilder, Error, ErrorKind, GrantType,
    middleware::{Replay, SameService},
    store::{FileStore, RedisStore, StoreKey, StoreLock, Stored, TokenStore, TryLock, Version},
    testing::{FakeApi, GatePoint},
};
use futures::future::{BoxFuture, join_all};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tower::{Layer, ServiceExt};

use crate::{
    redis_server::RedisServer,
    support::{
        Body,
        child::{Child, orders, signal},
        get,
    },
};

/// The steps of G21 at which a process dies, in their order, and whether it may have presented its refresh token.
const STEPS: [(&str, bool); 7] = [
    ("locked", false),
    ("before the mark", false),
    ("marked", true),
    ("answered", true),
    ("saved", false),
    ("unlocking", false),
    ("unlocked", false),
];

const CALL_TIMEOUT: Duration = Duration::from_millis(500);

/// Kills its own process at a step.
#[derive(Clone)]
struct Deadly<S> {
    inner: S,
    step: Arc<str>,
    saves: Arc<AtomicUsize>,
}

impl<S> Deadly<S> {
    fn reached(&self, step: &str) {
        if *self.step == *step {
            signal("-KILL", std::process::id());
            unreachable!("killed");
        }
    }
}

impl<S: TokenStore + Clone> TokenStore for Deadly<S> {
    fn load<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<Option<Stored>, Error>> {
        self.inner.load(key)
    }

    fn try_lock<'a>(&'a self, key: &'a StoreKey) -> BoxFuture<'a, Result<TryLock, Error>> {
        Box::pin(async move {
            Ok(match self.inner.try_lock(key).await? {
                TryLock::Locked(lock) => {
                    self.reached("locked");
                    TryLock::Locked(Box::new(DeadlyLock {
                        lock,
                        store: self.clone(),
                    }))
                }
                busy => busy,
            })
        })
    }
}

struct DeadlyLock<S> {
    lock: Box<dyn StoreLock>,
    store: Deadly<S>,
}

impl<S: TokenStore + Clone> StoreLock for DeadlyLock<S> {
    fn save<'a>(
        &'a mut self,
        expected: Option<Version>,
        stored: Stored,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let (before, after) = match self.store.saves.fetch_add(1, Ordering::SeqCst) {
                0 => ("before the mark", "marked"),
                _ => ("answered", "saved"),
            };
            self.store.reached(before);
            self.lock.save(expected, stored).await?;
            self.store.reached(after);
            Ok(())
        })
    }

    fn quarantine(&mut self) -> BoxFuture<'_, Result<(), Error>> {
        self.lock.quarantine()
    }

    fn unlock(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            self.store.reached("unlocking");
            self.lock.unlock().await;
            self.store.reached("unlocked");
        })
    }
}

type Hyper = ApiVideoAuth<Client<HttpConnector, Body>>;
type Builder = ApiVideoAuthLayerBuilder<SameService, Replay>;

fn process(api: &str, with: impl FnOnce(Builder) -> Builder) -> (ApiVideoAuthLayer, Hyper) {
    let layer = with(
        ApiVideoAuthLayer::builder()
            .base_url(api)
            .call_timeout(CALL_TIMEOUT),
    )
    .build()
    .unwrap();
    let client = layer.layer(Client::builder(TokioExecutor::new()).build_http());
    (layer, client)
}

async fn works(client: &Hyper) {
    assert_eq!(
        client
            .clone()
            .oneshot(get("/videos"))
            .await
            .unwrap()
            .status(),
        200
    );
}

/// Takes over the stored pair, renews it, and says how that went.
#[tokio::test]
#[ignore = "runs as a child process"]
async fn child_of_a_killer() {
    let [api, step, store] = orders();
    let (layer, client) = process(&api, |builder| {
        if store.starts_with("redis:") {
            builder
                .call_timeout(Duration::from_secs(30))
                .renewal_timeout(Duration::from_secs(60))
                .store(RedisStore::builder(store).build().unwrap())
        } else {
            builder.store(Deadly {
                inner: FileStore::in_folder(store),
                step: step.into(),
                saves: Arc::default(),
            })
        }
    });
    works(&client).await;
    let renewed = client.renew().await;
    layer.shutdown(Duration::from_secs(5)).await;
    println!(
        "renewed: {:?} {:?}",
        renewed.map(|_| ()),
        layer.subscribe().latest().map(|renewed| renewed.way)
    );
}

fn child(api: &FakeApi, step: &str, store: &str) -> Child {
    Child::start("killed::child_of_a_killer", &[&api.url(), step, store])
}

async fn killed_at(step: &str, presented: bool, has_key: bool) {
    let (api, folder) = (
        FakeApi::start().await.unwrap(),
        tempfile::tempdir().unwrap(),
    );
    let tokens = folder.path().join("tokens");
    let store = FileStore::in_folder(&tokens);
    let (_, first) = process(&api.url(), |builder| {
        builder.api_key(api.api_key()).store(store.clone())
    });
    works(&first).await;
    let token = api.live_refresh_token().unwrap();

    child(&api, step, tokens.to_str().unwrap()).killed().await;

    // The next process, with the store as it was left.
    let (layer, next) = process(&api.url(), |builder| {
        let builder = builder.store(store);
        if has_key {
            builder.api_key(api.api_key())
        } else {
            builder
        }
    });
    works(&next).await;
    let renewed = next.renew().await;
    let way = layer.subscribe().latest().map(|renewed| renewed.way);
    let counts = api.counts();
    match (step, has_key) {
        // The response was lost: the token is presented again, after its deadline, and refused.
        ("answered", false) => {
            assert_eq!(renewed.unwrap_err().kind(), ErrorKind::Refused, "{step}");
            assert_eq!(api.presentations(&token), 2, "{step}");
            return;
        }
        (_, true) if presented => assert_eq!(way, Some(GrantType::ApiKey), "{step}"),
        _ => assert_eq!(way, Some(GrantType::RefreshToken), "{step}"),
    }
    renewed.unwrap_or_else(|error| panic!("{step}: {error:?}"));
    works(&next).await;
    assert!(
        counts.reuse_violations == 0 && api.most_presentations() <= 1,
        "{step}, key: {has_key}: {counts:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g22_a_kill_at_any_step_leaves_the_next_process_working() {
    let table = STEPS.iter().flat_map(|(step, presented)| {
        [true, false].map(|has_key| tokio::spawn(killed_at(step, *presented, has_key)))
    });
    for row in join_all(table).await {
        row.unwrap();
    }
}

#[tokio::test]
#[ignore = "needs redis-server; .ci/run runs it"]
async fn g23_a_process_stopped_beyond_its_lease_overwrites_nothing() {
    let (api, redis) = (FakeApi::start().await.unwrap(), RedisServer::start());
    let store = || RedisStore::builder(redis.url()).build().unwrap();
    let (_, first) = process(&api.url(), |builder| {
        builder.api_key(api.api_key()).store(store())
    });
    works(&first).await;
    let token = api.live_refresh_token().unwrap();

    let gate = api.gate(GatePoint::BeforeCommit);
    let stopped = child(&api, "none", &redis.url());
    gate.reached(1).await;
    stopped.signal("-STOP");
    stopped.is_stopped().await;
    gate.open();

    // Its lease ends, its mark does not: the holder of the key logs in, and presents nothing.
    let (layer, other) = process(&api.url(), |builder| {
        builder.api_key(api.api_key()).store(store())
    });
    works(&other).await;
    other.renew().await.unwrap();
    assert_eq!(
        layer.subscribe().latest().map(|renewed| renewed.way),
        Some(GrantType::ApiKey)
    );
    let newest = other
        .pair()
        .await
        .unwrap()
        .refresh_token()
        .unwrap()
        .expose()
        .to_owned();

    stopped.signal("-CONT");
    let said = stopped.passed().await;
    assert!(said.contains("renewed: Ok(()) Some(Store)"), "{said}");
    assert_eq!(
        (api.presentations(&token), api.counts().reuse_violations),
        (1, 0)
    );

    let (layer, last) = process(&api.url(), |builder| builder.store(store()));
    works(&last).await;
    assert_eq!(
        layer.subscribe().latest().map(|renewed| renewed.way),
        Some(GrantType::Store)
    );
    assert_eq!(
        last.pair().await.unwrap().refresh_token().unwrap().expose(),
        newest
    );
}
