//! Gates: a test stops calls at a chosen point, looks, and lets them go. No sleep, no chance.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

/// Where a [`Gate`] stops calls. The point of commitment is what a client can't see, and what
/// decides whether a refresh token is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GatePoint {
    /// A token call has been read; nothing has been granted or spent. A client that gives up here
    /// has lost nothing.
    BeforeCommit,
    /// A token call has been processed; its response has not been sent. A client that gives up here
    /// has lost its pair.
    AfterCommit,
    /// Half the body of a token call's response has been sent: status and headers are with the
    /// client.
    MidBody,
    /// A request to the API has been read and judged; its response has not been sent. What is
    /// revoked now changes nothing for it.
    ApiResponse,
}

/// A shut gate on the way of every token call (or API request), made by [`FakeApi::gate`].
///
/// Dropping it opens it.
///
/// [`FakeApi::gate`]: super::FakeApi::gate
///
/// ```
/// use apivideo_auth::{ApiVideoAuthLayer, testing::{FakeApi, GatePoint}};
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use tower::{Layer, ServiceExt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let api = FakeApi::in_process();
/// let layer = ApiVideoAuthLayer::builder().base_url(api.url()).api_key(api.api_key()).build()?;
/// let request = http::Request::get("/echo").body(Full::<Bytes>::default())?;
///
/// let gate = api.gate(GatePoint::AfterCommit);
/// let call = tokio::spawn(layer.layer(api.service()).oneshot(request));
/// gate.reached(1).await;
/// // The caller goes away while the pair is on its way: the pair is not lost.
/// call.abort();
/// gate.open();
/// assert!(layer.shutdown(std::time::Duration::from_secs(5)).await);
/// assert_eq!(api.counts().grants, 1);
/// # Ok(())
/// # }
/// ```
pub struct Gate {
    point: GatePoint,
    state: Arc<GateState>,
    gates: Gates,
}

impl Gate {
    /// Waits until `calls` calls have arrived at the gate, in total.
    ///
    /// Those that have gone since count too. Without a bound: put a timeout around it where a call
    /// may not come.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if the future is dropped.
    pub async fn reached(&self, calls: usize) {
        // An error would mean that the sender is gone; `self.state` holds it.
        let _ = self
            .state
            .arrived
            .subscribe()
            .wait_for(|arrived| *arrived >= calls)
            .await;
    }

    /// How many calls have arrived at the gate so far.
    #[must_use]
    pub fn arrived(&self) -> usize {
        *self.state.arrived.borrow()
    }

    /// Lets all calls pass and removes the gate.
    pub fn open(self) {
        drop(self);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // First: a call that comes in between passes, where it would otherwise be counted at an
        // open gate.
        self.gates.remove(self.point, &self.state);
        self.state.open.send_replace(true);
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("point", &self.point)
            .field("arrived", &self.arrived())
            .finish_non_exhaustive()
    }
}

/// What a gate and the calls that wait at it share.
pub(super) struct GateState {
    arrived: watch::Sender<usize>,
    open: watch::Sender<bool>,
}

impl GateState {
    /// Counts the call, then waits. A call that is dropped here stays counted.
    pub(super) async fn pass(&self) {
        // Before it waits: whoever sees the count knows that the call is here, and stays until the
        // gate is opened.
        self.arrived.send_modify(|arrived| *arrived += 1);
        let _ = self.open.subscribe().wait_for(|open| *open).await;
    }
}

/// The shut gates, one for each point. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Gates(Arc<Mutex<HashMap<GatePoint, Arc<GateState>>>>);

impl Gates {
    /// A new gate at this point. One that is there already lets its own calls wait on, and finds no
    /// new ones.
    pub(super) fn shut(&self, point: GatePoint) -> Gate {
        let state = Arc::new(GateState {
            arrived: watch::Sender::new(0),
            open: watch::Sender::new(false),
        });
        self.lock().insert(point, Arc::clone(&state));
        Gate {
            point,
            state,
            gates: self.clone(),
        }
    }

    /// The gate of this point, for a body that gets there later.
    pub(super) fn at(&self, point: GatePoint) -> Option<Arc<GateState>> {
        self.lock().get(&point).cloned()
    }

    /// Waits at the gate of this point, if there is one.
    pub(super) async fn pass(&self, point: GatePoint) {
        let gate = self.at(point);
        if let Some(gate) = gate {
            gate.pass().await;
        }
    }

    /// Only this gate: a newer one at the same point stays.
    fn remove(&self, point: GatePoint, state: &Arc<GateState>) {
        let mut gates = self.lock();
        if gates
            .get(&point)
            .is_some_and(|present| Arc::ptr_eq(present, state))
        {
            gates.remove(&point);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<GatePoint, Arc<GateState>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
