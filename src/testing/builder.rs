//! How the fake server behaves, settled before it starts.

use std::{
    fmt, io,
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::{
    clock::SystemClock,
    gate::Gates,
    handle::{FakeApi, Handle},
    recorded_request::Journal,
    service::respond,
    state::{Shared, State},
    tokens::{Rules, Tokens, padded},
};
#[cfg(feature = "upload-tokens")]
use super::{resources::Resources, uploads::UploadRules};
use crate::Clock;

/// How long access tokens live unless the builder says otherwise: as long as those of api.video.
const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);

/// Builds a [`FakeApi`]. See the [module docs](super).
///
/// The defaults are what api.video documents; where its documents leave something open, a setting
/// plays the strict reading:
///
/// ```
/// use std::time::Duration;
///
/// use apivideo_auth::testing::FakeApi;
///
/// let api = FakeApi::builder()
///     .token_lifetime(Duration::from_secs(60))
///     .login_kills_refresh_tokens(true)
///     .build();
/// assert!(api.api_key().contains("test-only"));
/// ```
#[must_use]
pub struct FakeApiBuilder {
    token_lifetime: Duration,
    reported_lifetime: Option<Duration>,
    clock: Option<Arc<dyn Clock>>,
    rules: Rules,
    refusals_as_400: bool,
    journal: bool,
    #[cfg(feature = "upload-tokens")]
    uploads: UploadRules,
    cors: Option<HeaderValue>,
    headers: HeaderMap,
    port: u16,
}

impl FakeApiBuilder {
    /// How long access tokens live. Default: 3600 s, as those of api.video.
    pub fn token_lifetime(mut self, lifetime: Duration) -> Self {
        self.token_lifetime = lifetime;
        self
    }

    /// What responses report as `expires_in`, with a fraction if it is no whole number. Default: the truth.
    ///
    /// Different from the truth, it plays a server whose tokens die early or late.
    pub fn reported_lifetime(mut self, lifetime: Duration) -> Self {
        self.reported_lifetime = Some(lifetime);
        self
    }

    /// The clock whose monotonic reading decides when access tokens expire. Default: the machine's.
    ///
    /// Give the layer a clock of the same kind, or the two disagree on what has expired.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Whether a login revokes all refresh tokens issued before. Default: no. api.video's older
    /// documents say that it does and leave open whose.
    pub fn login_kills_refresh_tokens(mut self, kills: bool) -> Self {
        self.rules.login_kills_refresh_tokens = kills;
        self
    }

    /// Whether a login revokes all access tokens issued before. Default: no.
    pub fn login_kills_access_tokens(mut self, kills: bool) -> Self {
        self.rules.login_kills_access_tokens = kills;
        self
    }

    /// Whether a refresh revokes the access tokens of the same login issued before. Default: no.
    ///
    /// Requests that are under way with the old token then get 401.
    pub fn refresh_kills_access_token(mut self, kills: bool) -> Self {
        self.rules.refresh_kills_access_token = kills;
        self
    }

    /// Whether tokens have some 50 characters, and not 700 and 800 as those of api.video. Default: no.
    ///
    /// For simulations: in a debug build, to make, copy and erase long ones is most of the work.
    pub fn short_tokens(mut self, short: bool) -> Self {
        self.rules.short_tokens = short;
        self
    }

    /// Whether refused credentials get the 400 of the OpenAPI file, not the 401 of the docs: token calls with the problem
    /// `authentication-invalid-user-credentials`, and upload tokens. Default: no.
    pub fn refusals_as_400(mut self, as_400: bool) -> Self {
        self.refusals_as_400 = as_400;
        self
    }

    /// Whether requests are kept for [`FakeApi::journal`]. Default: yes. A benchmark may want none.
    pub fn journal(mut self, journal: bool) -> Self {
        self.journal = journal;
        self
    }

    /// Whether the bytes of uploads are kept for [`FakeApi::received`]. Default: no, their SHA-256
    /// is: a test of a large upload needs no memory for it.
    #[cfg(feature = "upload-tokens")]
    pub fn keep_uploads(mut self, keep: bool) -> Self {
        self.uploads.keep = keep;
        self
    }

    /// How long it takes, by the [clock](Self::clock), until an uploaded video is stored. Its status is `uploaded` until
    /// then, or `ingesting` where the video was created with a `source` that the API fetches, and `ingested` afterwards.
    /// Default: 10 s.
    #[cfg(feature = "upload-tokens")]
    pub fn ingest_time(mut self, time: Duration) -> Self {
        self.uploads.ingest_time = time;
        self
    }

