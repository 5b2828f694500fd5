//! Child processes: this test binary once more, for one test that a normal run ignores.
//!
//! Such a test is called `child_of_...`. `.ci/servers`, which runs the ignored tests, skips it by that name.

use std::{
    env, fs,
    io::{self, Read as _},
    os::unix::process::ExitStatusExt as _,
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    process, time,
};

/// Names the variable in which a child finds its orders, one a line.
const ORDERS: &str = "APIVIDEO_AUTH_TEST_CHILD";

/// Is killed with the value.
pub(crate) struct Child {
    process: process::Child,
    output: BufReader<process::ChildStdout>,
}

impl Child {
    /// Starts the test of this path.
    pub(crate) fn start(test: &str, orders: &[&str]) -> Self {
        Self::start_in(r#"exec "$@""#, test, orders)
    }

    /// The same in a shell that runs `shell`, which ends with `exec "$@"`.
    pub(crate) fn start_in(shell: &str, test: &str, orders: &[&str]) -> Self {
        let mut process = process::Command::new("sh")
            .args(["-c", shell, "sh"])
            .arg(env::current_exe().expect("this test"))
            .args([test, "--exact", "--ignored", "--nocapture"])
            // On the main thread: what a child costs is its own work.
            .arg("--test-threads=1")
            .env(ORDERS, orders.join("\n"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("a child process");
        let output = BufReader::new(process.stdout.take().expect("piped"));
        Self { process, output }
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id().expect("nobody has waited for its end")
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(name, self.id());
    }

    /// Waits until it is stopped: each of its threads stops on its own.
    pub(crate) async fn is_stopped(&self) {
        let states = || {
            let threads = fs::read_dir(format!("/proc/{}/task", self.id()))?;
            threads
                .map(|thread| fs::read_to_string(thread?.path().join("stat")))
                .collect::<io::Result<Vec<_>>>()
        };
        let stops = async {
            while !states().is_ok_and(|all| all.iter().all(|state| state.contains(") T "))) {
                time::sleep(Duration::from_millis(5)).await;
            }
        };
        let stops = time::timeout(Duration::from_secs(10), stops).await;
        stops.expect("it stops");
    }

    /// Ends one `wait_for_parent`.
    pub(crate) async fn go_on(&mut self) {
        let input = self.process.stdin.as_mut().expect("piped");
        input.write_all(b".").await.expect("it still runs");
    }

    /// Reads what it prints, up to a line with one of these texts.
    pub(crate) async fn until(&mut self, texts: &[&str]) -> String {
        let mut line = String::new();
        while !texts.iter().any(|text| line.contains(text)) {
            line.clear();
            let read = self.output.read_line(&mut line).await.expect("reading");
            assert_ne!(read, 0, "it ended without {texts:?}");
        }
        line
    }

    /// Waits until its test has passed, and returns what else it printed.
    pub(crate) async fn passed(self) -> String {
        let (status, said) = self.ended().await;
        // Where no test has this path, none fails either.
        assert!(
            status.success() && said.contains("1 passed"),
            "{status}: {said}"
        );
        said
    }

    /// Waits until it was killed, and returns what else it printed.
    pub(crate) async fn killed(self) -> String {
        let (status, said) = self.ended().await;
        assert_eq!(status.signal(), Some(9), "{status}: {said}");
        said
    }

    async fn ended(mut self) -> (ExitStatus, String) {
        let mut said = String::new();
        self.output
            .read_to_string(&mut said)
            .await
            .expect("reading");
        (self.process.wait().await.expect("its end"), said)
    }
}

/// In a child: its orders.
pub(crate) fn orders<const N: usize>() -> [String; N] {
    let orders = env::var(ORDERS).expect("a parent starts this test");
    let orders: Vec<_> = orders.split('\n').map(str::to_owned).collect();
    orders.try_into().expect("as many as the child wants")
}

/// In a child: blocks until the parent calls `go_on`.
pub(crate) fn wait_for_parent() {
    let read = io::stdin().read_exact(&mut [0]);
    read.expect("a byte from the parent");
}

pub(crate) fn signal(name: &str, process: u32) {
    let sent = Command::new("kill")
        .args([name, &process.to_string()])
        .status();
    assert!(sent.expect("kill").success());
}
