//! How does a program without the API key survive its restarts?
//!
//! The parent plays api.video and starts itself again and again as the program in question, on one token file: the
//! first run logs in and ends, the second goes on without the key, the third is killed in the middle of a renewal,
//! the fourth takes over from it, and two more start with a refresh token in their environment, of which one is long
//! spent.

use std::{
    env,
    path::Path,
    process::{ExitCode, ExitStatus, Stdio},
    time::Duration,
};

use apivideo_auth::{
    ApiVideoAuth, ApiVideoAuthLayer,
    store::FileStore,
    testing::{FakeApi, GatePoint},
};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::process::{Child, Command};
use tower::{BoxError, Layer, ServiceExt};

type LoggedIn = ApiVideoAuth<Client<HttpConnector, Full<Bytes>>>;

#[tokio::main]
async fn main() -> ExitCode {
    let (name, result) = match env::var("RESTART_API") {
        Ok(api) => ("run", program(&api).await),
        Err(_) => ("restart", parent().await),
    };
    match result {
        Ok(summary) => {
            println!("{name}: ok {summary}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{name}: FAILED {error}");
            ExitCode::FAILURE
        }
    }
}

/// The program that is restarted: it lists the videos, renews once and lists them again.
async fn program(api: &str) -> Result<String, BoxError> {
    let store = FileStore::in_folder(env::var("RESTART_FOLDER")?);
    // Short, so that the token of a killed run is not waited for too long.
    let mut builder = ApiVideoAuthLayer::builder()
        .base_url(api)
        .store(store)
        .call_timeout(Duration::from_secs(2));
    if let Ok(key) = env::var("RESTART_API_KEY") {
        builder = builder.api_key(key);
    }
    if let Ok(seed) = env::var("RESTART_SEED") {
        builder = builder.refresh_token(seed);
    }
    let layer = builder.build()?;
    let client = layer.layer(Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>());
    let result = list_twice(&client).await;
    layer.shutdown(Duration::from_secs(5)).await;
    result?;
    Ok(format!(
        "with{} key",
        if env::var("RESTART_API_KEY").is_ok() {
            " the API"
        } else {
            "out a"
        }
    ))
}

async fn list_twice(client: &LoggedIn) -> Result<(), BoxError> {
    for _ in 0..2 {
        let response = client
            .clone()
            .oneshot(Request::get("/videos").body(Full::default())?)
            .await?;
        let status = response.status();
        response.into_body().collect().await?;
        if status != StatusCode::OK {
            return Err(format!("status {status}").into());
        }
        client.source().renew().await?;
    }
    Ok(())
}

async fn parent() -> Result<String, BoxError> {
    let api = FakeApi::start().await?;
    let folder = tempfile::tempdir()?;
    let tokens = folder.path().join("tokens");
    let run = |name: &str, variable: Option<(&str, &str)>| {
        println!("{name}");
        start(&api, &tokens, variable)
    };

    let first = run(
        "1. logs in with the API key, renews and ends",
        Some(("RESTART_API_KEY", api.api_key())),
    )?;
    succeeded(first).await?;
    let logins = api.counts().logins;
    let second = run(
        "2. has no key, and goes on with what the first one stored",
        None,
    )?;
    succeeded(second).await?;

    let gate = api.gate(GatePoint::BeforeCommit);
    let mut third = run(
        "3. is killed (SIGKILL) while its renewal is on its way",
        None,
    )?;
    gate.reached(1).await;
    third.kill().await?;
    third.wait().await?;
    gate.open();
    println!(
        "   its refresh token is marked in the store: the next run waits until its response can't come any more"
    );
    let fourth = run("4. has no key either, and takes over", None)?;
    succeeded(fourth).await?;

    let seed = api.mint_pair().1;
    let folder = tempfile::tempdir()?;
    let elsewhere = folder.path().join("tokens");
    for name in [
        "5. starts somewhere else from a refresh token in its environment",
        "6. does so again, with the same one",
    ] {
        println!("{name}");
        succeeded(start(&api, &elsewhere, Some(("RESTART_SEED", &seed)))?).await?;
    }

    let counts = api.counts();
    let presented = api.presentations(&seed);
    if logins != 1 || counts.logins != 1 || counts.reuse_violations != 0 || presented != 1 {
        return Err(format!("the seed was presented {presented} times, {counts:?}").into());
    }
    Ok(format!(
        "runs=6 killed=1 logins=1 refreshes={} seed_presented=1 reuse_violations=0",
        counts.refreshes
    ))
}

fn start(api: &FakeApi, tokens: &Path, variable: Option<(&str, &str)>) -> Result<Child, BoxError> {
    let mut command = Command::new(env::current_exe()?);
    command
        .env("RESTART_API", api.url())
        .env("RESTART_FOLDER", tokens)
        .env_remove("APIVIDEO_API_KEY");
    if let Some((name, value)) = variable {
        command.env(name, value);
    }
    Ok(command.stdout(Stdio::piped()).kill_on_drop(true).spawn()?)
}

async fn succeeded(child: Child) -> Result<ExitStatus, BoxError> {
    let output = tokio::time::timeout(Duration::from_secs(20), child.wait_with_output()).await??;
    print!("   {}", String::from_utf8_lossy(&output.stdout));
    if output.status.success() {
        Ok(output.status)
    } else {
        Err("a run failed".into())
    }
}
