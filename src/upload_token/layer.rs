//! The settings of a service that holds nothing but an upload token.

use std::{fmt, sync::Arc};

use tower_layer::Layer;

use super::{pass::Pass, service::WithUploadToken, token::UploadTokenSecret};
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::{credentials::Environment, error::Error, origin::Origin, origin_headers};

/// Lets a service upload with nothing but an upload token. See the [module docs](super).
///
/// Clones share the token.
///
/// ```
/// use apivideo_auth::{Environment, UploadTokenLayer};
///
/// let layer = UploadTokenLayer::builder("to1234567890123456789012")
///     .environment(Environment::Sandbox)
///     .build()?;
/// # Ok::<(), apivideo_auth::Error>(())
/// ```
///
/// It needs no runtime and does no I/O. When the token expires, make a new layer: nothing here can
/// renew it.
#[derive(Clone)]
pub struct UploadTokenLayer(Arc<Pass>);

/// Builds an [`UploadTokenLayer`]; start with its [`builder`](UploadTokenLayer::builder). Nothing
/// is checked before [`build`](Self::build).
#[must_use]
pub struct UploadTokenLayerBuilder {
    token: UploadTokenSecret,
    base_url: String,
    allow_http: bool,
    application: Option<(String, String)>,
}

impl UploadTokenLayer {
    /// Starts with an upload token, and with production as the place it is for. Where the token
    /// comes from is no matter: it may be typed in, or sent by the account's own server.
    pub fn builder(token: impl Into<UploadTokenSecret>) -> UploadTokenLayerBuilder {
        UploadTokenLayerBuilder {
            token: token.into(),
            base_url: Environment::default().base_url().to_owned(),
            allow_http: false,
            application: None,
        }
    }
}

impl UploadTokenLayerBuilder {
    /// Which of api.video's environments the token is of. Default: production.
    pub fn environment(self, environment: Environment) -> Self {
        self.base_url(environment.base_url())
    }

    /// The origin of the API, such as `http://127.0.0.1:8080` for a test server. Replaces the
    /// environment's. It is the only place where the token goes.
    pub fn base_url(mut self, origin: impl Into<String>) -> Self {
        self.base_url = origin.into();
        self
    }

    /// Allows an `http` origin that is not on this machine. Anyone on the way can then read the token.
    ///
    /// Default: not allowed.
    pub fn danger_allow_http(mut self) -> Self {
        self.allow_http = true;
        self
    }

    /// Names your application to api.video on the requests of [`upload`](super::upload()), as
    /// [`ApiVideoAuthLayerBuilder::application`](crate::ApiVideoAuthLayerBuilder::application) does.
    pub fn application(mut self, name: impl Into<String>, version: impl Into<String>) -> Self {
        self.application = Some((name.into(), version.into()));
        self
    }

    /// Checks the settings and makes the layer.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`], with what to do, if the base URL is not an origin, the token has a
    /// character that no token has, or the application's name or version is not as it must be.
    pub fn build(self) -> Result<UploadTokenLayer, Error> {
        self.token.check()?;
        let origin = Origin::parse(&self.base_url, self.allow_http)?;
        let application = self
            .application
            .map(|(name, version)| origin_headers::application(&name, &version))
            .transpose()?;
        let pass = Pass::new(self.token, origin, application);
        Ok(UploadTokenLayer(Arc::new(pass)))
    }
}

impl<S> Layer<S> for UploadTokenLayer {
    type Service = WithUploadToken<S>;

    fn layer(&self, inner: S) -> WithUploadToken<S> {
        WithUploadToken::new(inner, self.0.clone())
    }
}

impl fmt::Debug for UploadTokenLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("UploadTokenLayer").field(&self.0).finish()
    }
}

impl fmt::Debug for UploadTokenLayerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A base URL that was not checked may have a password in it.
        f.debug_struct("UploadTokenLayerBuilder")
            .field("allow_http", &self.allow_http)
            .finish_non_exhaustive()
    }
}
