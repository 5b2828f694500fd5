//! The fake server's own promises: what it says of tokens, faults, gates and time is what it does.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::{Clock, testing::*};

mod faults;
mod headers;
#[cfg(feature = "upload-tokens")]
mod resources;
#[cfg(feature = "upload-tokens")]
mod uploads;

/// A token call as the layer makes it, without the layer.
fn post(path: &str, body: &Value) -> Request<Full<Bytes>> {
    let request = Request::post(path).header("content-type", "application/json");
    request.body(Full::from(body.to_string())).unwrap()
}

fn login(api: &FakeApi) -> Request<Full<Bytes>> {
    post("/auth/api-key", &json!({ "apiKey": api.api_key() }))
}

fn refresh(token: &str) -> Request<Full<Bytes>> {
    post("/auth/refresh", &json!({ "refreshToken": token }))
}

fn get(path: &str, token: &str) -> Request<Full<Bytes>> {
    let request = Request::get(path).header("authorization", format!("Bearer {token}"));
    request.body(Full::default()).unwrap()
}

/// `null` where the body is no JSON, so that a test can go on to the status.
async fn read<B: Body>(response: Response<B>) -> Result<Value, B::Error> {
    let bytes = response.into_body().collect().await?.to_bytes();
    Ok(serde_json::from_slice(&bytes).unwrap_or_default())
}

