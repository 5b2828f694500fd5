//! G22, G23: real processes, killed or stopped by their parent or by themselves.

use std::path::Path;

use apivideo_auth::{
    store::{FileStore, RedisStore},
    testing::{Fault, GatePoint},
};
use tokio::time::Instant;

use super::{
    child::{CALL_TIMEOUT, connect, request, start, start_with},
    *,
};
use crate::redis_server::RedisServer;

async fn of_eight_one_calls(store: &str) {
    let api = FakeApi::start().await.expect("a server");
    let gate = api.gate(GatePoint::BeforeCommit);
    let children = (0..8).map(|_| start_with(&api, store, "none", true, seconds(10.0)));
    let children: Vec<_> = children.collect();
    gate.reached(1).await;
    // Seven say that they wait.
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let ends = children.into_iter().map(|mut child| {
        let tell = tell.clone();
        tokio::spawn(async move {
            let line = child.until(&["waits", "answered"]).await;
            if line.contains("waits") {
                tell.send(()).expect("somebody listens");
            }
            line + &child.passed().await
        })
    });
    let ends: Vec<_> = ends.collect();
    for _ in 0..7 {
        told.recv().await.expect("a child that waits");
    }
    assert_eq!(api.counts().token_calls, 1);
    gate.open();
    let said: Vec<_> = futures::future::join_all(ends)
        .await
        .into_iter()
        .map(|end| end.expect("no panic"))
        .collect();
    assert!(
        said.iter().all(|said| said.contains("answered Ok(200)")),
        "{said:?}"
    );
    let adopted = said
        .iter()
        .filter(|said| said.contains("waits") && said.contains("Some(Store)"));
    assert_eq!(
        (adopted.count(), api.counts().token_calls),
        (7, 1),
        "{said:?}"
    );
}

