//! The server of the example `browser_upload`: what a visitor may see and do, and what it leaves behind.

#[path = "../../examples/browser_upload/limits.rs"]
mod limits;
#[path = "../../examples/browser_upload/server.rs"]
mod server;
#[path = "../../examples/browser_upload/sessions.rs"]
mod sessions;
#[path = "../../examples/browser_upload/upload.rs"]
mod upload;
#[path = "../../examples/browser_upload/uploads.rs"]
mod uploads;

use std::{net::SocketAddr, sync::Arc};

use apivideo_auth::{
    UploadTokens,
    testing::{FakeApi, FakeApiBuilder, Fault},
    upload_token::{ListOptions, UploadToken},
};
use axum::{Extension, Router, body::Body, extract::ConnectInfo};
use futures::{StreamExt, TryStreamExt};
use http::{HeaderMap, Method, Request, StatusCode, header, request::Parts};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use tower::{Layer, ServiceExt};

use crate::support::{aging, seconds, settle};
use uploads::{Account, TOKEN_LIFETIME, Uploads};

const OWN: &str = "localhost:8443";

struct Site {
    api: FakeApi,
    account: Account,
    uploads: Arc<Uploads>,
    app: Router,
}

/// Paused time drives all of it.
fn site() -> Site {
    site_before(FakeApi::builder())
}

fn site_before(api: FakeApiBuilder) -> Site {
    let (api, _, account) = aging(api, |layer| layer);
    let uploads = Uploads::new(account.clone(), TOKEN_LIFETIME);
    let address = SocketAddr::from(([127, 0, 0, 1], 8443));
    let app = server::router(uploads.clone(), api.service(), Vec::new(), address);
    Site {
        api,
        account,
        uploads,
        app,
    }
}

type Response = (StatusCode, HeaderMap, Value);

impl Site {
    async fn send(&self, from: u8, request: Request<Body>) -> Response {
        let peer = ConnectInfo(SocketAddr::from(([127, 0, 0, from], 50_000)));
        let app = Extension(peer).layer(self.app.clone());
        let exchange = async {
            let (head, body) = app.oneshot(request).await.unwrap().into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let body = serde_json::from_slice(&body).unwrap_or_default();
            (head.status, head.headers, body)
        };
        let exchange = timeout(seconds(200), exchange).await;
        exchange.expect("a response in time")
    }

    /// A browser that loads the page for the first time.
    async fn visitor_from(&self, from: u8) -> Visitor<'_> {
        let (_, headers, _) = self.send(from, request("GET", "/")).await;
        let cookie = headers[header::SET_COOKIE].to_str().unwrap();
        Visitor {
            site: self,
            from,
            cookie: cookie.split(';').next().unwrap().to_owned(),
        }
    }

    async fn visitor(&self) -> Visitor<'_> {
        self.visitor_from(1).await
    }

    async fn tokens(&self) -> Vec<UploadToken> {
        let tokens = UploadTokens::<_, Body>::new(self.account.clone());
        tokens.list(ListOptions::new()).try_collect().await.unwrap()
    }

    /// What is left in the account: tokens and videos.
    async fn left(&self) -> (usize, usize) {
        (self.tokens().await.len(), self.api.video_ids().len())
    }
}

fn request(method: &str, path: &str) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(format!("https://{OWN}{path}"))
        .body(Body::empty())
        .unwrap()
}

struct Visitor<'a> {
    site: &'a Site,
    from: u8,
    cookie: String,
}

#[derive(Clone)]
struct Begun {
    video_id: String,
    token: String,
}

