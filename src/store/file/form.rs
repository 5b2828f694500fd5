//! What stands in a file of tokens.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    clock::system_now,
    error::Error,
    store::{Header, InUseMark, Record, Stored, Version, form::refuse_newer},
};

/// The file's form: the header in plain JSON, times as milliseconds since 1970, and the record in
/// Base64.
///
/// Plain, so that a person can see what is there. What is missing has a default, so that a field
/// can be added without a new form.
#[derive(Serialize, Deserialize)]
struct Form {
    form: u32,
    family: u64,
    revision: u64,
    /// The two parts of a mark; a count without a time has settled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mark_count: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mark_settles: Option<u64>,
    /// The end of a cool-down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    not_before: Option<u64>,
    /// When the access token expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<u64>,
    /// Missing after a log-out: the version stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    record: Option<Zeroizing<String>>,
}

/// The form written here.
const FORM: u32 = 1;

/// What stands in the file, in memory that is wiped and never grows.
pub(super) fn write(stored: &Stored) -> Zeroizing<Vec<u8>> {
    let form = Form::of(stored);
    let length = form.record.as_ref().map_or(0, |text| text.len());
    let mut text = Zeroizing::new(Vec::with_capacity(length + 1024));
    serde_json::to_writer(&mut *text, &form)
        .expect("strings and numbers always serialize into memory");
    text
}

/// The reverse. `None` if it is damaged.
///
/// # Errors
///
/// [`ErrorKind::StoreUnreadable`](crate::ErrorKind::StoreUnreadable) if a newer version wrote it.
pub(super) fn read(path: &Path, text: &[u8]) -> Result<Option<Stored>, Error> {
    /// Read first, and alone: a newer form may have fields that this one can't read.
    #[derive(Deserialize)]
    struct Which {
        form: u32,
    }
    // The parser's own error may quote the record: it is not kept.
    let Ok(Which { form }) = serde_json::from_slice(text) else {
        return Ok(None);
    };
    refuse_newer(path.display(), form, FORM)?;
    Ok(serde_json::from_slice::<Form>(text)
        .ok()
        .and_then(Form::stored))
}

impl Form {
    /// From spans to moments, by the wall clock: another process may read them, and a monotonic
    /// reading means nothing to it.
    fn of(stored: &Stored) -> Self {
        let now = since_1970();
        let time = |span: Duration| {
            u64::try_from(now.saturating_add(span).as_millis()).unwrap_or(u64::MAX)
        };
        let Header {
            version,
            mark,
            not_before,
            expires_in,
        } = stored.header;
        Self {
            form: FORM,
            family: version.family,
            revision: version.revision,
            mark_count: mark.map(|mark| mark.count),
            mark_settles: mark.map(|mark| time(mark.settles_in)),
            not_before: not_before.map(time),
            expires: expires_in.map(time),
            record: stored
                .record
                .as_ref()
                .map(|record| Zeroizing::new(BASE64.encode(record.expose()))),
        }
    }

    /// From moments back to spans, counted from now. `None` if the record is not Base64.
    fn stored(self) -> Option<Stored> {
        let now = since_1970();
        let record = match self.record {
            Some(text) => Some(Record::new(BASE64.decode(text.as_bytes()).ok()?)),
            None => None,
        };
        let mark = self.mark_count.map(|count| InUseMark {
            count,
            settles_in: Duration::from_millis(self.mark_settles.unwrap_or(0)),
        });
        let version = Version {
            family: self.family,
            revision: self.revision,
        };
        let since_1970 = Header {
            version,
            mark,
            not_before: self.not_before.map(Duration::from_millis),
            expires_in: self.expires.map(Duration::from_millis),
        };
        Some(Stored {
            header: since_1970.counted_down(now),
            record,
        })
    }
}

/// By the wall clock.
pub(super) fn since_1970() -> Duration {
    let now = system_now().wall;
    now.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}
