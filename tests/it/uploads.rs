//! Uploads in chunks, whatever the size, the source and the weather.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use apivideo_auth::{
    Error, ErrorKind, UploadTokens,
    testing::{FakeApi, FakeBody, FakeService, GatePoint, ManualClock},
    upload_token::{DelegatedUpload, Problem, Source, Unfinished, UploadOptions, Uploaded, upload},
};
use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::Full;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tower::{BoxError, Layer, Service, ServiceExt, service_fn};

use crate::{
    support::{Body, MIB, client, with_key},
    upload_tokens::{layer, mint},
};

const CHUNK: usize = 5 * MIB;

/// Bytes whose place can be told.
fn film(length: usize) -> Vec<u8> {
    let mut film = vec![0x5a; length];
    for (number, block) in film.chunks_mut(4096).enumerate() {
        let mark = (number as u64).to_le_bytes();
        let length = block.len().min(8);
        block[..length].copy_from_slice(&mark[..length]);
    }
    film
}

fn options() -> UploadOptions {
    UploadOptions::new().chunk_size(CHUNK)
}

fn fake() -> FakeApi {
    FakeApi::builder().keep_uploads(true).build()
}

async fn delegated(api: &FakeApi) -> DelegatedUpload<FakeService> {
    layer(api, &mint(api).await).layer(api.service())
}

async fn send<S>(service: S, film: &[u8], options: UploadOptions) -> Result<Uploaded, Error>
where
    S: Service<Request<Body>, Response = Response<FakeBody>> + Clone,
    S::Error: Into<BoxError>,
{
    let source = Source::new(film)
        .length(film.len() as u64)
        .file_name("film.mp4");
    upload::<Body, _, _>(service, source, options).await
}

/// What a response or a callback says about how the upload went.
fn assert_is(api: &FakeApi, video_id: &str, film: &[u8], chunks: usize) {
    let received = api.received(video_id).expect("an upload");
    assert!(received.finished);
    assert_eq!(
        (received.length, received.chunks),
        (film.len() as u64, chunks)
    );
    assert!(received.bytes.expect("the bytes were kept") == film);
}

fn ranges(api: &FakeApi) -> Vec<Option<String>> {
    let text = |value: &http::HeaderValue| value.to_str().expect("letters").to_owned();
    let uploads = api
        .journal()
        .into_iter()
        .filter(|it| it.uri.path().contains("upload") || it.uri.path().ends_with("source"));
    uploads
        .map(|it| it.headers.get(header::CONTENT_RANGE).map(text))
        .collect()
}

