//! The name of a lock's holder, for the message of a process that waits for the lock.
//!
//! It is for people: nothing is decided by it, and it may be missing.

use crate::clock::system_now;

/// This process, in one line: its number, its machine and since when it holds the lock.
pub(super) fn this_process() -> String {
    let since = httpdate::fmt_http_date(system_now().wall);
    format!(
        "process {} on {}, since {since}",
        std::process::id(),
        host()
    )
}

/// By the kernel: it needs no look-up and can't fail.
#[cfg(unix)]
fn host() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// Other systems have no such name without unsafe code or a process of its own.
#[cfg(not(unix))]
fn host() -> String {
    "this machine".to_owned()
}
