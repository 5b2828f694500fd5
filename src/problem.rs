//! Problem documents (RFC 9457): how the API says why it declined a call.
//!
//! The `type` of each is the address of a page, such as
//! <https://docs.api.video/reference/resource-not-found>, whose last part names the problem. The content
//! type is `application/json` or `application/problem+json`; neither is asked for, since the body tells.

use std::{error::Error as StdError, fmt};

use http::StatusCode;
use serde::Deserialize;

use crate::{error::Error, response::Text};

/// What the API said when it declined a call: its problem document.
///
/// It is found in the chain of sources of an [`Error`]; the error's own text does not quote it.
///
/// ```
/// use apivideo_auth::{ApiVideoAuthLayer, UploadTokens, testing::FakeApi, upload_token::Problem};
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use tower::Layer;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), apivideo_auth::Error> {
/// let api = FakeApi::in_process();
/// let layer = ApiVideoAuthLayer::builder().base_url(api.url()).api_key(api.api_key()).build()?;
/// let tokens = UploadTokens::<_, Full<Bytes>>::new(layer.layer(api.service()));
///
/// let error = tokens.get(&"toUnknown".into()).await.unwrap_err();
/// let problem = Problem::of(&error).expect("the API said why");
/// assert_eq!((problem.status().as_u16(), problem.kind()), (404, "resource-not-found"));
/// # Ok(())
/// # }
/// ```
///
/// `Debug` and `Display` show the status alone: title and name are the server's words, and may
/// quote what was sent.
#[derive(Clone)]
pub struct Problem {
    status: StatusCode,
    kind: String,
    title: Text,
    name: Text,
}

impl Problem {
    /// Reads the response to a request that was declined. What is missing, or is not text, counts as empty.
    ///
    /// Only the last segment of the `type` is kept. The same problem has been published under
    /// several URLs, and a query or fragment in one is of no use here.
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

    /// The problem behind an error, if the API has answered with one. `None` where no response
    /// came, or where it was something other than a refusal.
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

    /// The status of the response, which is more reliable than the one inside the document.
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

    /// Which parameter it is about, by the API's name for it (`videoId`, `ttl`). Empty if about
    /// none.
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
