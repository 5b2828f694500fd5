//! What the fake server answers.

use apivideo_auth::testing::Fault;

use super::*;

/// Each operation in each way that the fake server can answer it, but for refused bearers.
async fn play(account: &mut Account) {
    let none = Value::Null;
    let api_key = account.api.api_key().to_owned();
    let (_, pair) = account
        .call("POST", "/auth/api-key", &json!({ "apiKey": api_key }))
        .await;
    account
        .call(
            "POST",
            "/auth/refresh",
            &json!({ "refreshToken": pair["refresh_token"] }),
        )
        .await;
    account
        .call(
            "POST",
            "/auth/refresh",
            &json!({ "refreshToken": "unknown" }),
        )
        .await;
    account
        .call("POST", "/auth/api-key", &json!({ "apiKey": "unknown" }))
        .await;

    // All that may be set, and nothing that need not be.
    let full = json!({
        "title": "a film", "description": "of mine", "public": false, "panoramic": true, "mp4Support": true,
        "playerId": "pl1", "tags": ["a"], "metadata": [{ "key": "a", "value": "b" }], "language": "en",
        "source": "https://www.example.com/film.mp4",
    });
    let (_, fetched) = account.call("POST", "/videos", &full).await;
    let (_, video) = account
        .call("POST", "/videos", &json!({ "title": "a film" }))
        .await;
    account.call("POST", "/videos", &json!({})).await;
    let path = format!("/videos/{}", video["videoId"].as_str().unwrap());
    account.call("GET", &path, &none).await;
    let mut change = full.clone();
    change.as_object_mut().unwrap().remove("source");
    account.call("PATCH", &path, &change).await;
    account.call("PATCH", &path, &json!({ "title": 1 })).await;
    account.call("PATCH", "/videos/vi0", &json!({})).await;

    let mut ingest = vec![account.status(&fetched).await, account.status(&video).await];
    let chunk = vec![0; 5 * 1024 * 1024];
    let source = format!("{path}/source");
    for range in ["bytes 0-5242879/*", "bytes 5242880-10485759/10485761"] {
        account.upload(&source, range, &chunk).await;
        ingest.push(account.status(&video).await);
    }
    account
        .upload(&source, "bytes 10485760-10485760/10485761", b"1")
        .await;
    ingest.push(account.status(&video).await);
    account.clock.advance(Duration::from_secs(3600));
    ingest.push(account.status(&video).await);
    account.upload(&source, "", b"again").await;
    account.upload("/videos/vi0/source", "", b"1").await;
    account.call("GET", "/videos/vi0/status", &none).await;
    let known = &account.spec.schema("video-status-ingest")["properties"]["status"]["enum"];
    let played: BTreeSet<_> = ingest
        .iter()
        .map(|it| it["ingest"]["status"].to_string())
        .collect();
    let known: BTreeSet<_> = known
        .as_array()
        .unwrap()
        .iter()
        .map(Value::to_string)
        .collect();
    assert_eq!(played, known);

    let (_, token) = account
        .call("POST", "/upload-tokens", &json!({ "ttl": 60 }))
        .await;
    let (_, eternal) = account.call("POST", "/upload-tokens", &json!({})).await;
    account
        .call("POST", "/upload-tokens", &json!({ "ttl": -1 }))
        .await;
    let upload = format!("/upload?token={}", eternal["token"].as_str().unwrap());
    account.upload(&upload, "", b"a film").await;
    account.upload(&upload, "bytes 1-2/2", b"a").await;
    let (_, parts) = account.upload(&upload, "part 2/*", &chunk).await;
    assert_eq!(
        account.status(&parts).await["ingest"]["receivedParts"]["parts"],
        json!([2])
    );
    let token = format!("/upload-tokens/{}", token["token"].as_str().unwrap());
    for path in [&path, &token] {
        account.call("GET", path, &none).await;
        account.call("DELETE", path, &none).await;
        account.call("GET", path, &none).await;
        account.call("DELETE", path, &none).await;
    }
    for path in ["/videos", "/upload-tokens"] {
        account.call("GET", path, &none).await;
    }
}

