//! A real Redis, started by the test that needs it.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard},
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
            let port = free_port();
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

    pub(crate) fn port(&self) -> u16 {
        self.port
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

/// Free for the moment.
pub(crate) fn free_port() -> u16 {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    free.expect("a port").port()
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

/// A way to Redis that can be blocked, as a network can: nothing that is sent goes on, and no end is heard of.
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// How many connections there were, how many of them (the first) are blocked, and what Redis said.
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    connections: u64,
    blocked: u64,
    said: Vec<u8>,
}

impl Proxy {
    pub(crate) fn start(server: &RedisServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (shared, port) = (Arc::<Shared>::default(), server.port);
        thread::spawn({
            let shared = shared.clone();
            move || {
                for client in listener.incoming().flatten() {
                    shared.connect(client, port);
                }
            }
        });
        Self { address, shared }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// How many connections came.
    pub(crate) fn connections(&self) -> u64 {
        self.shared.state().connections
    }

    /// Blocks every connection, those that come too.
    pub(crate) fn block(&self) {
        self.shared.set_blocked(|_| u64::MAX);
    }

    /// Lets new connections pass. Those that are there stay blocked.
    pub(crate) fn pass_new(&self) {
        self.shared.set_blocked(|connections| connections);
    }

    /// Lets everything pass, what was sent before too.
    pub(crate) fn pass(&self) {
        self.shared.set_blocked(|_| 0);
    }

    /// Waits until Redis has said this as often.
    pub(crate) fn wait_until_said(&self, word: &str, times: usize) {
        let said =
            |state: &mut State| String::from_utf8_lossy(&state.said).matches(word).count() < times;
        let (state, timeout) = self
            .shared
            .changed
            .wait_timeout_while(self.shared.state(), Duration::from_secs(10), said)
            .expect("no panic");
        let said = String::from_utf8_lossy(&state.said);
        assert!(!timeout.timed_out(), "no {word:?} in {said:?}");
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }

    fn set_blocked(&self, blocked: impl FnOnce(u64) -> u64) {
        let mut state = self.state();
        state.blocked = blocked(state.connections);
        self.changed.notify_all();
    }

    /// Passes on what both sides send, until both have ended.
    fn connect(self: &Arc<Self>, client: TcpStream, port: u16) {
        let mut state = self.state();
        state.connections += 1;
        let number = state.connections;
        drop(state);
        let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else {
            return;
        };
        let (from, to) = (
            client.try_clone().expect("a handle"),
            server.try_clone().expect("a handle"),
        );
        let shared = self.clone();
        thread::spawn(move || {
            pump(from, &to, |_| {
                let blocked = |state: &mut State| number <= state.blocked;
                drop(shared.changed.wait_while(shared.state(), blocked));
            });
            // The client may have gone long ago: what it sent was passed on all the same.
            let _ = to.shutdown(Shutdown::Write);
        });
        let shared = self.clone();
        thread::spawn(move || {
            pump(server, &client, |said| {
                shared.state().said.extend_from_slice(said);
                shared.changed.notify_all();
            });
            let _ = client.shutdown(Shutdown::Both);
        });
    }
}

/// Copies until the end of `from`; that `to` has gone is no reason to stop.
fn pump(mut from: TcpStream, mut to: &TcpStream, mut before: impl FnMut(&[u8])) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        before(&buffer[..length]);
        let _ = to.write_all(&buffer[..length]);
    }
}
