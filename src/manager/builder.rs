//! Settings, and the builder that checks them.

use std::{error::Error as StdError, fmt, marker::PhantomData, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body::Body;
use tokio::sync::watch;
use tower::{BoxError, Service};

use super::{
    access::Source,
    session::StoreSettings,
    token_manager::{Handle, TokenManager},
};
use crate::{
    clock::{Clock, SystemClock},
    credentials::{ApiKey, Credentials, Environment, RefreshToken},
    endpoint::{Context, NeverSent, SameService, SeparateService},
    error::{Error, ErrorKind},
    origin::Origin,
    store::{StoreKey, TokenStore},
};

/// What an expired access token is replaced with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GrantPreference {
    /// Spend the refresh token; fall back to the API key if one is held.
    #[default]
    RefreshToken,
    /// Log in with the API key each time and never spend a refresh token, not even a given one.
    ApiKey,
}

/// One token call is answered in well under a second; ten cover a slow network.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Room for a call that hangs and for two after it.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(30);

/// A twelfth of api.video's hour: many chances to renew before anybody has to wait.
const EARLY_WINDOW: Duration = Duration::from_secs(300);

/// Covers clocks that differ a little, and the time a request travels.
const SAFETY_MARGIN: Duration = Duration::from_secs(10);

/// A second is what a person hardly notices.
const PATIENCE: Duration = Duration::from_secs(1);

/// In-memory JSON passes; video does not.
const REPLAY_LIMIT: usize = 1024 * 1024;

/// How long 401s are left alone after a renewal that did not help.
const UNAUTHORIZED_GUARD: Duration = Duration::from_secs(30);

/// Renewals for 401s at once, and the time that earns one more.
const UNAUTHORIZED_BUDGET: (u32, Duration) = (5, Duration::from_secs(15));

/// Checked settings of a source.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(super) context: Context,
    pub(crate) origins: Vec<Origin>,
    pub(super) grant_preference: GrantPreference,
    pub(super) early_window: Duration,
    pub(super) safety_margin: Duration,
    pub(super) call_timeout: Duration,
    pub(super) renewal_timeout: Duration,
    pub(super) patience: Duration,
    pub(crate) replay_limit: usize,
    pub(super) unauthorized_guard: Duration,
    pub(super) unauthorized_budget: u32,
    pub(super) unauthorized_refill: Duration,
    pub(super) store: Option<Arc<StoreSettings>>,
}

impl Settings {
    pub(super) fn spends_refresh_tokens(&self) -> bool {
        self.grant_preference == GrantPreference::RefreshToken
    }
}

/// No wait may be longer than this: each of them is a bound, not a wish.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(3600);

/// Makes an [`ApiVideoAuthLayer`](crate::ApiVideoAuthLayer); start with its
/// [`builder`](crate::ApiVideoAuthLayer::builder).
///
/// `T` says where token calls go, `P` whether requests are kept for a replay.
#[must_use = "a builder does nothing until `build` is called"]
pub struct ApiVideoAuthLayerBuilder<T, P> {
    base_url: String,
    allowed_origins: Vec<String>,
    allow_http: bool,
    credentials: Credentials,
    application: Option<(String, String)>,
    never_sent: Option<NeverSent>,
    clock: Arc<dyn Clock>,
    grant_preference: GrantPreference,
    early_window: Duration,
    safety_margin: Duration,
    call_timeout: Duration,
    renewal_timeout: Duration,
    patience: Duration,
    replay_limit: usize,
    unauthorized_guard: Duration,
    unauthorized_budget: (u32, Duration),
    store: Option<Arc<dyn TokenStore>>,
    account: String,
    replace_foreign_pair: bool,
    transport: T,
    replay: PhantomData<P>,
}

impl<P> ApiVideoAuthLayerBuilder<SameService, P> {
    pub(crate) fn new() -> Self {
        Self {
            base_url: Environment::default().base_url().to_owned(),
            allowed_origins: Vec::new(),
            allow_http: false,
            credentials: Credentials::new(),
            application: None,
            never_sent: None,
            clock: Arc::new(SystemClock),
            grant_preference: GrantPreference::default(),
            early_window: EARLY_WINDOW,
            safety_margin: SAFETY_MARGIN,
            call_timeout: CALL_TIMEOUT,
            renewal_timeout: RENEWAL_TIMEOUT,
            patience: PATIENCE,
            replay_limit: REPLAY_LIMIT,
            unauthorized_guard: UNAUTHORIZED_GUARD,
            unauthorized_budget: UNAUTHORIZED_BUDGET,
            store: None,
            account: "default".to_owned(),
            replace_foreign_pair: false,
            transport: SameService::new(),
            replay: PhantomData,
        }
    }

