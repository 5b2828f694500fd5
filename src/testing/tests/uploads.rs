//! The fake server's own promises about uploads, and the limits of the API that it keeps.

use bytes::Bytes;
use http::{Method, Request, header, request};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tower::ServiceExt;

use crate::testing::*;

const MIB: usize = 1024 * 1024;
/// The shortest chunk that is not the last.
const CHUNK: usize = 5 * MIB;

/// A server with somebody signed in.
pub(super) struct Account {
    pub(super) api: FakeApi,
    bearer: String,
}

impl Account {
    pub(super) fn new() -> Self {
        Self::of(FakeApi::builder().keep_uploads(true).build())
    }

    pub(super) fn of(api: FakeApi) -> Self {
        let bearer = format!("Bearer {}", api.mint_pair().0);
        Self { api, bearer }
    }

    pub(super) async fn call(&self, request: Request<Full<Bytes>>) -> (u16, Value) {
        let response = self.api.service().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    pub(super) fn request(&self, method: Method, path: &str) -> request::Builder {
        let request = Request::builder().method(method).uri(path);
        request.header(header::AUTHORIZATION, &self.bearer)
    }

    pub(super) async fn get(&self, path: &str) -> (u16, Value) {
        let request = self.request(Method::GET, path);
        self.call(request.body(Full::default()).unwrap()).await
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let request = self
            .request(Method::POST, path)
            .header(header::CONTENT_TYPE, "application/json");
        self.call(request.body(Full::from(body.to_string())).unwrap())
            .await
    }

    /// An upload token that never expires.
    pub(super) async fn token(&self) -> String {
        let (_, token) = self.post("/upload-tokens", &json!({})).await;
        token["token"].as_str().unwrap().to_owned()
    }

    /// A video without a source.
    pub(super) async fn video(&self) -> String {
        let (_, video) = self.post("/videos", &json!({ "title": "a film" })).await;
        video["videoId"].as_str().unwrap().to_owned()
    }

    /// Sends a chunk to a video; the status, and what the problem is and about.
    pub(super) async fn chunk(&self, id: &str, range: &str, chunk: &[u8]) -> (u16, String) {
        let mut request = self
            .request(Method::POST, &format!("/videos/{id}/source"))
            .header(header::CONTENT_TYPE, "multipart/form-data; boundary=xyz");
        if !range.is_empty() {
            request = request.header(header::CONTENT_RANGE, range);
        }
        let (status, response) = self
            .call(request.body(Full::from(form(&[("file", chunk)]))).unwrap())
            .await;
        let kind = response["type"]
            .as_str()
            .and_then(|kind| kind.rsplit('/').next())
            .unwrap_or_default();
        (
            status,
            format!("{kind} {}", response["name"].as_str().unwrap_or_default())
                .trim()
                .to_owned(),
        )
    }
}

/// A form as a client writes it. The file's name has a quote's escape in it that a sloppy reader
/// gets wrong.
pub(super) fn form(fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut form = Vec::new();
    for (name, data) in fields {
        let file_name = if *name == "file" {
            "; filename=\"a \\; b.mp4\""
        } else {
            ""
        };
        let head =
            format!("--xyz\r\nContent-Disposition: form-data; name=\"{name}\"{file_name}\r\n\r\n");
        form.extend_from_slice(head.as_bytes());
        form.extend_from_slice(data);
        form.extend_from_slice(b"\r\n");
    }
    form.extend_from_slice(b"--xyz--\r\n");
    form
}

#[tokio::test]
async fn chunks_are_put_together_in_any_order() {
    let film: Vec<u8> = (0..3 * CHUNK + 7).map(|at| (at / 999) as u8).collect();
    let account = Account::new();
    let total = film.len();
    let by_bytes = |chunk: usize| {
        format!(
            "bytes {}-{}/{total}",
            chunk * CHUNK,
            ((chunk + 1) * CHUNK).min(total) - 1
        )
    };
    let by_parts = |chunk: usize| format!("part {}/4", chunk + 1);
    let open_end =
        |chunk: usize| format!("part {}/{}", chunk + 1, if chunk == 3 { "4" } else { "*" });
    type Name<'a> = &'a dyn Fn(usize) -> String;
    for name in [&by_bytes as Name, &by_parts, &open_end] {
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [3, 0, 2, 1]] {
            let id = account.video().await;
            for (sent, chunk) in order.into_iter().enumerate() {
                assert!(!account.api.received(&id).is_some_and(|it| it.finished));
                let status = account.get(&format!("/videos/{id}/status")).await.1;
                assert_eq!(status["ingest"]["status"], "uploading");
                let data = &film[chunk * CHUNK..((chunk + 1) * CHUNK).min(total)];
                assert_eq!(account.chunk(&id, &name(chunk), data).await.0, 201);
                // Sent again, because the response was lost.
                if sent < 3 {
                    assert_eq!(account.chunk(&id, &name(chunk), data).await.0, 201);
                }
            }
            let received = account.api.received(&id).unwrap();
            assert!(received.finished);
            assert_eq!((received.length, received.chunks), (total as u64, 4));
            assert_eq!(received.sha256(), <[u8; 32]>::from(Sha256::digest(&film)));
            assert!(received.bytes.unwrap() == film);
            assert_eq!(received.file_name.as_deref(), Some("a \\; b.mp4"));
            let status = account.get(&format!("/videos/{id}/status")).await.1;
            assert_eq!(
                (&status["ingest"]["status"], &status["ingest"]["filesize"]),
                (&"uploaded".into(), &total.into())
            );
            let again = account.chunk(&id, &name(0), &film[..CHUNK]).await;
            assert_eq!(
                again,
                (400, "video-source-already-uploaded file".to_owned())
            );
        }
    }
}

