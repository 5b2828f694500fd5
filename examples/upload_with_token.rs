//! How does a program upload a large video with nothing but an upload token?
//!
//! `cargo run --example upload_with_token` uploads 64 MiB that it makes up to a fake api.video;
//! `cargo run --example upload_with_token -- film.mp4` uploads a file. One side holds the account and mints a token that
//! lives for a minute; the other side holds the token alone.

use std::{
    env,
    io::{self, IsTerminal, Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use apivideo_auth::{
    ApiVideoAuthLayer, ErrorKind, UploadToken, UploadTokenLayer, UploadTokens,
    testing::{FakeApi, ManualClock},
    upload_token::{Progress, Source, UploadBody, UploadOptions, Uploaded, upload},
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use sha2::{Digest, Sha256};
use tower::{BoxError, Layer};

type Hyper = Client<HttpConnector, UploadBody>;

const MIB: usize = 1024 * 1024;

#[tokio::main]
async fn main() -> ExitCode {
    let (path, made) = match env::args_os().nth(1) {
        Some(path) => (PathBuf::from(path), false),
        None => (
            env::temp_dir().join(format!("upload_with_token-{}.mp4", std::process::id())),
            true,
        ),
    };
    let result = run(&path, made).await;
    if made {
        // It may not have been made.
        let _ = std::fs::remove_file(&path);
    }
    match result {
        Ok(summary) => {
            println!("upload_with_token: ok {summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("upload_with_token: FAILED {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(path: &Path, make: bool) -> Result<String, BoxError> {
    if make {
        make_film(path)?;
    }
    let clock = ManualClock::new();
    let api = FakeApi::builder().clock(clock.clone()).serve().await?;
    let client = Client::builder(TokioExecutor::new()).build_http::<UploadBody>();

    // The account: it holds the API key.
    let auth = ApiVideoAuthLayer::builder()
        .base_url(api.url())
        .api_key(api.api_key())
        .build()?;
    let result = delegate(&auth, &clock, &api, &client, path).await;
    auth.shutdown(Duration::from_secs(5)).await;
    result
}

async fn delegate(
    auth: &ApiVideoAuthLayer,
    clock: &ManualClock,
    api: &FakeApi,
    client: &Hyper,
    path: &Path,
) -> Result<String, BoxError> {
    let tokens = UploadTokens::new(auth.layer(client.clone()));
    let minute = Some(Duration::from_secs(60));
    let token = tokens.create(minute).await?;

    // The other side: it holds the token.
    let video = upload_file(api, client, &token, path).await?;
    let received = api
        .received(video.video_id())
        .ok_or("the video did not arrive")?;
    if !received.finished || received.sha256() != sha256(path)? {
        return Err("the video did not arrive as it was".into());
    }

    clock.advance(Duration::from_secs(61));
    refused(
        upload_file(api, client, &token, path).await,
        "an expired token",
    )?;
    let token = tokens.create(minute).await?;
    tokens.delete(token.secret()).await?;
    refused(
        upload_file(api, client, &token, path).await,
        "a deleted token",
    )?;

    Ok(format!(
        "{} bytes in {} chunks, SHA-256 as sent, expired and deleted tokens refused",
        received.length, received.chunks
    ))
}

async fn upload_file(
    api: &FakeApi,
    client: &Hyper,
    token: &UploadToken,
    path: &Path,
) -> Result<Uploaded, BoxError> {
    let layer = UploadTokenLayer::builder(token.secret().clone())
        .base_url(api.url())
        .build()?;
    let source = Source::open(path).await?;
    let options = UploadOptions::new()
        .chunk_size(5 * MIB)
        .concurrency(3)
        .on_progress(show(path)?);
    Ok(upload(layer.layer(client.clone()), source, options).await?)
}

/// Shows progress: a bar on a terminal, lines elsewhere.
fn show(path: &Path) -> io::Result<impl FnMut(Progress) + Send + 'static> {
    let bar = io::stdout().is_terminal().then(|| {
        let style = ProgressStyle::with_template(
            "{bar:40.cyan/blue} {bytes}/{total_bytes} {bytes_per_sec}",
        );
        ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout())
            .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    });
    let length = path.metadata()?.len();
    Ok(move |progress: Progress| match &bar {
        Some(bar) => {
            bar.set_length(length);
            bar.set_position(progress.bytes);
            if progress.bytes == length {
                bar.finish();
            }
        }
        None => {
            let percent = |bytes: u64| bytes * 100 / length.max(1);
            println!(
                "{} % sent, {} % accepted",
                percent(progress.bytes),
                percent(progress.accepted)
            );
        }
    })
}

fn refused(result: Result<Uploaded, BoxError>, what: &str) -> Result<(), BoxError> {
    let error = result.err().ok_or_else(|| format!("{what} was accepted"))?;
    match error.downcast_ref::<apivideo_auth::Error>() {
        Some(ours) if ours.kind() == ErrorKind::Refused => {
            println!("{what}: {ours}");
            Ok(())
        }
        _ => Err(error),
    }
}

fn make_film(path: &Path) -> io::Result<()> {
    let mut file = io::BufWriter::new(std::fs::File::create(path)?);
    let mut block = vec![0; 64 * 1024];
    for number in 0..1024_u32 {
        block.fill(number as u8);
        block[..4].copy_from_slice(&number.to_le_bytes());
        file.write_all(&block)?;
    }
    file.flush()
}

fn sha256(path: &Path) -> io::Result<[u8; 32]> {
    let (mut file, mut hash, mut block) = (std::fs::File::open(path)?, Sha256::new(), vec![0; MIB]);
    loop {
        match file.read(&mut block)? {
            0 => return Ok(hash.finalize().into()),
            length => hash.update(&block[..length]),
        }
    }
}