#[tokio::test]
async fn the_fake_answers_as_the_openapi_file_says() {
    let mut account = Account::new(FakeApi::builder().refusals_as_400(true));
    play(&mut account).await;
    for (operation, statuses) in account.spec.operations() {
        let path = operation.1.replace(['{', '}'], "");
        for query in ["?unknown", "?pageSize=0"] {
            if operation.0 == "GET" && !account.spec.query(&operation).is_empty() {
                assert_eq!(
                    account
                        .call("GET", &(path.clone() + query), &Value::Null)
                        .await
                        .0,
                    400
                );
            }
        }
        for status in statuses.iter().filter(|status| **status == 429) {
            account.api.fault(Fault::rate_limited(1).on(|_| true));
            assert_eq!(
                account.call(&operation.0, &path, &Value::Null).await.0,
                *status
            );
        }
    }
    // The file forgets that a list of tokens can be asked for wrongly, too.
    let tokens = ("GET".to_owned(), "/upload-tokens".to_owned());
    let forgotten =
        format!("{tokens:?} 400 Bad Request: status 400 Bad Request is not in the file");
    account.faults.retain(|fault| *fault != forgotten);
    assert_eq!(account.faults, [""; 0]);

    // And there is nothing in the file that the fake does not play, but for transcripts.
    let mut missed = Vec::new();
    for (operation, statuses) in account.spec.operations() {
        for status in statuses {
            let seen = account.seen.contains(&(operation.clone(), status));
            missed.extend((!seen).then(|| (operation.clone(), status)));
        }
    }
    let conflict = ("PATCH".to_owned(), "/videos/{videoId}".to_owned());
    assert_eq!(missed, [(conflict, 409)]);
}

/// The file has no 401 and no 403; the docs have.
#[tokio::test]
async fn the_fake_refuses_credentials_as_the_docs_say() {
    let mut account = Account::new(FakeApi::builder());
    play(&mut account).await;
    account.api.suspend(true);
    account.call("GET", "/videos", &Value::Null).await;
    account.api.refuse_all_bearers(true);
    account.call("GET", "/videos", &Value::Null).await;
    let beside =
        |fault: &String| fault.ends_with("is not in the file") && fault.contains(": status 40");
    let (beside, others): (Vec<_>, Vec<_>) = account.faults.iter().cloned().partition(beside);
    assert_eq!(others, [""; 0]);
    let statuses: BTreeSet<_> = account.seen.iter().map(|(_, status)| *status).collect();
    assert!(statuses.is_superset(&[401, 403].into()) && !beside.is_empty());
}

/// So that a field which the fake renames can't be missed: one does it here, and then every one of two lists.
#[tokio::test]
async fn a_field_of_another_name_is_found() {
    let mut account = Account::new(FakeApi::builder().refusals_as_400(true));
    account
        .api
        .fault(Fault::json(|pair| *pair = json!({ "token_typ": "Bearer" })));
    let api_key = account.api.api_key().to_owned();
    account
        .call("POST", "/auth/api-key", &json!({ "apiKey": api_key }))
        .await;
    assert!(
        account.faults[0].contains("/token_typ is not in the file"),
        "{:?}",
        account.faults
    );

    let mut account = Account::new(FakeApi::builder().refusals_as_400(true));
    play(&mut account).await;
    let mut renamed = 0;
    for (path, schema) in [
        ("/videos", "videos-list-response"),
        ("/upload-tokens", "token-list-response"),
    ] {
        let (_, list) = account.call("GET", path, &Value::Null).await;
        for changed in renames(&list) {
            let mut faults = Vec::new();
            let schema = account.spec.schema(schema);
            account.spec.compare(schema, &changed, "", &mut faults);
            assert!(!faults.is_empty(), "{path} {changed}");
            renamed += 1;
        }
    }
    assert!(renamed > 50, "{renamed}");
}

/// The value with one of its fields renamed, for each field at any depth.
fn renames(value: &Value) -> Vec<Value> {
    let mut all = Vec::new();
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let mut renamed = fields.clone();
                renamed.remove(name);
                renamed.insert(format!("{name}_"), field.clone());
                all.push(Value::Object(renamed));
                for changed in renames(field) {
                    let mut fields = fields.clone();
                    fields.insert(name.clone(), changed);
                    all.push(Value::Object(fields));
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                for changed in renames(item) {
                    let mut items = items.clone();
                    items[index] = changed;
                    all.push(Value::Array(items));
                }
            }
        }
        _ => {}
    }
    all
}
