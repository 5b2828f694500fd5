//! Sources, chunks and tokens that fail.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use apivideo_auth::{
    UploadTokens,
    testing::ManualClock,
    upload_token::{Problem, Unfinished},
};
use tokio::io::{AsyncRead, ReadBuf};
use tower::service_fn;

use super::*;

#[tokio::test]
async fn a_source_of_another_length_than_said_is_an_error() {
    let film = film(CHUNK + 7);
    let size = film.len() as u64;
    for (length, said, message, sent) in [
        (0, Some(0), "empty", 0),
        (0, None, "empty", 0),
        (0, Some(5), "empty", 0),
        (7, Some(8), "shorter", 0),
        (7, Some(6), "longer", 0),
        (CHUNK, Some(size), "shorter", 0),
        (film.len(), Some(size + 1), "shorter", 1),
        (film.len(), Some(size - 1), "longer", 1),
        (film.len(), Some(CHUNK as u64), "longer", 0),
        (7, Some(52_428_800_001), "52,428,800,000", 0),
    ] {
        let api = fake();
        let source = Source::new(&film[..length]);
        let source = if let Some(said) = said {
            source.length(said)
        } else {
            source
        };
        let service = with_token(&api).await;
        let error = upload(service, source, options()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UploadSource);
        assert!(
            format!("{error:?}").contains(message),
            "{length} {said:?} {error:?}"
        );
        assert_eq!(api.video_ids().len(), sent, "{length} {said:?}");
        assert_eq!(Unfinished::of(&error).is_some(), sent > 0);
    }
}

#[tokio::test]
async fn options_that_cannot_work_send_nothing() {
    let api = fake();
    let service = with_token(&api).await;
    api.clear_journal();
    for options in [
        options().chunk_size(CHUNK - 1),
        options().chunk_size(128 * MIB + 1),
        options().concurrency(0),
        options().attempts(0),
        UploadOptions::to_video(""),
        UploadOptions::to_video("../upload-tokens"),
    ] {
        let error = send(service.clone(), b"a film", options).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
    }
    assert!(api.journal().is_empty());
}

#[tokio::test]
async fn a_source_that_fails_in_the_middle_names_the_video() {
    struct Broken;
    impl AsyncRead for Broken {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
        }
    }
    let api = fake();
    let film = film(CHUNK + MIB);
    let service = with_token(&api).await;
    let source = Source::new(film.chain(Broken));
    let error = upload(service.clone(), source, options())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UploadSource);
    let [id] = &api.video_ids()[..] else {
        panic!("one video")
    };
    assert!(error.to_string().contains(id), "{error}");
    let unfinished = Unfinished::of(&error).unwrap();
    assert_eq!(
        (unfinished.video_id(), unfinished.bytes()),
        (Some(&**id), CHUNK as u64)
    );

    let error = upload(service, Source::new(Broken), options())
        .await
        .unwrap_err();
    assert!(error.kind() == ErrorKind::UploadSource && Unfinished::of(&error).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_chunk_refused_twice_is_sent_again_after_the_wait() {
    let film = film(2 * CHUNK + 1);
    for (status, asked) in [(503, 0), (504, 0), (429, 17)] {
        let api = fake();
        let service = with_token(&api).await;
        api.clear_journal();
        let left = AtomicUsize::new(2);
        api.on_api_request(move |parts| {
            let second = parts
                .headers
                .get(header::CONTENT_RANGE)?
                .to_str()
                .ok()?
                .starts_with("bytes 5242880-");
            let refuse = second
                && left
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                        left.checked_sub(1)
                    })
                    .is_ok();
            let response = Response::builder()
                .status(status)
                .header("x-ratelimit-retry-after", asked);
            refuse.then(|| response.body(Bytes::new()).unwrap())
        });
        let start = tokio::time::Instant::now();
        let done = send(service, &film, options()).await.unwrap();
        assert_is(&api, done.video_id(), &film, 3);
        assert_eq!(ranges(&api).len(), 5);
        let waited = start.elapsed();
        assert!(waited >= Duration::from_secs(2 * asked), "{waited:?}");
        assert!(waited <= Duration::from_secs(2 * asked + 2), "{waited:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_what_may_change_is_tried_until_the_last_attempt() {
    for (status, attempts) in [(500, 4), (400, 1), (404, 1), (413, 1)] {
        let api = fake();
        let id = create_video(&api).await;
        api.on_api_request(move |_| {
            Some(
                Response::builder()
                    .status(status)
                    .body(Bytes::new())
                    .unwrap(),
            )
        });
        api.clear_journal();
        let options = UploadOptions::to_video(id).attempts(4);
        let error = send(bearer(&api), b"a film", options).await.unwrap_err();
        assert_eq!(Problem::of(&error).unwrap().status(), status);
        assert_eq!(ranges(&api).len(), attempts, "{status}");
    }
}

/// Carries out each request, but loses the response to those that `lose` names.
fn losing<S>(
    service: S,
    lose: impl Fn(&Request<UploadBody>) -> bool + Clone,
) -> impl Service<Request<UploadBody>, Response = Response<FakeBody>, Error = BoxError> + Clone
where
    S: Service<Request<UploadBody>, Response = Response<FakeBody>, Error = BoxError> + Clone,
{
    service_fn(move |request: Request<UploadBody>| {
        let (lost, service) = (lose(&request), service.clone());
        async move {
            let response = service.oneshot(request).await?;
            if lost {
                Err(io::Error::from(io::ErrorKind::ConnectionReset).into())
            } else {
                Ok(response)
            }
        }
    })
}

#[tokio::test(start_paused = true)]
async fn a_lost_response_costs_nothing_and_no_video_goes_twice() {
    let film = film(3 * CHUNK);
    for lost in ["bytes 5242880-", "bytes 10485760-"] {
        let api = fake();
        let first = Arc::new(AtomicUsize::new(0));
        let service = losing(with_token(&api).await, move |request| {
            let range = request
                .headers()
                .get(header::CONTENT_RANGE)
                .unwrap()
                .to_str()
                .unwrap();
            range.starts_with(lost) && first.fetch_add(1, Ordering::Relaxed) == 0
        });
        let done = send(service, &film, options()).await.unwrap();
        assert_is(&api, done.video_id(), &film, 3);
        assert!(done.video().is_some());
        assert_eq!(api.video_ids().len(), 1);
    }

    let api = fake();
    let error = send(
        losing(with_token(&api).await, |_| true),
        b"a film",
        options(),
    )
    .await
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::VideoMayExist);
    assert_eq!(api.video_ids().len(), 1);
}

