//! A child process, which says what it does and may stop, fail or die where it is told.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use apivideo_auth::{
    ApiVideoAuth,
    store::{FileStore, RedisStore, TokenStore},
};
use hyper_util::{
    client::legacy::{Client as Legacy, connect::HttpConnector},
    rt::TokioExecutor,
};
use tower::{Layer as _, ServiceExt as _};

use super::{stores::Lockless, *};
use crate::support::{
    child::{Child, orders, signal},
    get,
};

pub(super) type Http = ApiVideoAuth<Legacy<HttpConnector, Body>>;

pub(super) const CALL_TIMEOUT: Duration = Duration::from_millis(500);

pub(super) fn connect(builder: Builder) -> (ApiVideoAuthLayer, Http) {
    let layer = builder.build().expect("good settings");
    let client = layer.layer(Legacy::builder(TokioExecutor::new()).build_http());
    (layer, client)
}

pub(super) async fn request(client: &Http) -> Result<u16, ErrorKind> {
    outcome(
        client
            .clone()
            .oneshot(get("/videos"))
            .await
            .map(|response| response.status()),
    )
}

/// Where a child is killed (`kill Before Mark`), stopped, or fails; and it says so when it waits for a lock.
fn obeying(step: String) -> Hook {
    let (loads, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
    failing(move |op, when| {
        if step == format!("kill {when:?} {op:?}") {
            signal("-KILL", std::process::id());
        }
        // Once: who goes on may come by again.
        if step == format!("stop {when:?} {op:?}") && !stopped.swap(true, Ordering::SeqCst) {
            signal("-STOP", std::process::id());
            // The signal may reach this thread a moment later.
            std::thread::sleep(Duration::from_millis(300));
        }
        // Who got the lock has looked twice.
        if (op, when) == (Op::Load, When::Before) && loads.fetch_add(1, Ordering::SeqCst) == 2 {
            println!("waits");
        }
        step == "fail to save" && (op, when) == (Op::Pair, When::Before)
    })
}

/// Makes one request, and says how that went.
#[tokio::test]
#[ignore = "runs as a child process"]
async fn child_of_a_fleet() {
    let [api, store, step, timeout, key] = orders();
    let timeout = Duration::from_millis(timeout.parse().expect("a number"));
    let builder = ApiVideoAuthLayer::builder()
        .base_url(api)
        .call_timeout(timeout);
    let builder = if key.is_empty() {
        builder
    } else {
        builder.api_key(key)
    };
    let locks = step != "no lock";
    let is_unsaved = step == "fail to save";
    let hook = obeying(step);
    let (layer, client) = if store.starts_with("redis:") {
        let store = RedisStore::builder(store).build().expect("a good URL");
        connect(on(builder, store, hook, locks))
    } else {
        connect(on(builder, FileStore::in_folder(store), hook, locks))
    };
    let outcome = request(&client).await;
    println!("answered {outcome:?}");
    let is_ended = layer.shutdown(Duration::from_secs(20)).await;
    assert_eq!(is_ended, !is_unsaved, "only an unsaved pair is lost");
    no_thread_is_left().await;
    println!(
        "ended {:?}",
        layer.subscribe().latest().map(|renewed| renewed.grant)
    );
}

/// A store's thread has reported before it ends.
async fn no_thread_is_left() {
    let is_ours =
        |name: Result<String, _>| name.is_ok_and(|name| name.starts_with("apivideo-auth"));
    let threads = || {
        let tasks = std::fs::read_dir("/proc/self/task")
            .into_iter()
            .flatten()
            .flatten();
        tasks
            .filter(|task| is_ours(std::fs::read_to_string(task.path().join("comm"))))
            .count()
    };
    for _ in 0..100 {
        if threads() == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} threads of the store are left", threads());
}

fn on(builder: Builder, store: impl TokenStore + Clone, hook: Hook, locks: bool) -> Builder {
    if locks {
        builder.store(FaultyStore::new(store, hook))
    } else {
        builder.store(FaultyStore::new(Lockless(store), hook))
    }
}

/// Starts a process on this store.
pub(super) fn start(api: &FakeApi, store: &str, step: &str, with_key: bool) -> Child {
    start_with(api, store, step, with_key, CALL_TIMEOUT)
}

pub(super) fn start_with(
    api: &FakeApi,
    store: &str,
    step: &str,
    with_key: bool,
    timeout: Duration,
) -> Child {
    let timeout = timeout.as_millis().to_string();
    let key = if with_key { api.api_key() } else { "" };
    let orders = [&api.url(), store, step, &timeout, key];
    Child::start("fleet::child::child_of_a_fleet", &orders)
}