    /// Makes token calls through `service` instead of a clone of the wrapped one.
    ///
    /// It is the way when the wrapped service's body type is not `From<Bytes>`, when a layer below repeats requests or
    /// follows redirects, or when token calls must not queue behind API requests. `service` may take any body type
    /// that is `From<Bytes>`.
    pub fn token_service<S, B, R>(self, service: S) -> ApiVideoAuthLayerBuilder<SeparateService, P>
    where
        S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Into<BoxError>,
        B: From<Bytes> + Send + 'static,
        R: Body + Send + 'static,
        R::Data: Send,
        R::Error: Into<BoxError>,
    {
        self.with(|_| SeparateService::new(service))
    }
}

impl<T, P> ApiVideoAuthLayerBuilder<T, P> {
    /// Which of api.video's environments to use. Default: production.
    pub fn environment(self, environment: Environment) -> Self {
        self.base_url(environment.base_url())
    }

    /// The origin of the API, such as `http://127.0.0.1:8080` for a test server. Replaces the environment's.
    pub fn base_url(mut self, origin: impl Into<String>) -> Self {
        self.base_url = origin.into();
        self
    }

    /// Also sends tokens to this origin, such as `https://gateway.example.com`. Can be called several times.
    pub fn allow_origin(mut self, origin: impl Into<String>) -> Self {
        self.allowed_origins.push(origin.into());
        self
    }

    /// Allows `http` origins that are not on this machine. Whoever sits on the way can then read the tokens.
    pub fn danger_allow_http(mut self) -> Self {
        self.allow_http = true;
        self
    }

    /// The API key to log in with. Leave it out to keep it out of the process.
    pub fn api_key(mut self, key: impl Into<ApiKey>) -> Self {
        self.credentials.api_key = Some(key.into());
        self
    }

    /// A refresh token to start from.
    pub fn refresh_token(mut self, token: impl Into<RefreshToken>) -> Self {
        self.credentials.refresh_token = Some(token.into());
        self
    }

    /// What an expired token is replaced with. Default: [`GrantPreference::RefreshToken`].
    pub fn grant_preference(mut self, preference: GrantPreference) -> Self {
        self.grant_preference = preference;
        self
    }

    /// How long before expiry a renewal at the side may start; at most half the lifetime counts. Default: 300 s.
    ///
    /// Each token shortens it by a random part of up to a quarter. [`Duration::ZERO`] turns early renewal off.
    pub fn early_window(mut self, window: Duration) -> Self {
        self.early_window = window;
        self
    }

    /// Within this time of expiry a token counts as expired; at most a tenth of the lifetime counts. Default: 10 s.
    pub fn safety_margin(mut self, margin: Duration) -> Self {
        self.safety_margin = margin;
        self
    }

    /// How long one token call may take, from its start to the last byte of the response. Default: 10 s, at most an
    /// hour. What exceeds the flight's timeout counts as that.
    ///
    /// Where no API key is held, a refresh that was sent may take more of the flight, since the only thing left to
    /// do is to present the same token again.
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// How long one renewal may take with all its calls. Default: 30 s, at most an hour. Callers wait for it one
    /// second more at the most.
    pub fn renewal_timeout(mut self, timeout: Duration) -> Self {
        self.renewal_timeout = timeout;
        self
    }

    /// How long after its start a renewal may call again when the endpoint can't serve, and how long callers
    /// wait for the first call after a pause. Default: 1 s.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The largest request body, in bytes, that is kept to be sent again after a 401. Default: 1 MiB.
    pub fn replay_limit(mut self, bytes: usize) -> Self {
        self.replay_limit = bytes;
        self
    }

    /// How long 401s renew nothing after a renewal that did not cure one. Default: 30 s.
    pub fn unauthorized_guard(mut self, pause: Duration) -> Self {
        self.unauthorized_guard = pause;
        self
    }

    /// How many renewals 401s may cause at once, and the time after which they may cause one more. Default: 5, 15 s.
    pub fn unauthorized_budget(mut self, renewals: u32, one_more_each: Duration) -> Self {
        self.unauthorized_budget = (renewals, one_more_each);
        self
    }

