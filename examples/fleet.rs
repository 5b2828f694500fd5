//! Do twenty processes on one store renew once each time, also when one of them has no way to the API, and when the one
//! that renews is killed?
//!
//! `cargo run --example fleet` starts a `redis-server` of its own; `-- --store file` uses a folder instead. The parent
//! plays api.video with tokens of two seconds, logs in once, and starts itself twenty times without the API key. The first
//! of them is sick: its connections are refused, until it is mended after six seconds. Twice the parent kills (SIGKILL) a process
//! that is renewing, in the middle of it.

use std::{
    env,
    net::{TcpListener, TcpStream},
    process::{ExitCode, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use apivideo_auth::{
    ApiVideoAuth, ApiVideoAuthLayer, ApiVideoAuthLayerBuilder,
    middleware::{Replay, SameService},
    store::{FileStore, RedisStore},
    testing::{FakeApi, Fault, GatePoint},
};
use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{
    process::{Child, Command},
    time::{self, Instant},
};
use tower::{BoxError, Layer, ServiceExt, util::MapRequest};

/// With a way to the API that can be cut off.
type Hyper = ApiVideoAuth<Client<MapRequest<HttpConnector, fn(Uri) -> Uri>, Full<Bytes>>>;

const PROCESSES: usize = 20;
const TOKEN_LIFETIME: Duration = Duration::from_secs(2);
const LOAD: Duration = Duration::from_secs(18);

/// From the start; its requests fail meanwhile. By the end of the load it is well again: a cool-down is over in two
/// seconds, and the mark of a killed process in seven.
const SICK: Duration = Duration::from_secs(6);
const SICK_MEMBER: usize = 0;

/// Short, since nobody presents the token of a killed process before its call has certainly ended.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether this process is the sick one, and is sick now.
static IS_CUT_OFF: AtomicBool = AtomicBool::new(false);

/// Nobody listens where a process is led that is cut off.
fn route(to: Uri) -> Uri {
    if IS_CUT_OFF.load(Ordering::Relaxed) {
        Uri::from_static("http://127.0.0.1:1")
    } else {
        to
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let result = match env::var("FLEET_MEMBER") {
        Ok(number) => member(&number).await,
        Err(_) => parent()
            .await
            .map(|summary| println!("fleet: ok {summary}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("fleet: FAILED {error}");
            ExitCode::FAILURE
        }
    }
}

fn client(
    api: &str,
    store: &str,
    with: impl FnOnce(Builder) -> Builder,
) -> Result<(ApiVideoAuthLayer, Hyper), BoxError> {
    let builder = ApiVideoAuthLayer::builder()
        .base_url(api)
        .call_timeout(CALL_TIMEOUT);
    let builder = match store.starts_with("redis:") {
        true => builder.store(RedisStore::builder(store).build()?),
        false => builder.store(FileStore::in_folder(store)),
    };
    let layer = with(builder).build()?;
    let connector = HttpConnector::new().map_request(route as fn(Uri) -> Uri);
    let client = layer.layer(Client::builder(TokioExecutor::new()).build(connector));
    Ok((layer, client))
}

type Builder = ApiVideoAuthLayerBuilder<SameService, Replay>;

async fn list(client: &Hyper) -> Result<StatusCode, BoxError> {
    let response = client
        .clone()
        .oneshot(Request::get("/videos").body(Full::default())?)
        .await?;
    let status = response.status();
    response.into_body().collect().await?;
    Ok(status)
}

/// One process of the fleet: ten requests a second. Its last line counts them, and says since when they succeed.
async fn member(number: &str) -> Result<(), BoxError> {
    let (api, store) = (env::var("FLEET_API")?, env::var("FLEET_STORE")?);
    // The name tells the parent who makes a token call.
    let (layer, client) = client(&api, &store, |builder| {
        builder.application(format!("member-{number}"), "1.0")
    })?;
    let is_sick = number.parse() == Ok(SICK_MEMBER);
    let begun = Instant::now();
    let (mut requests, mut failed, mut well_since) = (0, 0, None);
    while begun.elapsed() < LOAD {
        IS_CUT_OFF.store(is_sick && begun.elapsed() < SICK, Ordering::Relaxed);
        let outcome = list(&client).await;
        if let Ok(StatusCode::OK) = outcome {
            well_since.get_or_insert(begun.elapsed());
        }
        // What fails while it is sick is no failure.
        if !is_sick || well_since.is_some() {
            requests += 1;
            if !matches!(outcome, Ok(StatusCode::OK)) {
                failed += 1;
                eprintln!("member {number}: {outcome:?}");
            }
        }
        time::sleep(Duration::from_millis(100)).await;
    }
    layer.shutdown(Duration::from_secs(5)).await;
    let well_since = well_since.unwrap_or(LOAD).as_millis();
    println!("{requests} {failed} {well_since}");
    Ok(())
}

async fn parent() -> Result<String, BoxError> {
    let api = FakeApi::builder()
        .token_lifetime(TOKEN_LIFETIME)
        .serve()
        .await?;
    api.fault(Fault::latency(Duration::from_millis(50)).always());
    let folder = tempfile::tempdir()?;
    let is_file = env::args().skip(1).collect::<Vec<_>>() == ["--store", "file"];
    let (store, _redis) = if is_file {
        (
            folder.path().join("tokens").to_string_lossy().into_owned(),
            None,
        )
    } else {
        let (url, redis) = start_redis(folder.path()).await?;
        (url, Some(redis))
    };
    println!(
        "{PROCESSES} processes for {} s, tokens of {} s, on {store}",
        LOAD.as_secs(),
        TOKEN_LIFETIME.as_secs()
    );

    // The only one that has the API key.
    let (layer, first) = client(&api.url(), &store, |builder| builder.api_key(api.api_key()))?;
    list(&first).await?;
    layer.shutdown(Duration::from_secs(5)).await;

    let mut members = Vec::new();
    for number in 0..PROCESSES {
        let mut command = Command::new(env::current_exe()?);
        command
            .env("FLEET_MEMBER", number.to_string())
            .env("FLEET_API", api.url())
            .env("FLEET_STORE", &store);
        command
            .env_remove("APIVIDEO_API_KEY")
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        members.push(Some(command.spawn()?));
    }
    for pause in [3, 2] {
        time::sleep(Duration::from_secs(pause)).await;
        kill_the_one_that_renews(&api, &mut members).await?;
    }

    let (mut requests, mut failed, mut survivors, mut sick) = (0, 0, 0, 0);
    for (number, member) in members.into_iter().enumerate() {
        let Some(member) = member else { continue };
        let output = time::timeout(Duration::from_secs(40), member.wait_with_output()).await??;
        let line = String::from_utf8(output.stdout)?;
        let words: Vec<_> = line.split_whitespace().collect();
        let [sent, lost, well_since] = words[..] else {
            return Err("a member printed something else".into());
        };
        requests += sent.parse::<usize>()?;
        failed += lost.parse::<usize>()?;
        survivors += 1;
        let well_since = Duration::from_millis(well_since.parse()?);
        let has_recovered = well_since >= SICK && well_since < LOAD;
        sick += usize::from(number == SICK_MEMBER && has_recovered);
    }
    let counts = api.counts();
    println!();
    for (name, value) in [
        (
            "processes, of which killed",
            format!("{PROCESSES}, {}", PROCESSES - survivors),
        ),
        ("cut off from the API, and recovered", sick.to_string()),
        ("requests of those that are well", requests.to_string()),
        ("failed", failed.to_string()),
        ("logins", counts.logins.to_string()),
        ("renewals", counts.grants.to_string()),
        (
            "token calls, most at once",
            format!("{}, {}", counts.token_calls, counts.max_in_flight),
        ),
        (
            "refresh tokens presented twice after use",
            counts.reuse_violations.to_string(),
        ),
    ] {
        println!("  {name:<42} {value}");
    }
    println!();
    let summary = format!(
        "processes={PROCESSES} sick={sick} renewals={} token_calls={} reuse_violations={} failed_requests={failed}",
        counts.grants, counts.token_calls, counts.reuse_violations
    );
    // Each kill costs the call that was killed, and nothing else.
    let is_sound = counts.reuse_violations == 0
        && failed == 0
        && counts.logins == 1
        && survivors == PROCESSES - 2
        && sick == 1
        && counts.token_calls <= counts.grants + 2;
    if is_sound {
        Ok(summary)
    } else {
        Err(summary.into())
    }
}

/// Stops the next token call before it has an effect, kills the process that makes it, and lets the others go on.
async fn kill_the_one_that_renews(
    api: &FakeApi,
    members: &mut [Option<Child>],
) -> Result<(), BoxError> {
    let gate = api.gate(GatePoint::BeforeCommit);
    gate.reached(1).await;
    let journal = api.journal();
    let caller = journal
        .iter()
        .rfind(|exchange| exchange.is_token_call)
        .and_then(|exchange| exchange.headers.get("av-origin-app")?.to_str().ok())
        .and_then(|name| {
            name.strip_prefix("member-")?
                .split(':')
                .next()?
                .parse::<usize>()
                .ok()
        })
        .ok_or("the caller has no name")?;
    let mut victim = members
        .get_mut(caller)
        .and_then(Option::take)
        .ok_or("it is dead already")?;
    victim.kill().await?;
    println!("killed process {caller} in the middle of a renewal");
    gate.open();
    Ok(())
}

async fn start_redis(folder: &std::path::Path) -> Result<(String, Child), BoxError> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let mut command = Command::new("redis-server");
    command
        .args([
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--port",
            &port.to_string(),
            "--dir",
        ])
        .arg(folder);
    let redis = command.stdout(Stdio::null()).kill_on_drop(true).spawn().map_err(|_| {
        "there is no redis-server: install it (Debian: apt-get install redis-server), or add `-- --store file`"
    })?;
    for _ in 0..100 {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Ok((format!("redis://127.0.0.1:{port}"), redis));
        }
        time::sleep(Duration::from_millis(50)).await;
    }
    Err("redis-server does not start".into())
}
