//! What `upload()` costs against hyper requests that are written by hand.
//!
//! `cargo bench --bench uploads` sends 1 GiB in 21 chunks of 50 MiB to a server on the loopback, which drops what it gets:
//! in each round by every way, in turns. A ratio is taken between times of the same round; the median and the quartiles of
//! fifteen rounds are printed. `-- 31` makes 31 rounds.
//!
//! - `upload, file`: this crate, with a source that is a file.
//! - `hyper, file`: the same requests, written by hand: each chunk is read from the same file into a form, which is sent by a
//!   hyper client as one piece.
//! - `upload, memory`: this crate, with a source that is a slice of memory.
//! - `hyper, memory`: by hand again: each form is made of the same slice, and sent as one piece.
//! - `hyper, ready`: the same requests, whose forms have lain in memory since before the clock started. Nobody who has a film to
//!   send has that; it shows what making the forms costs.
//!
//! Client and server have a thread each. The file was just written, so it is in memory as far as the system is concerned.

use std::{
    convert::Infallible, env, fs::File, io::Write, process::ExitCode, thread, time::Duration,
};

use apivideo_auth::upload_token::{Source, UploadBody, UploadOptions, upload};
use bytes::Bytes;
use http::{Request, Response, header};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use tokio::{
    fs,
    io::{AsyncRead, AsyncReadExt},
    net::TcpListener,
    runtime::{Builder, Runtime},
    time::Instant,
};
use tower::{BoxError, Service, ServiceExt, service_fn as tower_fn};

const MIB: usize = 1024 * 1024;
const SIZE: usize = 1024 * MIB;
const CHUNK: usize = 50 * MIB;
const ROUNDS: usize = 15;

const VIDEO: &str = "viBench";
const HEAD: &str = "--bench\r\nContent-Disposition: form-data; name=\"file\"; filename=\"film.mp4\"\r\n\
                    Content-Type: application/octet-stream\r\n\r\n";
const TAIL: &str = "\r\n--bench--\r\n";

const WAYS: [&str; 5] = [
    "upload, file",
    "hyper, file",
    "upload, memory",
    "hyper, memory",
    "hyper, ready",
];

fn main() -> ExitCode {
    // Without it, cargo only wants to know that the program runs.
    if !env::args().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    let rounds = env::args().find_map(|argument| argument.parse().ok());
    match measure(rounds.unwrap_or(ROUNDS)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(rounds: usize) -> Result<(), BoxError> {
    let folder = tempfile::tempdir()?;
    let film = folder.path().join("film.mp4");
    let mut file = File::create(&film)?;
    for number in 0..SIZE / MIB {
        file.write_all(&vec![number as u8; MIB])?;
    }
    let origin = serve()?;
    let bytes = std::fs::read(&film)?;
    let forms: Vec<Bytes> = bytes
        .chunks(CHUNK)
        .map(|chunk| [HEAD.as_bytes(), chunk, TAIL.as_bytes()].concat().into())
        .collect();

    let runtime = runtime()?;
    let mut times = [const { Vec::new() }; WAYS.len()];
    for round in 0..rounds {
        // Each way is the first as often as the others are.
        for turn in 0..WAYS.len() {
            let way = (round + turn) % WAYS.len();
            let start = Instant::now();
            runtime.block_on(async {
                match way {
                    0 => uploaded(&origin, Source::open(&film).await?).await,
                    1 => read(&origin, fs::File::open(&film).await?).await,
                    2 => uploaded(&origin, Source::new(&bytes[..]).length(SIZE as u64)).await,
                    3 => read(&origin, &bytes[..]).await,
                    _ => ready(&origin, &forms).await,
                }
            })?;
            times[way].push(start.elapsed());
        }
    }
    print(&times);
    Ok(())
}

/// By this crate.
async fn uploaded(origin: &str, source: Source<impl AsyncRead + Unpin>) -> Result<(), BoxError> {
    let client = Client::builder(TokioExecutor::new()).build_http::<UploadBody>();
    let authorised = completed(origin, client);
    let options = UploadOptions::to_video(VIDEO).chunk_size(CHUNK);
    upload(authorised, source, options).await?;
    Ok(())
}

/// By hand.
async fn read(origin: &str, mut film: impl AsyncRead + Unpin) -> Result<(), BoxError> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    for number in 0..SIZE.div_ceil(CHUNK) {
        let length = CHUNK.min(SIZE - number * CHUNK);
        let mut form = Vec::with_capacity(HEAD.len() + length + TAIL.len());
        form.extend_from_slice(HEAD.as_bytes());
        (&mut film)
            .take(length as u64)
            .read_to_end(&mut form)
            .await?;
        form.extend_from_slice(TAIL.as_bytes());
        post(origin, &client, number, form.into()).await?;
    }
    Ok(())
}

/// As they are.
async fn ready(origin: &str, forms: &[Bytes]) -> Result<(), BoxError> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    for (number, form) in forms.iter().enumerate() {
        post(origin, &client, number, form.clone()).await?;
    }
    Ok(())
}

