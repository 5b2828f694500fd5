//! Where requests go, and how long their bodies may be.

/// The longest request body that is read, uploads apart.
pub(super) const BODY_LIMIT: usize = 64 * 1024 * 1024;

/// The longest chunk of a video that the API takes.
pub(super) const MAX_CHUNK: usize = 200 * 1024 * 1024;

/// What multipart puts around a chunk is shorter.
const FORM: usize = 64 * 1024;

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route<'a> {
    /// What a browser asks before it sends a page's request.
    Preflight,
    /// `/auth/` and all below it.
    TokenCall,
    Resource(Resource<'a>),
    /// `/echo` and all below it: for tests of requests, with no rules but the bearer.
    Echo,
    Unknown,
}

/// A part of the account, played with the feature `upload-tokens` only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resource<'a> {
    Videos,
    Video(&'a str),
    Source(&'a str),
    Status(&'a str),
    UploadTokens,
    UploadToken(&'a str),
    Upload,
}

impl<'a> Route<'a> {
    /// By the path alone; the method is judged by what it is for.
    pub(super) fn of(path: &'a str) -> Self {
        if path.starts_with("/auth/") {
            return Self::TokenCall;
        }
        let mut segments = path.strip_prefix('/').unwrap_or(path).splitn(3, '/');
        let resource = match (segments.next(), segments.next(), segments.next()) {
            (Some("videos"), None, None) => Resource::Videos,
            (Some("videos"), Some(id), None) if !id.is_empty() => Resource::Video(id),
            (Some("videos"), Some(id), Some("source")) if !id.is_empty() => Resource::Source(id),
            (Some("videos"), Some(id), Some("status")) if !id.is_empty() => Resource::Status(id),
            (Some("upload-tokens"), None, None) => Resource::UploadTokens,
            (Some("upload-tokens"), Some(token), None) if !token.is_empty() => {
                Resource::UploadToken(token)
            }
            (Some("upload"), None, None) => Resource::Upload,
            (Some("echo"), _, _) => return Self::Echo,
            _ => return Self::Unknown,
        };
        Self::Resource(resource)
    }

    /// Whether requests bring the source of a video.
    pub(super) fn is_upload(self) -> bool {
        matches!(self, Self::Resource(Resource::Upload | Resource::Source(_)))
    }

    /// Beyond it, the response is a 413: a test that loops must not fill the memory.
    pub(super) fn body_limit(self) -> usize {
        if self.is_upload() {
            MAX_CHUNK + FORM
        } else {
            BODY_LIMIT
        }
    }

    /// Whether a request needs a bearer; an upload has its own token.
    pub(super) fn is_guarded(self) -> bool {
        match self {
            Self::Preflight | Self::TokenCall | Self::Resource(Resource::Upload) => false,
            Self::Resource(_) | Self::Echo | Self::Unknown => true,
        }
    }
}