    /// Lets the pages of an origin, such as `https://www.example.com` or `*`, read the responses in a browser, as the API
    /// does: preflight requests are answered. Default: no origin.
    ///
    /// # Panics
    ///
    /// If the origin is not a valid header value.
    pub fn cors(mut self, origin: &str) -> Self {
        self.cors =
            Some(HeaderValue::from_str(origin).expect("the origin is a valid header value"));
        self
    }

    /// A header that responses carry besides their own, such as the `Set-Cookie` of a load balancer. Called again, it
    /// adds another. Faults are left out: what they answer has no headers but their own.
    ///
    /// # Panics
    ///
    /// If the name or the value is not valid in a header.
    ///
    /// ```
    /// use apivideo_auth::testing::FakeApi;
    ///
    /// let api = FakeApi::builder().response_header("set-cookie", "lb=test-only; Path=/").build();
    /// ```
    pub fn response_header(mut self, name: &str, value: &str) -> Self {
        let name = HeaderName::try_from(name).expect("the name is a valid header name");
        let value = HeaderValue::from_str(value).expect("the value is a valid header value");
        self.headers.append(name, value);
        self
    }

    /// The port of the loopback interface that [`serve`](Self::serve) takes. Default: 0, one that is free.
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// A server without a socket. Needs no runtime.
    #[must_use]
    pub fn build(self) -> FakeApi {
        FakeApi(Arc::new(Handle {
            shared: Arc::new(self.shared()),
            url: "http://127.0.0.1:1".to_owned(),
            server: None,
        }))
    }

    /// Starts an HTTP server (HTTP/1, and HTTP/2 with prior knowledge) on the current Tokio runtime.
    ///
    /// # Errors
    ///
    /// If no port of the loopback interface is free, or not the one that was asked for.
    ///
    /// It binds one port of 127.0.0.1 and nothing else. It ends with the runtime, or with the
    /// last [`FakeApi`].
    ///
    /// # Cancel safety
    ///
    /// Dropped, no server is left behind.
    pub async fn serve(self) -> io::Result<FakeApi> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let shared = Arc::new(self.shared());
        let server = tokio::spawn(accept(listener, Arc::clone(&shared))).abort_handle();
        Ok(FakeApi(Arc::new(Handle {
            shared,
            url,
            server: Some(server),
        })))
    }

    /// The server's state, the same with and without a socket.
    fn shared(self) -> Shared {
        let journal = Journal::new(self.journal);
        let mut state = State::new(Tokens::new(self.rules), self.token_lifetime, journal);
        state.reported_lifetime = self.reported_lifetime;
        #[cfg(feature = "upload-tokens")]
        {
            state.resources = Resources::new(self.uploads);
        }
        Shared {
            api_key: padded("test-only-api-key-".to_owned(), 40),
            clock: self.clock.unwrap_or_else(|| Arc::new(SystemClock::new())),
            refusals_as_400: self.refusals_as_400,
            cors: self.cors,
            headers: self.headers,
            gates: Gates::default(),
            state: Mutex::new(state),
        }
    }
}

impl Default for FakeApiBuilder {
    fn default() -> Self {
        Self {
            token_lifetime: TOKEN_LIFETIME,
            reported_lifetime: None,
            clock: None,
            rules: Rules::default(),
            refusals_as_400: false,
            journal: true,
            #[cfg(feature = "upload-tokens")]
            uploads: UploadRules {
                ingest_time: Duration::from_secs(10),
                ..UploadRules::default()
            },
            cors: None,
            headers: HeaderMap::new(),
            port: 0,
        }
    }
}

impl fmt::Debug for FakeApiBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeApiBuilder")
            .field("token_lifetime", &self.token_lifetime)
            .field("reported_lifetime", &self.reported_lifetime)
            .field("rules", &self.rules)
            .field("refusals_as_400", &self.refusals_as_400)
            .finish_non_exhaustive()
    }
}

/// Serves until aborted; the connections end with this task.
async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, Arc::clone(&shared)));
                }
                // Most likely there are too many open files: some connection will end.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// One connection, HTTP/1 or HTTP/2 as the client begins it.
async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    // Only slower without it.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| respond(Arc::clone(&shared), request));
    let mut server = auto::Builder::new(TokioExecutor::new());
    // Streams that wait at a gate must not keep others from arriving.
    server.http2().max_concurrent_streams(u32::MAX);
    // An error is the client's to see.
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}
