//! What the API takes (<https://docs.api.video/reference/api/Videos>).

use std::ops::RangeInclusive;

pub(super) const MIB: usize = 1024 * 1024;

/// How large chunks may be, in bytes: the API asks for 5 MiB at least and takes 200 MiB; its own clients stop at 128 MiB.
pub(super) const CHUNK_SIZES: RangeInclusive<usize> = 5 * MIB..=128 * MIB;

/// The longest video, in bytes. A source of known length is refused at once, another when it gets there.
pub(super) const MAX_LENGTH: u64 = 52_428_800_000;

/// The most chunks of one video.
pub(super) const MAX_CHUNKS: u64 = 10_000;

/// Whether a text has the form of a video id: it is put into URIs and messages as it is.
///
/// An id comes from the user, from the API or from what was stored, and none of them may change where a request goes.
pub(super) fn is_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}
