//! All settings, and the two ways out: a layer, or an error that says what to change.

use std::{error::Error as StdError, fmt, marker::PhantomData, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body::Body;

use super::{ApiVideoAuthLayer, NoReplay, token_cache::Shared};
use crate::{
    clock::{Clock, SourceClock},
    credentials::{ApiKey, Credentials, Environment, GrantPreference, RefreshToken},
    endpoint::{BodyFrom, EndpointConfig, NeverSent, SameService, SeparateService},
    error::{Error, ErrorKind},
    http_service::{HttpService, ResponseBody},
    origin::Origin,
    origin_headers,
    source::{Settings, SourceStore, Teller, Tokens},
    store::{MemoryStore, StoreKey, TokenStore},
};

/// One token call is answered in well under a second; ten cover a slow network.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Room for a call that hangs and for two after it.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(30);

/// A twelfth of api.video's hour: many chances to renew before anybody has to wait.
const EARLY_WINDOW: Duration = Duration::from_secs(300);

/// In-memory JSON passes; video does not.
const REPLAY_LIMIT: usize = 1024 * 1024;

/// No wait may be longer than this: each of them is a bound, not a wish.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(3600);

/// Makes an [`ApiVideoAuthLayer`]; start with its [`builder`](ApiVideoAuthLayer::builder).
///
/// `T` says where token calls go, `P` whether requests are kept for a replay. Nothing is checked before
/// [`build`](Self::build), and nothing is done before the first request.
///
/// ```
/// use apivideo_auth::{ApiVideoAuthLayer, Environment};
/// use std::time::Duration;
///
/// let layer = ApiVideoAuthLayer::builder()
///     .environment(Environment::Sandbox)
///     .api_key("test-only-key")
///     .application("my-app", "1.0")
///     .call_timeout(Duration::from_secs(5))
///     .build()?;
/// # Ok::<(), apivideo_auth::Error>(())
/// ```
#[must_use = "a builder does nothing until `build` is called"]
pub struct ApiVideoAuthLayerBuilder<T, P> {
    options: Options,
    transport: T,
    replay: PhantomData<P>,
}

/// The settings that have nothing to do with types.
struct Options {
    base_url: String,
    allowed_origins: Vec<String>,
    allow_http: bool,
    credentials: Credentials,
    application: Option<(String, String)>,
    never_sent: Option<NeverSent>,
    clock: Option<Arc<dyn Clock>>,
    grant_preference: GrantPreference,
    early_window: Duration,
    call_timeout: Duration,
    renewal_timeout: Duration,
    replay_limit: usize,
    store: Option<Arc<dyn TokenStore>>,
    account: String,
    replace_foreign_pair: bool,
    has_token_service: bool,
    /// Of bytes, `body_from` makes an empty body.
    loses_bytes: bool,
}

impl<P> ApiVideoAuthLayerBuilder<SameService, P> {
    pub(super) fn new() -> Self {
        let options = Options {
            base_url: Environment::default().base_url().to_owned(),
            allowed_origins: Vec::new(),
            allow_http: false,
            credentials: Credentials::new(),
            application: None,
            never_sent: None,
            clock: None,
            grant_preference: GrantPreference::default(),
            early_window: EARLY_WINDOW,
            call_timeout: CALL_TIMEOUT,
            renewal_timeout: RENEWAL_TIMEOUT,
            replay_limit: REPLAY_LIMIT,
            store: None,
            account: "default".to_owned(),
            replace_foreign_pair: false,
            has_token_service: false,
            loses_bytes: false,
        };
        Self {
            options,
            transport: SameService::new(),
            replay: PhantomData,
        }
    }

    /// Makes token calls through `service` instead of a clone of the wrapped one.
    ///
    /// Use it when
    ///
    /// - the wrapped service can't carry a token call, because its bodies are always empty (`Empty<Bytes>`) or always streams;
    /// - a layer below repeats requests, follows redirects or times out: each of them can lose a refresh token;
    /// - token calls must not queue behind API requests, or the other way round.
    ///
    /// The bodies of `service` may be of any type that is `From<Bytes>`, whatever the requests have. Requests that are to be
    /// sent again after a 401 still need `From<Bytes>` or [`body_from`](Self::body_from), which is called after this. It
    /// changes the first type parameter of the layer, and [`ApiVideoAuthLayer::source`] then needs no client.
    pub fn token_service<S, B>(self, service: S) -> ApiVideoAuthLayerBuilder<SeparateService, P>
    where
        S: HttpService<B, ResponseBody: ResponseBody>,
        B: From<Bytes> + Send + 'static,
    {
        let transport = SeparateService::new(service);
        let mut options = self.options;
        options.has_token_service = true;
        ApiVideoAuthLayerBuilder {
            options,
            transport,
            replay: PhantomData,
        }
    }
}

impl<T, P> ApiVideoAuthLayerBuilder<T, P> {
    /// Which of api.video's environments to use. Default: [`Environment::Production`]. An API key belongs to one of them: the
    /// other refuses it (<https://docs.api.video/reference/authentication-guide>).
    pub fn environment(self, environment: Environment) -> Self {
        self.base_url(environment.base_url())
    }

    /// The origin of the API, such as `http://127.0.0.1:8080` for a test server. Replaces the environment's. It is scheme, host
    /// and port; `build` refuses a path, a query or a user name.
    pub fn base_url(mut self, origin: impl Into<String>) -> Self {
        self.options.base_url = origin.into();
        self
    }

    /// Also sends tokens to this origin, such as `https://gateway.example.com`. Can be called several times.
    ///
    /// ```
    /// # use apivideo_auth::ApiVideoAuthLayer;
    /// let layer = ApiVideoAuthLayer::builder().allow_origin("https://gateway.example.com").build()?;
    /// # Ok::<(), apivideo_auth::Error>(())
    /// ```
    pub fn allow_origin(mut self, origin: impl Into<String>) -> Self {
        self.options.allowed_origins.push(origin.into());
        self
    }

    /// Allows `http` origins that are not on this machine. Anyone on the way can then read the tokens. Without it, only
    /// `127.0.0.0/8`, `::1` and `localhost` may go without TLS.
    pub fn danger_allow_http(mut self) -> Self {
        self.options.allow_http = true;
        self
    }

    /// The API key to log in with. Leave it out to keep it out of the process: a refresh token, or a store, is enough then.
    /// Nothing is read from the environment by itself. A secret that is mounted as a file often ends with a newline, which
    /// `build` refuses:
    ///
    /// ```no_run
    /// # use apivideo_auth::ApiVideoAuthLayer;
    /// let key = std::fs::read_to_string("/run/secrets/apivideo-api-key")?;
    /// let layer = ApiVideoAuthLayer::builder().api_key(key.trim()).build()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// A login may end the refresh tokens that other programs hold for the same key. The API does not say whether it does, so
    /// expect it.
    pub fn api_key(mut self, key: impl Into<ApiKey>) -> Self {
        self.options.credentials.api_key = Some(key.into());
        self
    }

    /// A refresh token to start from. With a [store](Self::store) it is a *seed*: what is stored comes before it, and so does
    /// an API key. Take it out of the environment after the first start: see [`store`](crate::store#seeds).
    ///
    /// It belongs to one source. Two layers that are built with the same refresh token end each other's: use one layer and its
    /// clones, or a store that both share.
    pub fn refresh_token(mut self, token: impl Into<RefreshToken>) -> Self {
        self.options.credentials.refresh_token = Some(token.into());
        self
    }

    /// Which credential a renewal presents first. Default: [`GrantPreference::RefreshToken`].
    pub fn grant_preference(mut self, preference: GrantPreference) -> Self {
        self.options.grant_preference = preference;
        self
    }

    /// How long before its expiry a token is renewed in the background. At most half the lifetime counts. Default: 300 s.
    ///
    /// Each token shortens it by a random part of up to a quarter, so that a fleet does not renew in step. [`Duration::ZERO`]
    /// turns early renewal off: a request then waits when the token has expired.
    pub fn early_window(mut self, window: Duration) -> Self {
        self.options.early_window = window;
        self
    }

    /// How long one token call may take, and how long callers wait for one that hangs: from its start to the last byte of its
    /// response. Default: 10 s, at most an hour, and never more than the [`renewal_timeout`](Self::renewal_timeout).
    ///
    /// After that, the response to a refresh is still read in the background, for up to 60 s or this timeout, whichever is
    /// longer: it may hold the only refresh token that is still good. Where an API key is held, it is used next.
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.options.call_timeout = timeout;
        self
    }

    /// How long one renewal may take with all its calls. Default: 30 s, at most an hour. Callers wait at most one second
    /// longer. A renewal that another task has to take over, because its runtime ended or did not poll it, starts from zero.
    pub fn renewal_timeout(mut self, timeout: Duration) -> Self {
        self.options.renewal_timeout = timeout;
        self
    }

    /// The largest request body, in bytes, that is kept to be sent again after a 401. Default: 1 MiB. Zero keeps requests without
    /// a body only.
    pub fn replay_limit(mut self, bytes: usize) -> Self {
        self.options.replay_limit = bytes;
        self
    }

    /// Tells which errors of your client prove that a token call was not sent, so that the refresh token is not taken for
    /// spent. Failed connections of hyper-util and reqwest, and refused ones of [`std::io`], are known without it. It is not
    /// asked about errors that come while the response is read.
    ///
    /// ```
    /// # use apivideo_auth::ApiVideoAuthLayer;
    /// let layer = ApiVideoAuthLayer::builder()
    ///     .never_sent(|error| error.to_string().contains("no free connection"))
    ///     .build()?;
    /// # Ok::<(), apivideo_auth::Error>(())
    /// ```
    pub fn never_sent(
        mut self,
        proves: impl Fn(&(dyn StdError + 'static)) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.options.never_sent = Some(Arc::new(proves));
        self
    }

    /// Keeps the pair (access and refresh token) in a store, where it outlives the process and is shared by all that use the
    /// same store. Default: none, and the pair ends with the process. See [`store`](crate::store).
    ///
    /// What is stored then comes before the refresh token that was given, which is a *seed*: it is used once, if nothing is
    /// stored or what is stored was refused, and no API key can log in.
    pub fn store(mut self, store: impl TokenStore) -> Self {
        self.options.store = Some(Arc::new(store));
        self
    }

    /// The name of the account in the store, which may hold several. Default: `default`. 1 to 64 letters, digits, `.`,
    /// `_` or `-`, no dot at its beginning.
    pub fn account(mut self, name: impl Into<String>) -> Self {
        self.options.account = name.into();
        self
    }

    /// Whether a login may replace a stored pair that belongs to another API key, as after a change of keys. Default: no, it
    /// is an error ([`ErrorKind::StoreForeign`]).
    pub fn replace_foreign_pair(mut self, replace: bool) -> Self {
        self.options.replace_foreign_pair = replace;
        self
    }

    /// Tells the time; for tests. Default: the clocks of the operating system. See [`clock`](crate::clock).
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.options.clock = Some(Arc::new(clock));
        self
    }

    /// Tells api.video the name and version of your application, on token calls and on the crate's own calls about uploads.
    /// Default: none. The name has 1 to 50 letters, digits, `_` or `-`; the version is like `1.2.3`, with one to three numbers
    /// of up to three digits.
    pub fn application(mut self, name: impl Into<String>, version: impl Into<String>) -> Self {
        self.options.application = Some((name.into(), version.into()));
        self
    }

    /// Tells how to make a body out of bytes, for a body type that is not `From<Bytes>`, such as `BoxBody`. It is used for
    /// token calls and for requests that are sent again after a 401. `make` is a plain function, or a closure that captures
    /// nothing.
    ///
    /// It changes the first type parameter of the layer: a client is an `ApiVideoAuth<S, BodyFrom<B>>`. With a
    /// [token service](ApiVideoAuthLayerBuilder::token_service), call that first. See the [table of
    /// bodies](crate::guide::bodies).
    ///
    /// ```
    /// # use apivideo_auth::ApiVideoAuthLayer;
    /// # use bytes::Bytes;
    /// # use http_body_util::{BodyExt, Full, combinators::BoxBody};
    /// type Body = BoxBody<Bytes, std::convert::Infallible>;
    ///
    /// let layer = ApiVideoAuthLayer::builder()
    ///     .body_from(|bytes: Bytes| -> Body { Full::new(bytes).boxed() })
    ///     .build()?;
    /// # Ok::<(), apivideo_auth::Error>(())
    /// ```
    pub fn body_from<B: Body>(
        self,
        make: fn(Bytes) -> B,
    ) -> ApiVideoAuthLayerBuilder<BodyFrom<B, T>, P> {
        let mut options = self.options;
        let size = make(Bytes::from_static(b"{}")).size_hint();
        options.loses_bytes = size.exact() == Some(0);
        ApiVideoAuthLayerBuilder {
            options,
            transport: BodyFrom::new(make, self.transport),
            replay: PhantomData,
        }
    }

    /// No request is kept or read ahead: a 401 passes through, and the next request gets a new token. With a
    /// [token service](ApiVideoAuthLayerBuilder::token_service) the request's body may then be of any type that is
    /// `Send + 'static`.
    pub fn no_replay(self) -> ApiVideoAuthLayerBuilder<T, NoReplay> {
        ApiVideoAuthLayerBuilder {
            options: self.options,
            transport: self.transport,
            replay: PhantomData,
        }
    }

    /// Checks the settings and makes the layer. A layer without credentials can be built; requests that need a token
    /// then fail until [`set_credentials`](ApiVideoAuthLayer::set_credentials) is called.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`], with what to do, if a setting can't work.
    pub fn build(self) -> Result<ApiVideoAuthLayer<T, P>, Error> {
        let options = self.options;
        let origin = Origin::parse(&options.base_url, options.allow_http)?;
        let mut origins = vec![origin.clone()];
        for allowed in &options.allowed_origins {
            origins.push(Origin::parse(allowed, options.allow_http)?);
        }
        options.credentials.check()?;
        if options.loses_bytes && !options.has_token_service {
            return Err(configuration(
                "`body_from` makes an empty body, which can carry no token call; write `Full::<Bytes>::default()` where you \
                 have `Empty<Bytes>`, or call `token_service` before it, with a client whose bodies are `Full<Bytes>`",
            ));
        }
        let (call, renewal) = (options.call_timeout, options.renewal_timeout);
        for (name, timeout) in [("call_timeout", call), ("renewal_timeout", renewal)] {
            if timeout.is_zero() || timeout > LONGEST_TIMEOUT {
                let message =
                    format!("{name} is {timeout:?}; give it more than zero, at most an hour");
                return Err(configuration(message));
            }
        }
        let application = options
            .application
            .as_ref()
            .map(|(name, version)| origin_headers::application(name, version))
            .transpose()?;
        let teller = Arc::new(Teller::new(options.account.clone(), origin.to_string()));
        let key = StoreKey::new(origin.name(), options.account)?;
        if let (Some(store), Some(clock)) = (&options.store, &options.clock) {
            MemoryStore::follow_clock(&**store, clock);
        }
        let store = options.store.map(|store| {
            SourceStore::new(store, key, options.replace_foreign_pair, teller.clone())
        });
        let never_sent = options.never_sent;
        let clock = options.clock.map_or(SourceClock::System, SourceClock::Own);
        let tokens = Tokens::new(Settings {
            endpoint: EndpointConfig {
                origin,
                application: application.clone(),
                never_sent,
                clock,
            },
            credentials: options.credentials,
            preference: options.grant_preference,
            early_window: options.early_window,
            call_timeout: call.min(renewal),
            renewal_timeout: renewal,
            store,
            teller,
        });
        let (transport, replay_limit) = (self.transport, options.replay_limit);
        let shared = Shared {
            generations: tokens.generations(),
            tokens: Arc::new(tokens),
            transport,
            origins: origins.into(),
            application,
            replay_limit,
        };
        Ok(ApiVideoAuthLayer::new(shared))
    }
}

impl<T, P> fmt::Debug for ApiVideoAuthLayerBuilder<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiVideoAuthLayerBuilder")
            .field("credentials", &self.options.credentials)
            .field("grant_preference", &self.options.grant_preference)
            .finish_non_exhaustive()
    }
}

fn configuration(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Configuration, message)
}
