//! What a test can do with the fake server.
//!
//! Switches take effect for requests that come later; those at a [gate](FakeApi::gate) have been
//! judged or not, as its point says. Counts and records are those of all handles, sockets and
//! services together.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Response, request};

#[cfg(feature = "upload-tokens")]
use super::uploads::Received;
use super::{
    builder::FakeApiBuilder,
    fault::{Fault, Faults},
    gate::{Gate, GatePoint},
    handle::FakeApi,
    recorded_request::RecordedRequest,
    service::FakeService,
    state::Counts,
};

impl FakeApi {
    /// Settles how the server behaves before it starts. What may change while it runs has a method
    /// here.
    pub fn builder() -> FakeApiBuilder {
        FakeApiBuilder::default()
    }

    /// Starts an HTTP server with the defaults. Use it where the client is a real one; a service
    /// without a socket is faster and works with paused time.
    ///
    /// # Errors
    ///
    /// If no port of the loopback interface is free.
    pub async fn start() -> io::Result<Self> {
        Self::builder().serve().await
    }

    /// A server with the defaults and without a socket; only [`service`](Self::service) reaches it.
    #[must_use]
    pub fn in_process() -> Self {
        Self::builder().build()
    }

    /// The base URL, such as `http://127.0.0.1:41234`. Without a socket it is one that nobody listens on.
    #[must_use]
    pub fn url(&self) -> String {
        self.0.url.clone()
    }

    /// The server as a Tower service that needs no socket, on the caller's own runtime. It is
    /// always ready and takes any body.
    #[must_use]
    pub fn service(&self) -> FakeService {
        FakeService(Arc::clone(&self.0.shared))
    }

    /// The API key of the account: the only one that is accepted.
    #[must_use]
    pub fn api_key(&self) -> &str {
        &self.0.shared.api_key
    }

    /// An access and a refresh token, as if someone had logged in elsewhere. It counts as no token
    /// call.
    ///
    /// ```
    /// use apivideo_auth::{ApiVideoAuthLayer, testing::FakeApi};
    ///
    /// let api = FakeApi::in_process();
    /// let (_, refresh_token) = api.mint_pair();
    /// // A process that never holds the API key.
    /// let layer = ApiVideoAuthLayer::builder().base_url(api.url()).refresh_token(refresh_token).build()?;
    /// # Ok::<(), apivideo_auth::Error>(())
    /// ```
    #[must_use]
    pub fn mint_pair(&self) -> (String, String) {
        let now = self.0.shared.clock.now();
        let pair = self.0.shared.lock().login(now);
        (pair.access, pair.refresh)
    }

    /// The newest refresh token that is neither spent nor revoked.
    ///
    /// A client that has lost nothing holds it.
    #[must_use]
    pub fn live_refresh_token(&self) -> Option<String> {
        self.0.shared.lock().tokens.live_refresh_token()
    }

    /// Revokes all access tokens issued so far, as an operator may. The refresh tokens stay good.
    pub fn revoke_access_tokens(&self) {
        self.0.shared.lock().tokens.revoke_access_tokens();
    }

    /// Revokes one access token. One that is not known is nothing to revoke.
    pub fn revoke_access_token(&self, token: &str) {
        self.0.shared.lock().tokens.revoke_access_token(token);
    }

    /// Revokes all refresh tokens issued so far. Presenting one is refused, but is no reuse violation.
    pub fn revoke_refresh_tokens(&self) {
        self.0.shared.lock().tokens.revoke_refresh_tokens();
    }

    /// Whether the API key is refused from now on, as after a change of keys. Tokens stay good.
    pub fn refuse_api_key(&self, refuse: bool) {
        self.0.shared.lock().refuse_api_key = refuse;
    }

    /// Whether the account is suspended from now on: token calls and authorised requests get 403.
    pub fn suspend(&self, suspended: bool) {
        self.0.shared.lock().suspended = suspended;
    }

    /// Whether each bearer gets 401 from now on, whatever the token: a renewal does not help then.
    pub fn refuse_all_bearers(&self, refuse: bool) {
        self.0.shared.lock().refuse_all_bearers = refuse;
    }

    /// How long access tokens issued from now on live.
    pub fn set_token_lifetime(&self, lifetime: Duration) {
        self.0.shared.lock().token_lifetime = lifetime;
    }

    /// What responses report as `expires_in` from now on; `None` is the true lifetime.
    pub fn set_reported_lifetime(&self, lifetime: Option<Duration>) {
        self.0.shared.lock().reported_lifetime = lifetime;
    }

    /// Lets a call go wrong: the next token call, unless the [`Fault`] says otherwise. `None` takes all faults back.
    ///
    /// A call takes its fault when it arrives, before it waits at any gate, and takes one at the most: the oldest that
    /// is for it and has a number of calls left, or else the newest that is for [always](Fault::always).
    ///
    /// ```
    /// use apivideo_auth::testing::{FakeApi, Fault};
    ///
    /// let api = FakeApi::in_process();
    /// // The first call is lost after the server has carried it out, the second meets a gateway.
    /// api.fault(Fault::disconnect().after_commit());
    /// api.fault(Fault::status(502));
    /// ```
    pub fn fault(&self, fault: impl Into<Option<Fault>>) {
        let fault = fault.into();
        let faults = &mut self.0.shared.lock().faults;
        match fault {
            Some(fault) => faults.add(fault),
            None => *faults = Faults::default(),
        }
    }

