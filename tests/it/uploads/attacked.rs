//! What is not as long as it was, or is somebody else's, is not told as finished (G28).

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use apivideo_auth::{testing::Fault, upload_token::Unfinished};
use http::request;
use tokio::time::Instant;

use super::*;

fn is_upload(request: &request::Parts) -> bool {
    request.uri.path() == "/upload" || request.uri.path().ends_with("/source")
}

/// An upload of unknown length of which three chunks are accepted.
async fn begun(api: &FakeApi, client: &Client, id: &str, film: &[u8]) -> Unfinished {
    let calls = AtomicUsize::new(0);
    let fourth = move |request: &request::Parts| {
        is_upload(request) && calls.fetch_add(1, Ordering::Relaxed) >= 3
    };
    api.fault(Fault::status(418).on(fourth).always());
    let options = UploadOptions::to_video(id).chunk_size(CHUNK);
    let error = upload(client.clone(), Source::new(film), options).await;
    api.fault(None);
    Unfinished::of(&error.expect_err("the fourth chunk"))
        .expect("what is left")
        .clone()
}

#[tokio::test(start_paused = true)]
async fn g28_a_source_that_became_shorter_finishes_nothing() {
    let api = FakeApi::in_process();
    let (client, id) = (bearer(&api), create_video(&api).await);
    let film = film(22 * MIB);
    let left = begun(&api, &client, &id, &film).await;
    // Nobody can say how much the API has.
    let status = |request: &request::Parts| request.uri.path().ends_with("/status");
    api.fault(Fault::status(503).on(status).always());
    let resumed = UploadOptions::new().resume(&left);
    let result = upload(client, Source::new(&film[..12 * MIB]), resumed).await;
    let error = result.expect_err("12 of 22 MiB");
    assert_eq!(error.kind(), ErrorKind::UploadSource, "{error}");
}

#[tokio::test(start_paused = true)]
async fn g28_an_empty_source_is_no_upload() {
    for length in [None, Some(0)] {
        let api = FakeApi::in_process();
        let (client, id) = (bearer(&api), create_video(&api).await);
        let mut source = Source::new(&b""[..]);
        if let Some(length) = length {
            source = source.length(length);
        }
        let error = upload(client, source, UploadOptions::to_video(&id)).await;
        assert_eq!(error.unwrap_err().kind(), ErrorKind::UploadSource);
        assert!(api.received(&id).is_none_or(|received| !received.finished));
    }
}

#[tokio::test(start_paused = true)]
async fn g28_a_source_of_another_size_is_none_of_ours() {
    let api = FakeApi::in_process();
    let (client, id) = (bearer(&api), create_video(&api).await);
    let others = Source::new(&b"somebody else's"[..]);
    upload(client.clone(), others, UploadOptions::to_video(&id))
        .await
        .expect("the first source");
    // The length of ours is not told beforehand, and its first attempt may have arrived.
    api.fault(Fault::status(500).on(is_upload));
    let ours = Source::new(&b"my film, of another length"[..]);
    let result = upload(client, ours, UploadOptions::to_video(&id)).await;
    result.expect_err("the video has another source");
}

#[tokio::test(start_paused = true)]
async fn g28_a_refusal_that_came_after_the_commit_is_no_failure() {
    let film = film(CHUNK + 1);
    for fault in [
        Fault::status(401),
        Fault::status(403),
        Fault::status(413),
        Fault::problem(400, "invalid-attribute"),
    ] {
        let last = |request: &request::Parts| {
            let range = request.headers.get(header::CONTENT_RANGE);
            is_upload(request) && range.is_none_or(|it| it.to_str().unwrap().contains("-5242880/"))
        };
        let fault = fault.after_commit().on(last);
        // By a bearer, the status is asked at once; in one request or several.
        for size in [7, film.len()] {
            let api = fake();
            let id = create_video(&api).await;
            api.fault(fault.clone());
            let options = UploadOptions::to_video(&id).chunk_size(CHUNK).attempts(1);
            let done = send(bearer(&api), &film[..size], options).await;
            done.unwrap_or_else(|error| panic!("{fault:?} {size}: {error}"));
            assert!(api.received(&id).is_some_and(|it| it.finished));
        }
        // Without one it is what "already uploaded" means later.
        let api = fake();
        let service = with_token(&api).await;
        api.fault(fault.clone());
        let error = send(service.clone(), &film, options()).await.unwrap_err();
        let left = Unfinished::of(&error).expect("what is left");
        assert!(left.has_begun());
        let resumed = send(service, &film, UploadOptions::new().resume(left)).await;
        let done = resumed.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        assert_eq!(done.bytes(), film.len() as u64);
    }
}

#[tokio::test(start_paused = true)]
async fn g28_nothing_has_begun_where_no_token_can_be_had() {
    let api = fake();
    let id = create_video(&api).await;
    for status in [500, 504] {
        api.fault(Fault::status(status).always());
        let error = send(bearer(&api), b"a film", UploadOptions::to_video(&id)).await;
        let error = error.expect_err("no token");
        let left = Unfinished::of(&error).expect("what is left");
        assert!(!left.has_begun(), "{status}: {}", left.to_json());
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_in_flight_while_an_upload_waits() {
    let (api, film) = (fake(), film(CHUNK + 1));
    let id = create_video(&api).await;
    api.fault(Fault::rate_limited(60).on(is_upload));
    let told = Arc::new(Mutex::new(Vec::new()));
    let (tell, start) = (told.clone(), Instant::now());
    let options = UploadOptions::to_video(&id)
        .on_progress(move |now| tell.lock().unwrap().push((start.elapsed(), now)));
    send(bearer(&api), &film, options).await.unwrap();
    let told = told.lock().unwrap();
    let in_the_wait = |(at, _): &&(Duration, _)| *at < Duration::from_secs(30);
    let last = told.iter().rfind(in_the_wait).expect("a report");
    assert_eq!((last.1.in_flight(), last.1.bytes), (0, 0), "{told:?}");
}