impl Visitor<'_> {
    async fn ask(&self, method: &str, path: &str, body: Value) -> Response {
        let mut request = request(method, path);
        let headers = request.headers_mut();
        headers.insert(header::COOKIE, self.cookie.parse().unwrap());
        headers.insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
        *request.body_mut() = Body::from(body.to_string());
        self.site.send(self.from, request).await
    }

    async fn try_begin(&self) -> Response {
        let wanted = json!({"name": "film.mp4", "size": 4_000_000_000_u64});
        self.ask("POST", "/session/upload", wanted).await
    }

    async fn begin(&self) -> Begun {
        let (status, _, begun) = self.try_begin().await;
        assert_eq!(status, 200, "{begun}");
        let text = |name: &str| begun[name].as_str().unwrap().to_owned();
        Begun {
            video_id: text("videoId"),
            token: text("token"),
        }
    }

    async fn done(&self, video_id: &str, cancelled: bool) -> StatusCode {
        let body = json!({"videoId": video_id, "cancelled": cancelled});
        self.ask("POST", "/session/done", body).await.0
    }

    async fn renew(&self, video_id: &str) -> Response {
        let body = json!({"videoId": video_id});
        self.ask("POST", "/session/token", body).await
    }

    async fn titles(&self) -> Vec<Value> {
        let (status, _, videos) = self.ask("GET", "/session/videos", Value::Null).await;
        assert_eq!(status, 200);
        let videos = videos.as_array().unwrap().iter();
        videos.map(|video| video["title"].clone()).collect()
    }

    /// Sends the only chunk of a video.
    async fn send_file(&self, begun: &Begun) -> StatusCode {
        let form = format!(
            "--x\r\ncontent-disposition: form-data; name=\"videoId\"\r\n\r\n{}\r\n--x\r\ncontent-disposition: \
             form-data; name=\"file\"; filename=\"film.mp4\"\r\n\r\nmoving pictures\r\n--x--\r\n",
            begun.video_id
        );
        let mut request = request("POST", &format!("/upload?token={}", begun.token));
        let headers = request.headers_mut();
        let form_data = "multipart/form-data; boundary=x".parse().unwrap();
        headers.insert(header::CONTENT_TYPE, form_data);
        headers.insert(header::CONTENT_RANGE, "part 1/1".parse().unwrap());
        *request.body_mut() = Body::from(form);
        self.site.send(self.from, request).await.0
    }

    async fn upload(&self) -> Begun {
        let begun = self.begin().await;
        assert_eq!(self.send_file(&begun).await, 201);
        assert_eq!(self.done(&begun.video_id, false).await, 204);
        begun
    }
}

fn deletes_tokens(request: &Parts) -> bool {
    request.method == Method::DELETE && request.uri.path().starts_with("/upload-tokens/")
}

fn asks_status(request: &Parts) -> bool {
    request.uri.path().ends_with("/status")
}

#[tokio::test(start_paused = true)]
async fn g27_a_session_sees_its_own_videos_only() {
    let site = site();
    let (one, other) = (site.visitor().await, site.visitor().await);
    one.upload().await;
    assert_eq!(one.titles().await, ["film.mp4"]);
    assert_eq!(other.titles().await, [""; 0]);
    assert_eq!(site.left().await, (0, 1));
}

#[tokio::test(start_paused = true)]
async fn g27_a_foreign_claim_is_refused() {
    let site = site();
    let (one, other) = (site.visitor().await, site.visitor().await);
    let (mine, complete) = (other.begin().await, one.upload().await);
    let open = one.begin().await;
    for foreign in [
        &open.video_id,
        &complete.video_id,
        "vi1",
        "../upload-tokens",
    ] {
        assert_eq!(other.done(foreign, false).await, 403);
        assert_eq!(other.done(foreign, true).await, 403);
        assert_eq!(other.renew(foreign).await.0, 403);
    }
    assert_eq!(other.titles().await, [""; 0]);
    // Nothing has happened to either.
    assert_eq!(one.send_file(&open).await, 201);
    assert_eq!(one.done(&open.video_id, false).await, 204);
    assert_eq!(one.titles().await, ["film.mp4", "film.mp4"]);
    assert_eq!(other.send_file(&mine).await, 201);
}

#[tokio::test(start_paused = true)]
async fn g27_without_a_session_there_is_nothing_to_be_had() {
    let site = site();
    let mut stranger = site.visitor().await;
    stranger.cookie = "__Host-session=00000000000000000000000000000000".to_owned();
    assert_eq!(stranger.try_begin().await.0, 403);
    assert_eq!(stranger.done("vi1", false).await, 403);
    let listed = stranger.ask("GET", "/session/videos", Value::Null).await;
    assert_eq!(listed.0, 403);
    assert_eq!(site.api.counts().api_calls, 0);
}

#[tokio::test(start_paused = true)]
async fn g27_what_a_page_says_of_an_upload_is_checked() {
    let site = site();
    let visitor = site.visitor().await;
    let begun = visitor.begin().await;
    assert_eq!(visitor.done(&begun.video_id, false).await, 204);
    assert_eq!(visitor.titles().await, [""; 0]);
    assert_eq!(site.left().await, (0, 1), "it may still turn up");
    sleep(seconds(61)).await;
    assert_eq!(site.left().await, (0, 0));
}

#[tokio::test(start_paused = true)]
async fn g27_what_the_api_knows_late_is_not_deleted() {
    let site = site();
    let visitor = site.visitor().await;
    let late = Fault::json(|status| status["ingest"]["status"] = "uploading".into());
    site.api.fault(late.on(asks_status));
    visitor.upload().await;
    assert_eq!(visitor.titles().await, [""; 0]);
    sleep(seconds(61)).await;
    assert_eq!(visitor.titles().await, ["film.mp4"]);

    // The same with an API that does not answer: it is asked until it does.
    site.api.fault(Fault::status(500).on(asks_status).times(3));
    visitor.upload().await;
    sleep(seconds(61)).await;
    assert_eq!(visitor.titles().await, ["film.mp4", "film.mp4"]);
}

