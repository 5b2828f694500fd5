//! Random numbers that no other process may have: of token families, owners of leases, the boundaries of forms.

/// From the operating system where a persistent store's feature is on.
///
/// `fastrand`'s generator lies in this process's memory: two machines that are started from one snapshot would go on with
/// the same numbers, and two logins with one family.
#[cfg(any(
    feature = "encrypted-store",
    feature = "file-store",
    feature = "redis-store"
))]
pub(crate) fn number() -> u64 {
    // A system that gives none is no reason to stop.
    getrandom::u64().unwrap_or_else(|_| fastrand::u64(..))
}

/// Nothing outlives the process, so nothing meets the numbers of another.
#[cfg(not(any(
    feature = "encrypted-store",
    feature = "file-store",
    feature = "redis-store"
)))]
pub(crate) fn number() -> u64 {
    fastrand::u64(..)
}
