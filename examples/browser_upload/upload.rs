//! What is known of one upload, and how it ends.

use std::time::Duration;

use apivideo_auth::upload_token::UploadTokenSecret;
use tokio::{
    sync::{Mutex, watch},
    time::{self, Instant},
};

#[derive(Clone, Copy)]
pub(super) enum State {
    /// Until its newest token has expired, or until the page says that it is over.
    Open(Instant),
    Over {
        cancelled: bool,
    },
    /// The API has all of it. The size, if it says so.
    Complete(Option<u64>),
    /// There is no such video any more.
    Gone,
}

pub(crate) struct Upload {
    pub(crate) video_id: String,
    pub(crate) title: String,
    pub(super) state: watch::Sender<State>,
    /// Those that may be alive; none any more when it is over.
    pub(super) tokens: Mutex<Option<Vec<Token>>>,
}

#[derive(Clone)]
pub(crate) struct Token {
    pub(crate) token: UploadTokenSecret,
    pub(super) until: Instant,
}

impl Token {
    pub(crate) fn time_left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }
}

impl Upload {
    /// What is known of the video's size, once the API has all of it.
    pub(crate) fn complete(&self) -> Option<Option<u64>> {
        match *self.state.borrow() {
            State::Complete(size) => Some(size),
            _ => None,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(*self.state.borrow(), State::Open(_))
    }

    pub(crate) fn is_gone(&self) -> bool {
        matches!(*self.state.borrow(), State::Gone)
    }

    /// The page says so, perhaps more than once.
    pub(crate) fn end(&self, cancelled: bool) {
        self.state.send_if_modified(|state| {
            let is_open = matches!(state, State::Open(_));
            if is_open {
                *state = State::Over { cancelled };
            }
            is_open
        });
    }

    /// Waits until the API has said what became of it.
    pub(crate) async fn settled(&self) {
        let is_settled = |state: &State| matches!(state, State::Complete(_) | State::Gone);
        // The sender is here.
        let _ = self.state.subscribe().wait_for(is_settled).await;
    }

    /// Waits for its end, and returns whether it was cancelled.
    pub(super) async fn over(&self) -> bool {
        let mut state = self.state.subscribe();
        loop {
            let seen = *state.borrow_and_update();
            match seen {
                State::Open(until) => tokio::select! {
                    () = time::sleep_until(until) => self.end(false),
                    _ = state.changed() => {}
                },
                State::Over { cancelled } => return cancelled,
                State::Complete(_) | State::Gone => return false,
            }
        }
    }
}
