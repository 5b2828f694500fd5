//! Uploads that stop, and go on in another process.

use std::{
    fs,
    io::{self, SeekFrom},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use apivideo_auth::{
    ApiVideoAuthLayer, UploadTokenLayer,
    testing::{Fault, GatePoint},
    upload_token::Unfinished,
};
use http::request;
use hyper_util::{client::legacy, rt::TokioExecutor};
use tokio::io::{AsyncRead, AsyncSeek, ReadBuf};

use super::*;
use crate::support::child::{Child, orders};

/// Counts what is read of a film.
struct Counted {
    film: io::Cursor<Vec<u8>>,
    read: Arc<AtomicU64>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.film).poll_read(cx, buf);
        let bytes = buf.filled().len() - before;
        self.read.fetch_add(bytes as u64, Ordering::Relaxed);
        read
    }
}

impl AsyncSeek for Counted {
    fn start_seek(mut self: Pin<&mut Self>, position: SeekFrom) -> io::Result<()> {
        Pin::new(&mut self.film).start_seek(position)
    }

    fn poll_complete(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Pin::new(&mut self.film).poll_complete(cx)
    }
}

fn is_chunk(number: usize) -> impl Fn(&request::Parts) -> bool + Send + Sync {
    let range = format!("bytes {}-", number * CHUNK);
    move |request| {
        let header = request.headers.get(header::CONTENT_RANGE);
        header.is_some_and(|it| it.to_str().expect("letters").starts_with(&range))
    }
}

#[tokio::test(start_paused = true)]
async fn g28_a_source_that_can_seek_is_not_read_again() {
    let film = film(4 * CHUNK + 100);
    for missing in [1, 2, 4] {
        let api = fake();
        let id = create_video(&api).await;
        // All others get through meanwhile.
        api.fault(Fault::status(503).on(is_chunk(missing)).times(2));
        let options = UploadOptions::to_video(&id).chunk_size(CHUNK);
        let options = options.concurrency(5).attempts(2);
        let error = send(bearer(&api), &film, options).await.unwrap_err();
        let unfinished = Unfinished::of(&error).unwrap();
        let left = if missing == 4 { 100 } else { CHUNK as u64 };
        assert_eq!(unfinished.bytes(), film.len() as u64 - left);

        let read = Arc::new(AtomicU64::new(0));
        // Something else lies before the film.
        let mut both = io::Cursor::new([&b"something else"[..], &film].concat());
        both.set_position(14);
        let counted = Counted {
            film: both,
            read: read.clone(),
        };
        let source = Source::seekable(counted).await.unwrap();
        api.clear_journal();
        let options = UploadOptions::new().resume(unfinished);
        let done = upload(bearer(&api), source, options).await.unwrap();
        assert_is(&api, done.video_id(), &film, 5);
        assert_eq!((done.bytes(), done.chunks()), (film.len() as u64, 5));
        assert_eq!(ranges(&api).len(), 1);
        // At the end of each chunk it looks whether there is more.
        let read = read.load(Ordering::Relaxed);
        assert!(read >= left && read <= left + 5 * 8192, "{read} of {left}");
    }
}

#[tokio::test(start_paused = true)]
async fn g28_a_video_that_may_exist_can_be_looked_for() {
    let film = film(2 * CHUNK);
    for size in [7, film.len()] {
        let api = fake();
        let lost = |request: &request::Parts| request.uri.path() == "/upload";
        api.fault(Fault::disconnect().after_commit().on(lost));
        let before = std::time::SystemTime::UNIX_EPOCH;
        let error = send(with_token(&api).await, &film[..size], options()).await;
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::VideoMayExist);
        assert!(!error.is_transient(), "a retry would make a second one");
        let unfinished = Unfinished::of(&error).unwrap();
        let unfinished = Unfinished::from_json(&unfinished.to_json()).unwrap();
        assert_eq!((unfinished.video_id(), unfinished.bytes()), (None, 0));
        assert!(unfinished.has_begun() && unfinished.started_at() > before);
        assert_eq!(unfinished.file_name(), "film.mp4");

        // Nobody guesses.
        let options = UploadOptions::new().resume(&unfinished);
        let error = send(with_token(&api).await, &film[..size], options).await;
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::VideoMayExist);
        assert!(Unfinished::of(&error).is_some());
        assert_eq!(api.video_ids().len(), 1);

        let [found] = &api.video_ids()[..] else {
            panic!("one video")
        };
        let unfinished = unfinished.with_video_id(found).unwrap();
        let options = UploadOptions::new().resume(&unfinished);
        let done = send(with_token(&api).await, &film[..size], options).await;
        let done = done.unwrap();
        assert_eq!((done.video_id(), done.bytes()), (&**found, size as u64));
        assert_is(&api, found, &film[..size], size.div_ceil(CHUNK));
        assert_eq!(api.video_ids().len(), 1);
    }
}

