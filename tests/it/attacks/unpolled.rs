//! G5: a renewal whose runtime lives but is not polled, as with one `block_on` per call.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use apivideo_auth::{
    ApiVideoAuthLayer,
    store::{FileStore, StoreKey, TokenStore},
    testing::{FakeApi, FakeService, Fault, GatePoint},
};
use futures::{FutureExt, future::BoxFuture};
use http::Request;
use tokio::{
    runtime::{Builder, Runtime},
    sync::Notify,
    task::yield_now,
    time::{Instant, timeout},
};
use tower::{Layer, Service, ServiceExt};

use crate::{
    fleet::stores::field,
    support::{Body, client, get, with_key},
};

const SOON: Duration = Duration::from_secs(5);

const RENEWAL_TIMEOUT: Duration = Duration::from_millis(500);

/// How far the renewal has got when its runtime is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// It waits for readiness.
    BeforeItsSend,
    /// The server has the request and does nothing about it.
    AfterItsSend,
    /// The server has granted a pair, and its response can be read.
    AfterTheCommit,
}

/// Keeps one clone, the first that is polled once `armed`, from getting ready.
struct Unready {
    inner: FakeService,
    stop: Arc<Stop>,
    stopped: Option<BoxFuture<'static, ()>>,
}

#[derive(Default)]
struct Stop {
    armed: AtomicBool,
    reached: Notify,
    go_on: Notify,
}

impl Clone for Unready {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            stop: self.stop.clone(),
            stopped: None,
        }
    }
}

impl Service<Request<Body>> for Unready {
    type Response = <FakeService as Service<Request<Body>>>::Response;
    type Error = <FakeService as Service<Request<Body>>>::Error;
    type Future = <FakeService as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        if self.stop.armed.swap(false, Ordering::SeqCst) {
            self.stop.reached.notify_one();
            let stop = self.stop.clone();
            self.stopped = Some(Box::pin(async move { stop.go_on.notified().await }));
        }
        if let Some(stopped) = &mut self.stopped {
            ready!(stopped.poll_unpin(cx));
        }
        self.stopped = None;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.inner.call(request)
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// One source on two runtimes. The old one starts a renewal and is polled again only when the new one was served.
fn a_request_of_another_runtime_is_served(left: Left, has_key: bool) {
    let case = format!("{left:?}, API key {has_key}");
    let (old, new) = (runtime(), runtime());
    let api = FakeApi::in_process();
    let folder = tempfile::tempdir().unwrap();
    let store = FileStore::in_folder(folder.path().join("tokens"));
    old.block_on(async {
        let operator = with_key(&api).store(store.clone()).build().unwrap();
        client(&operator, &api)
            .source::<Body>()
            .token()
            .await
            .unwrap();
        assert!(operator.shutdown(SOON).await);
    });
    let token = api.live_refresh_token().unwrap();
    let before = api.counts();

    let stop = Arc::<Stop>::default();
    let token_service = Unready {
        inner: api.service(),
        stop: stop.clone(),
        stopped: None,
    };
    let mut builder = ApiVideoAuthLayer::builder()
        .base_url(api.url())
        .store(store.clone())
        .call_timeout(Duration::from_millis(200))
        .renewal_timeout(RENEWAL_TIMEOUT);
    if has_key {
        builder = builder.api_key(api.api_key());
    }
    let layer = builder
        .token_service::<_, Body>(token_service)
        .build()
        .unwrap();
    let service = layer.layer(api.service());
    let list = || {
        let response = service.clone().oneshot(get("/videos"));
        async move { response.await.map(|response| response.status().as_u16()) }
    };
    let adopted = old.block_on(service.source().token()).unwrap();
    layer.invalidate(&adopted);

    let gate = match left {
        Left::BeforeItsSend => {
            stop.armed.store(true, Ordering::SeqCst);
            None
        }
        Left::AfterItsSend => {
            api.fault(Fault::latency(Duration::from_secs(3600)));
            None
        }
        Left::AfterTheCommit => Some(api.gate(GatePoint::AfterCommit)),
    };
    let begun = Instant::now();
    let first = old.spawn(list());
    let reached = async {
        match &gate {
            Some(gate) => gate.reached(1).await,
            None if left == Left::BeforeItsSend => stop.reached.notified().await,
            None => {
                while api.presentations(&token) == 0 {
                    yield_now().await;
                }
            }
        }
    };
    old.block_on(async { timeout(SOON, reached).await })
        .expect("the renewal gets there");
    // Nobody on the old runtime sees it open.
    drop(gate);

    let second = new.block_on(async { timeout(SOON, list()).await });
    let second = second.expect("in time").map_err(|error| error.to_string());
    println!("{case}: {second:?} after {:.1?}", begun.elapsed());
    assert_eq!(second, Ok(200), "{case}");
    assert!(begun.elapsed() >= RENEWAL_TIMEOUT, "{case}: {begun:?}");

    // The old runtime is back: what is left of its renewal runs to its end.
    stop.go_on.notify_one();
    let _ = old
        .block_on(async { timeout(SOON, first).await })
        .expect("the first caller ends");
    assert_eq!(new.block_on(list()).unwrap(), 200, "{case}");
    assert!(old.block_on(layer.shutdown(SOON)), "{case}");

    let presentations = match (left, has_key) {
        // By the rule for ambiguous outcomes.
        (Left::AfterItsSend, false) => 2,
        _ => 1,
    };
    let logins = usize::from(has_key && left != Left::BeforeItsSend);
    let after = api.counts();
    assert_eq!(api.presentations(&token), presentations, "{case}");
    assert_eq!(after.logins - before.logins, logins, "{case}");
    assert_eq!(
        after.token_calls - before.token_calls,
        presentations + logins,
        "{case}"
    );
    assert_eq!(
        (after.reuse_violations, after.unauthorized),
        (0, 0),
        "{case}"
    );
    let key = StoreKey::new(api.url(), "default").unwrap();
    let stored = old.block_on(store.load(&key)).unwrap().unwrap();
    assert_eq!(
        field(&stored, "refresh_token"),
        api.live_refresh_token(),
        "{case}"
    );
}

#[test]

fn g5_an_unpolled_renewal_is_taken_over_before_its_send() {
    for has_key in [false, true] {
        a_request_of_another_runtime_is_served(Left::BeforeItsSend, has_key);
    }
}

#[test]

fn g5_an_unpolled_renewal_is_taken_over_after_its_send() {
    a_request_of_another_runtime_is_served(Left::AfterItsSend, false);
    a_request_of_another_runtime_is_served(Left::AfterItsSend, true);
    a_request_of_another_runtime_is_served(Left::AfterTheCommit, true);
}
