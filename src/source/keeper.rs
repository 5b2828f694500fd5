//! Renewal without traffic.

use std::{sync::Arc, time::Duration};

use tokio::{runtime::Handle, sync::oneshot, time};

use super::{
    acquire::acquire,
    events::RenewalReason,
    state::{Phase, State},
};
use crate::{
    clock::Deadline,
    endpoint::TokenEndpoint,
    error::{Error, ErrorKind},
};

/// The longest sleep: timers stand still while the machine sleeps, and the token ages all the same.
const WAKE: Duration = Duration::from_secs(30);

/// Between two renewals that nobody has asked for: a token that lives for a second is no reason to call each second.
const REST: Duration = Duration::from_secs(5);

/// The sleep while a renewal takes longer than the keeper may wait for it.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The shortest sleep, which covers what the coarse clocks and Tokio's timers disagree about.
const NAP: Duration = Duration::from_millis(10);

/// Keeps a source's token fresh as long as it is held; see [`keep_fresh`](crate::TokenSource::keep_fresh).
#[must_use = "the token is kept fresh only as long as this is held"]
#[derive(Debug)]
pub struct KeepFresh {
    _stop: oneshot::Sender<()>,
}

/// Starts a keeper. It keeps no source alive: it ends with the last client.
pub(super) fn start(
    state: Arc<State>,
    endpoint: Box<dyn TokenEndpoint>,
) -> Result<KeepFresh, Error> {
    if Handle::try_current().is_err() {
        let message = "a keeper is a task: start it inside a Tokio runtime";
        return Err(Error::new(ErrorKind::NoRuntime, message));
    }
    // On a runtime without timers this panics here and now, rather than in a task that nobody looks at.
    drop(time::sleep(Duration::ZERO));
    let (stop, mut stopped) = oneshot::channel::<()>();
    tokio::spawn(async move {
        tokio::select! {
            biased;
            () = keep(&state, endpoint) => {}
            _ = &mut stopped => {}
            _ = state.has_come_to(Phase::Closing) => {}
        }
    });
    Ok(KeepFresh { _stop: stop })
}

async fn keep(state: &Arc<State>, mut endpoint: Box<dyn TokenEndpoint>) {
    // Before the first look: a renewal between look and sleep still wakes it.
    let mut latest = state.current.latest();
    let mut rest: Option<Deadline> = None;
    loop {
        let now = state.now();
        let (older, reason, left) = match state.current.usable(now) {
            Some(bearer) => {
                let left = bearer.life().fresh_until.left(now);
                (bearer.generation(), Some(RenewalReason::Early), left)
            }
            None => (0, None, Duration::ZERO),
        };
        let mut sleep = left.max(rest.map_or(Duration::ZERO, |rest| rest.left(now)));
        if sleep.is_zero() {
            match acquire(state, older, reason, clones(&mut endpoint)).await {
                Ok(_) => rest = Some(Deadline::after(now, REST)),
                Err(error) => {
                    // Outages end, and permanent errors end when someone sets credentials.
                    let unknown = if error.is_transient() {
                        LOOK_AGAIN
                    } else {
                        WAKE
                    };
                    sleep = error.retry_after().unwrap_or(unknown);
                }
            }
        }
        tokio::select! {
            biased;
            () = time::sleep(sleep.clamp(NAP, WAKE)) => {}
            _ = latest.changed() => {}
        }
    }
}

/// Borrows mutably, since an endpoint need not be `Sync`.
fn clones(endpoint: &mut Box<dyn TokenEndpoint>) -> impl FnMut() -> Box<dyn TokenEndpoint> + Send {
    move || endpoint.boxed_clone()
}
