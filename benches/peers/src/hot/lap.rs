//! What runs: one request, over any client.

use http::{HeaderName, HeaderValue, Uri};
use url::Url;

use crate::peer::ORIGIN;

/// One request, from its making to the answer.
pub(crate) trait Lap: Clone + Send + 'static {
    fn run(&mut self, head: &Head) -> impl Future<Output = ()> + Send;
}

/// What a request is made of.
pub(crate) struct Head {
    pub(super) uri: Uri,
    pub(super) fields: Vec<(HeaderName, HeaderValue)>,
    /// The same for those with types of their own.
    pub(crate) url: Url,
    pub(crate) headers: Headers,
}

impl Head {
    pub(super) fn new(headers: Headers) -> Self {
        let url = format!("{ORIGIN}/videos");
        let field = |(name, value): &(&'static str, &'static str)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        };
        Self {
            uri: url.parse().expect("a good URI"),
            fields: headers.iter().map(field).collect(),
            url: url.parse().expect("a good URL"),
            headers,
        }
    }
}

pub(super) type Headers = &'static [(&'static str, &'static str)];
