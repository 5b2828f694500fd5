//! The lines for a person on call, and the span of a renewal.

use std::io;

use apivideo_auth::{Error, ErrorKind, testing::Fault};
use tokio::time::sleep;
use tower::{ServiceExt, service_fn};

use crate::{
    fleet::Fleet,
    support::{
        Body, HOUR, client,
        faulty_store::{Op, When, hook},
        get, list, paused, seconds, settle, with_key, with_refresh_token,
    },
    traces::Traces,
};

fn lines(traces: &Traces, words: &str) -> Vec<String> {
    let text = traces.text();
    assert!(!text.contains("test-only"), "a secret: {text}");
    let found = text.lines().filter(|line| line.contains(words));
    found.map(str::to_owned).collect()
}

#[tokio::test(start_paused = true)]
async fn g29_a_renewal_is_one_info_line_and_one_span() {
    let (api, clock) = paused();
    let traces = Traces::default();
    let guard = traces.subscribe();
    let layer = with_key(&api).clock(clock).account("shop").build().unwrap();
    assert_eq!(list(&client(&layer, &api)).await.unwrap(), 200);
    settle().await;
    drop(guard);
    let told = lines(&traces, " INFO ");
    let told: Vec<_> = told
        .iter()
        .filter(|line| {
            !line.contains(": new")
                && !line.contains(": enter")
                && !line.contains(": exit")
                && !line.contains(": close")
        })
        .collect();
    assert_eq!(told.len(), 1, "{}", traces.text());
    for part in [
        "apivideo_auth::renewal: access token renewed",
        "account=\"shop\"",
        &format!("origin=\"{}\"", api.url().trim_end_matches('/')),
        "reason=First",
        "grant=ApiKey",
        "outcome=ok",
        "attempts=1",
        "generation=1",
        "duration=",
    ] {
        assert!(told[0].contains(part), "{part}: {}", told[0]);
    }
    let closed = lines(&traces, ": close");
    assert_eq!(closed.len(), 1, "one span: {}", traces.text());
    for part in [
        "renewal{",
        "reason=First",
        "outcome=ok",
        "attempts=1",
        "generation=1",
    ] {
        assert!(closed[0].contains(part), "{part}: {}", closed[0]);
    }
}

#[tokio::test(start_paused = true)]
async fn g29_a_passing_failure_warns_and_says_its_end() {
    let (api, clock) = paused();
    let traces = Traces::default();
    let guard = traces.subscribe();
    let layer = with_key(&api).clock(clock).build().unwrap();
    let client = client(&layer, &api);
    api.fault(Fault::status(503).always());
    list(&client).await.unwrap_err();
    api.fault(None);
    sleep(seconds(3)).await;
    assert_eq!(list(&client).await.unwrap(), 200);
    settle().await;
    drop(guard);
    let warned = lines(&traces, " WARN ");
    assert_eq!(warned.len(), 1, "{warned:#?}");
    for part in [
        "access token not renewed",
        "outcome=unavailable",
        "retry_after=",
        "answered 503",
        "account=\"default\"",
    ] {
        assert!(warned[0].contains(part), "{part}: {}", warned[0]);
    }
    let failed = lines(&traces, "outcome=Transient");
    assert!(
        failed.len() >= 2 && failed.iter().all(|line| line.contains("DEBUG")),
        "each attempt: {failed:#?}"
    );
    assert_eq!(
        lines(&traces, "recovered after 3 s").len() + lines(&traces, "recovered after 4 s").len(),
        1
    );
    assert!(lines(&traces, "ERROR").is_empty());
}

#[tokio::test(start_paused = true)]
async fn g29_a_permanent_failure_is_an_error_in_the_log() {
    let (api, clock) = paused();
    let traces = Traces::default();
    let guard = traces.subscribe();
    let layer = with_refresh_token(&api).clock(clock).build().unwrap();
    api.revoke_refresh_tokens();
    list(&client(&layer, &api)).await.unwrap_err();
    settle().await;
    drop(guard);
    let errors = lines(&traces, "ERROR");
    assert_eq!(errors.len(), 1, "{}", traces.text());
    assert!(errors[0].contains("outcome=refused") && errors[0].contains("log in again"));
    assert!(lines(&traces, " WARN ").is_empty());
}

#[tokio::test(start_paused = true)]
async fn g29_a_full_disk_stands_in_the_log_to_its_root() {
    let fleet = Fleet::logged_in().await;
    sleep(HOUR).await;
    let store = fleet.faulty(hook(|op, when| {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let text = "the file can't be written";
        let error = Error::store(ErrorKind::StoreUnavailable, text, Some(full.into()));
        let fails = when == When::Before && op == Op::Mark;
        async move { if fails { Err(error) } else { Ok(()) } }
    }));
    let traces = Traces::default();
    let guard = traces.subscribe();
    let process = fleet.start(fleet.keyless().store(store));
    assert_eq!(process.list().await, Err(ErrorKind::StoreUnavailable));
    settle().await;
    drop(guard);
    let renewal = lines(&traces, "access token not renewed");
    let root = io::Error::from(io::ErrorKind::StorageFull).to_string();
    assert_eq!(renewal.len(), 1);
    assert!(
        renewal[0].contains("the file can't be written: ") && renewal[0].contains(&root),
        "{}",
        renewal[0]
    );
    assert_eq!(renewal[0].matches(&root).count(), 1, "each cause once");
    let store = lines(
        &traces,
        "apivideo_auth::store: the token store can't be used",
    );
    assert!(store.iter().all(|line| line.contains(&root)) && !store.is_empty());
}

#[tokio::test(start_paused = true)]
async fn g29_a_foreign_origin_is_told_once() {
    let (api, _) = paused();
    let traces = Traces::default();
    let guard = traces.subscribe();
    let layer = with_key(&api).build().unwrap();
    let inner = service_fn(|_: http::Request<Body>| async {
        Ok::<_, tower::BoxError>(http::Response::new(Body::default()))
    });
    let client = tower::Layer::layer(&layer, inner);
    for _ in 0..3 {
        for uri in [
            "https://u:secret-password@cdn.example.com/x?token=secret",
            "https://other.example.com:444/x",
        ] {
            client.clone().oneshot(get(uri)).await.unwrap();
        }
        // Not because of their origin.
        client.clone().oneshot(get("/upload")).await.unwrap();
    }
    drop(guard);
    let told = lines(&traces, "pass without a token");
    assert_eq!(told.len(), 2, "{told:#?}");
    assert!(told[0].contains("DEBUG") && told[0].contains("apivideo_auth::request"));
    assert!(told[0].contains("to=\"https://cdn.example.com\"") && told[1].contains(":444\""));
    assert!(!traces.text().contains("secret"));
}

#[tokio::test(start_paused = true)]
async fn g29_targets_are_public_words() {
    let fleet = Fleet::logged_in().await;
    sleep(HOUR).await;
    let traces = Traces::default();
    let guard = traces.subscribe();
    let process = fleet.start(fleet.keyed().refresh_token("test-only-seed"));
    fleet.api.fault(Fault::status(503));
    assert_eq!(process.list().await, Ok(200));
    fleet.api.revoke_access_tokens();
    fleet.api.revoke_refresh_tokens();
    assert_eq!(process.list().await, Ok(200));
    drop(guard);
    let text = traces.text();
    let targets = text
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("apivideo_auth::"));
    for target in targets {
        let word = target.trim_end_matches(':');
        assert!(["renewal", "store", "request"].contains(&word), "{target}");
    }
    assert!(text.contains("apivideo_auth::request:") && text.contains("apivideo_auth::renewal:"));
}