/// The status and the body of what must not break off.
async fn call(api: &FakeApi, request: Request<Full<Bytes>>) -> (u16, Value) {
    let response = api.service().oneshot(request).await.unwrap();
    (response.status().as_u16(), read(response).await.unwrap())
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_refresh_token_presented_twice_revokes_its_family_and_no_other() {
    let api = FakeApi::in_process();
    let (_, first) = call(&api, login(&api)).await;
    let (_, second) = call(&api, refresh(&text(&first, "refresh_token"))).await;
    let (other, _) = api.mint_pair();
    assert_eq!(
        call(&api, get("/videos", &text(&second, "access_token")))
            .await
            .0,
        200
    );

    let (status, problem) = call(&api, refresh(&text(&first, "refresh_token"))).await;
    assert_eq!(status, 401);
    assert!(text(&problem, "type").ends_with("/authentication-invalid-refresh-token"));
    assert_eq!(
        call(&api, get("/videos", &text(&second, "access_token")))
            .await
            .0,
        401
    );
    assert_eq!(
        call(&api, refresh(&text(&second, "refresh_token"))).await.0,
        401
    );
    assert_eq!(call(&api, get("/videos", &other)).await.0, 200);

    let counts = api.counts();
    assert_eq!(
        (counts.reuse_violations, counts.grants, counts.refused),
        (1, 2, 2)
    );
    assert_eq!(api.presentations(&text(&first, "refresh_token")), 2);
}

#[tokio::test]
async fn an_access_token_lives_as_long_as_the_clock_says() {
    let clock = ManualClock::new();
    let lifetime = Duration::from_millis(2500);
    let api = FakeApi::builder()
        .clock(clock.clone())
        .token_lifetime(lifetime)
        .build();
    let (_, pair) = call(&api, login(&api)).await;
    assert_eq!(pair["expires_in"], 2.5);

    clock.advance(lifetime - Duration::from_nanos(1));
    clock.suspend(lifetime);
    assert_eq!(
        call(&api, get("/videos", &text(&pair, "access_token")))
            .await
            .0,
        200
    );
    clock.advance(Duration::from_nanos(1));
    assert_eq!(
        call(&api, get("/videos", &text(&pair, "access_token")))
            .await
            .0,
        401
    );
}

#[tokio::test]
async fn the_api_key_is_taken_as_basic_authorization() {
    use base64::{Engine, engine::general_purpose::STANDARD};

    let api = FakeApi::in_process();
    let status = async |user: &str| {
        let value = format!("Basic {}", STANDARD.encode(user));
        let request = Request::get("/echo").header("authorization", value);
        call(&api, request.body(Full::default()).unwrap()).await.0
    };
    assert_eq!(status(&format!("{}:", api.api_key())).await, 200);
    assert_eq!(status(api.api_key()).await, 401);
    api.refuse_api_key(true);
    assert_eq!(status(&format!("{}:", api.api_key())).await, 401);
}

#[tokio::test]
async fn a_call_that_is_dropped_at_a_gate_is_no_longer_in_flight() {
    let api = FakeApi::in_process();
    let gate = api.gate(GatePoint::BeforeCommit);
    let calls: Vec<_> = (0..3)
        .map(|_| tokio::spawn(api.service().oneshot(login(&api))))
        .collect();
    gate.reached(3).await;
    assert_eq!((api.counts().in_flight, api.counts().grants), (3, 0));

    calls.iter().for_each(tokio::task::JoinHandle::abort);
    for call in calls {
        assert!(call.await.is_err());
    }
    assert_eq!((api.counts().in_flight, api.counts().max_in_flight), (0, 3));
    gate.open();
    assert_eq!(call(&api, login(&api)).await.0, 200);
}

#[tokio::test]
async fn a_call_is_in_flight_until_its_body_is_read() {
    let api = FakeApi::in_process();
    let gate = api.gate(GatePoint::MidBody);
    let response = api.service().oneshot(login(&api)).await.unwrap();
    let body = tokio::spawn(read(response));
    gate.reached(1).await;
    assert_eq!(api.counts().in_flight, 1);
    gate.open();
    assert!(body.await.unwrap().unwrap()["access_token"].is_string());
    assert_eq!(api.counts().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn held_time_lets_no_timeout_fire_while_a_gate_is_shut() {
    let api = FakeApi::in_process();
    for held in [true, false] {
        let hold = held.then(hold_time);
        let gate = api.gate(GatePoint::BeforeCommit);
        let timed =
            tokio::time::timeout(Duration::from_secs(10), api.service().oneshot(login(&api)));
        let task = tokio::spawn(timed);
        gate.reached(1).await;
        // All tasks wait for another thread.
        let (done, wait) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            done.send(())
        });
        wait.await.unwrap();
        gate.open();
        drop(hold);
        assert_eq!(task.await.unwrap().is_ok(), held);
    }
}

#[tokio::test(start_paused = true)]
async fn a_manual_clock_moves_as_told_and_with_tokio() {
    let clock = ManualClock::with_tokio();
    let start = clock.now();
    tokio::time::advance(Duration::from_secs(1)).await;
    clock.advance(Duration::from_secs(2));
    clock.set_wall_back(Duration::from_secs(4));
    assert_eq!(
        clock.now().monotonic,
        start.monotonic + Duration::from_secs(3)
    );
    assert_eq!(clock.now().wall, start.wall - Duration::from_secs(1));
}

#[tokio::test]
async fn the_server_closes_the_socket_on_a_dropped_call_and_when_the_last_handle_is_gone() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let api = FakeApi::start().await.unwrap();
    let connect = || tokio::net::TcpStream::connect(api.url().replace("http://", ""));
    let mut called = connect().await.unwrap();
    let mut idle = connect().await.unwrap();
    api.fault(Fault::disconnect().after_commit());
    let body = json!({ "apiKey": api.api_key() }).to_string();
    let head = "POST /auth/api-key HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: ";
    called
        .write_all(format!("{head}{}\r\n\r\n{body}", body.len()).as_bytes())
        .await
        .unwrap();
    assert_eq!(called.read(&mut [0]).await.unwrap(), 0);
    assert_eq!(api.counts().grants, 1);

    drop(api);
    assert_eq!(idle.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn the_port_that_is_asked_for_is_the_one_that_is_taken() {
    let free = FakeApi::start().await.unwrap();
    let port = free.url().rsplit(':').next().unwrap().parse().unwrap();
    let taken = FakeApi::builder().port(port).serve().await.unwrap_err();
    assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
    let url = free.url();
    drop(free);
    // The socket is closed by a task.
    let again = async {
        loop {
            match FakeApi::builder().port(port).serve().await {
                Ok(api) => break api,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    let again = tokio::time::timeout(Duration::from_secs(5), again).await;
    assert_eq!(again.unwrap().url(), url);
}

#[tokio::test]
async fn debug_shows_no_secret() {
    let api = FakeApi::in_process();
    let (access, _) = api.mint_pair();
    call(&api, login(&api)).await;
    call(&api, get("/echo?token=test-only", &access)).await;
    let all = format!(
        "{api:?} {:?} {:?} {:?}",
        api.service(),
        api.journal(),
        FakeApi::builder()
    );
    assert!(!all.contains("test-only"), "{all}");
}

#[test]
fn public_types_are_send_and_sync() {
    fn check<T: Send + Sync + 'static>() {}
    check::<FakeApi>();
    check::<FakeApiBuilder>();
    check::<FakeBody>();
    check::<FakeService>();
    check::<Fault>();
    check::<Gate>();
    check::<ManualClock>();
    check::<TimeHold>();
}
