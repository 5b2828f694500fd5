//! The numbers of stored forms.
//!
//! Each form (a record, a file, a hash in Redis, an encrypted record) has a number of its own, from
//! 1 on. A program that meets a higher one leaves it alone: during an update, old and new share the
//! store for a while.

use std::fmt;

use crate::error::{Error, ErrorKind};

/// Refuses a form above the one that is `known` here: a newer version of this crate wrote it, and it is
/// left alone. `what` begins the message.
pub(super) fn refuse_newer(
    what: impl fmt::Display,
    form: impl Into<u64>,
    known: impl Into<u64>,
) -> Result<(), Error> {
    if form.into() <= known.into() {
        return Ok(());
    }
    let message =
        format!("{what} was written by a newer version of apivideo-auth; update this program");
    Err(Error::new(ErrorKind::StoreUnreadable, message))
}
