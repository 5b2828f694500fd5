//! Problem documents (RFC 9457): how the API says why it declined a call.

use std::{error::Error as StdError, fmt};

use http::StatusCode;
use serde::Deserialize;

use crate::{error::Error, response::Text};

/// What the API said when it declined a call: its problem document.
///
/// It is found in the chain of sources of an [`Error`]; the error's own text does not quote it.
#[derive(Clone)]
pub struct Problem {
    status: StatusCode,
    kind: String,
    title: Text,
    name: Text,
}

impl Problem {
    /// Reads the response to a request that was declined. What is missing, or is not text, counts as empty.
    pub(crate) fn read(status: StatusCode, body: &[u8]) -> Self {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Document {
            r#type: Text,
            title: Text,
            name: Text,
        }
        // The parser's own error may quote the body: it is not kept.
        let document: Document = serde_json::from_slice(body).unwrap_or_default();
        let url = document.r#type.as_str();
        let path = url
            .split(['?', '#'])
            .next()
            .unwrap_or_default()
            .trim_end_matches('/');
        Self {
            status,
            kind: path.rsplit('/').next().unwrap_or_default().to_owned(),
            title: document.title,
            name: document.name,
        }
    }

    /// The problem behind an error, if the API has answered with one.
    #[must_use]
    pub fn of(error: &Error) -> Option<&Self> {
        let mut next = Some(error as &(dyn StdError + 'static));
        while let Some(error) = next {
            if let Some(problem) = error.downcast_ref() {
                return Some(problem);
            }
            next = error.source();
        }
        None
    }

    /// The status of the response.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The last part of the `type`, such as `resource-not-found`. Empty where the response was no problem document.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// What the API says for people to read. Empty where the response was no problem document.
    #[must_use]
    pub fn title(&self) -> &str {
        self.title.as_str()
    }

    /// Which parameter it is about. Empty if about none.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.as_str()
    }
}

impl fmt::Debug for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Problem")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the status is {}", self.status.as_u16())
    }
}

impl StdError for Problem {}