#[tokio::test]
async fn a_token_that_expires_midway_leaves_the_video_to_another() {
    let film = film(3 * CHUNK + 1);
    for known in [true, false] {
        let clock = ManualClock::new();
        let api = FakeApi::builder()
            .keep_uploads(true)
            .clock(clock.clone())
            .build();
        let tokens = UploadTokens::<_, Body>::new(client(&with_key(&api).build().unwrap(), &api));
        let short = tokens.create(Some(Duration::from_secs(60))).await.unwrap();
        let source = || {
            let source = Source::new(&film[..]);
            if known {
                source.length(film.len() as u64)
            } else {
                source
            }
        };
        let service = layer(&api, &short).layer(api.service());
        // The second half of the minute ends with the second chunk.
        let mut bytes = 0;
        let options = UploadOptions::new()
            .chunk_size(CHUNK)
            .on_checkpoint(move |unfinished| {
                if unfinished.bytes() > bytes {
                    bytes = unfinished.bytes();
                    clock.advance(Duration::from_secs(30));
                }
            });
        let error = upload(service, source(), options).await.unwrap_err();

        assert_eq!(error.kind(), ErrorKind::Refused);
        let [id] = &api.video_ids()[..] else {
            panic!("one video")
        };
        assert!(error.to_string().contains(id), "{error}");
        assert_eq!(
            Problem::of(&error).unwrap().kind(),
            "authentication-invalid-upload-token"
        );
        let unfinished = Unfinished::of(&error).unwrap();
        assert_eq!(
            (unfinished.video_id(), unfinished.bytes()),
            (Some(&**id), 2 * CHUNK as u64)
        );

        let service = with_token(&api).await;
        api.clear_journal();
        let options = UploadOptions::new().resume(unfinished).concurrency(2);
        let done = upload(service.clone(), source(), options).await.unwrap();
        assert_eq!(done.video_id(), id);
        assert_is(&api, id, &film, 4);
        assert_eq!(ranges(&api).len(), 2);

        let other = Source::new(&film[1..]).length(film.len() as u64 - 1);
        let other = upload(service, other, UploadOptions::new().resume(unfinished)).await;
        assert_eq!(other.unwrap_err().kind(), ErrorKind::Configuration);
    }
}
