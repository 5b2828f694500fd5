use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

/// Where a [`Gate`] stops calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GatePoint {
    /// A token call has been read; nothing has been granted or spent.
    BeforeCommit,
    /// A token call has been processed; its response has not been sent.
    AfterCommit,
    /// Half the body of a token call's response has been sent.
    MidBody,
    /// A request to the API has been read and judged; its response has not been sent.
    ApiResponse,
}

/// A shut gate on the way of every token call (or API request), made by [`FakeApi::gate`].
///
/// Dropping it opens it.
///
/// [`FakeApi::gate`]: super::FakeApi::gate
pub struct Gate {
    point: GatePoint,
    state: Arc<GateState>,
    gates: Gates,
}

impl Gate {
    /// Waits until `calls` calls have arrived at the gate, in total.
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
    pub(super) async fn pass(&self) {
        self.arrived.send_modify(|arrived| *arrived += 1);
        let _ = self.open.subscribe().wait_for(|open| *open).await;
    }
}

/// The shut gates, one for each point. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Gates(Arc<Mutex<HashMap<GatePoint, Arc<GateState>>>>);

impl Gates {
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
