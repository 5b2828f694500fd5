//! What is known of an upload: which video, how it is cut, and what has become of its chunks.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::limits::{CHUNK_SIZES, MAX_CHUNKS, MAX_LENGTH, is_id};
use crate::error::{Error, ErrorKind};

/// Rises with each change that an older version would misread.
const VERSION: u32 = 1;

/// Grows while the upload goes on. What is stored of it is written here and nowhere else; there is no secret in it.
///
/// The chunk size is part of it: by another, the chunks would have other borders.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Record {
    /// None until the video is created.
    pub(super) video_id: Option<String>,
    /// Whether the video is created by the upload, with an upload token: then the id is a field of the form, else it is in
    /// the path.
    pub(super) has_upload_token: bool,
    /// The name that the source had, which is the title of a video that was created.
    pub(super) file_name: String,
    pub(super) started_at: SystemTime,
    pub(super) chunk_size: usize,
    pub(super) length: Option<u64>,
    /// The numbers of the chunks that were accepted: with several on their way, they need not come in order.
    pub(super) accepted: BTreeSet<u64>,
    /// How many bytes these have.
    pub(super) bytes: u64,
    /// Those that may have arrived, but were not accepted as far as we know.
    pub(super) sent: BTreeSet<u64>,
}

impl Record {
    /// As text. Numbers of chunks are written as ranges, both ends included: there may be thousands.
    pub(super) fn to_json(&self) -> String {
        let started_at = self.started_at.duration_since(SystemTime::UNIX_EPOCH);
        let stored = Stored {
            version: VERSION,
            video_id: self.video_id.clone(),
            with_upload_token: self.has_upload_token,
            file_name: self.file_name.clone(),
            started_at: started_at.unwrap_or_default().as_secs(),
            chunk_size: self.chunk_size,
            length: self.length,
            accepted: ranges(&self.accepted),
            bytes: self.bytes,
            sent: ranges(&self.sent),
        };
        serde_json::to_string(&stored).expect("numbers and text are JSON")
    }

    /// What was stored may have been damaged, or written by somebody else: the id goes into paths, and the numbers into sums.
    pub(super) fn from_json(text: &str) -> Result<Self, Error> {
        let refuse = |why: &str| {
            let message = format!("this is no unfinished upload that can be read: {why}");
            Error::new(ErrorKind::Configuration, message)
        };
        // The parser's own error may quote the text, and nobody knows what that is: it is not kept.
        let stored: Stored =
            serde_json::from_str(text).map_err(|_| refuse("it is not the JSON it should be"))?;
        if stored.version != VERSION {
            return Err(refuse("another version of this crate has written it"));
        }
        let (accepted, sent) = (numbers(&stored.accepted), numbers(&stored.sent));
        let (Some(accepted), Some(sent)) = (accepted, sent) else {
            return Err(refuse("its chunks are not in order"));
        };
        let id_fits = stored.video_id.as_deref().is_none_or(is_id);
        let started_at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(stored.started_at));
        let adds_up = CHUNK_SIZES.contains(&stored.chunk_size)
            && stored.length.is_none_or(|length| length <= MAX_LENGTH)
            && fits(
                &accepted,
                stored.chunk_size as u64,
                stored.length,
                stored.bytes,
            )
            && (stored.video_id.is_some() || accepted.is_empty())
            && (stored.video_id.is_some() || stored.with_upload_token);
        match started_at {
            Some(started_at) if id_fits && adds_up => Ok(Self {
                video_id: stored.video_id,
                has_upload_token: stored.with_upload_token,
                file_name: stored.file_name,
                started_at,
                chunk_size: stored.chunk_size,
                length: stored.length,
                accepted,
                bytes: stored.bytes,
                sent,
            }),
            _ => Err(refuse("its parts contradict each other")),
        }
    }

    /// How many chunks there are, if the length is known.
    pub(super) fn chunks(&self) -> Option<u64> {
        self.length
            .map(|length| length.div_ceil(self.chunk_size as u64))
    }
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Stored {
    version: u32,
    video_id: Option<String>,
    with_upload_token: bool,
    file_name: String,
    /// In seconds since 1970.
    started_at: u64,
    chunk_size: usize,
    length: Option<u64>,
    accepted: Vec<[u64; 2]>,
    bytes: u64,
    sent: Vec<[u64; 2]>,
}

