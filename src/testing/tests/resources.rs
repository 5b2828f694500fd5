//! Videos, upload tokens and their lists: what the fake server refuses, and what it finds.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::uploads::{Account, form};
use crate::testing::*;

fn kind(problem: &Value) -> &str {
    let kind = problem["type"].as_str().unwrap_or_default();
    kind.rsplit('/').next().unwrap_or_default()
}

fn titles(list: &Value) -> Vec<&str> {
    let videos = list["data"].as_array().unwrap();
    videos
        .iter()
        .map(|video| video["title"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn a_list_refuses_what_it_does_not_know() {
    let account = Account::new();
    for (query, problem, name) in [
        ("pageSize=9", "", "pageSize"),
        ("pageSize=101", "", "pageSize"),
        ("pageSize=all", "", "pageSize"),
        ("currentPage=0", "", "page"),
        ("sortBy=size", "invalid-attribute", "sortBy"),
        ("sortOrder=up", "invalid-attribute", "sortOrder"),
        ("tags=a", "invalid-attribute", "tags"),
        ("pagesize=10", "invalid-attribute", "pagesize"),
        ("x", "invalid-attribute", "x"),
    ] {
        for path in ["/videos", "/upload-tokens"] {
            let (status, response) = account.get(&format!("{path}?{query}")).await;
            assert_eq!(
                (status, kind(&response), &response["name"]),
                (400, problem, &name.into()),
                "{path}?{query}"
            );
        }
    }
    for size in [10, 100] {
        let query = format!("sortBy=createdAt&sortOrder=asc&currentPage=1&pageSize={size}");
        for path in ["/videos", "/upload-tokens"] {
            let (status, list) = account.get(&format!("{path}?{query}")).await;
            assert_eq!(
                (status, &list["pagination"]["pageSize"]),
                (200, &size.into())
            );
        }
    }
    let (status, _) = account.get("/upload-tokens?title=a").await;
    assert_eq!(status, 400, "a filter of videos");
}

#[tokio::test]
async fn a_filter_finds_what_it_asks_for() {
    let account = Account::new();
    for video in [
        json!({ "title": "one", "tags": ["a"], "metadata": [{ "key": "by", "value": "me" }] }),
        json!({ "title": "one & two", "tags": ["a", "b c"], "description": "both" }),
        json!({ "title": "three" }),
    ] {
        assert_eq!(account.post("/videos", &video).await.0, 201);
    }
    for (query, found) in [
        ("", &["one", "one & two", "three"][..]),
        ("title=one", &["one", "one & two"]),
        ("title=one+%26", &["one & two"]),
        ("description=both", &["one & two"]),
        ("tags[]=a", &["one", "one & two"]),
        ("tags%5B%5D=a&tags[]=b%20c", &["one & two"]),
        ("metadata[by]=me", &["one"]),
        ("metadata[by]=you", &[]),
        ("liveStreamId=li1", &[]),
    ] {
        let path = format!("/videos?sortBy=title&sortOrder=asc&{query}");
        let (_, list) = account.get(&path).await;
        assert_eq!(titles(&list), found, "{query}");
        assert_eq!(list["pagination"]["itemsTotal"], found.len());
    }
}

#[tokio::test]
async fn tokens_that_live_for_ever_have_the_shortest_lifetime() {
    let account = Account::new();
    for ttl in [0, 60, 30] {
        account.post("/upload-tokens", &json!({ "ttl": ttl })).await;
    }
    for (order, expected) in [("asc", [0, 30, 60]), ("desc", [60, 30, 0])] {
        let (_, list) = account
            .get(&format!("/upload-tokens?sortBy=ttl&sortOrder={order}"))
            .await;
        let tokens = list["data"].as_array().unwrap();
        assert!(
            tokens.iter().map(|token| &token["ttl"]).eq(&expected),
            "{order}"
        );
    }
}

#[tokio::test]
async fn a_video_is_changed_and_deleted() {
    let account = Account::new();
    let id = account.video().await;
    let path = format!("/videos/{id}");
    let patch = async |id: &str, body: Value| {
        let request = account.request(Method::PATCH, &format!("/videos/{id}"));
        let request = request.header(header::CONTENT_TYPE, "application/json");
        account
            .call(request.body(Full::from(body.to_string())).unwrap())
            .await
    };
    assert_eq!(
        patch(&id, json!({ "title": "new", "public": false }))
            .await
            .0,
        200
    );
    let (_, video) = account.get(&path).await;
    assert_eq!(
        (&video["title"], &video["public"]),
        (&"new".into(), &false.into())
    );
    let (status, problem) = patch(&id, json!({ "title": "newer", "tags": "a" })).await;
    assert_eq!((status, &problem["name"]), (400, &"tags".into()));
    assert_eq!(account.get(&path).await.1["title"], "new", "all or nothing");
    assert_eq!(patch("vi-unknown", json!({})).await.0, 404);

    for expected in [204, 404] {
        let request = account.request(Method::DELETE, &path);
        assert_eq!(
            account.call(request.body(Full::default()).unwrap()).await.0,
            expected
        );
    }
}

#[tokio::test]
async fn a_request_without_its_content_type_is_refused() {
    let account = Account::new();
    let (id, token) = (account.video().await, account.token().await);
    let json = br#"{"title":"a film","ttl":1}"#.to_vec();
    for (method, path, body) in [
        (Method::POST, "/videos".to_owned(), json.clone()),
        (Method::PATCH, format!("/videos/{id}"), json.clone()),
        (Method::POST, "/upload-tokens".to_owned(), json),
        (
            Method::POST,
            format!("/videos/{id}/source"),
            form(&[("file", b"1")]),
        ),
        (
            Method::POST,
            format!("/upload?token={token}"),
            form(&[("file", b"1")]),
        ),
    ] {
        for content_type in [None, Some("text/plain")] {
            let mut request = account.request(method.clone(), &path);
            if let Some(content_type) = content_type {
                request = request.header(header::CONTENT_TYPE, content_type);
            }
            let (status, problem) = account
                .call(request.body(Full::from(body.clone())).unwrap())
                .await;
            assert_eq!(
                (status, kind(&problem)),
                (400, "invalid-payload"),
                "{method} {path}"
            );
        }
    }
    assert_eq!(account.api.video_ids().len(), 1);
}

#[tokio::test]
async fn a_method_that_is_not_known_is_refused() {
    let account = Account::new();
    let id = account.video().await;
    for (path, allowed) in [
        ("/videos".to_owned(), "GET, POST"),
        (format!("/videos/{id}"), "GET, PATCH, DELETE"),
        (format!("/videos/{id}/source"), "POST"),
        (format!("/videos/{id}/status"), "GET"),
        ("/upload-tokens".to_owned(), "GET, POST"),
        ("/upload-tokens/to1".to_owned(), "GET, DELETE"),
        ("/upload?token=to1".to_owned(), "POST"),
    ] {
        for method in [
            "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "SEARCH",
        ] {
            let request = account.request(Method::try_from(method).unwrap(), &path);
            let request = request.body(Full::<Bytes>::default()).unwrap();
            let response = account.api.service().oneshot(request).await.unwrap();
            let refused = response.status() == StatusCode::METHOD_NOT_ALLOWED;
            assert_eq!(
                refused,
                !allowed.split(", ").any(|allowed| allowed == method),
                "{method} {path}"
            );
            assert_eq!(refused, response.headers().contains_key(header::ALLOW));
        }
    }
}

#[tokio::test]
async fn a_video_goes_through_the_statuses_of_the_api() {
    let clock = ManualClock::new();
    let builder = FakeApi::builder().clock(clock.clone());
    let account = Account::of(builder.ingest_time(Duration::from_secs(60)).build());
    let ingest = async |id: &str| {
        let (_, status) = account.get(&format!("/videos/{id}/status")).await;
        let ingest = status["ingest"]["status"].as_str().unwrap();
        assert_eq!(status["encoding"]["playable"], ingest == "ingested");
        ingest.to_owned()
    };
    let id = account.video().await;
    assert_eq!(ingest(&id).await, "uploading");
    let wanted = json!({ "title": "a film", "source": "https://www.example.com/film.mp4" });
    let (status, video) = account.post("/videos", &wanted).await;
    assert_eq!(status, 202);
    let fetched = video["videoId"].as_str().unwrap();
    assert_eq!(ingest(fetched).await, "ingesting");
    assert_eq!(account.chunk(&id, "", b"a film").await.0, 201);
    assert_eq!(ingest(&id).await, "uploaded");

    clock.advance(Duration::from_secs(60));
    for id in [&*id, fetched] {
        assert_eq!(ingest(id).await, "ingested");
        let (status, problem) = account.chunk(id, "", b"a film").await;
        assert_eq!(
            (status, &*problem),
            (400, "video-source-already-uploaded file")
        );
    }
    assert!(account.api.received(fetched).is_none());
}

#[tokio::test]
async fn an_upload_token_is_refused_with_401_or_400() {
    for (as_400, expected) in [(false, 401), (true, 400)] {
        let account = Account::of(FakeApi::builder().refusals_as_400(as_400).build());
        for (query, problem) in [
            ("", "authentication-missing-upload-token"),
            ("?token=to-unknown", "authentication-invalid-upload-token"),
        ] {
            let request = Request::post(format!("/upload{query}"))
                .header(header::CONTENT_TYPE, "multipart/form-data; boundary=xyz");
            let body = Full::from(form(&[("file", b"1")]));
            let (status, response) = account.call(request.body(body).unwrap()).await;
            assert_eq!((status, kind(&response)), (expected, problem));
            assert_eq!(response["status"], expected);
        }
    }
}

#[tokio::test]
async fn what_a_test_plays_asks_for_a_good_bearer() {
    let account = Account::new();
    let unknown = || {
        Request::get("/tags")
            .body(Full::<Bytes>::default())
            .unwrap()
    };
    assert_eq!(account.call(unknown()).await.0, 404);
    account.api.on_api_request(|request| {
        (request.uri.path() == "/tags").then(|| Response::new(Bytes::from_static(b"[]")))
    });
    assert_eq!(account.call(unknown()).await.0, 401);
    assert_eq!(account.get("/tags").await, (200, json!([])));
    // What is not played is the server's, whoever asks.
    assert_eq!(account.get("/nowhere").await.0, 404);
    let nowhere = Request::get("/nowhere").body(Full::<Bytes>::default());
    assert_eq!(account.call(nowhere.unwrap()).await.0, 404);
    assert_eq!(account.get("/videos").await.0, 200);
    account.api.revoke_access_tokens();
    assert_eq!(account.get("/tags").await.0, 401);
    account.api.clear_on_api_request();
    assert_eq!(account.get("/tags").await.0, 404);
}

#[tokio::test]
async fn what_a_test_plays_asks_for_a_good_upload_token() {
    let account = Account::new();
    let token = account.token().await;
    account
        .api
        .on_api_request(|_| Some(Response::new(Bytes::from_static(b"[]"))));
    for (token, expected) in [(&*token, 200), ("to-unknown", 401)] {
        let request = Request::post(format!("/upload?token={token}"));
        let request = request.body(Full::<Bytes>::default()).unwrap();
        assert_eq!(account.call(request).await.0, expected);
    }
}

#[tokio::test]
async fn an_upload_at_its_gate_was_judged_before() {
    let account = Account::new();
    let token = account.token().await;
    let upload = || {
        let request = Request::post(format!("/upload?token={token}"))
            .header(header::CONTENT_TYPE, "multipart/form-data; boundary=xyz");
        request
            .body(Full::from(form(&[("file", b"a film")])))
            .unwrap()
    };
    let gate = account.api.gate(GatePoint::ApiResponse);
    let waiting = tokio::spawn(account.api.service().oneshot(upload()));
    gate.reached(1).await;
    // The next one is not stopped.
    account.api.gate(GatePoint::ApiResponse).open();
    let delete = account.request(Method::DELETE, &format!("/upload-tokens/{token}"));
    let (status, _) = account.call(delete.body(Full::default()).unwrap()).await;
    assert_eq!(status, 204);
    gate.open();
    assert_eq!(waiting.await.unwrap().unwrap().status(), 201);
    assert_eq!(account.call(upload()).await.0, 401);
}
