//! G21 to G26: layers that share a store, each played as a process of its own.

mod attacked;
mod child;
mod failed_saves;
mod families;
mod lost_locks;
mod lost_runtimes;
mod outages;
mod processes;
mod rejected;
mod second_look;
mod seeds;
mod sick;
mod single_flight;
mod store_failures;
pub(crate) mod stores;
mod unsaved;
mod unsaved_races;
mod waiters;

use std::time::Duration;

use apivideo_auth::{
    ApiVideoAuthLayer, ErrorKind, GrantType,
    testing::{FakeApi, ManualClock},
};
use tower::BoxError;

use self::stores::TestStore;
use crate::support::{
    Body, Builder, Client, HOUR, client,
    faulty_store::{FaultyStore, Hook, Op, When, failing, hook},
    list, ours, paused, seconds, settle,
};

/// Until a mark is settled that [`hasty`] made: the time-out of a call and 5 s.
const SETTLED: Duration = Duration::from_secs(15);

/// A process whose renewal has room for one call only.
fn hasty(builder: Builder) -> Builder {
    builder.renewal_timeout(seconds(12.0))
}

/// A fake in this process, a store, and paused time for both.
pub(crate) struct Fleet {
    pub(crate) api: FakeApi,
    clock: ManualClock,
    pub(crate) store: TestStore,
}

impl Fleet {
    fn new() -> Self {
        let (api, clock) = paused();
        Self {
            api,
            clock,
            store: TestStore::default(),
        }
    }

    /// One with a stored pair; the program that logged in is gone.
    pub(crate) async fn logged_in() -> Self {
        let fleet = Self::new();
        fleet.log_in().await;
        fleet
    }

    /// Logs in as an operator does, whatever is stored.
    async fn log_in(&self) {
        let layer = self.keyed().build().expect("good settings");
        client(&layer, &self.api)
            .source::<Body>()
            .renew()
            .await
            .expect("a login");
        assert!(layer.shutdown(HOUR).await);
    }

    /// Builds a layer without any credential.
    pub(crate) fn keyless(&self) -> Builder {
        ApiVideoAuthLayer::builder()
            .base_url(self.api.url())
            .clock(self.clock.clone())
            .early_window(Duration::ZERO)
            .store(self.store.clone())
    }

    pub(crate) fn keyed(&self) -> Builder {
        self.keyless().api_key(self.api.api_key())
    }

    fn builder(&self, with_key: bool) -> Builder {
        if with_key {
            self.keyed()
        } else {
            self.keyless()
        }
    }

    pub(crate) fn faulty(&self, hook: Hook) -> FaultyStore<TestStore> {
        FaultyStore::new(self.store.clone(), hook)
    }

    pub(crate) fn start(&self, builder: Builder) -> Process {
        let layer = builder.build().expect("good settings");
        let client = client(&layer, &self.api);
        Process { layer, client }
    }

    /// As many processes without an API key.
    fn start_keyless(&self, count: usize) -> Vec<Process> {
        (0..count).map(|_| self.start(self.keyless())).collect()
    }

    pub(crate) fn stored(&self) -> String {
        self.store.refresh_token().expect("a stored refresh token")
    }
}

pub(crate) struct Process {
    pub(crate) layer: ApiVideoAuthLayer,
    pub(crate) client: Client,
}

impl Process {
    pub(crate) async fn list(&self) -> Result<u16, ErrorKind> {
        outcome(list(&self.client).await)
    }

    pub(crate) fn spawn(&self) -> tokio::task::JoinHandle<Result<u16, ErrorKind>> {
        let client = self.client.clone();
        tokio::spawn(async move { outcome(list(&client).await) })
    }

    fn way(&self) -> Option<GrantType> {
        self.layer.subscribe().latest().map(|renewed| renewed.grant)
    }
}

fn outcome(result: Result<http::StatusCode, BoxError>) -> Result<u16, ErrorKind> {
    result
        .map(|status| status.as_u16())
        .map_err(|error| ours(&error).kind())
}
