//! What is sent again, and what "already uploaded" means then.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use apivideo_auth::{
    testing::Fault,
    upload_token::{Problem, Unfinished},
};
use http::request;
use tower::service_fn;

use super::*;

fn is_upload(request: &request::Parts) -> bool {
    request.uri.path() == "/upload" || request.uri.path().ends_with("/source")
}

/// Refuses so many connections, then lets requests pass.
fn refusing<S>(
    service: S,
    connections: usize,
) -> impl Service<Request<UploadBody>, Response = Response<FakeBody>, Error = BoxError> + Clone
where
    S: Service<Request<UploadBody>, Response = Response<FakeBody>, Error = BoxError> + Clone,
{
    let left = Arc::new(AtomicUsize::new(connections));
    service_fn(move |request: Request<UploadBody>| {
        let (left, service) = (left.clone(), service.clone());
        async move {
            let refuse =
                left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
            match refuse {
                Ok(_) => Err(io::Error::from(io::ErrorKind::ConnectionRefused).into()),
                Err(_) => service.oneshot(request).await,
            }
        }
    })
}

fn is_status(request: &request::Parts) -> bool {
    request.uri.path().ends_with("/status")
}

fn statuses_asked(api: &FakeApi) -> usize {
    let journal = api.journal();
    let asked = journal
        .iter()
        .filter(|it| it.uri.path().ends_with("/status"));
    asked.count()
}

