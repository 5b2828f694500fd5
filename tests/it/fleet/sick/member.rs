//! One process of a cell: a layer of its own, with its own way to the API and its own clock.

use std::{collections::BTreeSet, io, sync::Arc};

use apivideo_auth::{ApiVideoAuth, store::TokenStore};
use axum::body::Body as AnyBody;
use http::{Request, Response};
use tokio::time::{Instant, sleep};
use tower::{Layer as _, ServiceExt as _, service_fn, util::BoxCloneSyncService};

use super::{
    sickness::{Health, Sickness},
    *,
};
use crate::support::get;

type Line = BoxCloneSyncService<Request<Body>, Response<AnyBody>, BoxError>;

/// Between two requests of a process: often enough for each early window, and no oftener, since the machine has to do it all.
const ASKS_EVERY: Duration = Duration::from_secs(120);

pub(super) struct Member {
    pub(super) layer: ApiVideoAuthLayer,
    pub(super) client: ApiVideoAuth<Line>,
}

/// What became of the requests of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) outcomes: BTreeSet<String>,
    pub(super) longest_wait: Duration,
}

impl Member {
    pub(super) fn start(
        api: &FakeApi,
        store: Arc<dyn TokenStore>,
        clock: &ManualClock,
        health: Option<Health>,
        change: impl FnOnce(Builder) -> Builder,
    ) -> Self {
        let builder = ApiVideoAuthLayer::builder()
            .base_url(api.url())
            .clock(clock.clone())
            .store(store);
        let layer = change(builder).build().expect("good settings");
        let api = api.service();
        let line = service_fn(move |request: Request<Body>| {
            let is_cut_off = health
                .as_ref()
                .is_some_and(|health| health.is(Sickness::NoRoute));
            let api = api.clone();
            async move {
                if is_cut_off {
                    return Err(io::Error::from(io::ErrorKind::ConnectionRefused).into());
                }
                let response = api.oneshot(request).await?;
                Ok::<_, BoxError>(response.map(AnyBody::new))
            }
        });
        let client = layer.layer(BoxCloneSyncService::new(line));
        Self { layer, client }
    }

    /// Makes a request, and says how that went.
    pub(super) async fn ask(&self) -> String {
        match self.client.clone().oneshot(get("/videos")).await {
            Ok(response) if response.status() == 200 => "served".to_owned(),
            Ok(response) => response.status().as_u16().to_string(),
            Err(error) => match error.downcast_ref::<apivideo_auth::Error>() {
                Some(error) => format!("`{:?}`", error.kind()),
                None => "its network's error".to_owned(),
            },
        }
    }

    /// Makes a request now and then.
    pub(super) async fn ask_until(&self, end: Instant) -> Asked {
        let mut asked = Asked::default();
        while Instant::now() < end {
            let begun = Instant::now();
            asked.outcomes.insert(self.ask().await);
            asked.longest_wait = asked.longest_wait.max(begun.elapsed());
            sleep(ASKS_EVERY).await;
        }
        asked
    }
}

impl Asked {
    pub(super) fn add(&mut self, other: Self) {
        self.outcomes.extend(other.outcomes);
        self.longest_wait = self.longest_wait.max(other.longest_wait);
    }

    /// Each request had its response at once.
    pub(super) fn is_well(&self) -> bool {
        self.outcomes.iter().eq(["served"]) && self.longest_wait.is_zero()
    }
}
