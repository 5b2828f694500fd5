//! How does a web page let its visitors upload videos straight to api.video?
//!
//! `cargo run --example browser_upload` serves a page on this machine. It uses api.video's own uploader, which
//! `npm ci --prefix examples/browser_upload` fetches. The API is a fake one; since a browser trusts no other origin with
//! a certificate made a moment ago, `POST /upload` stands for it on the page's own. With `--check`, a headless Chromium
//! uses the page (`examples/browser_upload/ci.sh`). The rules that the server keeps:
//!
//! - It binds loopback, answers only to its own `Host`, and changes something only for its own page.
//! - When a file is picked, the server makes a video and an upload token that lives for minutes; the page asks for the
//!   next one while it uploads. All tokens are deleted afterwards. The page never sees a bearer.
//! - While it lives, a token can also make videos that nobody asked for, and write into a video whose id is known: api.video
//!   has no narrower one. Hence the minutes; and no visitor is told another's id.
//! - A session sees and claims the videos that were made for it, once the API says that they are complete.
//! - There are limits for a session, an address, and all together.

mod limits;
mod server;
mod sessions;
mod tls;
mod upload;
mod uploads;

use std::{env, path::Path, process::ExitCode, sync::Arc, time::Duration};

use apivideo_auth::{ApiVideoAuthLayer, UploadTokens, testing::FakeApi, upload_token::ListOptions};
use axum::{body::Body, http::header};
use futures::TryStreamExt;
use sha2::{Digest, Sha256};
use tokio::{net::TcpListener, process::Command};
use tower::{BoxError, Layer};
use uploads::{TOKEN_LIFETIME, Uploads};

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
    // The API may set cookies of its own, and lets other sites read: neither is the page's.
    let api = FakeApi::builder()
        .cors("*")
        .response_header("set-cookie", "balancer=test-only; Path=/")
        .build();
    let layer = ApiVideoAuthLayer::builder()
        .base_url(api.url())
        .api_key(api.api_key())
        .build()?;
    let result = serve(&layer, &api, check).await;
    layer.shutdown(Duration::from_secs(5)).await;
    result
}

async fn serve(layer: &ApiVideoAuthLayer, api: &FakeApi, check: bool) -> Result<String, BoxError> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/browser_upload");
    let uploader = folder.join("node_modules/@api.video/video-uploader/dist/index.js");
    let uploader = std::fs::read(uploader)
        .map_err(|_| "run `npm ci --prefix examples/browser_upload` first")?;

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let account = layer.layer(api.service());
    // In the check a token is not enough for one upload.
    let lifetime = if check {
        Duration::from_secs(12)
    } else {
        TOKEN_LIFETIME
    };
    let uploads = Uploads::new(account.clone(), lifetime);
    let pages = server::router(Arc::clone(&uploads), api.service(), uploader, address);
    let server = tokio::spawn(tls::serve(listener, tls::acceptor()?, pages));
    let url = format!("https://localhost:{}", address.port());
    println!("{url}/ (your browser will warn of the certificate, which was made just now)");

    let result = if check {
        use_page(&folder, &url, api).await
    } else {
        let ended = tokio::signal::ctrl_c().await;
        ended
            .map(|()| format!("{} videos", api.video_ids().len()))
            .map_err(BoxError::from)
    };
    server.abort();
    uploads.shutdown(Duration::from_secs(10)).await;
    let summary = result?;
    let left: Vec<_> = UploadTokens::<_, Body>::new(account)
        .list(ListOptions::new())
        .try_collect()
        .await?;
    if !left.is_empty() {
        return Err("an upload token was not deleted".into());
    }
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
    let videos = api.video_ids();
    let received = videos.iter().filter_map(|id| api.received(id));
    let films: Vec<_> = received
        .filter(|it| it.finished && it.length == film.len() as u64)
        .collect();
    let sha256 = <[u8; 32]>::from(Sha256::digest(&film));
    if films.is_empty() || films.iter().any(|it| it.sha256() != sha256) {
        return Err("the film did not arrive as it was".into());
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
        "{} films of {} bytes from Chromium, SHA-256 as sent",
        films.len(),
        film.len()
    ))
}
