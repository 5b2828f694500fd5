//! Upload tokens: made, listed and deleted with a bearer.

use std::{io, time::Duration};

use apivideo_auth::{
    ApiVideoAuthLayer, ErrorKind, UploadToken, UploadTokenLayer, UploadTokens,
    testing::{FakeApi, FakeService, Fault, ManualClock},
    upload_token::{
        ListOptions, Problem, SortBy, Source, UploadBody, UploadOptions, UploadTokenSecret, upload,
    },
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use http::{Request, Response, request};
use tower::{Layer, service_fn, util::BoxCloneService};

use crate::support::{Body, Client, client, with_key};

const MAX_TTL: u64 = 2_147_483_647;

pub(crate) fn tokens(api: &FakeApi) -> UploadTokens<Client, Body> {
    UploadTokens::new(client(&with_key(api).build().expect("a good layer"), api))
}

pub(crate) async fn mint(api: &FakeApi) -> UploadToken {
    tokens(api).create(None).await.expect("a token")
}

pub(crate) fn layer(api: &FakeApi, token: &UploadToken) -> UploadTokenLayer {
    UploadTokenLayer::builder(token.secret().clone())
        .base_url(api.url())
        .build()
        .expect("a good layer")
}

pub(crate) fn post(uri: &str) -> Request<Body> {
    Request::post(uri)
        .body(Body::from("test"))
        .expect("a good request")
}

pub(crate) fn known(token: &UploadToken) -> &str {
    token.secret().expose()
}

#[tokio::test]
async fn a_token_is_made_read_and_deleted() {
    let api = FakeApi::builder().clock(ManualClock::new()).build();
    let tokens = tokens(&api);
    let made = tokens.create(Some(Duration::from_secs(60))).await.unwrap();
    assert_eq!(made.ttl(), Some(Duration::from_secs(60)));
    assert_eq!(
        made.expires_at(),
        made.created_at().map(|at| at + Duration::from_secs(60))
    );
    assert!(made.created_at().is_some());

    let read = tokens.get(made.secret()).await.unwrap();
    assert_eq!(
        (known(&read), read.expires_at()),
        (known(&made), made.expires_at())
    );

    tokens.delete(made.secret()).await.unwrap();
    for error in [
        tokens.get(made.secret()).await.unwrap_err(),
        tokens.delete(made.secret()).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(Problem::of(&error).unwrap().kind(), "resource-not-found");
    }
}

#[tokio::test]
async fn a_lifetime_is_rounded_up_and_one_that_cannot_be_is_not_sent() {
    let api = FakeApi::in_process();
    let tokens = tokens(&api);
    for (wanted, seconds) in [
        (Duration::from_secs(1), 1),
        (Duration::from_nanos(1), 1),
        (Duration::from_millis(1500), 2),
        (Duration::from_secs(MAX_TTL), MAX_TTL),
    ] {
        let made = tokens.create(Some(wanted)).await.unwrap();
        assert_eq!(made.ttl(), Some(Duration::from_secs(seconds)), "{wanted:?}");
    }
    let eternal = tokens.create(None).await.unwrap();
    assert_eq!((eternal.ttl(), eternal.expires_at()), (None, None));

    let calls = api.counts().api_calls;
    let over = Duration::from_secs(MAX_TTL) + Duration::from_nanos(1);
    for wanted in [Duration::ZERO, over, Duration::MAX] {
        let error = tokens.create(Some(wanted)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration, "{wanted:?}");
    }
    assert_eq!(api.counts().api_calls, calls);
}

#[tokio::test]
async fn the_list_has_all_pages_in_the_order_asked_for() {
    let clock = ManualClock::new();
    let api = FakeApi::builder().clock(clock.clone()).build();
    let tokens = tokens(&api);
    let mut made = Vec::new();
    for number in 0..60 {
        clock.advance(Duration::from_secs(1));
        // Neither rising nor falling.
        made.push(
            tokens
                .create(Some(Duration::from_secs(1000 + number * 37 % 60)))
                .await
                .unwrap(),
        );
    }
    let mut by_ttl = made.clone();
    by_ttl.sort_by_key(UploadToken::ttl);

    for (options, expected, pages) in [
        (ListOptions::new(), &made, 1),
        (ListOptions::new().page_size(25), &made, 3),
        (ListOptions::new().page_size(20), &made, 3),
        (
            ListOptions::new().page_size(10).sort_by(SortBy::Ttl),
            &by_ttl,
            6,
        ),
    ] {
        for descending in [false, true] {
            api.clear_journal();
            let options = if descending {
                options.clone().descending()
            } else {
                options.clone()
            };
            let mut listed: Vec<_> = tokens.list(options).try_collect().await.unwrap();
            if descending {
                listed.reverse();
            }
            assert!(listed.iter().map(known).eq(expected.iter().map(known)));
            assert_eq!(api.journal().len(), pages);
        }
    }
    let error = tokens
        .list(ListOptions::new().page_size(0))
        .try_collect::<Vec<_>>()
        .await
        .unwrap_err();
    assert_eq!(
        (error.kind(), Problem::of(&error).unwrap().name()),
        (ErrorKind::Rejected, "pageSize")
    );
}

#[tokio::test]
async fn the_list_goes_by_links_and_not_by_counts() {
    let api = FakeApi::in_process();
    let tokens = tokens(&api);
    for number in 0..25 {
        tokens
            .create(Some(Duration::from_secs(100 + number)))
            .await
            .unwrap();
    }
    let pages = |request: &request::Parts| request.uri.path() == "/upload-tokens";
    api.clear_journal();
    // A count that is wrong or missing, and links to another host, which is not asked.
    let miscounted = Fault::json(|page| {
        let paging = &mut page["pagination"];
        paging["pagesTotal"] = 1.into();
        for link in paging["links"].as_array_mut().expect("links") {
            let uri = link["uri"].as_str().expect("a URI").to_owned();
            link["uri"] = format!("https://evil.example{uri}").into();
        }
    });
    api.fault(miscounted.on(pages).always());
    let options = ListOptions::new().page_size(10).sort_by(SortBy::Ttl);
    let listed: Vec<_> = tokens.list(options.clone()).try_collect().await.unwrap();
    let ttls: Vec<_> = listed
        .iter()
        .map(|it| it.ttl().unwrap().as_secs())
        .collect();
    assert!(ttls.iter().copied().eq(100..125), "{ttls:?}");
    assert_eq!(api.journal().len(), 3);

    // A count that is too large, without a link: this page is the last.
    api.fault(None);
    let last = Fault::json(|page| {
        page["pagination"]["pagesTotal"] = 9.into();
        page["pagination"]["links"] = serde_json::json!([]);
    });
    api.fault(last.on(pages).always());
    let listed: Vec<_> = tokens.list(options.clone()).try_collect().await.unwrap();
    assert_eq!(listed.len(), 10);

    // A link that leads back ends the list as well.
    api.fault(None);
    let back = Fault::json(|page| {
        let uri = "/upload-tokens?currentPage=1";
        page["pagination"]["links"] = serde_json::json!([{ "rel": "next", "uri": uri }]);
    });
    api.fault(back.on(pages).always());
    let listed: Vec<_> = tokens.list(options).take(50).try_collect().await.unwrap();
    assert_eq!(listed.len(), 10);
}

#[tokio::test]
async fn an_expired_token_is_gone() {
    let clock = ManualClock::new();
    let api = FakeApi::builder().clock(clock.clone()).build();
    let tokens = tokens(&api);
    let made = tokens.create(Some(Duration::from_secs(60))).await.unwrap();
    clock.advance(Duration::from_secs(59));
    assert!(tokens.get(made.secret()).await.is_ok());

    clock.advance(Duration::from_secs(1));
    assert_eq!(
        tokens.get(made.secret()).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert!(
        tokens
            .list(ListOptions::new())
            .try_collect::<Vec<_>>()
            .await
            .unwrap()
            .is_empty()
    );
    let service = layer(&api, &made).layer(api.service());
    let error = upload(service, Source::new(&b"a film"[..]), UploadOptions::new()).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert_eq!(
        Problem::of(&error).unwrap().kind(),
        "authentication-invalid-upload-token"
    );
}

#[tokio::test]
async fn what_the_api_answers_becomes_a_typed_error() {
    const PROBLEM: &str = r#"{"type":"https://docs.api.video/reference/invalid-attribute","title":"An odd attribute.","name":"ttl","status":400}"#;
    let api = FakeApi::in_process();
    let tokens = tokens(&api);
    for (status, headers, body, kind, transient, wait) in [
        (400, &[][..], PROBLEM, ErrorKind::Rejected, false, None),
        (
            401,
            &[],
            r#"{"title":null,"name":5}"#,
            ErrorKind::Refused,
            false,
            None,
        ),
        (403, &[], "<html>", ErrorKind::Rejected, false, None),
        (404, &[], "<html>", ErrorKind::NotFound, false, None),
        (
            429,
            &[("x-ratelimit-retry-after", "7")],
            "",
            ErrorKind::Unavailable,
            true,
            Some(7),
        ),
        (
            429,
            &[("x-ratelimit-retry-after", "7"), ("retry-after", "9")],
            "",
            ErrorKind::Unavailable,
            true,
            Some(9),
        ),
        (
            429,
            &[("retry-after", "99999999999999999999")],
            "",
            ErrorKind::Unavailable,
            true,
            Some(120),
        ),
        (
            503,
            &[("retry-after", "3")],
            "",
            ErrorKind::Unavailable,
            true,
            Some(3),
        ),
        (
            503,
            &[("x-ratelimit-retry-after", "7")],
            "",
            ErrorKind::Unavailable,
            true,
            None,
        ),
        (
            302,
            &[("location", "/elsewhere")],
            "",
            ErrorKind::Unavailable,
            true,
            None,
        ),
        (504, &[], "<html>", ErrorKind::Ambiguous, true, None),
        (200, &[], "<html>", ErrorKind::Ambiguous, true, None),
        (
            200,
            &[],
            r#"{"token":"../videos","ttl":0}"#,
            ErrorKind::Ambiguous,
            true,
            None,
        ),
    ] {
        api.on_api_request(move |_| {
            let mut response = Response::builder().status(status);
            for (name, value) in headers {
                response = response.header(*name, *value);
            }
            Some(response.body(Bytes::from(body)).unwrap())
        });
        let error = tokens.create(None).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.is_transient()),
            (kind, transient),
            "{status} {error:?}"
        );
        assert_eq!(
            error.retry_after(),
            wait.map(Duration::from_secs),
            "{status} {headers:?}"
        );
        let problem = Problem::of(&error);
        assert_eq!(
            problem.map(|it| it.status().as_u16()),
            (status != 200).then_some(status)
        );
        if status == 400 {
            let problem = problem.unwrap();
            assert_eq!(
                (problem.kind(), problem.title(), problem.name()),
                ("invalid-attribute", "An odd attribute.", "ttl")
            );
            assert!(!format!("{error} {error:?} {problem} {problem:?}").contains("odd"));
        }
    }
    api.clear_on_api_request();
    api.suspend(true);
    assert_eq!(
        tokens.create(None).await.unwrap_err().kind(),
        ErrorKind::Suspended
    );
}