async fn create_video(api: &FakeApi) -> String {
    let layer = with_key(api).build().expect("a good layer");
    let request = Request::post("/videos")
        .body(Body::from(r#"{"title":"a film"}"#))
        .expect("a good request");
    client(&layer, api)
        .oneshot(request)
        .await
        .expect("a response");
    api.video_ids().pop().expect("a video")
}

#[tokio::test]
async fn any_size_arrives_byte_for_byte_by_token_and_by_bearer_with_known_and_unknown_length() {
    let all = film(3 * CHUNK + CHUNK / 2);
    for (size, chunks) in [
        (1, 1),
        (CHUNK - 1, 1),
        (CHUNK, 1),
        (CHUNK + 1, 2),
        (all.len(), 4),
    ] {
        let film = &all[..size];
        for (known, bearer) in [(true, false), (false, false), (true, true), (false, true)] {
            let api = fake();
            let source = Source::new(film);
            let source = if known {
                source.length(size as u64)
            } else {
                source
            };
            let done = if bearer {
                let id = create_video(&api).await;
                let client = client(&with_key(&api).build().unwrap(), &api);
                api.clear_journal();
                upload::<Body, _, _>(
                    client,
                    source,
                    UploadOptions::to_video(id).chunk_size(CHUNK),
                )
                .await
            } else {
                let delegated = delegated(&api).await;
                api.clear_journal();
                upload::<Body, _, _>(delegated, source, options()).await
            };
            let done = done.unwrap();
            assert_is(&api, done.video_id(), film, chunks);
            assert_eq!(api.video_ids(), [done.video_id()]);
            let json: serde_json::Value = serde_json::from_slice(done.video()).unwrap();
            assert_eq!(json["videoId"], done.video_id());

            let expected = (0..chunks).map(|chunk| match (chunks, known) {
                (1, _) => None,
                (_, true) => {
                    let (from, to) = (chunk * CHUNK, ((chunk + 1) * CHUNK).min(size) - 1);
                    Some(format!("bytes {from}-{to}/{size}"))
                }
                (_, false) if chunk + 1 == chunks => Some(format!("part {chunks}/{chunks}")),
                (_, false) => Some(format!("part {}/*", chunk + 1)),
            });
            assert_eq!(ranges(&api), expected.collect::<Vec<_>>());
        }
    }
}

#[tokio::test]
async fn a_source_that_is_empty_or_not_as_long_as_was_said_is_an_error_that_says_so() {
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
        let service = delegated(&api).await;
        let error = upload::<Body, _, _>(service, source, options())
            .await
            .unwrap_err();
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
async fn options_that_cannot_work_are_refused_before_anything_is_sent() {
    let api = fake();
    let service = delegated(&api).await;
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
    let service = delegated(&api).await;
    let source = Source::new(film.chain(Broken));
    let error = upload::<Body, _, _>(service.clone(), source, options())
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
        (&**id, CHUNK as u64)
    );

    let error = upload::<Body, _, _>(service, Source::new(Broken), options())
        .await
        .unwrap_err();
    assert!(error.kind() == ErrorKind::UploadSource && Unfinished::of(&error).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_chunk_that_is_refused_twice_is_sent_a_third_time_and_a_wait_is_kept() {
    let film = film(2 * CHUNK + 1);
    for (status, asked) in [(503, 0), (504, 0), (429, 17)] {
        let api = fake();
        let service = delegated(&api).await;
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
async fn hope_is_lost_after_the_last_attempt_and_at_once_where_nothing_will_change() {
    for (status, attempts) in [(500, 4), (400, 1), (404, 1), (413, 1)] {
        let api = fake();
        let service = delegated(&api).await;
        api.on_api_request(move |_| {
            Some(
                Response::builder()
                    .status(status)
                    .body(Bytes::new())
                    .unwrap(),
            )
        });
        api.clear_journal();
        let error = send(service, b"a film", options().attempts(4))
            .await
            .unwrap_err();
        assert_eq!(Problem::of(&error).unwrap().status(), status);
        assert_eq!(api.journal().len(), attempts, "{status}");
    }
}

/// Carries out each request, but loses the response to those that `lose` names.
fn losing<S>(
    service: S,
    lose: impl Fn(&Request<Body>) -> bool + Clone,
) -> impl Service<Request<Body>, Response = Response<FakeBody>, Error = BoxError> + Clone
where
    S: Service<Request<Body>, Response = Response<FakeBody>, Error = BoxError> + Clone,
{
    service_fn(move |request: Request<Body>| {
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
async fn a_lost_answer_costs_nothing_but_a_whole_video_is_not_sent_twice() {
    let film = film(3 * CHUNK);
    for lost in ["bytes 5242880-", "bytes 10485760-"] {
        let api = fake();
        let first = Arc::new(AtomicUsize::new(0));
        let service = losing(delegated(&api).await, move |request| {
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
        assert!(!done.video().is_empty());
        assert_eq!(api.video_ids().len(), 1);
    }

    let api = fake();
    let error = send(
        losing(delegated(&api).await, |_| true),
        b"a film",
        options(),
    )
    .await
    .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Ambiguous);
    assert_eq!(api.video_ids().len(), 1);
}

#[tokio::test]
async fn a_token_that_expires_between_chunks_names_the_video_and_another_token_goes_on() {
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
        let options = UploadOptions::new()
            .chunk_size(CHUNK)
            .on_progress(move |_| clock.advance(Duration::from_secs(30)));
        let error = upload::<Body, _, _>(service, source(), options)
            .await
            .unwrap_err();

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
            (&**id, 2 * CHUNK as u64)
        );

        let service = delegated(&api).await;
        api.clear_journal();
        let options = UploadOptions::new().resume(unfinished).concurrency(2);
        let done = upload::<Body, _, _>(service.clone(), source(), options)
            .await
            .unwrap();
        assert_eq!(done.video_id(), id);
        assert_is(&api, id, &film, 4);
        assert_eq!(ranges(&api).len(), 2);

        let other = Source::new(&film[1..]).length(film.len() as u64 - 1);
        let other =
            upload::<Body, _, _>(service, other, UploadOptions::new().resume(unfinished)).await;
        assert_eq!(other.unwrap_err().kind(), ErrorKind::Configuration);
    }
}

#[tokio::test]
async fn a_bearer_that_expires_between_chunks_is_replaced() {
    let film = film(3 * CHUNK);
    let api = fake();
    let id = create_video(&api).await;
    let (again, chunks) = (api.clone(), Arc::new(Mutex::new(Vec::new())));
    let seen = chunks.clone();
    let options = UploadOptions::to_video(&id)
        .chunk_size(CHUNK)
        .on_progress(move |progress| {
            seen.lock().unwrap().push((
                progress.chunk,
                progress.chunks,
                progress.bytes,
                progress.total,
            ));
            again.revoke_access_tokens();
        });
    let client = client(&with_key(&api).build().unwrap(), &api);
    assert_eq!(send(client, &film, options).await.unwrap().video_id(), id);
    assert_is(&api, &id, &film, 3);
    let total = Some(film.len() as u64);
    let expected = [1, 2, 3].map(|chunk| (chunk, Some(3), chunk * CHUNK as u64, total));
    assert_eq!(*chunks.lock().unwrap(), expected);
    // A bearer that nobody accepts is not tried for ever.
    api.refuse_all_bearers(true);
    let id = create_video(&fake()).await;
    let client = crate::support::client(&with_key(&api).build().unwrap(), &api);
    let error = send(client, &film, UploadOptions::to_video(id))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
}

#[tokio::test]
async fn several_chunks_are_on_their_way_once_the_first_has_named_the_video() {
    let film = Arc::new(film(4 * CHUNK + 1));
    let api = fake();
    let service = delegated(&api).await;
    let first = api.gate(GatePoint::ApiResponse);
    let (again, sent) = (service.clone(), film.clone());
    let sending = tokio::spawn(async move { send(again, &sent, options().concurrency(3)).await });
    first.reached(1).await;
    tokio::task::yield_now().await;
    assert_eq!(first.arrived(), 1);
    let rest = api.gate(GatePoint::ApiResponse);
    first.open();
    rest.reached(3).await;
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(rest.arrived(), 3);
    rest.open();
    let done = sending.await.unwrap().unwrap();
    assert_is(&api, done.video_id(), &film, 5);

    // Dropped: what is on its way ends, and nothing follows.
    let gate = api.gate(GatePoint::ApiResponse);
    let (again, sent) = (service, film.clone());
    let sending = tokio::spawn(async move { send(again, &sent, options()).await });
    gate.reached(1).await;
    sending.abort();
    assert!(sending.await.unwrap_err().is_cancelled());
    gate.open();
    assert_eq!(api.video_ids().len(), 1);
}

#[tokio::test]
async fn a_file_goes_with_its_length_and_its_name_over_a_socket() {
    let api = FakeApi::builder().keep_uploads(true).serve().await.unwrap();
    let film = film(CHUNK + 3);
    let path = std::env::temp_dir().join(format!("apivideo-auth-{} \"x\".mp4", std::process::id()));
    std::fs::write(&path, &film).unwrap();
    let source = Source::open(&path).await.unwrap();
    let service = layer(&api, &mint(&api).await)
        .layer(Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>());
    let done = upload(service, source, options()).await;
    std::fs::remove_file(&path).unwrap();
    let done = done.unwrap();
    assert_is(&api, done.video_id(), &film, 2);
    let name = path.file_name().unwrap().to_str().unwrap();
    assert_eq!(
        api.received(done.video_id()).unwrap().file_name.as_deref(),
        Some(name)
    );
    assert!(Source::open(std::env::temp_dir()).await.is_err());
}