#[tokio::test]
async fn a_chunk_that_does_not_fit_is_refused_with_a_problem() {
    let account = Account::new();
    let data = vec![1; CHUNK];
    let (range, file) = ("invalid-attribute Content-Range", "invalid-attribute file");
    // What was sent before, if anything, and how the chunk is refused.
    for (before, name, length, refusal) in [
        ("", "bytes 0-5242879", CHUNK, range),
        ("", "bytes 0-/5242880", CHUNK, range),
        ("", "bytes 5-4/10", 0, range),
        ("", "bytes 0-5242880/9999999", CHUNK, range),
        ("", "bytes 0-5242879/5242879", CHUNK, range),
        ("", "bytes 0-5242879/52428800001", CHUNK, range),
        ("", "bytes +0-5242879/9999999", CHUNK, range),
        ("", "bytes 0-5242878/9999999", CHUNK - 1, file),
        ("", "items 0-5242879/9999999", CHUNK, range),
        ("", "part 0/3", CHUNK, range),
        ("", "part 4/3", CHUNK, range),
        ("", "part 1/10001", CHUNK, range),
        ("", "part 10001/*", CHUNK, range),
        ("", "part 1/2", CHUNK - 1, file),
        ("", "part 1/*", CHUNK - 1, file),
        ("part 1/3", "bytes 5242880-10485759/15728640", CHUNK, range),
        ("part 1/3", "part 2/4", CHUNK, range),
        ("part 3/*", "part 2/2", CHUNK, range),
        ("part 1/*", "part 1/*", CHUNK - 1, file),
        ("bytes 0-5242879/15728640", "part 2/3", CHUNK, range),
        (
            "bytes 0-5242879/15728640",
            "bytes 5242880-10485759/15728641",
            CHUNK,
            range,
        ),
        (
            "bytes 0-5242879/15728640",
            "bytes 5242879-10485758/15728640",
            CHUNK,
            range,
        ),
        (
            "bytes 5242880-10485759/*",
            "bytes 1-5242880/*",
            CHUNK,
            range,
        ),
    ] {
        let id = account.video().await;
        if !before.is_empty() {
            assert_eq!(account.chunk(&id, before, &data).await.0, 201, "{before}");
        }
        assert_eq!(
            account.chunk(&id, name, &data[..length]).await,
            (400, refusal.to_owned()),
            "{before} {name}"
        );
        assert!(!account.api.received(&id).is_some_and(|it| it.finished));
    }
    assert_eq!(
        account.chunk("vi-unknown", "", &data).await,
        (404, "resource-not-found videoId".to_owned())
    );
}

