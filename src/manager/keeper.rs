//! Renewal without traffic.

use std::{sync::Arc, time::Duration};

use tokio::{sync::oneshot, time};

use super::{
    renewed::RenewalReason,
    token_manager::{Handle, TokenManager, Want},
};
use crate::{
    endpoint::{TokenEndpoint, calls},
    error::{Error, ErrorKind},
};

/// The longest sleep: timers stand still while the machine sleeps, and the token ages all the same.
const WAKE: Duration = Duration::from_secs(30);

/// The sleep while a renewal takes longer than the keeper may wait for it.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The shortest sleep, which covers what the coarse clocks and Tokio's timers disagree about.
const NAP: Duration = Duration::from_millis(10);

/// Keeps a source's token fresh as long as it is held; see [`keep_fresh`](crate::ApiVideoAuth::keep_fresh).
#[must_use = "the token is kept fresh only as long as this is held"]
#[derive(Debug)]
pub struct KeepFresh {
    _stop: oneshot::Sender<()>,
}

impl Handle {
    pub(crate) fn keep_fresh(&self, endpoint: Box<dyn TokenEndpoint>) -> Result<KeepFresh, Error> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(Error::new(
                ErrorKind::NoRuntime,
                "a keeper is a task: start it inside a Tokio runtime",
            ));
        }
        let (stop, mut stopped) = oneshot::channel::<()>();
        let (manager, mut alive) = (self.manager.clone(), self.alive.subscribe());
        let mut closing = manager.closing.subscribe();
        tokio::spawn(async move {
            tokio::select! {
                () = keep(manager, endpoint) => {}
                _ = &mut stopped => {}
                _ = alive.changed() => {}
                _ = closing.wait_for(|closing| *closing) => {}
            }
        });
        Ok(KeepFresh { _stop: stop })
    }
}

async fn keep(manager: Arc<TokenManager>, mut endpoint: Box<dyn TokenEndpoint>) {
    let mut renewed = manager.subscribe();
    loop {
        let now = manager.now();
        let (want, cause, left) = match manager.usable(now) {
            Some(pair) => {
                let left = pair.bearer().life().fresh_until.left(now);
                (
                    Want::NewerThan(pair.bearer().generation()),
                    Some(RenewalReason::Early),
                    left,
                )
            }
            None => (Want::Usable, None, Duration::ZERO),
        };
        let mut sleep = left;
        if left.is_zero()
            && let Err(error) = manager.acquire(want, cause, calls(&mut endpoint)).await
        {
            // Outages end, and permanent errors end when someone sets credentials.
            let unknown = if error.is_transient() {
                LOOK_AGAIN
            } else {
                WAKE
            };
            sleep = error.retry_after().unwrap_or(unknown);
        }
        tokio::select! {
            () = time::sleep(sleep.clamp(NAP, WAKE)) => {}
            _ = renewed.next() => {}
        }
    }
}
