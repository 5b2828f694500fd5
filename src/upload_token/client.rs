//! The account's side of upload tokens: `/upload-tokens`, through a service that adds a bearer
//! (<https://docs.api.video/vod/delegated-upload-tokens>).

use std::{fmt, marker::PhantomData, time::Duration};

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body;
use serde::Deserialize;
use tower::{BoxError, Service};
use zeroize::Zeroizing;

use super::{
    request::request,
    response,
    token::{UploadToken, UploadTokenSecret, Wire},
};
use crate::error::{Error, ErrorKind};

/// The largest lifetime that the API takes.
const MAX_TTL: u64 = 2_147_483_647;

/// The most that the API puts on a page: the fewer calls, the better. Its own default is 25.
const PAGE_SIZE: u8 = 100;

/// Makes, lists and deletes upload tokens. See the [module docs](super).
///
/// `S` is a service whose requests get a bearer, such as [`ApiVideoAuth`](crate::ApiVideoAuth), and `B` the body of
/// its requests. Each call uses a clone of the service.
///
/// ```
/// use std::time::Duration;
///
/// use apivideo_auth::{ApiVideoAuthLayer, UploadTokens, testing::FakeApi, upload_token::ListOptions};
/// use bytes::Bytes;
/// use futures::TryStreamExt;
/// use http_body_util::Full;
/// use tower::Layer;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), apivideo_auth::Error> {
/// let api = FakeApi::in_process();
/// let layer = ApiVideoAuthLayer::builder().base_url(api.url()).api_key(api.api_key()).build()?;
/// let tokens = UploadTokens::<_, Full<Bytes>>::new(layer.layer(api.service()));
///
/// let made = tokens.create(Some(Duration::from_secs(3600))).await?;
/// assert_eq!(tokens.get(made.secret()).await?.ttl(), made.ttl());
/// // Those that live for ever are to be deleted when they are not needed any more.
/// let all: Vec<_> = tokens.list(ListOptions::new()).try_collect().await?;
/// for token in all.iter().filter(|token| token.ttl().is_none()) {
///     tokens.delete(token.secret()).await?;
/// }
/// # layer.shutdown(Duration::from_secs(5)).await;
/// # Ok(())
/// # }
/// ```
///
/// Calls are made once each: what may pass (a 429, a 503) is the caller's to repeat, or a retry
/// layer's. A token that may have been made twice does no harm: the list has both.
pub struct UploadTokens<S, B> {
    service: S,
    body: PhantomData<fn(B)>,
}

/// What the list of upload tokens is sorted by. It is the API that sorts, not this crate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SortBy {
    /// When the tokens were created.
    #[default]
    CreatedAt,
    /// How long they live.
    Ttl,
}

/// In which order [`UploadTokens::list`] gives the tokens, and how many it asks for at once.
///
/// ```
/// use apivideo_auth::upload_token::{ListOptions, SortBy};
///
/// // By lifetime. To the API, a token that lives for ever has a lifetime of zero.
/// let options = ListOptions::new().sort_by(SortBy::Ttl).descending().page_size(50);
/// ```
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct ListOptions {
    sort_by: SortBy,
    descending: bool,
    page_size: Option<u8>,
}

impl ListOptions {
    /// The oldest first, a hundred at once.
    pub fn new() -> Self {
        Self::default()
    }

    /// What to sort by. Default: when the tokens were created.
    pub fn sort_by(mut self, sort_by: SortBy) -> Self {
        self.sort_by = sort_by;
        self
    }

    /// The newest, or those with the longest lifetime, first. Default: last. The API counts a token that never ends as one of
    /// lifetime 0.
    pub fn descending(mut self) -> Self {
        self.descending = true;
        self
    }

    /// How many tokens to ask for at once, 10 to 100. Default: 100. It is not checked here: another
    /// number is the API's to judge.
    pub fn page_size(mut self, size: u8) -> Self {
        self.page_size = Some(size);
        self
    }

    /// The first page is 1.
    fn path(&self, page: u64) -> String {
        let by = match self.sort_by {
            SortBy::CreatedAt => "createdAt",
            SortBy::Ttl => "ttl",
        };
        let order = if self.descending { "desc" } else { "asc" };
        let size = self.page_size.unwrap_or(PAGE_SIZE);
        format!("/upload-tokens?sortBy={by}&sortOrder={order}&currentPage={page}&pageSize={size}")
    }
}

impl<S, B> UploadTokens<S, B> {
    /// Over a service that completes URIs which are only a path, and adds a bearer: a client made
    /// by an [`ApiVideoAuthLayer`](crate::ApiVideoAuthLayer) does both.
    pub fn new(service: S) -> Self {
        Self {
            service,
            body: PhantomData,
        }
    }
}

