//! What may be set of a video and of an upload token, as the OpenAPI file has it.

use bytes::Bytes;
use http::Response;
use serde_json::{Map, Value};

use super::responses;

/// The longest lifetime of an upload token, in seconds.
const MAX_TTL: u64 = 2_147_483_647;

/// The file has `false` for Norwegian: it is YAML, where an unquoted `no` is that.
const LANGUAGES: [&str; 33] = [
    "ar", "ca", "cs", "da", "de", "el", "en", "es", "fa", "fi", "fr", "he", "hi", "hr", "hu", "it",
    "ja", "ko", "ml", "nl", "nn", "no", "pl", "pt", "ru", "sk", "sl", "te", "tr", "uk", "ur", "vi",
    "zh",
];

const SUMMARIES: [&str; 2] = ["abstract", "takeaways"];

const CLIP: [&str; 2] = ["startTimecode", "endTimecode"];

const WATERMARK: [&str; 8] = [
    "id", "top", "left", "bottom", "right", "width", "height", "opacity",
];

/// Whether a value may stand for an attribute.
pub(super) type Fits = fn(&Value) -> bool;

/// The refusal of an object with an attribute that is not known, or with a value that does not fit: one that is ignored
/// hides the mistake of a client.
pub(super) fn refused(
    wanted: &Map<String, Value>,
    known: fn(&str) -> Option<Fits>,
) -> Option<Response<Bytes>> {
    let fits = |name: &str, value| known(name).is_some_and(|fits| fits(value));
    let (name, _) = wanted.iter().find(|(name, value)| !fits(name, value))?;
    Some(responses::named_problem("invalid-attribute", name))
}

/// Of a video that exists.
pub(super) fn video(name: &str) -> Option<Fits> {
    let fits: Fits = match name {
        "title" | "description" | "playerId" => Value::is_string,
        "public" | "panoramic" | "mp4Support" | "transcript" | "transcriptSummary" => {
            Value::is_boolean
        }
        "tags" => |tags| all(tags, Value::is_string),
        "metadata" => |metadata| all(metadata, |item| has_strings(item, &["key", "value"])),
        "language" => |language| language.is_null() || is_one_of(language, &LANGUAGES),
        "transcriptSummaryAttributes" => |all_of| all(all_of, |it| is_one_of(it, &SUMMARIES)),
        _ => return None,
    };
    Some(fits)
}

/// Of one that is created.
pub(super) fn new_video(name: &str) -> Option<Fits> {
    let fits: Fits = match name {
        "source" => Value::is_string,
        "clip" => |clip| has_strings(clip, &CLIP),
        "watermark" => |watermark| has_strings(watermark, &WATERMARK),
        _ => return video(name),
    };
    Some(fits)
}

/// Of an upload token that is created.
pub(super) fn upload_token(name: &str) -> Option<Fits> {
    let fits: Fits = |ttl| ttl.as_u64().is_some_and(|ttl| ttl <= MAX_TTL);
    (name == "ttl").then_some(fits)
}

fn all(list: &Value, fits: Fits) -> bool {
    list.as_array().is_some_and(|items| items.iter().all(fits))
}

fn is_one_of(value: &Value, known: &[&str]) -> bool {
    value.as_str().is_some_and(|value| known.contains(&value))
}

/// An object whose fields are text and have these names.
fn has_strings(object: &Value, names: &[&str]) -> bool {
    object.as_object().is_some_and(|fields| {
        let mut fields = fields.iter();
        fields.all(|(name, value)| names.contains(&&**name) && value.is_string())
    })
}
