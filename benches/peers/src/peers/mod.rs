//! The peers, one file each.

pub(crate) mod aws;
pub(crate) mod azure;
pub(crate) mod fixed;
pub(crate) mod gears;
pub(crate) mod google;
pub(crate) mod kube;
pub(crate) mod middle;
pub(crate) mod naive;
pub(crate) mod ours;

use std::time::Duration;

use tokio::sync::Mutex;
use tower::BoxError;

use crate::{
    api::{Api, Denied, Grant, Rules},
    peer::{Client, Peer, get},
    service::ApiService,
};

/// Runs the body once for each peer, whose type it knows by the given name. The static header comes first: it is what
/// the others are compared with.
macro_rules! for_each_peer {
    (|$peer:ident| $body:expr) => {{
        {
            type $peer = $crate::peers::fixed::Fixed;
            $body;
        }
        {
            type $peer = $crate::peers::ours::Ours;
            $body;
        }
        {
            type $peer = $crate::peers::ours::NoReplay;
            $body;
        }
        {
            type $peer = $crate::peers::naive::Naive;
            $body;
        }
        {
            type $peer = $crate::peers::middle::Middle;
            $body;
        }
        {
            type $peer = $crate::peers::gears::Bearer;
            $body;
        }
        {
            type $peer = $crate::peers::gears::AutoRefresh;
            $body;
        }
        {
            type $peer = $crate::peers::kube::Kube;
            $body;
        }
        {
            type $peer = $crate::peers::azure::Azure;
            $body;
        }
        {
            type $peer = $crate::peers::aws::Aws;
            $body;
        }
        {
            type $peer = $crate::peers::google::Google;
            $body;
        }
    }};
}
pub(crate) use for_each_peer;

/// What a careful user of a crate that takes a function for new tokens writes: the refresh token that works now is
/// behind a lock, and the next one takes its place as soon as the response is there.
#[derive(Debug)]
pub(crate) struct Source {
    api: Api,
    refresh_token: Mutex<String>,
}

impl Source {
    pub(crate) fn new(api: &Api) -> Self {
        Self {
            api: api.clone(),
            refresh_token: Mutex::new(api.mint().refresh_token),
        }
    }

    pub(crate) async fn renew(&self) -> Result<Grant, BoxError> {
        let mut refresh_token = self.refresh_token.lock().await;
        let grant = self
            .api
            .refresh(&refresh_token)
            .await
            .map_err(|denied| match denied {
                Denied::Spent => "the refresh token was spent before",
                Denied::Down => "the token endpoint is down",
            })?;
        refresh_token.clone_from(&grant.refresh_token);
        Ok(grant)
    }
}

/// That the peer is what the report says it is, and that its requests are let in.
pub(crate) async fn check<P: Peer>() -> Result<(), BoxError> {
    let failed = |what: &str| BoxError::from(format!("{}: {what}", P::NAME));
    if let Some((name, version)) = P::VERSION.split_once(' ')
        && !include_str!("../../Cargo.lock")
            .contains(&format!("name = \"{name}\"\nversion = \"{version}\"\n"))
    {
        return Err(failed(&format!("Cargo.lock has no {}", P::VERSION)));
    }
    let api = Api::new(Rules {
        latency: Duration::ZERO,
        lifetime: Duration::from_secs(3600),
    });
    let client = P::client(&api, ApiService::of(&api)).await;
    for mut client in [client.clone(), client] {
        for _ in 0..3 {
            let response = client
                .send(get("/videos"))
                .await
                .map_err(|error| failed(&error.to_string()))?;
            if response.status() != 200 {
                return Err(failed(&format!(
                    "a request was answered {}",
                    response.status()
                )));
            }
        }
    }
    if api.counts().unauthorized != 0 {
        return Err(failed("a request had no good token"));
    }
    Ok(())
}
