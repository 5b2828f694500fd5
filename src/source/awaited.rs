//! The one response that is still awaited after its renewal has stopped waiting (guarantee G4).

use std::{
    collections::HashMap,
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::Waker,
    time::Duration,
};

use tokio::task::AbortHandle;

/// Who finds no slot waits for this long before one is taken from a response that is only awaited: below a limit of many,
/// another is free before, and no pair is lost.
pub(super) const SLOT_PATIENCE: Duration = Duration::from_millis(900);

/// A refresh that was sent is read for a while even if it takes too long for those that wait: its response may hold
/// the only living refresh token. While it is read it occupies a slot of the service below, which it gives up as soon
/// as somebody needs it.
#[derive(Debug, Default)]
pub(super) struct Awaited {
    call: Mutex<Option<Call>>,
    /// Those that have found no slot. They are woken when a response begins to be only awaited: one that still waits
    /// asks again, and one that nobody polls any more does not.
    wanted: Mutex<HashMap<u64, Waker>>,
    last_want: AtomicU64,
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
    /// Goes on awaiting the response to `call`, until somebody needs its slot. Of two, the earlier stays: a server
    /// that is only slow gives its pair to the first presentation. Says whether the call is awaited or stopped now; it
    /// is neither if its response is there.
    pub(super) fn go_on(&self, call: Call) -> bool {
        let mut awaited = lock(&self.call);
        let is_other = |earlier: &Call| {
            !earlier.task.is_finished() && !Arc::ptr_eq(&earlier.arrived, &call.arrived)
        };
        if awaited.as_ref().is_some_and(is_other) {
            return call.stop();
        }
        let has_arrived = *lock(&call.arrived);
        if !has_arrived {
            *awaited = Some(call);
        }
        drop(awaited);
        // After the call is there to be given up, and with no lock held: a waker may run anything.
        let wanted = mem::take(&mut *lock(&self.wanted));
        wanted.into_values().for_each(Waker::wake);
        !has_arrived
    }

    /// A number for [`want`](Self::want).
    pub(super) fn new_want(&self) -> u64 {
        self.last_want.fetch_add(1, Ordering::Relaxed)
    }

    /// Somebody has found no slot. Says whether a response has one that is only awaited; if not, it is woken when there
    /// is such a response.
    pub(super) fn want(&self, number: u64, waker: &Waker) -> bool {
        // First the waker, then the look: `go_on` does the reverse, so one of the two sees the other.
        lock(&self.wanted).insert(number, waker.clone());
        let call = lock(&self.call);
        call.as_ref().is_some_and(|call| !call.task.is_finished())
    }

    pub(super) fn unwant(&self, number: u64) {
        lock(&self.wanted).remove(&number);
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