#[tokio::test]
async fn an_error_of_the_layers_below_keeps_its_kind() {
    let api = FakeApi::in_process();
    let without_credentials = ApiVideoAuthLayer::builder()
        .base_url(api.url())
        .build()
        .unwrap();
    let tokens = UploadTokens::<_, Body>::new(client(&without_credentials, &api));
    assert_eq!(
        tokens.create(None).await.unwrap_err().kind(),
        ErrorKind::NoCredentials
    );

    for (kind, expected) in [
        (io::ErrorKind::ConnectionRefused, ErrorKind::Unavailable),
        (io::ErrorKind::BrokenPipe, ErrorKind::Ambiguous),
    ] {
        let broken = service_fn(move |_: Request<Body>| async move {
            Err::<Response<Body>, io::Error>(kind.into())
        });
        let error = UploadTokens::<_, Body>::new(broken)
            .create(None)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), expected);
    }
}

#[tokio::test]
async fn g17_a_token_that_would_lead_elsewhere_is_refused() {
    let api = FakeApi::in_process();
    let tokens = tokens(&api);
    for text in [
        "",
        "../videos",
        "to1/x",
        "to1?x=y",
        "to1#x",
        "to1\n",
        "tö",
        "to1%2f",
    ] {
        let token = UploadTokenSecret::from(text);
        assert_eq!(
            tokens.get(&token).await.unwrap_err().kind(),
            ErrorKind::Configuration,
            "{text}"
        );
        assert_eq!(
            tokens.delete(&token).await.unwrap_err().kind(),
            ErrorKind::Configuration,
            "{text}"
        );
        assert_eq!(
            UploadTokenLayer::builder(token).build().unwrap_err().kind(),
            ErrorKind::Configuration
        );
    }
    assert_eq!(api.counts().api_calls, 0);
    let error = UploadTokenLayer::builder("to1")
        .base_url("http://ws.api.video")
        .build()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(
        UploadTokenLayer::builder("to1")
            .base_url("http://ws.api.video")
            .danger_allow_http()
            .build()
            .is_ok()
    );
}

#[test]
fn public_types_are_send_sync_and_clone() {
    fn check<T: Send + Sync + Clone + 'static>() {}
    check::<UploadTokens<Client, Body>>();
    check::<UploadTokenLayer>();
    check::<apivideo_auth::upload_token::WithUploadToken<FakeService>>();
    check::<UploadToken>();
    check::<Problem>();
    check::<apivideo_auth::upload_token::Unfinished>();
    check::<apivideo_auth::upload_token::Uploaded>();
    fn check_future<F: Send>(_: F) {}
    let api = FakeApi::in_process();
    check_future(mint(&api));
    // Not `Sync`.
    let boxed = BoxCloneService::<Request<UploadBody>, _, _>::new(api.service());
    check_future(upload(boxed, Source::new(&b""[..]), UploadOptions::new()));
    check_future(upload(
        api.service(),
        Source::new(&b""[..]),
        UploadOptions::new(),
    ));
}