async fn of_eight_all_call_without_a_lock(store: &str) {
    let api = FakeApi::start().await.expect("a server");
    let gate = api.gate(GatePoint::BeforeCommit);
    let children: Vec<_> = (0..8)
        .map(|_| start(&api, store, "no lock", true))
        .collect();
    gate.reached(8).await;
    drop(children);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g23_of_eight_processes_on_one_folder_one_calls() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = |name: &str| {
        folder
            .path()
            .join(name)
            .to_str()
            .expect("a plain path")
            .to_owned()
    };
    of_eight_one_calls(&store("locked")).await;
    of_eight_all_call_without_a_lock(&store("lockless")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs redis-server; .ci/run runs it"]
async fn g23_of_eight_processes_on_one_redis_one_calls() {
    let server = RedisServer::start();
    of_eight_one_calls(&server.url()).await;
    server.command(&["FLUSHALL"]);
    of_eight_all_call_without_a_lock(&server.url()).await;
}

/// What a process leaves in the store that is killed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Left {
    /// The old pair, as good as before.
    OldPair,
    /// The old pair under a mark, though the server has not taken its refresh token.
    Marked,
    /// The old pair under a mark; the new one is lost.
    Spent,
    NewPair,
}

/// The steps of G21 in their order, how often the token was presented until then, and what is left.
const STEPS: [(&str, usize, Left); 11] = [
    ("kill After Lock", 0, Left::OldPair),
    ("kill Before Mark", 0, Left::OldPair),
    ("kill After Mark", 0, Left::Marked),
    ("sent", 1, Left::Marked),
    ("committed", 1, Left::Spent),
    ("kill Before Touch", 1, Left::Marked),
    ("kill Before Pair", 1, Left::Spent),
    ("fail to save", 1, Left::Spent),
    ("kill After Pair", 1, Left::NewPair),
    ("kill Before Unlock", 1, Left::NewPair),
    ("kill After Unlock", 1, Left::NewPair),
];

async fn killed_at(step: &'static str, presented: usize, left: Left, with_key: bool) {
    let api = FakeApi::start().await.expect("a server");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tokens");
    let store = FileStore::in_folder(&path);
    let builder = |with_key: bool| {
        let builder = ApiVideoAuthLayer::builder()
            .base_url(api.url())
            .store(store.clone());
        if with_key {
            builder.api_key(api.api_key())
        } else {
            builder
        }
    };
    let (layer, client) = connect(builder(true));
    client.source::<Body>().renew().await.expect("a login");
    assert!(layer.shutdown(HOUR).await);
    pass(&path, "expires");
    let token = api.live_refresh_token().expect("a refresh token");

    let gate = match step {
        "sent" => Some(api.gate(GatePoint::BeforeCommit)),
        "committed" => Some(api.gate(GatePoint::AfterCommit)),
        _ => None,
    };
    if step == "kill Before Touch" {
        api.fault(Fault::status(503));
    }
    let path_text = path.to_str().expect("a plain path");
    let mut child = start_with(&api, path_text, step, false, seconds(10.0));
    if let Some(gate) = &gate {
        gate.reached(1).await;
        child.signal("-KILL");
    }
    if step == "fail to save" {
        child.until(&["answered Ok(200)"]).await;
        child.signal("-KILL");
    }
    child.killed().await;
    // The server sees the closed connection a moment later.
    while api.counts().in_flight > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(gate);
    assert_eq!(api.presentations(&token), presented, "{step}");

    let mut next = builder(with_key);
    if !with_key && matches!(left, Left::Marked | Left::Spent) {
        // Nobody is to wait for the mark here.
        next = next
            .call_timeout(CALL_TIMEOUT)
            .renewal_timeout(2 * CALL_TIMEOUT);
    }
    let (layer, client) = connect(next);
    let outcome = request(&client).await;
    let way = layer.subscribe().latest().map(|renewed| renewed.grant);
    let (expected, by, presentations) = match (left, with_key) {
        (Left::OldPair, _) => (Ok(200), Some(GrantType::RefreshToken), 1),
        (Left::NewPair, _) => (Ok(200), Some(GrantType::Store), 1),
        (_, true) => (Ok(200), Some(GrantType::ApiKey), presented),
        // Not before the deadline.
        (_, false) => (Err(ErrorKind::Ambiguous), None, presented),
    };
    assert_eq!(
        (outcome, way, api.presentations(&token)),
        (expected, by, presentations),
        "{step}, key: {with_key}"
    );
    if expected.is_err() {
        pass(&path, "mark_settles");
        let (_, client) = connect(builder(false));
        let expected = if left == Left::Spent {
            Err(ErrorKind::Refused)
        } else {
            Ok(200)
        };
        assert_eq!(
            (request(&client).await, api.presentations(&token)),
            (expected, presented + 1),
            "{step}"
        );
    }
    // Whatever came of it, the store is readable, and the operator can renew.
    let (_, operator) = connect(builder(true));
    assert_eq!(request(&operator).await, Ok(200), "{step}");
    operator.source::<Body>().renew().await.expect(step);
    assert_eq!(
        api.counts().reuse_violations > 0,
        left == Left::Spent && !with_key,
        "{step}, key: {with_key}"
    );
}

/// Makes a time in the stored form one that is past.
fn pass(folder: &Path, name: &str) {
    let record = std::fs::read_dir(folder)
        .expect("the folder")
        .map(|entry| entry.expect("an entry").path())
        .find(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .expect("a record");
    let mut form: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&record).expect("readable")).expect("JSON");
    assert!(form[name].as_u64().is_some_and(|time| time > 0), "{form}");
    form[name] = 1.into();
    std::fs::write(record, form.to_string()).expect("writing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g22_a_kill_at_any_step_leaves_the_next_process_working() {
    let rows = STEPS.iter().flat_map(|(step, presented, left)| {
        [true, false].map(|with_key| tokio::spawn(killed_at(step, *presented, *left, with_key)))
    });
    for row in futures::future::join_all(rows).await {
        row.expect("a row of the table");
    }
}

/// SIGSTOP after the mark, before or after the call went out, and beyond the lease; then SIGCONT.
async fn stopped(call_is_out: bool, leader_has_key: bool, other_has_key: bool) {
    let api = FakeApi::start().await.expect("a server");
    let server = RedisServer::start();
    let builder = || {
        let store = RedisStore::builder(server.url())
            .build()
            .expect("a good URL");
        ApiVideoAuthLayer::builder()
            .base_url(api.url())
            .call_timeout(CALL_TIMEOUT)
            .store(store)
    };
    api.set_token_lifetime(Duration::from_millis(1));
    let (layer, client) = connect(builder().api_key(api.api_key()));
    client.source::<Body>().renew().await.expect("a login");
    assert!(layer.shutdown(HOUR).await);
    api.set_token_lifetime(HOUR);
    let token = api.live_refresh_token().expect("a refresh token");

    let leader = if call_is_out {
        let gate = api.gate(GatePoint::BeforeCommit);
        let leader = start_with(&api, &server.url(), "none", leader_has_key, seconds(10.0));
        gate.reached(1).await;
        leader.signal("-STOP");
        leader.is_stopped().await;
        gate.open();
        leader
    } else {
        let leader = start(&api, &server.url(), "stop After Mark", leader_has_key);
        leader.is_stopped().await;
        leader
    };
    let begun = Instant::now();
    let other = if other_has_key {
        builder().api_key(api.api_key())
    } else {
        builder()
    };
    let (layer, client) = connect(other);
    assert_eq!(request(&client).await, Ok(200));
    let waited = begun.elapsed();
    // The lease of 5 s; without a key also the mark, of half a second and 5 s.
    let least = seconds(if other_has_key { 3.0 } else { 5.3 });
    assert!(waited > least && waited < seconds(7.0), "{waited:?}");
    let newest = api.live_refresh_token();
    leader.signal("-CONT");
    let said = leader.passed().await;
    assert!(
        said.contains("answered Ok(200)") && said.contains("ended Some(Store)"),
        "{said}"
    );
    let presentations = usize::from(call_is_out || !other_has_key);
    assert_eq!(
        (api.presentations(&token), api.counts().reuse_violations),
        (presentations, 0)
    );
    assert_eq!(api.live_refresh_token(), newest);
    // What is stored is what the other one got.
    assert!(layer.shutdown(HOUR).await);
    let (layer, last) = connect(builder());
    let pair = last.source::<Body>().pair().await.expect("the stored pair");
    assert_eq!(
        pair.refresh_token().map(|token| token.expose().to_owned()),
        newest
    );
    assert_eq!(
        layer.subscribe().latest().map(|renewed| renewed.grant),
        Some(GrantType::Store)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs redis-server; .ci/run runs it"]
async fn g23_a_process_stopped_after_its_mark_presents_nothing() {
    tokio::join!(stopped(false, true, true), stopped(false, false, false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs redis-server; .ci/run runs it"]
async fn g23_a_process_stopped_beyond_its_lease_overwrites_nothing() {
    stopped(true, false, true).await;
}

/// Redis comes back empty, or from an older dump, or is paused, under processes that hold a pair.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs redis-server; .ci/run runs it"]
async fn g23_a_redis_that_forgets_gets_the_newest_pair_back() {
    let api = FakeApi::start().await.expect("a server");
    let mut server = RedisServer::start();
    let url = server.url();
    let builder = || {
        let store = RedisStore::builder(&url).build().expect("a good URL");
        ApiVideoAuthLayer::builder()
            .base_url(api.url())
            .early_window(Duration::ZERO)
            .store(store)
    };
    let (_, operator) = connect(builder().api_key(api.api_key()));
    assert_eq!(request(&operator).await, Ok(200));
    let members: Vec<_> = (0..3).map(|_| connect(builder())).collect();
    let all_work = async || {
        for (_, client) in &members {
            assert_eq!(request(client).await, Ok(200));
        }
    };
    all_work().await;
    let key = "{apivideo-auth:default@".to_owned()
        + &api.url().replace(':', "_3a").replace('/', "_2f")
        + "}:record";
    // An older copy in the same Redis.
    assert_eq!(server.command(&["COPY", &key, "dump"]), ":1");
    api.revoke_access_tokens();
    all_work().await;
    assert_eq!(server.command(&["COPY", "dump", &key, "REPLACE"]), ":1");
    api.revoke_access_tokens();
    all_work().await;
    server.restart();
    all_work().await;
    api.revoke_access_tokens();
    all_work().await;
    server.command(&["CLIENT", "PAUSE", "1000", "ALL"]);
    all_work().await;
    api.revoke_access_tokens();
    all_work().await;
    let counts = api.counts();
    assert_eq!(
        (counts.logins, counts.refreshes, counts.reuse_violations),
        (1, 4, 0)
    );
    assert_eq!(api.most_presentations(), 1);
}