impl<S, B, R> UploadTokens<S, B>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    B: From<Bytes>,
    R: Body,
    R::Error: Into<BoxError>,
{
    /// Makes a token that lives for `ttl`, rounded up to whole seconds, or for ever.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`], and nothing is sent, if `ttl` is zero (which the API would read as "for ever") or
    /// above 2 147 483 647 s. Else see [the module](super#errors).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, a token may have been made that nobody knows; the list has it.
    ///
    /// The API takes whole seconds, 1 to 2 147 483 647 (68 years). A token for ever is one to be
    /// deleted by hand; prefer a lifetime.
    pub async fn create(&self, ttl: Option<Duration>) -> Result<UploadToken, Error> {
        let seconds = match ttl {
            None => 0,
            Some(ttl) => ttl
                .as_secs()
                .saturating_add(u64::from(ttl.subsec_nanos() > 0)),
        };
        if ttl.is_some_and(|ttl| ttl.is_zero()) || seconds > MAX_TTL {
            return Err(Error::new(
                ErrorKind::Configuration,
                "an upload token lives for 1 to 2147483647 seconds, or, without a ttl, for ever",
            ));
        }
        let mut request = request(Method::POST, "/upload-tokens")?;
        *request.body_mut() = Bytes::from(format!("{{\"ttl\":{seconds}}}"));
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(header::CONTENT_TYPE, json);
        self.one(request).await
    }

    /// All tokens that have not expired, page by page.
    ///
    /// This is no snapshot: tokens made or deleted meanwhile may be missing or come twice. The stream ends after an
    /// error.
    ///
    /// # Errors
    ///
    /// An item is an error if its page can't be had; see [the module](super#errors).
    ///
    /// # Cancel safety
    ///
    /// The stream can be dropped at any item; nothing is changed.
    pub fn list(
        &self,
        options: ListOptions,
    ) -> impl Stream<Item = Result<UploadToken, Error>> + use<'_, S, B, R> {
        stream::try_unfold(Some(1), move |page| {
            let path = page.map(|page| (page, options.path(page)));
            async move {
                let Some((page, path)) = path else {
                    return Ok(None);
                };
                let (_, body) = self.send(request(Method::GET, &path)?).await?;
                let Page { data, pagination } = response::parse(&body)?;
                let next = pagination
                    .next(page)
                    .filter(|next| !data.is_empty() && *next > page);
                Ok(Some((stream::iter(data).map(UploadToken::try_from), next)))
            }
        })
        .try_flatten()
    }

    /// What the API knows of a token.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if it was deleted or has expired. Else see [the module](super#errors).
    ///
    /// # Cancel safety
    ///
    /// Nothing is changed.
    pub async fn get(&self, token: &UploadTokenSecret) -> Result<UploadToken, Error> {
        self.one(request(Method::GET, &path(token)?)?).await
    }

    /// Deletes a token: it is good for no further upload.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`] if it was deleted before or has expired. Else see [the module](super#errors).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the token may or may not have been deleted.
    ///
    /// Uploads that have begun with it fail at their next chunk; they can be resumed with another
    /// token.
    pub async fn delete(&self, token: &UploadTokenSecret) -> Result<(), Error> {
        self.send(request(Method::DELETE, &path(token)?)?).await?;
        Ok(())
    }

    /// A call whose response is one token.
    async fn one(&self, request: Request<Bytes>) -> Result<UploadToken, Error> {
        let (_, body) = self.send(request).await?;
        response::parse::<Wire>(&body)?.try_into()
    }

    async fn send(
        &self,
        request: Request<Bytes>,
    ) -> Result<(StatusCode, Zeroizing<Vec<u8>>), Error> {
        let sent = response::send(self.service.clone(), request.map(B::from)).await;
        sent.map_err(|failed| failed.error)
    }
}

/// One page of the list.
#[derive(Deserialize)]
struct Page {
    data: Vec<Wire>,
    pagination: Pagination,
}

/// Of the paging, only the links are read: the counts are the API's guess of what may change at any moment.
#[derive(Deserialize)]
struct Pagination {
    links: Vec<Link>,
}

#[derive(Deserialize)]
struct Link {
    rel: String,
    uri: String,
}

impl Pagination {
    /// The number of the page after this one, if there is one. Of the link only this number is taken: its host would have to
    /// be trusted, and the API's links leave out how the list is sorted.
    fn next(&self, page: u64) -> Option<u64> {
        let next = self.links.iter().find(|link| link.rel == "next")?;
        let query = next.uri.split_once('?').map_or("", |(_, query)| query);
        let number = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("currentPage="));
        number.map_or(Some(page + 1), |number| number.parse().ok())
    }
}

/// The path of a token. It is checked first: a token that is not one could lead to another path.
fn path(token: &UploadTokenSecret) -> Result<String, Error> {
    token.check()?;
    Ok(format!("/upload-tokens/{}", token.expose()))
}

impl<S: Clone, B> Clone for UploadTokens<S, B> {
    fn clone(&self) -> Self {
        Self::new(self.service.clone())
    }
}

impl<S: fmt::Debug, B> fmt::Debug for UploadTokens<S, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UploadTokens")
            .field("service", &self.service)
            .finish()
    }
}
