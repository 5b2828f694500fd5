//! How does a web page let its visitors upload videos straight to api.video?
//!
//! `cargo run --example browser_upload` serves a page on this machine. It uses api.video's own uploader, which
//! `npm ci --prefix examples/browser_upload` fetches. The API is a fake one; since a browser trusts no other origin with
//! a certificate made a moment ago, `POST /upload` stands for it on the page's own. With `--check`, a headless Chromium
//! uses the page (`examples/browser_upload/ci.sh`). The rules that the server keeps:
//!
//! - It binds loopback, answers only to its own `Host`, and changes something only for its own page.
//! - The page gets a delegated token when a file is picked: one that lives as long as that file may take, and is deleted
//!   afterwards. It never sees a bearer.
//! - A session gets ten tokens a minute, and sees the videos that it has uploaded itself.

mod server;
mod tls;

use std::{env, path::Path, process::ExitCode, time::Duration};

use apivideo_auth::{ApiVideoAuthLayer, UploadTokens, testing::FakeApi, upload_token::ListOptions};
use axum::{body::Body, http::header};
use futures::TryStreamExt;
use sha2::{Digest, Sha256};
use tokio::{net::TcpListener, process::Command};
use tower::{BoxError, Layer};

#[tokio::main]
async fn main() -> ExitCode {
    match run(env::args().any(|argument| argument == "--check")).await {
        Ok(summary) => {
            println!("browser_upload: ok {summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("browser_upload: FAILED {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(check: bool) -> Result<String, BoxError> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/browser_upload");
    let uploader = folder.join("node_modules/@api.video/video-uploader/dist/index.js");
    let uploader = std::fs::read(uploader)
        .map_err(|_| "run `npm ci --prefix examples/browser_upload` first")?;

    let api = FakeApi::in_process();
    let layer = ApiVideoAuthLayer::builder()
        .base_url(api.url())
        .api_key(api.api_key())
        .build()?;
    let account = layer.layer(api.service());

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let pages = server::router(account.clone(), api.service(), uploader, address);
    let server = tokio::spawn(tls::serve(listener, tls::acceptor()?, pages));
    let url = format!("https://localhost:{}", address.port());
    println!("{url}/ (your browser will warn of the certificate, which was made just now)");

    let summary = if check {
        let summary = use_page(&folder, &url, &api).await?;
        let left: Vec<_> = UploadTokens::<_, Body>::new(account)
            .list(ListOptions::new())
            .try_collect()
            .await?;
        if !left.is_empty() {
            return Err("an upload token was not deleted".into());
        }
        summary
    } else {
        tokio::signal::ctrl_c().await?;
        format!("{} videos", api.video_ids().len())
    };
    server.abort();
    layer.shutdown(Duration::from_secs(5)).await;
    Ok(summary)
}

/// Lets a browser upload a film, and looks at what has arrived.
async fn use_page(folder: &Path, url: &str, api: &FakeApi) -> Result<String, BoxError> {
    let film: Vec<u8> = (0..24 * 1024 * 1024_u32)
        .map(|at| (at / 4096) as u8)
        .collect();
    let own = env::temp_dir().join(format!("browser_upload-{}", std::process::id()));
    tokio::fs::create_dir(&own).await?;
    let path = own.join("a day at the sea.mp4");
    tokio::fs::write(&path, &film).await?;
    let browser = Command::new("node")
        .arg(folder.join("test.mjs"))
        .arg(url)
        .arg(&path)
        .kill_on_drop(true)
        .status()
        .await;
    tokio::fs::remove_dir_all(&own).await?;
    if !browser?.success() {
        return Err("the page did not do what it should".into());
    }
    let uploaded: Vec<_> = api
        .video_ids()
        .iter()
        .filter_map(|id| api.received(id))
        .filter(|it| it.finished)
        .collect();
    let [video] = &uploaded[..] else {
        return Err("there should be one finished video".into());
    };
    if video.sha256 != <[u8; 32]>::from(Sha256::digest(&film)) {
        return Err("the video did not arrive as it was".into());
    }
    let uploads = api
        .journal()
        .into_iter()
        .filter(|exchange| exchange.uri.path() == "/upload");
    for upload in uploads {
        if upload.headers.contains_key(header::AUTHORIZATION)
            || upload.headers.contains_key(header::COOKIE)
        {
            return Err("an upload had credentials other than its token".into());
        }
    }
    Ok(format!(
        "{} bytes in {} chunks from Chromium, SHA-256 as sent",
        video.length, video.chunks
    ))
}
