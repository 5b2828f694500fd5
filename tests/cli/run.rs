//! Runs commands, and looks for secrets in all that they show and are given.

use std::{path::Path, process::Stdio, time::Duration};

use apivideo_auth::testing::FakeApi;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
    time::{sleep, timeout},
};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_apivideo-auth");

/// No command takes longer.
const LIMIT: Duration = Duration::from_secs(40);

/// A user's machine, with a home of its own, and a fake API.
pub(crate) struct Shell {
    api: FakeApi,
    home: TempDir,
}

pub(crate) struct Output {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Output {
    /// What it printed, if it did what it should.
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        self.out
    }
}

impl Shell {
    pub(crate) async fn new() -> Self {
        Self {
            api: FakeApi::start().await.unwrap(),
            home: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn api(&self) -> &FakeApi {
        &self.api
    }

    pub(crate) fn folder(&self) -> &Path {
        self.home.path()
    }

    pub(crate) async fn login(&mut self) {
        let key = self.api.api_key().to_owned();
        let said = self.run_with(&["login"], &key).await.ok();
        assert!(said.contains("API key may now be forgotten"), "{said}");
    }

    pub(crate) async fn run(&mut self, arguments: &[&str]) -> Output {
        self.run_with(arguments, "").await
    }

    /// Runs the program against the fake. `input` comes from a pipe.
    pub(crate) async fn run_with(&mut self, arguments: &[&str], input: &str) -> Output {
        assert!(
            !arguments.concat().contains("test-only"),
            "a secret in the arguments"
        );
        let output = self.run_unchecked_with(arguments, input).await;
        let prints_token = arguments.contains(&"token");
        let shown = if prints_token {
            output.err.clone()
        } else {
            format!("{}{}", output.out, output.err)
        };
        assert!(!shown.contains("test-only"), "a secret is shown: {shown}");
        output
    }

    /// Where a test itself gives a secret away.
    pub(crate) async fn run_unchecked(&mut self, arguments: &[&str]) -> Output {
        self.run_unchecked_with(arguments, "").await
    }

    async fn run_unchecked_with(&mut self, arguments: &[&str], input: &str) -> Output {
        let mut command = self.command(PROGRAM);
        command
            .args(["--base-url", &self.api.url()])
            .args(arguments);
        Self::finish(command, input).await
    }

    /// A command of this user.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("XDG_STATE_HOME", self.home.path())
            .env("HOME", self.home.path())
            .env_remove("APIVIDEO_AUTH_STORE")
            .kill_on_drop(true);
        command
    }

    pub(crate) async fn finish(mut command: Command, input: &str) -> Output {
        let pipes = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = pipes.spawn().unwrap();
        // It may end without having read.
        let _ = child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .await;
        let output = timeout(LIMIT, child.wait_with_output())
            .await
            .expect("in time")
            .unwrap();
        Output {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs it at a pseudo-terminal, types `text` when `prompt` is there, and gives all that the terminal has shown.
    pub(crate) async fn type_at_prompt(&self, command: &str, prompt: &str, text: &str) -> String {
        let line = format!("{PROGRAM} --base-url {} {command}", &self.api.url());
        let mut script = self.command("script");
        script.args(["-qefc", &line, "/dev/null"]);
        let mut child = script
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut keyboard, mut screen) =
            (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut shown = Vec::new();
        let work = async {
            while !String::from_utf8_lossy(&shown).contains(prompt) {
                assert_ne!(screen.read_buf(&mut shown).await.unwrap(), 0, "it ended");
            }
            // The prompt comes a moment before the terminal hides what is typed.
            sleep(Duration::from_millis(500)).await;
            keyboard
                .write_all(format!("{text}\n").as_bytes())
                .await
                .unwrap();
            screen.read_to_end(&mut shown).await.unwrap();
            child.wait().await.unwrap();
        };
        timeout(LIMIT, work).await.expect("in time");
        String::from_utf8(shown).unwrap()
    }
}