async fn post(
    origin: &str,
    client: &Client<HttpConnector, Full<Bytes>>,
    number: usize,
    form: Bytes,
) -> Result<(), BoxError> {
    let (from, to) = (number * CHUNK, SIZE.min((number + 1) * CHUNK) - 1);
    let request = Request::post(format!("{origin}/videos/{VIDEO}/source"))
        .header(header::ACCEPT, "application/json")
        .header(header::AUTHORIZATION, "Bearer test-only")
        .header(header::CONTENT_TYPE, "multipart/form-data; boundary=bench")
        .header(header::CONTENT_RANGE, format!("bytes {from}-{to}/{SIZE}"))
        .body(Full::new(form))?;
    let response = client.request(request).await?;
    if !response.status().is_success() {
        return Err(response.status().to_string().into());
    }
    response.into_body().collect().await?;
    Ok(())
}

/// Adds the origin and a bearer, as the layers do whose cost other benchmarks tell.
fn completed<B, C>(
    origin: &str,
    client: Client<C, B>,
) -> impl Service<Request<B>, Response = Response<Incoming>, Error = BoxError> + Clone
where
    B: Body<Data: Send, Error: Into<BoxError>> + Send + Unpin + 'static,
    C: Clone + Send + Sync + hyper_util::client::legacy::connect::Connect + 'static,
{
    let origin = origin.to_owned();
    tower_fn(move |mut request: Request<B>| {
        let uri = format!("{origin}{}", request.uri());
        let client = client.clone();
        async move {
            *request.uri_mut() = uri.parse()?;
            let bearer = header::HeaderValue::from_static("Bearer test-only");
            request.headers_mut().insert(header::AUTHORIZATION, bearer);
            Ok::<_, BoxError>(client.oneshot(request).await?)
        }
    })
}

/// Starts a server that reads each body and drops it, and gives its origin.
fn serve() -> Result<String, BoxError> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let origin = format!("http://{}", listener.local_addr()?);
    let runtime = runtime()?;
    thread::spawn(move || {
        runtime.block_on(async {
            let listener = TcpListener::from_std(listener).expect("a socket");
            loop {
                let (socket, _) = listener.accept().await.expect("a connection");
                let serving = http1::Builder::new()
                    .serve_connection(TokioIo::new(socket), service_fn(dropped));
                tokio::spawn(serving);
            }
        })
    });
    Ok(origin)
}

async fn dropped(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut body = request.into_body();
    while let Some(Ok(frame)) = body.frame().await {
        drop(frame);
    }
    let video = format!("{{\"videoId\":\"{VIDEO}\"}}");
    let mut response = Response::new(Full::from(video));
    *response.status_mut() = http::StatusCode::CREATED;
    Ok(response)
}

fn runtime() -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

fn print(times: &[Vec<Duration>; WAYS.len()]) {
    println!(
        "1 GiB in chunks of 50 MiB over the loopback; {} rounds\n",
        times[0].len()
    );
    println!("| way | MiB/s | `upload, file` is | `upload, memory` is |");
    println!("| --- | --- | --- | --- |");
    for (name, theirs) in WAYS.iter().zip(times) {
        let speeds = theirs
            .iter()
            .map(|time| (SIZE / MIB) as f64 / time.as_secs_f64());
        let [_, speed, _] = quartiles(speeds.collect());
        let ratio = |ours: &[Duration]| {
            let both = theirs.iter().zip(ours);
            let ratios = both.map(|(theirs, ours)| theirs.as_secs_f64() / ours.as_secs_f64());
            let [low, median, high] = quartiles(ratios.collect());
            format!("{median:.2} ({low:.2} to {high:.2}) times as fast")
        };
        let (file, memory) = (ratio(&times[0]), ratio(&times[2]));
        println!("| {name} | {speed:.0} | {file} | {memory} |");
    }
}

fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    let at = |part: f64| values[(part * (values.len() - 1) as f64).round() as usize];
    [at(0.25), at(0.5), at(0.75)]
}
