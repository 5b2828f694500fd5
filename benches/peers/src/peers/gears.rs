//! `cf-gears-toolkit-auth`: its two Tower layers.

use tower::{BoxError, Layer, util::MapErr};

use toolkit_auth::oauth2::{
    BearerAuthAutoRefreshLayer, BearerAuthAutoRefreshService, BearerAuthLayer, OAuthClientConfig,
    SecretString, TokenProvider, layer::BearerAuthService,
};
use toolkit_http::{HttpClientConfig, HttpError, TransportSecurity};

use crate::{
    api::Api,
    peer::{Inner, Peer, Tower},
    service::serve,
};

const VERSION: &str = "cf-gears-toolkit-auth 0.8.3";

/// Its layers stand only on services with its own error.
type WithItsError<S> = MapErr<S, fn(BoxError) -> HttpError>;

pub(crate) struct Bearer;

impl Peer for Bearer {
    const NAME: &'static str = "cf-gears-toolkit-auth, bearer";
    const VERSION: &'static str = VERSION;
    const NOTE: &'static str =
        "Client credentials only: holds no refresh token. Does nothing about a 401.";

    type Client<S: Inner> = Tower<BearerAuthService<WithItsError<S>>>;

    async fn client<S: Inner>(api: &Api, inner: S) -> Self::Client<S> {
        Tower(BearerAuthLayer::new(tokens(api).await).layer(with_its_error(inner)))
    }
}

pub(crate) struct AutoRefresh;

impl Peer for AutoRefresh {
    const NAME: &'static str = "cf-gears-toolkit-auth, auto refresh";
    const VERSION: &'static str = VERSION;
    const NOTE: &'static str =
        "Client credentials only: holds no refresh token. One renewal for 401s in 15 minutes.";
    const REPLAYS: bool = true;

    type Client<S: Inner> = Tower<BearerAuthAutoRefreshService<WithItsError<S>>>;

    async fn client<S: Inner>(api: &Api, inner: S) -> Self::Client<S> {
        Tower(BearerAuthAutoRefreshLayer::new(tokens(api).await).layer(with_its_error(inner)))
    }
}

async fn tokens(api: &Api) -> TokenProvider {
    let url = serve(api).await.expect("a port of the loopback");
    let mut http = HttpClientConfig::token_endpoint();
    http.transport = TransportSecurity::AllowInsecureHttp;
    let config = OAuthClientConfig {
        token_endpoint: Some(format!("{url}/token").parse().expect("a good URL")),
        client_id: "test-only".to_owned(),
        client_secret: SecretString::new("test-only"),
        http_config: Some(http),
        ..OAuthClientConfig::default()
    };
    TokenProvider::new(config).expect("the settings are good")
}

fn with_its_error<S>(inner: S) -> WithItsError<S> {
    MapErr::new(inner, HttpError::Transport)
}
