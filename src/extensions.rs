//! What a caller may say with a request, as extensions of it.

use std::time::Duration;

/// A request extension: renew first if less than this is left of the token's lifetime.
///
/// It is for long requests whose body can't be kept for a replay, such as the upload of a large file:
/// should the token expire on the way, their 401 would stand. Others need none of it.
///
/// ```
/// use std::time::Duration;
///
/// use apivideo_auth::MinLifetime;
///
/// let mut request = http::Request::post("/videos/vi1234/source").body(())?;
/// request.extensions_mut().insert(MinLifetime(Duration::from_secs(20 * 60)));
/// # Ok::<(), http::Error>(())
/// ```
///
/// At most half the token's lifetime can be asked for (half an hour of api.video's hour; more
/// counts as that), and a tenth of a lifetime lies between two renewals for this reason. So a wish
/// that can never be met costs few renewals and delays few requests. If the renewal fails, a usable
/// token is used all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "it is its one field")]
pub struct MinLifetime(pub Duration);

/// A request extension: leave this request alone, as if it had an `Authorization` header of its
/// own.
///
/// It gets no token, causes no renewal, and its 401 is its own: it is passed on and says nothing of
/// the source's token. A path-only URI is still completed with the API's origin.
///
/// ```
/// use apivideo_auth::NoAuth;
///
/// // What is public needs no token.
/// let mut request = http::Request::get("/videos/vi1234/status").body(())?;
/// request.extensions_mut().insert(NoAuth);
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "it is a flag")]
pub struct NoAuth;

/// A request extension: no replay after a 401. What sends the request sends it again by itself, and counts that.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SentOnce;
