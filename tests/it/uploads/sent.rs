//! Uploads that arrive, and what they cost.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use apivideo_auth::{
    UploadTokenLayer,
    testing::{Fault, GatePoint},
};
use http_body_util::BodyExt;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::time::{Instant, sleep};
use tower::service_fn;

use super::*;
use crate::support::child::{Child, orders};

#[tokio::test]
async fn any_size_of_known_or_unknown_length_arrives_whole() {
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
                upload(
                    client,
                    source,
                    UploadOptions::to_video(id).chunk_size(CHUNK),
                )
                .await
            } else {
                let with_token = with_token(&api).await;
                api.clear_journal();
                upload(with_token, source, options()).await
            };
            let done = done.unwrap();
            assert_is(&api, done.video_id(), film, chunks);
            assert_eq!(api.video_ids(), [done.video_id()]);
            let json: serde_json::Value = serde_json::from_slice(done.video().unwrap()).unwrap();
            assert_eq!(json["videoId"], done.video_id());
            assert_eq!((done.bytes(), done.chunks()), (size as u64, chunks as u64));
            assert_eq!(done.status().unwrap(), 201);
            let assets = &json["assets"];
            for (url, name) in [
                (done.player(), "player"),
                (done.hls(), "hls"),
                (done.mp4(), "mp4"),
                (done.thumbnail(), "thumbnail"),
            ] {
                assert_eq!(assets[name], url.unwrap());
            }

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
async fn a_bearer_that_expires_between_chunks_is_replaced() {
    let film = film(3 * CHUNK);
    let api = fake();
    let id = create_video(&api).await;
    let (again, bytes) = (api.clone(), Arc::new(Mutex::new(Vec::new())));
    let seen = bytes.clone();
    // Before each chunk, and after it.
    let options = UploadOptions::to_video(&id)
        .chunk_size(CHUNK)
        .on_checkpoint(move |unfinished| {
            seen.lock().unwrap().push(unfinished.bytes() / CHUNK as u64);
            again.revoke_access_tokens();
        });
    let client = client(&with_key(&api).build().unwrap(), &api);
    assert_eq!(send(client, &film, options).await.unwrap().video_id(), id);
    assert_is(&api, &id, &film, 3);
    assert_eq!(*bytes.lock().unwrap(), [0, 1, 1, 2, 2, 3]);
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
async fn several_chunks_go_once_the_first_has_named_the_video() {
    let film = Arc::new(film(4 * CHUNK + 1));
    let api = fake();
    let service = with_token(&api).await;
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
        .layer(Client::builder(TokioExecutor::new()).build_http::<UploadBody>());
    let done = upload(service, source, options()).await;
    std::fs::remove_file(&path).unwrap();
    let done = done.unwrap();
    assert_is(&api, done.video_id(), &film, 2);
    let name = path.file_name().unwrap().to_str().unwrap();
    assert_eq!(
        api.received(done.video_id()).unwrap().file_name.as_deref(),
        Some(name)
    );
    for bad in [std::env::temp_dir(), path] {
        let error = Source::open(&bad).await.unwrap_err();
        assert!(error.to_string().contains(bad.to_str().unwrap()), "{error}");
    }
}

/// Takes a piece of each body every ten milliseconds, as a slow line would.
fn slow<S>(
    service: S,
) -> impl Service<Request<UploadBody>, Response = Response<FakeBody>, Error = BoxError> + Clone
where
    S: Service<Request<UploadBody>, Response = Response<FakeBody>, Error = BoxError> + Clone,
{
    service_fn(move |request: Request<UploadBody>| {
        let service = service.clone();
        async move {
            let (parts, mut body) = request.into_parts();
            let mut bytes = Vec::new();
            while let Some(Ok(frame)) = body.frame().await {
                bytes.extend_from_slice(&frame.into_data().expect("data"));
                sleep(Duration::from_millis(10)).await;
            }
            let body = UploadBody::from(Bytes::from(bytes));
            service.oneshot(Request::from_parts(parts, body)).await
        }
    })
}

#[tokio::test(start_paused = true)]
async fn progress_counts_bytes_as_they_are_taken() {
    let (api, film) = (fake(), film(3 * CHUNK));
    let told = Arc::new(Mutex::new(Vec::new()));
    let (tell, total) = (told.clone(), film.len() as u64);
    let options = options()
        .concurrency(2)
        .on_progress(move |now| tell.lock().unwrap().push((Instant::now(), now)));
    let start = Instant::now();
    send(slow(with_token(&api).await), &film, options)
        .await
        .unwrap();
    let took = start.elapsed();

    let told = told.lock().unwrap();
    let [first, .., last] = &told[..] else {
        panic!("{told:?}")
    };
    assert_eq!((first.1.bytes, first.1.total), (0, Some(total)));
    assert_eq!((last.1.bytes, last.1.accepted), (total, total));
    let most = took.as_millis() as usize / 100 + 2;
    assert!(
        (most - 2..=most).contains(&told.len()),
        "{} in {took:?}",
        told.len()
    );
    for pair in told.windows(2) {
        assert!(
            pair[0].1.bytes < pair[1].1.bytes || pair[1].1 == last.1,
            "{told:?}"
        );
    }
    for (_, now) in &told[..] {
        assert_eq!(now.accepted % CHUNK as u64, 0);
        assert!(
            now.in_flight() <= 2 * CHUNK as u64 && now.bytes <= total,
            "{now:?}"
        );
    }
    assert!(told.iter().any(|(_, now)| now.in_flight() > CHUNK as u64));
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_again_is_not_counted_twice() {
    let (api, film) = (fake(), film(CHUNK));
    let id = create_video(&api).await;
    api.fault(Fault::status(503).on(|request| request.uri.path().ends_with("/source")));
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = told.clone();
    let options =
        UploadOptions::to_video(id).on_progress(move |now| tell.lock().unwrap().push(now.bytes));
    send(slow(bearer(&api)), &film, options).await.unwrap();
    let told = told.lock().unwrap();
    assert!(!told.is_sorted(), "it goes back once: {told:?}");
    assert_eq!(told.iter().max(), Some(&(CHUNK as u64)));
}

const SIZE: usize = 512 * MIB;

const CONCURRENCY: usize = 3;

/// Uploads, and says how much memory that took: at the most, and of it what the program has beside the chunks.
#[tokio::test]
#[ignore = "runs as a child process"]
async fn child_of_upload() {
    let [url, token] = orders();
    let layer = UploadTokenLayer::builder(token)
        .base_url(url)
        .build()
        .unwrap();
    let service = layer.layer(Client::builder(TokioExecutor::new()).build_http::<UploadBody>());
    let source = Source::new(tokio::io::repeat(7).take(SIZE as u64)).length(SIZE as u64);
    let options = UploadOptions::new()
        .chunk_size(16 * MIB)
        .concurrency(CONCURRENCY);
    let kib = |name| -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let value = status.split(name).nth(1).unwrap().split_whitespace().next();
        value.unwrap().parse().unwrap()
    };
    let before = kib("RssAnon:");
    upload(service, source, options).await.unwrap();
    // The pages of its own file come and go as the system likes.
    println!("KiB: {} {} .", kib("VmHWM:"), kib("RssFile:") + before);
}

#[tokio::test]
async fn half_a_gigabyte_takes_the_memory_of_a_few_chunks() {
    if !std::path::Path::new("/proc/self/status").exists() {
        return;
    }
    let api = FakeApi::start().await.unwrap();
    let token = mint(&api).await;
    let first = api.gate(GatePoint::ApiResponse);
    let child = Child::start(
        "uploads::sent::child_of_upload",
        &[&api.url(), token.secret().expose()],
    );
    // The server answers only when all the chunks are there that may be.
    let all_at_once = async {
        first.reached(1).await;
        let rest = api.gate(GatePoint::ApiResponse);
        first.open();
        rest.reached(CONCURRENCY).await;
        rest.open();
    };
    let (said, ()) = tokio::join!(child.passed(), all_at_once);
    let [id] = &api.video_ids()[..] else {
        panic!("one video")
    };
    assert!(
        api.received(id)
            .is_some_and(|it| it.finished && it.length == SIZE as u64)
    );
    let numbers = said.split("KiB: ").nth(1).unwrap().split(' ').take(2);
    let numbers: Vec<usize> = numbers.map(|it| it.parse().unwrap()).collect();
    let chunks = (numbers[0] - numbers[1]) as f64 / 1024.0 / 16.0;
    println!("{CONCURRENCY} chunks of 16 MiB at once took the memory of {chunks:.2}");
    assert!(chunks <= CONCURRENCY as f64 + 1.0, "{chunks} chunks");
}
