use std::{collections::HashMap, fmt, sync::Arc};

use tokio::sync::watch;

use super::state::Shared;

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
    shared: Arc<Shared>,
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
        self.shared.lock().gates.remove(self.point, &self.state);
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

/// The shut gates, one for each point.
#[derive(Default)]
pub(super) struct Gates(HashMap<GatePoint, Arc<GateState>>);

impl Gates {
    pub(super) fn shut(shared: &Arc<Shared>, point: GatePoint) -> Gate {
        let state = Arc::new(GateState {
            arrived: watch::Sender::new(0),
            open: watch::Sender::new(false),
        });
        shared.lock().gates.0.insert(point, Arc::clone(&state));
        Gate {
            point,
            state,
            shared: Arc::clone(shared),
        }
    }

    pub(super) fn at(&self, point: GatePoint) -> Option<Arc<GateState>> {
        self.0.get(&point).cloned()
    }

    fn remove(&mut self, point: GatePoint, state: &Arc<GateState>) {
        if self
            .0
            .get(&point)
            .is_some_and(|present| Arc::ptr_eq(present, state))
        {
            self.0.remove(&point);
        }
    }
}
