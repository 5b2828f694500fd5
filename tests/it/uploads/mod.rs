//! Uploads in chunks, whatever the size, the source and the weather.

mod attacked;
mod failures;
mod repeated;
mod reqwest;
mod resumed;
mod sent;

use apivideo_auth::{
    Error, ErrorKind,
    testing::{FakeApi, FakeBody, FakeService},
    upload_token::{Source, UploadBody, UploadOptions, Uploaded, WithUploadToken, upload},
};
use bytes::Bytes;
use http::{Request, Response, header};
use tokio::io::AsyncReadExt;
use tower::{BoxError, Layer, Service, ServiceExt};

use crate::{
    support::{Body, Client, MIB, client, with_key},
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

async fn with_token(api: &FakeApi) -> WithUploadToken<FakeService> {
    layer(api, &mint(api).await).layer(api.service())
}

fn bearer(api: &FakeApi) -> Client {
    client(&with_key(api).build().expect("a good layer"), api)
}

async fn send<S>(service: S, film: &[u8], options: UploadOptions) -> Result<Uploaded, Error>
where
    S: Service<Request<UploadBody>, Response = Response<FakeBody>> + Clone,
    S::Error: Into<BoxError>,
{
    let source = Source::new(film)
        .length(film.len() as u64)
        .file_name("film.mp4");
    upload(service, source, options).await
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
        .header("content-type", "application/json")
        .body(Body::from(r#"{"title":"a film"}"#))
        .expect("a good request");
    client(&layer, api)
        .oneshot(request)
        .await
        .expect("a response");
    api.video_ids().pop().expect("a video")
}
