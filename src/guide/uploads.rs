//! Uploads: what goes over the wire, what is sent again, what an error means, and how to go on.
//!
//! [`upload`](upload()) sends a video of any size, either as a new video with an *upload token*, or to a video that
//! was created before, with a bearer. Both ways differ in one thing that this page comes back to: a request that makes a
//! video must not be sent twice.
//!
//! ```
//! use apivideo_auth::{
//!     ApiVideoAuthLayer, UploadTokenLayer,
//!     testing::FakeApi,
//!     upload_token::{Source, UploadBody, UploadOptions, UploadTokens, upload},
//! };
//! use hyper_util::{client::legacy::Client, rt::TokioExecutor};
//! use tower::Layer;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let api = FakeApi::start().await?;
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("film.mp4");
//! # std::fs::write(&path, "a film")?;
//! // One client for uploads and for all other requests: its body counts what the client takes of it.
//! let client = Client::builder(TokioExecutor::new()).build_http::<UploadBody>();
//! let auth = ApiVideoAuthLayer::builder().base_url(api.url()).api_key(api.api_key()).build()?;
//! let account = auth.layer(client.clone());
//!
//! // A new video, by whoever has the token:
//! let token = UploadTokens::new(account.clone()).create(None).await?;
//! let with_token = UploadTokenLayer::builder(token.secret().clone()).base_url(api.url()).build()?.layer(client);
//! let video = upload(with_token, Source::open(&path).await?, UploadOptions::new()).await?;
//! println!("{} plays at {:?}", video.video_id(), video.player());
//!
//! // A video that the account has created:
//! # use tower::ServiceExt;
//! # let json = bytes::Bytes::from(r#"{"title":"a film"}"#);
//! # let create = http::Request::post("/videos").header("content-type", "application/json").body(UploadBody::from(json))?;
//! # account.clone().oneshot(create).await.map_err(|error| error as Box<dyn std::error::Error>)?;
//! # let video_id = api.video_ids().pop().unwrap();
//! upload(account, Source::open(&path).await?, UploadOptions::to_video(video_id)).await?;
//! # auth.shutdown(std::time::Duration::from_secs(5)).await;
//! # Ok(())
//! # }
//! ```
//!
//! # How a video goes
//!
//! A source that is not larger than [a chunk](UploadOptions::chunk_size) goes in one request. A larger one goes in chunks
//! of 50 MiB, each a request of its own with a `Content-Range`. With an upload token the first chunk makes the video and
//! goes alone; its response brings the id, which all others carry. Then
//! [several](UploadOptions::concurrency) may be on their way at once.
//!
//! | the source's length | `Content-Range` |
//! | --- | --- |
//! | is known: a file, or [`Source::length`] | `bytes 0-52428799/104857600` |
//! | is not known | `part 1/*`, and `part 3/3` with the last one |
//!
//! `part n/*` is what api.video's guide for
//! [progressive uploads](https://docs.api.video/vod/progressive-upload) and its own clients use. The pattern that its
//! OpenAPI file has for `/upload` forbids it. Tell the length where you can.
//!
//! # What is sent again
//!
//! Each chunk is tried seven times ([`attempts`](UploadOptions::attempts)), with half a second to 10 s between them, or
//! what the API asks for. That bridges an outage of half a minute.
//!
//! | what happened | a chunk of a known video | the request that makes a video |
//! | --- | --- | --- |
//! | never sent: the connection was refused, no token could be had for now | again | again |
//! | 429, or 503 with `Retry-After` | again, after the wait | again, after the wait |
//! | any other 5xx, 408, a redirect | again | **not again**: [`VideoMayExist`](ErrorKind::VideoMayExist) |
//! | the connection broke off, or the response can't be read | again | **not again**: `VideoMayExist` |
//! | 401 with a bearer | once more, with a new token | (there is none) |
//! | any other 4xx | no | no |
//!
//! The same bytes at the same place do no harm, so chunks of a known video are repeated freely. A status of 500 may come
//! after all was done, and so may a gateway's 504: repeated, each would make one more video.
//!
//! **"Already uploaded".** If the last response is lost, the next attempt is told that the video has its source already.
//! That is a success where an earlier attempt of this chunk may have been carried out: whatever its response was, but for a
//! 429, since even a 4xx may come from something in between. With a bearer the API's status endpoint is asked, also before a
//! chunk is given up, and a source of another size, or one that is still incomplete, is none of ours. If no attempt can
//! have arrived, the video had a source before: [`Rejected`](ErrorKind::Rejected).
//!
//! A layer below that repeats requests by itself breaks these rules: it may make second videos.
//!
//! # What an error means
//!
//! The message says what stopped the upload and what the API said: status, title, and the parameter it is about.
//! [`Problem::of`] has them as values. What matters is what was left behind, and [`Unfinished::of`] tells:
//!
//! | `Unfinished::of(&error)` | what is there | what to do |
//! | --- | --- | --- |
//! | `None` | no video was made | mend it, upload again |
//! | with a [`video_id`](Unfinished::video_id) | a video, perhaps incomplete | resume, or delete the video |
//! | without one (`VideoMayExist`) | perhaps a video | look for it, see below |
//!
//! The kinds are those of the [module](crate::upload_token#errors). [`Error::is_transient`](crate::Error::is_transient) is
//! true where the same upload may succeed later; *resume* it then, do not begin anew.
//!
//! # Going on
//!
//! ```
//! use apivideo_auth::{Error, upload_token::{Source, Unfinished, UploadBody, UploadOptions, Uploaded, upload}};
//! # use bytes::Bytes;
//! # use http::{Request, Response};
//! # use http_body_util::Full;
//! # use tower::{BoxError, Service};
//!
//! /// Uploads the film, or what is missing of it: in the next process as well.
//! async fn send<S>(service: S) -> Result<Uploaded, BoxError>
//! # where S: Service<Request<UploadBody>, Response = Response<Full<Bytes>>, Error = BoxError> + Clone
//! {
//!     let options = match std::fs::read_to_string("upload.json") {
//!         Ok(text) => UploadOptions::new().resume(&Unfinished::from_json(&text)?),
//!         Err(_) => UploadOptions::new(),
//!     };
//!     let options = options.on_checkpoint(|unfinished| {
//!         // A new file in the place of the old one: it is whole at any moment.
//!         std::fs::write("upload.json.new", unfinished.to_json()).expect("a disk that is not full");
//!         std::fs::rename("upload.json.new", "upload.json").expect("a disk that is not full");
//!     });
//!     let done = upload(service, Source::open("film.mp4").await?, options).await?;
//!     std::fs::remove_file("upload.json")?;
//!     Ok(done)
//! }
//! # let _ = send::<tower::util::BoxCloneService<Request<UploadBody>, Response<Full<Bytes>>, BoxError>>;
//! ```
//!
//! - A [checkpoint](UploadOptions::on_checkpoint) comes before each chunk and after it, so a `kill -9` at any moment costs
//!   the chunks that were on their way, and no more. `cargo run --example resume_upload` shows it.
//! - There is no token in what is stored. Who resumes gives a service with a token of its own: the same, another one, or
//!   a bearer with [`to_video`](UploadOptions::to_video).
//! - The source has to be the same; its length is compared. A file is read where something is missing only, and so is any
//!   reader that [can seek](Source::seekable). Others are read from the beginning.
//! - An upload that was finished after all, or is by now, is a success. What was accepted is not sent again; a chunk whose
//!   response was lost is.
//!
//! **If a video may exist**, look for it: with an upload token its title is the [name](Unfinished::file_name) of the
//! file, and it was created after the upload [began](Unfinished::started_at). If it is there, go on
//! [with its id](Unfinished::with_video_id). If it is not, upload anew.
//!
//! # With reqwest
//!
//! `reqwest_adaptor::ReqwestClient` (feature `reqwest-middleware`) makes a Tower service of a `reqwest::Client` or a
//! `ClientWithMiddleware`, and all of this page holds for it. Leave a retry middleware out of that client.
//!
//! # Memory
//!
//! Each of the chunks on their way is in memory once, with its form around it, and its memory serves the next chunk. One
//! more may be there at the most, if a client holds one back. So [`concurrency`](UploadOptions::concurrency) times
//! [`chunk_size`](UploadOptions::chunk_size), whatever the size of the video: 50 MiB by default. TLS and the client have
//! their own buffers besides, of less than a megabyte.
//!
//! # Progress
//!
//! [`on_progress`](UploadOptions::on_progress) is called ten times a second at the most.
//! [`Progress::bytes`] counts what the client has taken and moves while a chunk is on its way;
//! [`Progress::accepted`] counts what is safe.
//!
//! # Time
//!
//! One attempt takes as long as the service lets it. A connection that dies without a word hangs until the system gives
//! it up: set TCP keepalive on the client's connector. A timeout has to leave time for a whole chunk on the
//! slowest line that you expect; smaller chunks allow for a shorter one.
//!
//! [`upload`]: upload()

#[cfg(doc)]
use crate::{
    ErrorKind,
    upload_token::{Problem, Progress, Source, Unfinished, UploadOptions, upload},
};