#[tokio::test(start_paused = true)]
async fn g28_a_finished_upload_is_told_as_finished() {
    for fault in [
        Fault::disconnect(),
        Fault::status(500),
        Fault::status(503),
        Fault::retry_after(503, 1),
        Fault::status(408),
        Fault::status(502),
        Fault::response(201, Default::default(), "{"),
    ] {
        for chunks in [1, 3] {
            let api = fake();
            let film = film((chunks - 1) * CHUNK + 1);
            let id = create_video(&api).await;
            let last = move |request: &request::Parts| {
                let range = request.headers.get(header::CONTENT_RANGE);
                let begins = format!("bytes {}-", (chunks - 1) * CHUNK);
                is_upload(request)
                    && range.is_none_or(|it| it.to_str().unwrap().starts_with(&begins))
            };
            api.fault(fault.clone().after_commit().on(last));
            let options = UploadOptions::to_video(&id).chunk_size(CHUNK);
            let done = send(bearer(&api), &film, options).await;
            let done = done.unwrap_or_else(|error| panic!("{fault:?}: {error:?}"));
            assert_eq!(done.video_id(), id);
            assert_is(&api, &id, &film, chunks);
            assert_eq!(statuses_asked(&api), 1, "{fault:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn g28_the_status_has_the_last_word_on_already_uploaded() {
    type Edit = fn(&mut serde_json::Value);
    let edits: [(Edit, bool); 5] = [
        (
            |status| status["ingest"]["status"] = "ingested".into(),
            true,
        ),
        (
            |status| status["ingest"]["filesize"] = serde_json::Value::Null,
            true,
        ),
        (|status| status["ingest"]["filesize"] = 8.into(), false),
        (
            |status| status["ingest"]["status"] = "ingesting".into(),
            false,
        ),
        // Nobody knows what that means: the API's first word stands.
        (|status| *status = "odd".into(), true),
    ];
    for (number, (edit, is_ours)) in edits.into_iter().enumerate() {
        let api = fake();
        let id = create_video(&api).await;
        api.fault(Fault::disconnect().after_commit().on(is_upload));
        api.fault(Fault::json(edit).on(is_status));
        let done = send(bearer(&api), b"a film.", UploadOptions::to_video(&id)).await;
        assert_eq!(done.is_ok(), is_ours, "{number}: {done:?}");
        assert_eq!(statuses_asked(&api), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn g28_only_a_response_that_names_the_video_accepts_a_chunk() {
    let film = film(CHUNK + 1);
    for body in ["<html>log in first</html>", "{}", ""] {
        let api = fake();
        let id = create_video(&api).await;
        // From somebody on the way: nothing has arrived.
        api.fault(Fault::response(200, Default::default(), body).on(is_upload));
        let options = UploadOptions::to_video(&id).chunk_size(CHUNK);
        send(bearer(&api), &film, options).await.unwrap();
        assert_is(&api, &id, &film, 2);
    }
    let api = fake();
    let id = create_video(&api).await;
    let other = r#"{"videoId":"viOther"}"#;
    api.fault(
        Fault::response(201, Default::default(), other)
            .on(is_upload)
            .always(),
    );
    let error = send(bearer(&api), &film, UploadOptions::to_video(&id))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rejected);
    assert_eq!(ranges(&api).len(), 1, "each would make another video");
}

#[tokio::test(start_paused = true)]
async fn g28_a_finished_upload_can_be_resumed() {
    for fault in [Fault::disconnect(), Fault::status(503)] {
        let (api, film) = (fake(), film(2 * CHUNK));
        let id = create_video(&api).await;
        // Not even the status can be had.
        let all = move |request: &request::Parts| {
            is_upload(request) || request.uri.path().ends_with("/status")
        };
        api.fault(fault.after_commit().on(all).always());
        let options = UploadOptions::to_video(&id)
            .chunk_size(CHUNK)
            .attempts(2)
            .concurrency(2);
        let error = send(bearer(&api), &film, options).await.unwrap_err();
        assert_is(&api, &id, &film, 2);
        let unfinished = Unfinished::of(&error).expect("what is left");

        api.fault(None);
        let options = UploadOptions::to_video(&id).resume(unfinished);
        let done = send(bearer(&api), &film, options).await.unwrap();
        assert_eq!(done.video_id(), id);
    }
}

#[tokio::test(start_paused = true)]
async fn g28_a_source_of_somebody_else_is_no_success() {
    let film = film(7);
    // It was there before; the first attempt was surely not carried out.
    for refusal in 0..3 {
        let api = fake();
        let id = create_video(&api).await;
        send(bearer(&api), &film, UploadOptions::to_video(&id))
            .await
            .unwrap();
        match refusal {
            0 => api.fault(Fault::rate_limited(1).on(is_upload)),
            1 => {
                api.fault(Fault::problem(401, "authentication-invalid-access-token").on(is_upload))
            }
            _ => {}
        }
        let service = refusing(bearer(&api), usize::from(refusal == 2));
        // A 401 may come from anybody, after all was done: there it is the size that tells.
        let ours = &film[usize::from(refusal == 1)..];
        let error = send(service, ours, UploadOptions::to_video(&id))
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Rejected, "{refusal}");
        assert!(error.to_string().contains("a source before"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn g28_a_video_is_not_created_twice() {
    let film = film(CHUNK + 1);
    for size in [7, film.len()] {
        for fault in [
            Fault::status(500),
            Fault::status(503),
            Fault::status(408),
            Fault::status(504),
            Fault::disconnect(),
            Fault::response(201, Default::default(), "<html>"),
        ] {
            let api = fake();
            api.fault(fault.clone().after_commit().on(is_upload).always());
            let service = with_token(&api).await;
            let error = send(service, &film[..size], options()).await.unwrap_err();
            assert_eq!(api.video_ids().len(), 1, "{fault:?}");
            assert!(error.to_string().contains("a video may exist"), "{error}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn g28_what_was_not_carried_out_is_sent_again() {
    let film = film(CHUNK + 1);
    for (fault, refused) in [
        (Some(Fault::rate_limited(1)), 0),
        (Some(Fault::retry_after(503, 1)), 0),
        (None, 2),
    ] {
        let api = fake();
        if let Some(fault) = fault {
            api.fault(fault.on(is_upload).times(2));
        }
        let service = refusing(with_token(&api).await, refused);
        let start = tokio::time::Instant::now();
        let done = send(service, &film, options()).await.unwrap();
        assert_is(&api, done.video_id(), &film, 2);
        assert_eq!(api.video_ids(), [done.video_id()]);
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}

#[tokio::test]
async fn g28_an_error_says_what_the_api_said() {
    let refused = |title: &str| {
        let body = serde_json::json!({ "title": title, "name": "file" }).to_string();
        Fault::response(400, Default::default(), body).on(is_upload)
    };
    let api = fake();
    let id = create_video(&api).await;
    api.fault(refused("This file is odd.").times(2));
    let known = send(bearer(&api), b"a film", UploadOptions::to_video(&id)).await;
    let new = send(with_token(&api).await, b"a film", options()).await;
    for error in [known.unwrap_err(), new.unwrap_err()] {
        let text = error.to_string();
        assert!(
            text.ends_with("status 400, This file is odd. (file)"),
            "{text}"
        );
        assert_eq!(error.kind(), ErrorKind::Rejected);
    }
    // What may be a token is left out of it, and so is what would change a terminal.
    api.fault(refused(
        "The token to1tcmSFHeYY5KzyhOqVKMKb is bad.\u{1b}[2J",
    ));
    let error = send(with_token(&api).await, b"a film", options()).await;
    let error = error.unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(text.contains("The token … is bad.[2J (file)"), "{text}");
    assert!(!text.contains("to1tcm"), "{text}");
}

#[tokio::test]
async fn an_upload_token_refused_as_400_is_refused() {
    for status in [400, 401] {
        let api = fake();
        api.fault(Fault::problem(status, "authentication-invalid-upload-token").on(is_upload));
        let error = send(with_token(&api).await, b"a film", options()).await;
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{status}");
        assert_eq!(Problem::of(&error).unwrap().status(), status);
    }
}