    /// Shuts a gate, at which all calls that get to this point wait until it is opened.
    ///
    /// A second gate at the same point stops the calls that come later; the others wait for the first.
    ///
    /// ```
    /// use apivideo_auth::testing::{FakeApi, GatePoint};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let api = FakeApi::in_process();
    /// let gate = api.gate(GatePoint::BeforeCommit);
    /// // Spawn a client's request here, then wait until its token call is at the gate:
    /// // `gate.reached(1).await`, and drop or time out the request.
    /// assert_eq!(gate.arrived(), 0);
    /// gate.open();
    /// # }
    /// ```
    #[must_use = "dropping the gate opens it"]
    pub fn gate(&self, point: GatePoint) -> Gate {
        self.0.shared.gates.shut(point)
    }

    /// Plays what the server does not: requests that are no token calls and whose bearer (or upload token, on `/upload`) is
    /// good get what `response` returns, on any path. So a token that has expired is a 401 there too.
    ///
    /// `None` leaves the request to the server. There is one such function at a time; a new one
    /// replaces it. On a path that the server does not know it is asked first, since a path that nobody plays is a 404
    /// whatever the bearer; what it returns is dropped if the bearer is bad. It runs outside the server's lock, so it may call this handle. To let a request go wrong before its
    /// bearer is judged, use a [`Fault`].
    ///
    /// ```
    /// use apivideo_auth::testing::FakeApi;
    /// use bytes::Bytes;
    /// use http::{Request, Response};
    /// use http_body_util::Full;
    /// use tower::ServiceExt;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let api = FakeApi::in_process();
    /// api.on_api_request(|request| {
    ///     (request.uri.path() == "/tags").then(|| Response::new(Bytes::from_static(b"{\"data\":[]}")))
    /// });
    /// let (access_token, _) = api.mint_pair();
    /// for (bearer, status) in [(access_token.as_str(), 200), ("expired", 401)] {
    ///     let request = Request::get("/tags").header("authorization", format!("Bearer {bearer}"));
    ///     let response = api.service().oneshot(request.body(Full::<Bytes>::default())?).await?;
    ///     assert_eq!(response.status(), status);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_api_request(
        &self,
        response: impl Fn(&request::Parts) -> Option<Response<Bytes>> + Send + Sync + 'static,
    ) {
        self.0.shared.lock().on_api_request = Some(Arc::new(response));
    }

    /// Undoes [`on_api_request`](Self::on_api_request): the server answers by itself again.
    pub fn clear_on_api_request(&self) {
        self.0.shared.lock().on_api_request = None;
    }

    /// What was counted so far, since the start: a copy, so take one before and one after.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.0.shared.lock().counts
    }

    /// How often this refresh token was presented, whatever became of the calls. Whoever never sees
    /// 2 treats it as single use.
    #[must_use]
    pub fn presentations(&self, refresh_token: &str) -> usize {
        self.0
            .shared
            .lock()
            .presentations
            .get(refresh_token)
            .copied()
            .unwrap_or(0)
    }

    /// The most times that any one refresh token was presented: 1 in a run where nothing was lost.
    #[must_use]
    pub fn most_presentations(&self) -> usize {
        self.0
            .shared
            .lock()
            .presentations
            .values()
            .copied()
            .max()
            .unwrap_or(0)
    }

    /// How many requests (token calls apart) came with this access token.
    ///
    /// Refused ones count too.
    #[must_use]
    pub fn requests_with(&self, access_token: &str) -> usize {
        self.0
            .shared
            .lock()
            .bearers
            .get(access_token)
            .copied()
            .unwrap_or(0)
    }

    /// What has been uploaded of a video, or `None` if nothing was.
    #[cfg(feature = "upload-tokens")]
    #[must_use]
    pub fn received(&self, video_id: &str) -> Option<Received> {
        self.0.shared.lock().resources.received(video_id)
    }

    /// The ids of all videos, in order of creation: an upload that is repeated at the wrong moment
    /// shows here.
    #[cfg(feature = "upload-tokens")]
    #[must_use]
    pub fn video_ids(&self) -> Vec<String> {
        self.0.shared.lock().resources.video_ids()
    }

    /// All requests in order of arrival, with their headers and bodies: secrets included, since a
    /// test looks for them.
    #[must_use]
    pub fn journal(&self) -> Vec<RecordedRequest> {
        self.0.shared.lock().journal.all()
    }

    /// Forgets the requests so far; the counts stay.
    pub fn clear_journal(&self) {
        self.0.shared.lock().journal.clear();
    }
}