#[tokio::test(start_paused = true)]
async fn g27_an_ingested_video_is_complete() {
    let site = site_before(FakeApi::builder().ingest_time(seconds(0)));
    let visitor = site.visitor().await;
    visitor.upload().await;
    assert_eq!(visitor.titles().await, ["film.mp4"]);
}

#[tokio::test(start_paused = true)]
async fn g27_a_cancelled_upload_leaves_nothing() {
    let site = site();
    let visitor = site.visitor().await;
    let begun = visitor.begin().await;
    assert_eq!(visitor.done(&begun.video_id, true).await, 204);
    assert_eq!(site.left().await, (0, 0));
    // Twice, and too late for a chunk.
    assert_eq!(visitor.done(&begun.video_id, true).await, 204);
    assert_eq!(visitor.send_file(&begun).await, 401);
    assert_eq!(visitor.renew(&begun.video_id).await.0, 503);
    assert_eq!(site.left().await, (0, 0));
}

#[tokio::test(start_paused = true)]
async fn g27_tokens_live_for_minutes_and_are_renewed() {
    let site = site();
    let visitor = site.visitor().await;
    let first = visitor.begin().await;
    let ttl = site.tokens().await[0].ttl();
    assert_eq!(ttl, Some(TOKEN_LIFETIME));
    assert!(TOKEN_LIFETIME <= seconds(600), "whatever the file's size");

    let (_, _, again) = visitor.renew(&first.video_id).await;
    assert_eq!(again["token"], *first.token, "it is young");
    sleep(TOKEN_LIFETIME / 2 + seconds(1)).await;
    let (_, _, next) = visitor.renew(&first.video_id).await;
    assert_ne!(next["token"], *first.token);
    assert_eq!(next["videoId"], *first.video_id);
    // What is on its way with the first one arrives.
    assert_eq!(site.tokens().await.len(), 2);
    sleep(TOKEN_LIFETIME / 2).await;
    let token = next["token"].as_str().unwrap().to_owned();
    assert_eq!(
        visitor
            .send_file(&Begun {
                token,
                ..first.clone()
            })
            .await,
        201
    );
    assert_eq!(visitor.done(&first.video_id, false).await, 204);
    assert_eq!(visitor.titles().await, ["film.mp4"]);
    assert_eq!(site.left().await, (0, 1));
}

