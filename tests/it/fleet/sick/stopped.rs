//! A process that is stopped (SIGSTOP) at each step of a renewal, and goes on later.

use std::sync::Arc;

use apivideo_auth::testing::GatePoint;

use super::{
    super::child::{CALL_TIMEOUT, connect, request, start_with},
    place::Place,
    table, *,
};
use crate::redis_server::RedisServer;

/// A step, what the child is told to do there, and where the server holds its call.
type Step = (&'static str, &'static str, Option<GatePoint>);

const STEPS: [Step; 8] = [
    ("with the lock", "stop After Lock", None),
    ("before the mark", "stop Before Mark", None),
    ("after the mark", "stop After Mark", None),
    ("in the call", "none", Some(GatePoint::BeforeCommit)),
    ("after the call", "none", Some(GatePoint::AfterCommit)),
    ("before the save", "stop Before Pair", None),
    ("after the save", "stop After Pair", None),
    ("before unlocking", "stop Before Unlock", None),
];

/// Returns what the table tells of it.
async fn stopped((name, order, gate): Step, place: Place, has_key: bool) -> String {
    let name = format!("{name}, {:?}, key: {has_key}", place.kind());
    let api = FakeApi::start().await.expect("a server");
    let builder = |with_key: bool| {
        let builder = ApiVideoAuthLayer::builder()
            .base_url(api.url())
            .call_timeout(CALL_TIMEOUT);
        let builder = place.open(builder);
        if with_key {
            builder.api_key(api.api_key())
        } else {
            builder
        }
    };
    let log_in = async || {
        let (layer, operator) = connect(builder(true));
        operator.source::<Body>().renew().await.expect("a login");
        assert!(layer.shutdown(HOUR).await, "{name}");
    };
    api.set_token_lifetime(Duration::from_millis(1));
    log_in().await;
    api.set_token_lifetime(HOUR);
    let token = api.live_refresh_token().expect("a refresh token");

    let gate = gate.map(|point| api.gate(point));
    let sick = start_with(&api, &place.text(), order, has_key, seconds(10.0));
    if let Some(gate) = &gate {
        gate.reached(1).await;
        sick.signal("-STOP");
    }
    sick.is_stopped().await;
    drop(gate);
    place.settle_mark(&api);

    // On files the lock stays for as long as its process lives: without a key, one waits for that in vain.
    let waits = !has_key && place.kind() == Kind::File;
    let span = if waits {
        2 * CALL_TIMEOUT
    } else {
        seconds(20.0)
    };
    let (layer, healthy) = connect(builder(has_key).renewal_timeout(span));
    let outcome = request(&healthy).await;
    let way = layer.subscribe().latest().map(|renewed| renewed.grant);
    sick.signal("-CONT");
    let said = sick.passed().await;
    let answered = said.split_once("answered ").expect("an outcome").1;
    let answered = answered.lines().next().expect("a line").to_owned();

    let is_presented_twice = api.presentations(&token) > 1;
    let violations = api.counts().reuse_violations;
    assert_eq!(
        violations,
        usize::from(is_presented_twice),
        "{name}: {said}"
    );
    // Spent, its pair not stored, no key, and no lock that tells of the one who has it: what G22 leaves.
    let is_allowed = place.kind() == Kind::Redis && !has_key;
    assert!(!is_presented_twice || is_allowed, "{name}: {said}");
    if is_presented_twice {
        // A strict server has revoked the family.
        log_in().await;
    } else {
        assert_eq!(answered, "Ok(200)", "{name}: {said}");
    }
    let calls = api.counts().token_calls;
    // After a refusal it looks at the store half a minute later at the most.
    if !is_presented_twice {
        for _ in 0..50 {
            if request(&healthy).await == Ok(200) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(request(&healthy).await, Ok(200), "{name}: {said}");
        assert_eq!(api.counts().token_calls, calls, "{name}: it adopts: {said}");
    }
    assert!(layer.shutdown(HOUR).await, "{name}");
    // What is stored is good, its refresh token too.
    let (layer, next) = connect(builder(false));
    next.source::<Body>().renew().await.expect(&name);
    assert!(layer.shutdown(HOUR).await, "{name}");
    assert_eq!(api.counts().reuse_violations, violations, "{name}: {said}");

    let healthy = match (outcome, way) {
        (Ok(200), Some(GrantType::Store)) => "adopts the new pair".to_owned(),
        (Ok(200), Some(GrantType::ApiKey)) => "logs in beside it".to_owned(),
        (Ok(200), Some(GrantType::RefreshToken)) => "renews, once the lock has ended".to_owned(),
        (outcome, _) => match outcome {
            Ok(status) => status.to_string(),
            Err(kind) => format!("`{kind:?}` until it goes on"),
        },
    };
    let answered = match &*answered {
        "Ok(200)" => "served",
        "Ok(401)" => "401",
        other => other,
    };
    let twice = if is_presented_twice { "once" } else { "never" };
    let logins = if is_presented_twice { 2 } else { 1 };
    format!("{healthy} | {answered} | {} | {twice}", calls - logins)
}

async fn stopped_at_each_step(place: impl Fn(usize) -> Place) {
    let cells = [true, false].map(|has_key| STEPS.map(|step| (has_key, step)));
    let cells = cells.into_iter().flatten().enumerate();
    let cells = cells.map(|(at, (has_key, step))| {
        let place = place(at);
        tokio::spawn(async move {
            let kind = place.kind();
            (kind, has_key, step.0, stopped(step, place, has_key).await)
        })
    });
    let mut played = Vec::new();
    for cell in futures::future::join_all(cells).await {
        played.push(cell.expect("a cell"));
    }
    let kind = played[0].0;
    let mut lines = String::new();
    for has_key in [true, false] {
        let of_fleet = played.iter().filter(|(_, key, ..)| *key == has_key);
        let of_fleet = of_fleet.map(|(_, _, step, told)| (*step, told.clone()));
        lines += &table::stopped_lines(kind, has_key, of_fleet);
    }
    table::agrees(&lines, |row| table::is_of_stopped(row, kind));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g22_one_that_is_stopped_is_no_trouble_on_files() {
    let folder = tempfile::tempdir().expect("a folder");
    stopped_at_each_step(|at| Place::Folder(folder.path().join(at.to_string()))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs redis-server; .ci/run runs it"]
async fn g22_one_that_is_stopped_is_no_trouble_on_redis() {
    let server = Arc::new(RedisServer::start());
    stopped_at_each_step(|_| Place::Redis(server.clone())).await;
}
