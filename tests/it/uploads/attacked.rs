//! What is not as long as it was, or is somebody else's, is not told as finished (G28).

use std::sync::atomic::{AtomicUsize, Ordering};

use apivideo_auth::{testing::Fault, upload_token::Unfinished};
use http::request;

use super::*;

fn is_upload(request: &request::Parts) -> bool {
    request.uri.path().ends_with("/source")
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
