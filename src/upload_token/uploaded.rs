//! What a finished upload leaves in the caller's hands.

use std::fmt;

use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;

use crate::response::Text;

/// A video that is with the API in full. Encoding it takes a while yet.
///
/// Whether it can be played yet is told by the API's `/videos/{videoId}/status`.
///
/// [`video`](Self::video), [`status`](Self::status) and the addresses are those of the last response that accepted a
/// chunk. They are `None` where that response was lost, and the API has confirmed in another way that it has all.
#[derive(Clone)]
pub struct Uploaded {
    video_id: String,
    bytes: u64,
    chunks: u64,
    response: Option<(StatusCode, Bytes)>,
    assets: Assets,
}

/// Of the video's description. What is missing, or is no text, is none.
#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Assets {
    player: Text,
    hls: Text,
    mp4: Text,
    thumbnail: Text,
}

impl Uploaded {
    pub(super) fn new(
        video_id: String,
        bytes: u64,
        chunks: u64,
        response: Option<(StatusCode, Bytes)>,
    ) -> Self {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Video {
            assets: Assets,
        }
        let read = |(_, video): &(_, Bytes)| serde_json::from_slice::<Video>(video).ok();
        let assets = response.as_ref().and_then(read).unwrap_or_default().assets;
        Self {
            video_id,
            bytes,
            chunks,
            response,
            assets,
        }
    }

    /// The id of the video: what to keep.
    #[must_use]
    pub fn video_id(&self) -> &str {
        &self.video_id
    }

    /// How many bytes the video has.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// In how many chunks it went, those of earlier tries included.
    #[must_use]
    pub fn chunks(&self) -> u64 {
        self.chunks
    }

    /// The status of the last response: 201 as a rule.
    #[must_use]
    pub fn status(&self) -> Option<StatusCode> {
        self.response.as_ref().map(|(status, _)| *status)
    }

    /// The video as the API describes it, in JSON.
    #[must_use]
    pub fn video(&self) -> Option<&Bytes> {
        self.response.as_ref().map(|(_, video)| video)
    }

    /// The address of the player, for a link or an iframe.
    #[must_use]
    pub fn player(&self) -> Option<&str> {
        url(&self.assets.player)
    }

    /// The address of the HLS manifest, for a player of your own.
    #[must_use]
    pub fn hls(&self) -> Option<&str> {
        url(&self.assets.hls)
    }

    /// The address of the MP4 file, if one is made.
    #[must_use]
    pub fn mp4(&self) -> Option<&str> {
        url(&self.assets.mp4)
    }

    /// The address of the thumbnail.
    #[must_use]
    pub fn thumbnail(&self) -> Option<&str> {
        url(&self.assets.thumbnail)
    }
}

fn url(text: &Text) -> Option<&str> {
    Some(text.as_str()).filter(|url| !url.is_empty())
}

impl fmt::Debug for Uploaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The addresses of a private video have a token in them.
        f.debug_struct("Uploaded")
            .field("video_id", &self.video_id)
            .field("bytes", &self.bytes)
            .field("chunks", &self.chunks)
            .finish_non_exhaustive()
    }
}
