//! What the fake server takes.

use super::*;

#[tokio::test]
async fn the_fake_takes_the_parameters_of_the_openapi_file() {
    let mut account = Account::new(FakeApi::builder());
    let mut checked = 0;
    for (operation, _) in account.spec.operations() {
        let query = account.spec.query(&operation);
        let mut queries = Vec::new();
        for (name, schema) in query {
            let values = schema["enum"].as_array().into_iter().flatten();
            match schema["type"].as_str() {
                Some("object") => queries.push((format!("{name}[a]=b"), true)),
                Some("integer") => queries.push((format!("{name}=25"), true)),
                _ if schema["enum"].is_array() => {
                    queries.extend(
                        values.map(|it| (format!("{name}={}", it.as_str().unwrap()), true)),
                    );
                    queries.push((format!("{name}=other"), false));
                }
                _ => queries.push((format!("{name}=a"), true)),
            }
            queries.push((format!("{name}x=a"), false));
        }
        for (query, good) in queries.into_iter().filter(|_| operation.0 == "GET") {
            let path = format!("{}?{query}", operation.1);
            let (status, _) = account.call("GET", &path, &Value::Null).await;
            assert_eq!(status, if good { 200 } else { 400 }, "{path}");
            checked += 1;
        }
    }
    assert!(checked > 25, "{checked}");
    // The text of the file says 1 to 100, and its example of a refusal 10 to 100: the strict one is played.
    for (size, expected) in [(9, 400), (10, 200), (100, 200), (101, 400)] {
        let path = format!("/videos?pageSize={size}");
        assert_eq!(account.call("GET", &path, &Value::Null).await.0, expected);
    }
}

#[tokio::test]
async fn the_fake_wants_the_payloads_of_the_openapi_file() {
    let mut account = Account::new(FakeApi::builder());
    let (_, video) = account
        .call("POST", "/videos", &json!({ "title": "a film" }))
        .await;
    let id = video["videoId"].as_str().unwrap().to_owned();
    for (operation, _) in account.spec.operations() {
        let Some(schema) = account.spec.payload(&operation).cloned() else {
            continue;
        };
        let path = operation.1.replace("{videoId}", &id);
        let without_type = account.call(&operation.0, &path, &Value::Null).await;
        assert_eq!(without_type.0, 400, "{operation:?}");
        for body in [json!([]), json!("text")] {
            assert_eq!(
                account.call(&operation.0, &path, &body).await.0,
                400,
                "{operation:?}"
            );
        }
        let required: Vec<_> = schema["required"]
            .as_array()
            .into_iter()
            .flatten()
            .collect();
        for required in &required {
            let (status, problem) = account.call(&operation.0, &path, &json!({})).await;
            assert_eq!(
                (status, &problem["name"]),
                (400, *required),
                "{operation:?}"
            );
        }
        let names = schema["properties"].as_object().unwrap();
        let least: serde_json::Map<_, _> = names
            .keys()
            .filter(|name| required.iter().any(|it| *it == *name))
            .map(|name| (name.clone(), json!("a")))
            .collect();
        let least = Value::from(least);
        let mut body = least.clone();
        body["unknown"] = json!(1);
        let (status, problem) = account.call(&operation.0, &path, &body).await;
        assert_eq!(
            (status, problem["name"].as_str()),
            (400, Some("unknown")),
            "{operation:?}"
        );
        for (name, property) in names {
            // The file's `false` is an unquoted `no`.
            let one_of = property["enum"].as_array().into_iter().flatten();
            for value in one_of.map(|value| value.as_str().unwrap_or("no")) {
                let mut body = least.clone();
                body[name] = json!(value);
                let (status, _) = account.call(&operation.0, &path, &body).await;
                assert!([200, 201].contains(&status), "{operation:?} {body}");
            }
            let smallest = property["minimum"].as_i64();
            let most = property["maximum"].as_i64();
            let out_of_range = [smallest.map(|it| it - 1), most.map(|it| it + 1)];
            let wrong = [
                json!({ "of": "another type" }),
                json!([{ "of": "another type" }]),
                json!(0.5),
            ];
            let wrong = wrong.map(Some);
            let wrong = wrong
                .into_iter()
                .chain(out_of_range.map(|it| it.map(Value::from)));
            for value in wrong.flatten() {
                let mut body = least.clone();
                body[name] = value;
                let (status, problem) = account.call(&operation.0, &path, &body).await;
                assert_eq!(
                    (status, problem["name"].as_str()),
                    (400, Some(&**name)),
                    "{operation:?} {body}"
                );
            }
            for value in [smallest, most].into_iter().flatten() {
                let (status, _) = account
                    .call(&operation.0, &path, &json!({ name: value }))
                    .await;
                assert_eq!(status, 200);
            }
        }
    }
}