    /// Says of errors of the token service that the request surely was not sent, so that the refresh token is not
    /// taken for spent. Failed connections of hyper-util and reqwest, and refused or unreachable ones of
    /// [`std::io`], are known without it. It is not asked about errors in reading the response.
    pub fn never_sent(
        mut self,
        proves: impl Fn(&(dyn StdError + 'static)) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.never_sent = Some(Arc::new(proves));
        self
    }

    /// Keeps the pair in a store, where it outlives the process and is shared by all that use the same one.
    ///
    /// The stored pair then goes before the given refresh token, which is a *seed*: it is used once, when nothing is
    /// stored or what is stored was refused.
    pub fn store(mut self, store: impl TokenStore) -> Self {
        self.store = Some(Arc::new(store));
        self
    }

    /// The name of the account in the store, which may hold several. Default: `default`. 1 to 64 letters, digits, `.`,
    /// `_` or `-`, no dot at its beginning.
    pub fn account(mut self, name: impl Into<String>) -> Self {
        self.account = name.into();
        self
    }

    /// Whether a stored pair that belongs to another API key is replaced by a login, as after a change of keys. Default:
    /// no, it is an error.
    pub fn replace_foreign_pair(mut self, replace: bool) -> Self {
        self.replace_foreign_pair = replace;
        self
    }

    /// Tells the time; for tests.
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Names your application to api.video on token calls. The name has 1 to 50 letters, digits, `_` or `-`, the
    /// version one to three numbers of up to three digits.
    pub fn application(mut self, name: impl Into<String>, version: impl Into<String>) -> Self {
        self.application = Some((name.into(), version.into()));
        self
    }

    pub(crate) fn build_source(self) -> Result<Source<T>, Error> {
        let origin = Origin::parse(&self.base_url, self.allow_http)?;
        let mut origins = vec![origin.clone()];
        for allowed in &self.allowed_origins {
            origins.push(Origin::parse(allowed, self.allow_http)?);
        }
        self.credentials.check()?;
        for (name, timeout) in [
            ("call_timeout", self.call_timeout),
            ("renewal_timeout", self.renewal_timeout),
        ] {
            if timeout.is_zero() || timeout > LONGEST_TIMEOUT {
                return Err(configuration(format!(
                    "{name} is {timeout:?}; give it more than zero, at most an hour"
                )));
            }
        }
        let (unauthorized_budget, unauthorized_refill) = self.unauthorized_budget;
        if unauthorized_refill.is_zero() {
            return Err(configuration(
                "unauthorized_budget would refill at once; give it a time above zero",
            ));
        }
        let application = self
            .application
            .as_ref()
            .map(|(name, version)| application(name, version))
            .transpose()?;
        let key = StoreKey::new(origin.name(), self.account)?;
        let replace_foreign_pair = self.replace_foreign_pair;
        let store = self.store.map(|store| {
            Arc::new(StoreSettings {
                store,
                key,
                replace_foreign_pair,
            })
        });
        let context = Context {
            origin,
            application,
            never_sent: self.never_sent,
            clock: self.clock,
        };
        let settings = Settings {
            context,
            origins,
            grant_preference: self.grant_preference,
            early_window: self.early_window,
            safety_margin: self.safety_margin,
            call_timeout: self.call_timeout.min(self.renewal_timeout),
            renewal_timeout: self.renewal_timeout,
            patience: self.patience.min(self.renewal_timeout),
            replay_limit: self.replay_limit,
            unauthorized_guard: self.unauthorized_guard,
            unauthorized_budget,
            unauthorized_refill,
            store,
        };
        let manager = Arc::new(TokenManager::new(settings, self.credentials));
        let handle = Arc::new(Handle {
            manager,
            alive: watch::Sender::new(()),
        });
        Ok(Source {
            handle,
            transport: self.transport,
        })
    }

    /// The same settings with other types.
    pub(crate) fn with<T2, P2>(
        self,
        transport: impl FnOnce(T) -> T2,
    ) -> ApiVideoAuthLayerBuilder<T2, P2> {
        ApiVideoAuthLayerBuilder {
            base_url: self.base_url,
            allowed_origins: self.allowed_origins,
            allow_http: self.allow_http,
            credentials: self.credentials,
            application: self.application,
            never_sent: self.never_sent,
            clock: self.clock,
            grant_preference: self.grant_preference,
            early_window: self.early_window,
            safety_margin: self.safety_margin,
            call_timeout: self.call_timeout,
            renewal_timeout: self.renewal_timeout,
            patience: self.patience,
            replay_limit: self.replay_limit,
            unauthorized_guard: self.unauthorized_guard,
            unauthorized_budget: self.unauthorized_budget,
            store: self.store,
            account: self.account,
            replace_foreign_pair: self.replace_foreign_pair,
            transport: transport(self.transport),
            replay: PhantomData,
        }
    }
}

impl<T, P> fmt::Debug for ApiVideoAuthLayerBuilder<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiVideoAuthLayerBuilder")
            .field("credentials", &self.credentials)
            .field("grant_preference", &self.grant_preference)
            .finish_non_exhaustive()
    }
}

fn configuration(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Configuration, message)
}

/// `name:version` by the rule of the API's official clients.
fn application(name: &str, version: &str) -> Result<HeaderValue, Error> {
    let name_fits = (1..=50).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    let number = |part: &str| {
        (1..=3).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    let version_fits = version.split('.').count() <= 3 && version.split('.').all(number);
    if !name_fits || !version_fits {
        return Err(configuration(
            "application takes a name of 1 to 50 letters, digits, `_` or `-` and a version like 1.2.3 with up to three \
             digits in each part",
        ));
    }
    HeaderValue::from_str(&format!("{name}:{version}")).map_err(|error| {
        Error::with_source(
            ErrorKind::Configuration,
            "application can't stand in a header",
            error,
        )
    })
}