/// Whether the accepted chunks can have so many bytes: each is full but for the last one of the source.
fn fits(accepted: &BTreeSet<u64>, size: u64, length: Option<u64>, bytes: u64) -> bool {
    let full = accepted.len() as u64 * size;
    match (length, accepted.last()) {
        (_, None) => bytes == 0,
        (None, Some(_)) => bytes <= full && bytes > full - size,
        (Some(length), Some(last)) => {
            // None begins behind the end.
            let beyond = ((last + 1) * size).saturating_sub(length);
            beyond < size && bytes == full - beyond
        }
    }
}

fn ranges(numbers: &BTreeSet<u64>) -> Vec<[u64; 2]> {
    let mut ranges: Vec<[u64; 2]> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some([_, last]) if *last + 1 == *number => *last = *number,
            _ => ranges.push([*number, *number]),
        }
    }
    ranges
}

/// `None` where a range is upside down, or leads beyond what the API takes.
fn numbers(ranges: &[[u64; 2]]) -> Option<BTreeSet<u64>> {
    let mut numbers = BTreeSet::new();
    for [first, last] in ranges {
        if first > last || *last >= MAX_CHUNKS || numbers.last() >= Some(first) {
            return None;
        }
        numbers.extend(*first..=*last);
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            video_id: Some("vi4k0jvEUuaTdRAEjQ4Jfrgz".to_owned()),
            has_upload_token: true,
            file_name: "a \"film\" 🎬.mp4".to_owned(),
            started_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            chunk_size: *CHUNK_SIZES.start(),
            length: Some(MAX_LENGTH),
            accepted: [0, 1, 2, 5, 7, 8, 9999].into(),
            bytes: 7 * *CHUNK_SIZES.start() as u64,
            sent: [3, 4].into(),
        }
    }

    #[test]
    fn g28_what_is_left_is_stored_and_read_again() {
        let mut other = record();
        other.video_id = None;
        (other.length, other.bytes) = (None, 0);
        other.accepted.clear();
        for record in [record(), other] {
            let text = record.to_json();
            assert_eq!(
                Record::from_json(&text).expect("as it was"),
                record,
                "{text}"
            );
        }
        let all: BTreeSet<_> = (0..MAX_CHUNKS).collect();
        assert_eq!(ranges(&all), [[0, 9999]]);
    }

    #[test]
    fn g28_what_was_damaged_is_refused() {
        let good = record().to_json();
        for (part, bad) in [
            ("{", ""),
            ("\"version\":1", "\"version\":2"),
            ("vi4k0", "../k0"),
            ("\"vi4k0jvEUuaTdRAEjQ4Jfrgz\"", "null"),
            ("5242880,", "1,"),
            ("[5,5]", "[6,5]"),
            ("[5,5]", "[5,18446744073709551615]"),
            ("[5,5]", "[5,7]"),
            ("[0,2]", "[3,2]"),
            ("\"bytes\":36700160", "\"bytes\":36700161"),
            ("\"bytes\":36700160", "\"bytes\":36700159"),
            ("[7,8]", "[7,9]"),
            ("52428800000", "52428800001"),
            ("52428800000", "52423557120"),
            ("1700000000", "18446744073709551615"),
            ("\"version\"", "\"token\":\"to1\",\"version\""),
        ] {
            let text = good.replacen(part, bad, 1);
            assert_ne!(text, good, "{part}");
            let error = Record::from_json(&text).expect_err(&text);
            assert_eq!(error.kind(), ErrorKind::Configuration, "{text}");
        }
    }
}
