//! The name of a lock's holder, for the message of a process that waits for the lock.

use crate::clock::system_now;

/// This process, in one line.
pub(super) fn this_process() -> String {
    let since = httpdate::fmt_http_date(system_now().wall);
    format!(
        "process {} on {}, since {since}",
        std::process::id(),
        host()
    )
}

#[cfg(unix)]
fn host() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

#[cfg(not(unix))]
fn host() -> String {
    "this machine".to_owned()
}