#[tokio::test]
async fn a_form_that_is_none_is_refused_and_makes_no_video() {
    let account = Account::new();
    let token = account.token().await;
    let good = "multipart/form-data; boundary=xyz";
    let one = form(&[("file", b"a film")]);
    let cut = one[..one.len() - 4].to_vec();
    for (content_type, body, kind) in [
        (good, form(&[]), "uploaded-file-no-file"),
        (good, form(&[("videoId", b"vi1")]), "uploaded-file-no-file"),
        (
            good,
            form(&[("file", b"1"), ("file", b"2")]),
            "uploaded-file-multiple-files",
        ),
        (good, cut, "invalid-payload"),
        (good, b"a film".to_vec(), "invalid-payload"),
        (
            "multipart/form-data; boundary=other",
            one.clone(),
            "invalid-payload",
        ),
        (
            "multipart/mixed; boundary=xyz",
            one.clone(),
            "invalid-payload",
        ),
        ("video/mp4", one.clone(), "invalid-payload"),
        (
            good,
            form(&[("videoId", b"vi1"), ("file", b"1")]),
            "resource-not-found",
        ),
    ] {
        let request = Request::post(format!("/upload?token={token}"))
            .header(header::CONTENT_TYPE, content_type);
        let (status, problem) = account.call(request.body(Full::from(body)).unwrap()).await;
        assert!(
            problem["type"].as_str().unwrap().ends_with(kind),
            "{status} {problem}"
        );
    }
    assert!(account.api.video_ids().is_empty());

    let request = Request::post(format!("/upload?token={token}")).header(
        header::CONTENT_TYPE,
        "multipart/form-data; boundary=\"xyz\"",
    );
    assert_eq!(
        account.call(request.body(Full::from(one)).unwrap()).await.0,
        201
    );
}

#[tokio::test]
async fn each_chunk_without_a_video_id_becomes_a_video_of_its_own() {
    let account = Account::new();
    let token = account.token().await;
    for part in 1..=3 {
        let request = Request::post(format!("/upload?token={token}"))
            .header(header::CONTENT_TYPE, "multipart/form-data; boundary=xyz")
            .header(header::CONTENT_RANGE, format!("part {part}/3"));
        let body = form(&[("file", &vec![1; CHUNK])]);
        assert_eq!(
            account
                .call(request.body(Full::from(body)).unwrap())
                .await
                .0,
            201
        );
    }
    let ids = account.api.video_ids();
    assert_eq!(ids.len(), 3);
    assert!(
        ids.iter()
            .all(|id| !account.api.received(id).unwrap().finished)
    );
}

/// More than is kept for a hash that nobody has asked for yet.
#[tokio::test]
async fn the_hash_of_much_is_that_of_all_of_it() {
    let account = Account::of(FakeApi::in_process());
    let film: Vec<u8> = (0..14 * CHUNK + 7).map(|at| (at / 999) as u8).collect();
    let ids = [account.video().await, account.video().await];
    for (number, chunk) in film.chunks(CHUNK).enumerate() {
        let total = if chunk.len() == CHUNK { "*" } else { "15" };
        for id in &ids {
            let range = format!("part {}/{total}", number + 1);
            assert_eq!(account.chunk(id, &range, chunk).await.0, 201);
        }
    }
    for id in &ids {
        let received = account.api.received(id).unwrap();
        assert!(received.finished && received.bytes.is_none());
        let expected = <[u8; 32]>::from(Sha256::digest(&film));
        assert!(received.sha256() == expected && received.sha256() == expected);
    }
}