#[tokio::test]
async fn g28_what_never_went_out_is_told_from_what_did() {
    let (api, film) = (fake(), film(7));
    let id = create_video(&api).await;
    let broken = tower::service_fn(async |_: Request<UploadBody>| {
        Err::<Response<FakeBody>, _>(io::Error::from(io::ErrorKind::ConnectionRefused))
    });
    let once = UploadOptions::to_video(&id).attempts(1);
    let error = send(broken, &film, once).await.unwrap_err();
    let unfinished = Unfinished::of(&error).unwrap();
    assert!(!unfinished.has_begun());

    // In the meantime somebody else uploads to the same video.
    send(bearer(&api), &film, UploadOptions::to_video(&id))
        .await
        .unwrap();
    let resumed = UploadOptions::new().resume(unfinished);
    let error = send(bearer(&api), &film, resumed).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Rejected);

    // An upload that never reached the API at all leaves nothing behind.
    let once = options().attempts(1);
    let checkpoint = Arc::new(Mutex::new(None));
    let kept = checkpoint.clone();
    let once = once.on_checkpoint(move |now| *kept.lock().unwrap() = Some(now.to_json()));
    let error = send(broken, &film, once).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(Unfinished::of(&error).is_none());
    // What it wrote down can be taken up all the same.
    let unfinished = checkpoint.lock().unwrap().take().unwrap();
    let unfinished = Unfinished::from_json(&unfinished).unwrap();
    assert!(!unfinished.has_begun());
    let options = UploadOptions::new().resume(&unfinished);
    let done = send(with_token(&api).await, &film, options).await;
    assert_is(&api, done.unwrap().video_id(), &film, 1);
}

/// Uploads, or goes on where it was, as the file of the checkpoint says.
#[tokio::test]
#[ignore = "runs as a child process"]
async fn child_of_resumed() {
    let [url, credential, video_id, folder] = orders();
    let client = legacy::Client::builder(TokioExecutor::new()).build_http::<UploadBody>();
    let source = Source::open(format!("{folder}/film.mp4")).await.unwrap();
    let checkpoint = format!("{folder}/upload.json");
    let options = match fs::read_to_string(&checkpoint) {
        Ok(text) => UploadOptions::new().resume(&Unfinished::from_json(&text).unwrap()),
        Err(_) if video_id.is_empty() => options(),
        Err(_) => UploadOptions::to_video(&video_id).chunk_size(CHUNK),
    };
    let options = options.on_checkpoint(move |unfinished| {
        fs::write(format!("{checkpoint}.new"), unfinished.to_json()).unwrap();
        fs::rename(format!("{checkpoint}.new"), &checkpoint).unwrap();
    });
    if video_id.is_empty() {
        let layer = UploadTokenLayer::builder(credential).base_url(url);
        let service = layer.build().unwrap().layer(client);
        upload(service, source, options).await.unwrap();
    } else {
        let layer = ApiVideoAuthLayer::builder().base_url(url);
        let service = layer.api_key(credential).build().unwrap().layer(client);
        upload(service, source, options).await.unwrap();
    }
}

#[tokio::test]
async fn g28_after_a_kill_another_process_sends_only_what_is_missing() {
    let film = film(5 * CHUNK + 1);
    for has_upload_token in [true, false] {
        let api = FakeApi::builder().keep_uploads(true).serve().await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("film.mp4"), &film).unwrap();
        let (credential, id) = if has_upload_token {
            (mint(&api).await.secret().expose().to_owned(), String::new())
        } else {
            (api.api_key().to_owned(), create_video(&api).await)
        };
        let orders = [
            &api.url(),
            &credential,
            &id,
            folder.path().to_str().unwrap(),
        ];
        let start = || Child::start("uploads::resumed::child_of_resumed", &orders);

        let mut gate = api.gate(GatePoint::ApiResponse);
        let child = start();
        for _ in 0..3 {
            gate.reached(1).await;
            let next = api.gate(GatePoint::ApiResponse);
            gate.open();
            gate = next;
        }
        gate.reached(1).await;
        child.signal("-KILL");
        child.killed().await;
        gate.open();

        let left = fs::read_to_string(folder.path().join("upload.json")).unwrap();
        assert!(!left.contains(&credential), "{left}");
        assert_eq!(
            Unfinished::from_json(&left).unwrap().bytes(),
            3 * CHUNK as u64
        );
        api.clear_journal();
        start().passed().await;
        let expected = [3, 4, 5].map(|chunk| {
            let end = ((chunk + 1) * CHUNK).min(film.len());
            Some(format!(
                "bytes {}-{}/{}",
                chunk * CHUNK,
                end - 1,
                film.len()
            ))
        });
        assert_eq!(ranges(&api), expected);
        let ids = api.video_ids();
        assert_eq!(ids.len(), 1);
        assert_is(&api, &ids[0], &film, 6);
    }
}
