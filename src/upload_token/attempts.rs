//! Whether a request of an upload is sent again: decided from what is known of its attempts, and nothing else.

use std::time::Duration;

use super::response::{Effect, Failed, quoting};
use crate::{
    error::{Error, ErrorKind},
    problem::Problem,
};

/// The wait before a chunk is sent a second time. It doubles from one time to the next, and a
/// random half of it is left out.
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// The longest wait that is not asked for by the API.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// What is known of a chunk from its attempts so far.
pub(super) struct Attempts {
    left: u32,
    made: u32,
    /// One of them may have been carried out: of this run, or of an earlier one.
    pub(super) may_have_arrived: bool,
    /// A bearer was refused once.
    was_refused: bool,
}

/// What comes after an attempt that failed.
pub(super) enum Next {
    /// It is sent again, after this wait.
    Again(Duration),
    /// The video has its source already: from us, or from somebody else.
    AlreadyUploaded(Error),
    Failed(Error),
}

impl Attempts {
    /// `limit` is one at least.
    pub(super) fn new(limit: u32, may_have_arrived: bool) -> Self {
        Self {
            left: limit,
            made: 0,
            may_have_arrived,
            was_refused: false,
        }
    }

    /// Of a request that would make a video: it is sent again only if it surely has made none.
    pub(super) fn after_creation(&mut self, Failed { error, effect }: Failed) -> Next {
        // Of those that may have been carried out, only a 503 brings a wait: a server that says when to come again has not
        // begun.
        if effect != Effect::Unknown || error.retry_after().is_some() {
            return self.again_if_transient(error);
        }
        self.may_have_arrived = true;
        let error = quoting(error);
        let message = format!("a video may exist, look for it before you upload again: {error}");
        Next::Failed(Error::with_source(ErrorKind::VideoMayExist, message, error))
    }

    /// Of a chunk of a known video: it may be sent any number of times.
    pub(super) fn after_chunk(
        &mut self,
        Failed { error, effect }: Failed,
        has_bearer: bool,
    ) -> Next {
        if Problem::of(&error).is_some_and(|it| it.kind() == "video-source-already-uploaded") {
            return Next::AlreadyUploaded(error);
        }
        self.may_have_arrived |= effect != Effect::Nothing;
        // A layer that has seen a 401 gets a new token for the next request. Uploads ask it not to replay them, so that the
        // second time counts as one here; it is none of the attempts that the caller allows.
        if error.kind() == ErrorKind::Refused && has_bearer && !self.was_refused {
            self.was_refused = true;
            return Next::Again(Duration::ZERO);
        }
        self.again_if_transient(error)
    }

    fn again_if_transient(&mut self, error: Error) -> Next {
        self.left -= 1;
        self.made += 1;
        if self.left > 0 && error.is_transient() {
            let asked = error.retry_after().unwrap_or_default();
            Next::Again(backoff(self.made).max(asked))
        } else {
            Next::Failed(quoting(error))
        }
    }
}

/// The wait before the next attempt. Half of it is random, so that chunks which failed together do
/// not come together again.
fn backoff(attempt: u32) -> Duration {
    let wait = FIRST_WAIT
        .saturating_mul(1 << attempt.min(10).saturating_sub(1))
        .min(LONGEST_WAIT);
    wait.mul_f64(0.5 + fastrand::f64() / 2.0)
}