#[tokio::test(start_paused = true)]
async fn g27_tokens_are_deleted_again_until_it_works() {
    let site = site();
    let visitor = site.visitor().await;
    for fault in [
        Fault::status(503),
        Fault::disconnect(),
        Fault::disconnect().after_commit(),
        Fault::latency(seconds(3600)),
    ] {
        site.api.fault(fault.on(deletes_tokens).times(3));
        visitor.upload().await;
        sleep(seconds(120)).await;
        assert_eq!(site.tokens().await.len(), 0);
        site.api.fault(None);
    }
    assert_eq!(visitor.titles().await.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn g27_an_upload_that_was_left_alone_is_cleared_up() {
    let site = site();
    let visitor = site.visitor().await;
    let (left, complete) = (visitor.begin().await, visitor.begin().await);
    assert_eq!(visitor.send_file(&complete).await, 201);
    drop(left);
    sleep(TOKEN_LIFETIME + seconds(61)).await;
    assert_eq!(
        visitor.titles().await,
        ["film.mp4"],
        "the page never said so"
    );
    assert_eq!(site.api.video_ids(), [complete.video_id]);
    let journal = site.api.journal();
    let deleted = journal.iter().filter(|call| {
        call.method == Method::DELETE && call.uri.path().starts_with("/upload-tokens/")
    });
    assert_eq!(deleted.count(), 2, "though they have expired");
}

#[tokio::test(start_paused = true)]
async fn g27_a_session_that_uploads_is_not_forgotten() {
    let site = site();
    let (idle, visitor) = (site.visitor().await, site.visitor().await);
    let begun = visitor.begin().await;
    sleep(seconds(1)).await;
    for _ in 0..60 {
        site.visitor().await;
    }
    assert_eq!(idle.try_begin().await.0, 403, "forgotten");
    assert_eq!(visitor.done(&begun.video_id, false).await, 204);
}

#[tokio::test(start_paused = true)]
async fn g27_an_address_ends_only_sessions_of_its_own() {
    let site = site();
    let visitor = site.visitor_from(2).await;
    let begun = visitor.begin().await;
    for _ in 0..2000 {
        site.visitor_from(1).await;
    }
    assert_eq!(visitor.done(&begun.video_id, false).await, 204);
}

#[tokio::test(start_paused = true)]
async fn g27_a_browser_that_goes_away_leaves_nothing() {
    for stops_at in ["/videos", "/upload-tokens"] {
        let site = site();
        let visitor = site.visitor().await;
        let slow = Fault::latency(seconds(5)).after_commit();
        site.api
            .fault(slow.on(move |request| request.uri.path() == stops_at));
        assert!(timeout(seconds(1), visitor.try_begin()).await.is_err());
        sleep(seconds(20)).await;
        assert_eq!(site.left().await, (0, 0), "{stops_at}");
    }
    // Of a renewal too.
    let site = site();
    let visitor = site.visitor().await;
    let begun = visitor.begin().await;
    sleep(TOKEN_LIFETIME / 2 + seconds(1)).await;
    let slow = Fault::latency(seconds(5)).after_commit();
    site.api
        .fault(slow.on(|request| request.uri.path() == "/upload-tokens"));
    assert!(
        timeout(seconds(1), visitor.renew(&begun.video_id))
            .await
            .is_err()
    );
    visitor.done(&begun.video_id, true).await;
    sleep(seconds(20)).await;
    assert_eq!(site.left().await, (0, 0));
}

#[tokio::test(start_paused = true)]
async fn g27_a_video_without_a_token_is_deleted() {
    let site = site();
    let visitor = site.visitor().await;
    for fault in [Fault::status(500), Fault::latency(seconds(3600))] {
        site.api
            .fault(fault.on(|request| request.uri.path() == "/upload-tokens"));
        assert_eq!(visitor.try_begin().await.0, 503);
        settle().await;
        assert_eq!(site.api.video_ids().len(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn g27_limits_hold_for_a_session_an_address_and_all() {
    // Each upload of a visitor is over before the next begins.
    let begin = async |visitor: &Visitor<'_>| {
        let (status, _, begun) = visitor.try_begin().await;
        if status == 200 {
            let id = begun["videoId"].as_str().unwrap();
            assert_eq!(visitor.done(id, true).await, 204);
        }
        status.as_u16()
    };
    let site = site();
    let first = site.visitor().await;
    let mut passed = Vec::new();
    for _ in 0..12 {
        passed.push(begin(&first).await);
    }
    assert_eq!(passed, [&[200; 10][..], &[429; 2]].concat(), "a session");

    // New sessions are no way around it.
    let mut of_address = 10;
    for _ in 0..20 {
        let visitor = site.visitor().await;
        of_address += usize::from(begin(&visitor).await == 200);
    }
    assert_eq!(of_address, 20, "an address");

    let mut of_all = of_address;
    for from in 2..60 {
        let visitor = site.visitor_from(from).await;
        of_all += usize::from(begin(&visitor).await == 200);
    }
    assert_eq!(of_all, 40, "all");
    sleep(seconds(60)).await;
    assert_eq!(begin(&first).await, 200);
}

#[tokio::test(start_paused = true)]
async fn g27_few_uploads_are_under_way_at_once() {
    let site = site();
    let visitor = site.visitor().await;
    let mut begun = Vec::new();
    for _ in 0..3 {
        begun.push(visitor.begin().await);
    }
    sleep(seconds(61)).await;
    assert_eq!(visitor.try_begin().await.0, 429, "a session");
    assert_eq!(visitor.done(&begun[0].video_id, true).await, 204);
    visitor.begin().await;

    for _ in 0..10 {
        let more = site.visitor().await;
        while more.try_begin().await.0 == 200 {}
    }
    assert_eq!(site.tokens().await.len(), 10, "an address");

    // A token that is not deleted takes its place.
    site.api
        .fault(Fault::status(500).on(deletes_tokens).always());
    assert_eq!(visitor.done(&begun[1].video_id, true).await, 204);
    sleep(seconds(61)).await;
    assert_eq!(visitor.try_begin().await.0, 429);
    site.api.fault(None);
    sleep(seconds(61)).await;
    assert_eq!(visitor.try_begin().await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn g27_shutdown_leaves_no_token() {
    let site = site();
    let visitor = site.visitor().await;
    let (open, complete) = (visitor.begin().await, visitor.begin().await);
    assert_eq!(visitor.send_file(&complete).await, 201);
    site.api
        .fault(Fault::status(500).on(deletes_tokens).times(2));
    site.uploads.shutdown(seconds(10)).await;
    assert_eq!(site.tokens().await.len(), 0);
    assert!(site.api.video_ids().contains(&complete.video_id));
    assert_eq!(visitor.renew(&open.video_id).await.0, 503);

    // It does not wait for ever.
    let site = self::site();
    site.visitor().await.begin().await;
    site.api
        .fault(Fault::status(500).on(deletes_tokens).always());
    timeout(seconds(11), site.uploads.shutdown(seconds(10)))
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn g27_an_api_that_hangs_is_an_error_in_time() {
    let site = site();
    let visitor = site.visitor().await;
    site.api
        .fault(Fault::latency(seconds(3600)).on(|request| request.uri.path() == "/videos"));
    assert_eq!(visitor.try_begin().await.0, 503);
}

#[tokio::test(start_paused = true)]
async fn g27_the_pages_server_answers_to_its_own_pages() {
    let site = site();
    let visitor = site.visitor().await;
    let cookie = |mut request: Request<Body>| {
        let headers = request.headers_mut();
        headers.insert(header::COOKIE, visitor.cookie.parse().unwrap());
        headers.insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
        *request.body_mut() = Body::from(r#"{"name":"x","size":1}"#);
        request
    };
    for (name, value) in [
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
    ] {
        let mut request = cookie(request("POST", "/session/upload"));
        request.headers_mut().insert(name, value.parse().unwrap());
        assert_eq!(site.send(1, request).await.0, 403, "{name}: {value}");
    }
    let mut foreign = cookie(request("POST", "/session/upload"));
    *foreign.uri_mut() = "https://evil.example/session/upload".parse().unwrap();
    assert_eq!(site.send(1, foreign).await.0, 421);
    let mut large = cookie(request("POST", "/session/upload"));
    *large.body_mut() = Body::from(format!(
        "{{\"size\":1,\"name\":\"{}\"}}",
        "x".repeat(10_000)
    ));
    assert_eq!(site.send(1, large).await.0, 413);
    for size in [0, u64::MAX] {
        let body = json!({"name": "x", "size": size});
        let (status, ..) = visitor.ask("POST", "/session/upload", body).await;
        assert_eq!(status, 400);
    }
    assert_eq!(site.api.counts().api_calls, 0);
}

#[tokio::test(start_paused = true)]
async fn g27_what_stands_for_the_api_gets_and_sets_no_cookies() {
    let api = FakeApi::builder()
        .cors("*")
        .response_header("set-cookie", "balancer=test-only; Path=/");
    let site = site_before(api);
    let visitor = site.visitor().await;
    let begun = visitor.begin().await;
    let mut upload = request("POST", &format!("/upload?token={}", begun.token));
    let cookie = visitor.cookie.parse().unwrap();
    upload.headers_mut().insert(header::COOKIE, cookie);
    let (status, headers, _) = site.send(1, upload).await;
    assert_eq!(status, 400, "it has come to the API");
    assert_eq!(headers.get(header::SET_COOKIE), None);
    assert_eq!(headers.get(header::ACCESS_CONTROL_ALLOW_ORIGIN), None);
    let journal = site.api.journal();
    assert_eq!(journal.last().unwrap().headers.get(header::COOKIE), None);
}

#[tokio::test(start_paused = true)]
async fn g27_a_picture_on_another_site_begins_no_session() {
    let site = site();
    for (destination, is_visit) in [("image", false), ("iframe", false), ("document", true)] {
        let mut request = request("GET", "/");
        let destination_of = request.headers_mut();
        destination_of.insert("sec-fetch-dest", destination.parse().unwrap());
        let (_, headers, _) = site.send(1, request).await;
        let begins = headers.contains_key(header::SET_COOKIE);
        assert_eq!(begins, is_visit, "{destination}");
    }
}

#[tokio::test(start_paused = true)]
async fn g27_a_body_that_never_ends_is_not_waited_for() {
    let site = site();
    let visitor = site.visitor().await;
    for path in ["/session/upload", "/session/token", "/session/done"] {
        let drips = futures::stream::repeat(()).then(async |()| {
            sleep(seconds(1)).await;
            Ok::<_, std::io::Error>(" ")
        });
        let mut request = request("POST", path);
        let headers = request.headers_mut();
        headers.insert(header::COOKIE, visitor.cookie.parse().unwrap());
        headers.insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
        *request.body_mut() = Body::from_stream(drips);
        let sent = timeout(seconds(60), site.send(1, request)).await;
        assert_eq!(sent.expect("a response in a minute").0, 408, "{path}");
    }
    assert_eq!(site.left().await, (0, 0));
}
