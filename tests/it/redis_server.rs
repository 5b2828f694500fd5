//! A real Redis, started by the test that needs it.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use tempfile::TempDir;

/// Ends with the value.
pub(crate) struct RedisServer {
    port: u16,
    folder: TempDir,
    child: Child,
}

impl RedisServer {
    /// Starts `redis-server` on a free port of loopback. It keeps nothing on disk.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// The same, with arguments for `redis-server`; `{folder}` in one is a folder of its own.
    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        // The port may be taken in between; then another one is tried.
        for _ in 0..10 {
            let folder = tempfile::tempdir().expect("a folder");
            let port = TcpListener::bind("127.0.0.1:0")
                .and_then(|free| free.local_addr())
                .expect("a port")
                .port();
            let child = spawn(port, &folder, arguments);
            let mut server = Self {
                port,
                folder,
                child,
            };
            if server.answers() {
                return server;
            }
        }
        panic!("redis-server does not start")
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Kills the server, as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("killing");
        self.child.wait().expect("its end");
    }

    /// Kills the server and starts another one, empty, in its place.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.child = spawn(self.port, &self.folder, &[]);
        assert!(self.answers(), "redis-server does not start again");
    }

    /// Carries out a command on a connection of its own, and returns its response as Redis wrote it: up to the first
    /// line's end, or the whole of a string.
    pub(crate) fn command(&self, words: &[&str]) -> String {
        self.try_command(words).expect("a response of Redis")
    }

    fn try_command(&self, words: &[&str]) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        stream.write_all(request.as_bytes())?;
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end().to_owned();
        match line.strip_prefix('$').map(|length| length.parse::<usize>()) {
            Some(Ok(length)) => {
                let mut text = vec![0; length];
                reader.read_exact(&mut text)?;
                Ok(String::from_utf8_lossy(&text).into_owned())
            }
            _ => Ok(line),
        }
    }

    fn answers(&mut self) -> bool {
        for _ in 0..500 {
            if self
                .try_command(&["PING"])
                .is_ok_and(|response| response == "+PONG")
            {
                return true;
            }
            if self.child.try_wait().expect("its state").is_some() {
                return false;
            }
            thread::sleep(Duration::from_millis(10));
        }
        false
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // It may have been killed already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(port: u16, folder: &TempDir, arguments: &[&str]) -> Child {
    let here = folder.path().to_str().expect("a plain path");
    Command::new("redis-server")
        .args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ])
        .args(["--dir", here])
        .args(
            arguments
                .iter()
                .map(|argument| argument.replace("{folder}", here)),
        )
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server is installed (.ci/servers installs it)")
}
