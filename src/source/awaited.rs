//! The one response that is still awaited after its renewal has stopped waiting (guarantee G4).

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use tokio::task::AbortHandle;

/// A refresh that was sent is read for a while even if it takes too long for those that wait: its response may hold
/// the only living refresh token. While it is read it occupies a slot of the service below, which it gives up as soon
/// as somebody needs it.
#[derive(Debug, Default)]
pub(super) struct Awaited {
    call: Mutex<Option<Call>>,
    /// Requests and calls that have found no slot and wait for one.
    wanted: AtomicUsize,
}

/// A token call that can be stopped until its response is there.
#[derive(Clone, Debug)]
pub(super) struct Call {
    task: AbortHandle,
    /// Whether the response is there. `stop` asks and aborts under this lock: what commits a response is never stopped.
    arrived: Arc<Mutex<bool>>,
}

impl Call {
    pub(super) fn new(task: AbortHandle, arrived: Arc<Mutex<bool>>) -> Self {
        Self { task, arrived }
    }

    /// Stops the call, unless its response is there. Says whether it was stopped.
    pub(super) fn stop(&self) -> bool {
        let arrived = lock(&self.arrived);
        if !*arrived {
            self.task.abort();
        }
        !*arrived
    }
}

impl Awaited {
    /// Goes on awaiting the response to `call`, unless somebody waits for its slot. Of two, the earlier stays: a server
    /// that is only slow gives its pair to the first presentation. Says whether the call is awaited or stopped now; it
    /// is neither if its response is there.
    pub(super) fn go_on(&self, call: Call) -> bool {
        let mut awaited = lock(&self.call);
        let is_other = |earlier: &Call| {
            !earlier.task.is_finished() && !Arc::ptr_eq(&earlier.arrived, &call.arrived)
        };
        // Asked under the lock, which a newcomer takes after it has counted itself in.
        if self.wanted.load(Ordering::SeqCst) > 0 || awaited.as_ref().is_some_and(is_other) {
            return call.stop();
        }
        let has_arrived = *lock(&call.arrived);
        if !has_arrived {
            *awaited = Some(call);
        }
        !has_arrived
    }

    /// Somebody has found no slot: from now on, until `unwant`, none is kept for a response that is only awaited.
    pub(super) fn want(&self) {
        self.wanted.fetch_add(1, Ordering::SeqCst);
        self.give_up();
    }

    pub(super) fn unwant(&self) {
        self.wanted.fetch_sub(1, Ordering::SeqCst);
    }

    /// Stops awaiting: its slot is needed, or a newer pair is there.
    pub(super) fn give_up(&self) {
        if let Some(call) = lock(&self.call).take() {
            call.stop();
        }
    }
}

/// Notes that a response is there: from here on its task is not stopped.
pub(super) fn arrived(arrived: &Mutex<bool>) {
    *lock(arrived) = true;
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
