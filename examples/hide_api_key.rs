//! How does a program work without holding the API key, and go on after a restart?
//!
//! Step 1 logs in with the key and gives a refresh token away. Step 2 is started with that token, once, and keeps what
//! comes of it in a store. Step 3 is the same program after a restart: all it has is the store. In real life the first
//! step is a program of its own, where it is safe to have the key.
//!
//! `cargo run --example hide_api_key` keeps files, encrypted with a key that comes from elsewhere. With
//! `-- --store keyring` the files' key is in the keyring of the operating system, where it leaves an entry.

use std::{env, path::Path, process::ExitCode, time::Duration};

use apivideo_auth::{
    ApiVideoAuth, ApiVideoAuthLayer, RefreshToken,
    store::{EncryptedStore, EncryptionKey, FileStore, KeyringStore},
    testing::{FakeApi, FakeService},
};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use tower::{BoxError, Layer, ServiceExt};

const TOKEN_LIFETIME: Duration = Duration::from_secs(1);

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(summary) => {
            println!("hide_api_key: ok {summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("hide_api_key: FAILED {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<String, BoxError> {
    let api = FakeApi::builder().token_lifetime(TOKEN_LIFETIME).build();
    let folder = tempfile::tempdir()?;
    let seed = log_in(&api).await?;
    work(&api, folder.path(), Some(seed.clone()), "step 2").await?;
    work(&api, folder.path(), None, "step 3, after a restart").await?;

    let counts = api.counts();
    let seed_presented = api.presentations(seed.expose());
    if counts.logins != 1
        || counts.refreshes < 3
        || counts.reuse_violations != 0
        || seed_presented != 1
    {
        return Err(format!("unexpected token calls: {counts:?}").into());
    }
    Ok(format!(
        "logins={} refreshes={} reuse_violations=0",
        counts.logins, counts.refreshes
    ))
}

/// The only step that sees the API key.
async fn log_in(api: &FakeApi) -> Result<RefreshToken, BoxError> {
    let layer = ApiVideoAuthLayer::builder()
        .base_url(api.url())
        .api_key(api.api_key())
        .build()?;
    let client: ApiVideoAuth<FakeService> = layer.layer(api.service());
    let source = client.source::<Full<Bytes>>();
    let token = source.token().await;
    // From here on nobody renews the pair any more: it can be taken elsewhere.
    layer.shutdown(Duration::from_secs(5)).await;
    token?;
    let pair = source.pair().await?;
    let seed = pair.refresh_token().cloned();
    let seed = seed.ok_or("the API gave no refresh token")?;
    println!(
        "step 1: logged in with the API key, kept only a refresh token of {} characters",
        seed.expose().len()
    );
    Ok(seed)
}

/// A program that has never seen the API key. After its first start it needs no seed either.
async fn work(
    api: &FakeApi,
    folder: &Path,
    seed: Option<RefreshToken>,
    step: &str,
) -> Result<(), BoxError> {
    let mut builder = ApiVideoAuthLayer::builder().base_url(api.url());
    builder = if env::args().any(|argument| argument == "keyring") {
        // `KeyringStore::in_user_folder()` is what a program has that is not a demonstration.
        builder.store(KeyringStore::in_folder(folder))
    } else {
        let files = FileStore::in_folder(folder);
        builder.store(EncryptedStore::new(
            files,
            EncryptionKey::from_bytes(secret_manager()),
        ))
    };
    if let Some(seed) = seed {
        builder = builder.refresh_token(seed);
    }
    let layer = builder.build()?;
    let result = list_videos(layer.layer(api.service()), step).await;
    layer.shutdown(Duration::from_secs(5)).await;
    result
}

/// Longer than a token lives.
async fn list_videos(client: ApiVideoAuth<FakeService>, step: &str) -> Result<(), BoxError> {
    for second in 0..3 {
        let request = Request::get("/videos").body(Full::<Bytes>::default())?;
        let status = client.clone().oneshot(request).await?.status();
        let token = client.source::<Full<Bytes>>().token().await?;
        println!(
            "{step}: after {second} s: {status} with access token {}",
            token.generation()
        );
        if status != StatusCode::OK {
            return Err(format!("status {status}").into());
        }
        tokio::time::sleep(TOKEN_LIFETIME).await;
    }
    Ok(())
}

/// Stands for wherever you keep secrets: 32 random bytes, the same after a restart.
fn secret_manager() -> [u8; 32] {
    *b"test-only, 32 random bytes or so"
}
