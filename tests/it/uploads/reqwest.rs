//! Uploads and upload tokens over reqwest, with middleware and without.

use std::{
    error::Error as StdError,
    sync::{Arc, Mutex},
};

use ::reqwest::{Client, Request, Response};
use apivideo_auth::{
    ApiVideoAuthLayer, ApiVideoAuthMiddleware, NoAuth, UploadTokenLayer, UploadTokens,
    reqwest_adaptor::ReqwestClient, upload_token::ListOptions,
};
use async_trait::async_trait;
use futures::TryStreamExt;
use http::Extensions;
use reqwest_middleware::{ClientBuilder, Middleware, Next};
use reqwest_retry::{RetryTransientMiddleware, policies::ExponentialBackoff};

use super::*;

fn plain() -> Client {
    let client = Client::builder().no_proxy().build();
    client.expect("a client without TLS")
}

/// As its error shows it, with all that lies behind.
fn shown(error: &Error) -> String {
    let (mut shown, mut next) = (String::new(), Some(error as &dyn StdError));
    while let Some(error) = next {
        shown += &format!("{error} {error:?} ");
        next = error.source();
    }
    shown
}

#[tokio::test]
async fn reqwest_uploads_with_an_upload_token() {
    let api = FakeApi::builder().keep_uploads(true).serve().await.unwrap();
    let film = film(2 * CHUNK + 1);
    let token = mint(&api).await;
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = told.clone();
    let options = options().on_progress(move |now| tell.lock().unwrap().push(now.bytes));
    let service = layer(&api, &token).layer(ReqwestClient::new(plain()));
    let source = Source::new(&film[..]).length(film.len() as u64);
    let done = upload(service, source, options).await.unwrap();
    assert_is(&api, done.video_id(), &film, 3);
    assert_eq!(told.lock().unwrap().last(), Some(&(film.len() as u64)));
    // A client says how long a body is, where it knows that.
    let lengths = api.journal().into_iter();
    let mut lengths = lengths.filter(|it| it.uri.path() == "/upload");
    assert!(lengths.all(|it| it.headers.contains_key(header::CONTENT_LENGTH)));
}

/// Keeps what it finds in the extensions.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<bool>>>);

#[async_trait]
impl Middleware for Seen {
    async fn handle(
        &self,
        request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        self.0
            .lock()
            .unwrap()
            .push(extensions.get::<NoAuth>().is_some());
        next.run(request, extensions).await
    }
}

#[tokio::test]
async fn reqwest_middleware_sees_uploads_and_authorises_them() {
    let api = FakeApi::builder().keep_uploads(true).serve().await.unwrap();
    let film = film(CHUNK + 1);
    let auth = with_key(&api).build().unwrap();
    let seen = Seen::default();
    let calls = Client::builder().no_proxy();
    let client = ClientBuilder::new(plain())
        .with(seen.clone())
        .with(ApiVideoAuthMiddleware::new(&auth, calls).unwrap())
        .build();
    let account = ReqwestClient::new(client).base_url(&api.url()).unwrap();

    let tokens = UploadTokens::<_, ::reqwest::Body>::new(account.clone());
    let token = tokens.create(None).await.unwrap();
    let listed: Vec<_> = tokens.list(ListOptions::new()).try_collect().await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(*seen.0.lock().unwrap(), [false, false]);

    let id = create_video(&api).await;
    let source = || Source::new(&film[..]).length(film.len() as u64);
    // The bearer is refused in the middle, where no middleware can send the stream again.
    let revoked = api.clone();
    let to_video = UploadOptions::to_video(&id)
        .chunk_size(CHUNK)
        .on_checkpoint(move |_| revoked.revoke_access_tokens());
    let done = upload(account.clone(), source(), to_video).await.unwrap();
    assert_is(&api, done.video_id(), &film, 2);

    // An upload token goes without the bearer, over the same client.
    let with_token = layer(&api, &token).layer(account.clone());
    let done = upload(with_token, source(), options()).await.unwrap();
    assert_is(&api, done.video_id(), &film, 2);
    assert_eq!(seen.0.lock().unwrap().last(), Some(&true));
    let last = api.journal().pop().unwrap();
    assert!(!last.headers.contains_key(header::AUTHORIZATION));

    // Or the Tower layer authorises, and there is no middleware.
    let tower = auth.layer(ReqwestClient::new(plain()));
    let id = create_video(&api).await;
    let done = upload(tower, source(), UploadOptions::to_video(&id)).await;
    assert_is(&api, done.unwrap().video_id(), &film, 1);
}

#[tokio::test]
async fn g28_reqwest_says_what_was_never_sent() {
    // A port on which nobody listens any more.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    let policy = ExponentialBackoff::builder().build_with_max_retries(0);
    let retries = RetryTransientMiddleware::new_with_policy(policy);
    let with_retries = ClientBuilder::new(plain()).with(retries).build();
    let with_token = UploadTokenLayer::builder("to-test-only").base_url(&url);
    let with_token = with_token.build().unwrap();

    let service = with_token.layer(ReqwestClient::new(plain()));
    let source = Source::new(&b"a film"[..]);
    let error = upload(service, source, options().attempts(1)).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(!shown(&error).contains("test-only"), "{}", shown(&error));

    for client in [plain().into(), with_retries] {
        let client = ReqwestClient::new(client).base_url(&url).unwrap();
        let tokens = UploadTokens::<_, Bytes>::new(client);
        let error = tokens.get(&"to-test-only".into()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        assert!(!shown(&error).contains("test-only"), "{}", shown(&error));
    }
}

#[tokio::test]
async fn our_error_in_a_middleware_keeps_its_kind() {
    let api = FakeApi::start().await.unwrap();
    let auth = ApiVideoAuthLayer::builder().base_url(api.url());
    let auth = ApiVideoAuthMiddleware::new(&auth.build().unwrap(), Client::builder().no_proxy());
    let client = ClientBuilder::new(plain()).with(auth.unwrap()).build();
    let client = ReqwestClient::new(client).base_url(&api.url()).unwrap();
    let tokens = UploadTokens::<_, Bytes>::new(client);
    let error = tokens.create(None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoCredentials, "{error:?}");
}
