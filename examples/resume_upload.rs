//! How does an upload go on after its process was killed?
//!
//! `cargo run --example resume_upload` uploads 64 MiB from a process of its own, kills that with `kill -9` in the middle, and
//! lets another one go on; `-- --size 1GiB` does it with a gigabyte. The second process knows what the first had written
//! down, and is given the token again. It sends what is missing, and reads no more of the file than that.

use std::{
    env, fs,
    io::{self, Write},
    ops::Range,
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    time::Duration,
};

use apivideo_auth::{
    ApiVideoAuthLayer, UploadTokenLayer, UploadTokens,
    testing::{FakeApi, Fault},
    upload_token::{Source, Unfinished, UploadBody, UploadOptions, Uploaded, upload},
};
use http::{HeaderMap, request::Parts};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};
use tower::{BoxError, Layer};

const MIB: usize = 1024 * 1024;
const HOUR: Duration = Duration::from_secs(3600);

// ---- what your program does -----------------------------------------------------------------------------------------

/// Uploads the film, or what is missing of it.
async fn send(url: &str, token: String, folder: &Path) -> Result<Uploaded, BoxError> {
    let checkpoint = folder.join("upload.json");
    let options = match fs::read_to_string(&checkpoint) {
        Ok(text) => UploadOptions::new().resume(&Unfinished::from_json(&text)?),
        Err(_) => UploadOptions::new().chunk_size(5 * MIB),
    };
    let kept = checkpoint.clone();
    let options = options.concurrency(2).on_checkpoint(move |unfinished| {
        // A new file in the place of the old one: it is whole at any moment.
        let new = kept.with_extension("new");
        let written = fs::write(&new, unfinished.to_json()).and_then(|()| fs::rename(&new, &kept));
        written.expect("the checkpoint can be written");
        println!("{}", unfinished.bytes());
    });

    let client = Client::builder(TokioExecutor::new()).build_http::<UploadBody>();
    // Leave `base_url` out for the real API.
    let with_token = UploadTokenLayer::builder(token).base_url(url).build()?;
    let source = Source::open(folder.join("film.mp4")).await?;
    let done = upload(with_token.layer(client), source, options).await?;
    fs::remove_file(checkpoint)?;
    Ok(done)
}

// ---- the show around it ---------------------------------------------------------------------------------------------

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["--child", url, folder] => match send(url, token(), Path::new(folder)).await {
            Ok(_) => return ExitCode::SUCCESS,
            Err(error) => Err(error),
        },
        [] => show(64 * MIB).await,
        ["--size", size] => match mebibytes(size) {
            Some(size) => show(size * MIB).await,
            None => Err("give a size like 64MiB or 1GiB".into()),
        },
        _ => Err("usage: resume_upload [--size 1GiB]".into()),
    };
    match result {
        Ok(summary) => {
            println!("resume_upload: ok {summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("resume_upload: FAILED {error}");
            ExitCode::FAILURE
        }
    }
}

/// Makes an account, a film and a token, and shuts the account down whatever happens.
async fn show(size: usize) -> Result<String, BoxError> {
    let api = FakeApi::start().await?;
    let folder = Folder::new()?;
    let auth = ApiVideoAuthLayer::builder()
        .base_url(api.url())
        .api_key(api.api_key())
        .build()?;
    let result = kill_and_resume(&api, &auth, &folder.0, size).await;
    auth.shutdown(Duration::from_secs(5)).await;
    result
}

async fn kill_and_resume(
    api: &FakeApi,
    auth: &ApiVideoAuthLayer,
    folder: &Path,
    size: usize,
) -> Result<String, BoxError> {
    let sha256 = make_film(&folder.join("film.mp4"), size)?;
    let client = Client::builder(TokioExecutor::new()).build_http::<UploadBody>();
    let tokens = UploadTokens::new(auth.layer(client));
    let token = tokens.create(Some(HOUR)).await?;
    let start = || child(&api.url(), token.secret().expose(), folder);

    // Beyond the middle the server takes its time, so that the first process is not done before it is killed.
    let half = size as u64 / 2;
    let is_late = move |request: &Parts| range(&request.headers).is_some_and(|it| it.start >= half);
    api.fault(Fault::latency(HOUR).on(is_late).always());
    let mut first = start()?;
    let mut lines = BufReader::new(first.stdout.take().ok_or("no output")?).lines();
    loop {
        let line = lines.next_line().await?.ok_or("it ended too early")?;
        if line.parse::<u64>()? >= half {
            break;
        }
    }
    first.kill().await?;
    let left = fs::read_to_string(folder.join("upload.json"))?;
    let accepted = Unfinished::from_json(&left)?.bytes();
    println!("killed after {accepted} of {size} bytes; what is left: {left}");

    api.fault(None);
    api.clear_journal();
    let second = start()?.wait_with_output().await?;
    if !second.status.success() {
        return Err(String::from_utf8_lossy(&second.stdout).into());
    }
    let journal = api.journal();
    let chunks = journal.iter().filter_map(|it| range(&it.headers));
    let sent: u64 = chunks.map(|it| it.end - it.start).sum();
    println!("another process has sent {sent} bytes");
    let [video] = &api.video_ids()[..] else {
        return Err("there is more than one video".into());
    };
    let received = api.received(video).ok_or("nothing was received")?;
    if !received.finished || received.sha256() != sha256 {
        return Err("the video did not arrive as it was".into());
    }
    if sent + accepted != size as u64 {
        return Err("more was sent than was missing".into());
    }
    Ok(format!(
        "{size} bytes in one video, {accepted} by a process that was killed, {sent} by the next"
    ))
}

/// This program once more. The token is not among its arguments: anybody can read those.
fn child(url: &str, token: &str, folder: &Path) -> io::Result<Child> {
    Command::new(env::current_exe()?)
        .args(["--child".as_ref(), url.as_ref(), folder.as_os_str()])
        .env("UPLOAD_TOKEN", token)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
}

fn token() -> String {
    env::var("UPLOAD_TOKEN").unwrap_or_default()
}

/// Where a chunk lies, by its `Content-Range`.
fn range(headers: &HeaderMap) -> Option<Range<u64>> {
    let range = headers.get("content-range")?.to_str().ok()?;
    let (place, _total) = range.strip_prefix("bytes ")?.split_once('/')?;
    let (from, to) = place.split_once('-')?;
    Some(from.parse().ok()?..to.parse::<u64>().ok()? + 1)
}

fn mebibytes(text: &str) -> Option<usize> {
    let (number, unit) = match text.strip_suffix("GiB") {
        Some(number) => (number, 1024),
        None => (text.strip_suffix("MiB")?, 1),
    };
    number.parse::<usize>().ok()?.checked_mul(unit)
}

/// Writes the film, and gives its SHA-256.
fn make_film(path: &Path, size: usize) -> io::Result<[u8; 32]> {
    let (mut file, mut hash) = (fs::File::create(path)?, Sha256::new());
    let mut block = vec![0; MIB];
    for number in 0..size / MIB {
        block.fill(number as u8);
        hash.update(&block);
        file.write_all(&block)?;
    }
    Ok(hash.finalize().into())
}

/// A folder that is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> io::Result<Self> {
        let folder = env::temp_dir().join(format!("resume_upload-{}", std::process::id()));
        fs::create_dir(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left of it does no harm.
        let _ = fs::remove_dir_all(&self.0);
    }
}
