//! A child process: this test binary once more, which says what it does and may stop, fail or die where it is told.

use std::{
    env,
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use apivideo_auth::{
    ApiVideoAuth,
    store::{FileStore, RedisStore, TokenStore},
};
use hyper_util::{
    client::legacy::{Client as Legacy, connect::HttpConnector},
    rt::TokioExecutor,
};
use tower::{Layer as _, ServiceExt as _};

use super::{stores::Lockless, *};
use crate::support::get;

pub(super) type Http = ApiVideoAuth<Legacy<HttpConnector, Body>>;

pub(super) const CALL_TIMEOUT: Duration = Duration::from_millis(500);

pub(super) fn connect(builder: Builder) -> (ApiVideoAuthLayer, Http) {
    let layer = builder.build().expect("good settings");
    let client = layer.layer(Legacy::builder(TokioExecutor::new()).build_http());
    (layer, client)
}

pub(super) async fn request(client: &Http) -> Result<u16, ErrorKind> {
    outcome(
        client
            .clone()
            .oneshot(get("/videos"))
            .await
            .map(|response| response.status()),
    )
}

fn signal(name: &str, process: u32) {
    let sent = Command::new("kill")
        .args([name, &process.to_string()])
        .status()
        .expect("kill");
    assert!(sent.success());
}

/// Where a child is killed, stopped, or fails; and it says so when it waits for a lock.
fn obeying(step: String) -> Hook {
    let loads = Arc::new(AtomicUsize::new(0));
    hook(move |op, when| {
        match (step.as_str(), op, when) {
            ("kill before clearing", Op::Touch, When::Before) => {
                signal("-KILL", std::process::id())
            }
            ("stop after marking", Op::Mark, When::After) => {
                signal("-STOP", std::process::id());
                // The signal may reach this thread a moment later.
                std::thread::sleep(Duration::from_millis(300));
            }
            // Who got the lock has looked twice.
            (_, Op::Load, When::Before) if loads.fetch_add(1, Ordering::SeqCst) == 2 => {
                println!("waits")
            }
            _ => {}
        }
        let fails = step == "fail to save" && (op, when) == (Op::Pair, When::Before);
        async move { if fails { Err(away()) } else { Ok(()) } }
    })
}

/// The child: makes one request, and says how that went.
#[tokio::test]
async fn a_child_process() {
    let Ok(step) = env::var("FLEET_STEP") else {
        return;
    };
    let var = |name: &str| env::var(name).expect("set by the parent");
    let builder = ApiVideoAuthLayer::builder()
        .base_url(var("FLEET_API"))
        .call_timeout(Duration::from_millis(
            var("FLEET_TIMEOUT").parse().expect("a number"),
        ));
    let builder = match env::var("FLEET_KEY") {
        Ok(key) => builder.api_key(key),
        Err(_) => builder,
    };
    let (store, locks) = (var("FLEET_STORE"), step != "no lock");
    let (layer, client) = if store.starts_with("redis:") {
        connect(meddle(
            builder,
            RedisStore::builder(store).build().expect("a good URL"),
            locks,
            step,
        ))
    } else {
        connect(meddle(builder, FileStore::in_folder(store), locks, step))
    };
    let outcome = request(&client).await;
    println!("answered {outcome:?}");
    layer.shutdown(Duration::from_secs(20)).await;
    println!(
        "ended {:?}",
        layer.subscribe().latest().map(|renewed| renewed.way)
    );
}

fn meddle(builder: Builder, store: impl TokenStore + Clone, locks: bool, step: String) -> Builder {
    let hook = obeying(step);
    if locks {
        builder.store(FaultyStore { store, hook })
    } else {
        builder.store(FaultyStore {
            store: Lockless(store),
            hook,
        })
    }
}

/// Runs what it is told and ends with the value.
pub(super) struct Running {
    pub(super) child: Child,
    output: BufReader<ChildStdout>,
}

impl Running {
    pub(super) fn start(api: &FakeApi, store: &str, step: &str, with_key: bool) -> Self {
        Self::start_with(api, store, step, with_key, CALL_TIMEOUT)
    }

    pub(super) fn start_with(
        api: &FakeApi,
        store: &str,
        step: &str,
        with_key: bool,
        timeout: Duration,
    ) -> Self {
        let mut command = Command::new(env::current_exe().expect("this test"));
        command
            .args(["--exact", "fleet::child::a_child_process", "--nocapture"])
            .env("FLEET_API", api.url())
            .env("FLEET_STORE", store)
            .env("FLEET_STEP", step)
            .env("FLEET_TIMEOUT", timeout.as_millis().to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        if with_key {
            command.env("FLEET_KEY", api.api_key());
        }
        let mut child = command.spawn().expect("a child process");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, output }
    }

    /// Reads what it prints up to a line with one of these texts. Call it on a thread that may block.
    pub(super) fn until(&mut self, texts: &[&str]) -> String {
        let mut line = String::new();
        while !texts.iter().any(|text| line.contains(text)) {
            line.clear();
            assert_ne!(
                self.output.read_line(&mut line).expect("reading"),
                0,
                "it ended without {texts:?}"
            );
        }
        line
    }

    pub(super) fn signal(&self, name: &str) {
        signal(name, self.child.id());
    }

    /// Waits for its end and returns what it printed.
    pub(super) fn end(mut self) -> String {
        let mut said = String::new();
        self.output.read_to_string(&mut said).expect("reading");
        self.child.wait().expect("its end");
        said
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("no panic")
}
