//! Reads the extract of the OpenAPI file, and finds what is wrong with a response.

use http::{HeaderMap, StatusCode, header};
use serde_json::Value;

pub(super) struct Spec(Value);

/// A method and a path as the file has it, with its names in braces.
pub(super) type Operation = (String, String);

impl Spec {
    pub(super) fn read() -> Self {
        Self(serde_json::from_str(include_str!("../../openapi.json")).unwrap())
    }

    /// All operations, each with the statuses that it may answer.
    pub(super) fn operations(&self) -> Vec<(Operation, Vec<u16>)> {
        let mut operations = Vec::new();
        for (path, methods) in self.0["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let statuses = operation["responses"].as_object().unwrap().keys();
                let operation = (method.to_uppercase(), path.clone());
                operations.push((operation, statuses.map(|it| it.parse().unwrap()).collect()));
            }
        }
        operations
    }

    /// What a request is to the file: `{name}` stands for any segment.
    pub(super) fn operation(&self, method: &str, path: &str) -> Option<Operation> {
        let fits = |template: &str| {
            let (template, path) = (template.split('/'), path.split('/'));
            template.clone().count() == path.clone().count()
                && template
                    .zip(path)
                    .all(|(expected, given)| expected.starts_with('{') || expected == given)
        };
        let operations = self
            .operations()
            .into_iter()
            .map(|(operation, _)| operation);
        operations
            .filter(|(of, template)| of == method && fits(template))
            .min_by_key(|(_, template)| template.contains('{'))
    }

    /// The parameters of an operation's query, with their schemas.
    pub(super) fn query(&self, operation: &Operation) -> Vec<(String, &Value)> {
        let parameters = self.find(operation)["parameters"].as_array();
        let parameters = parameters.into_iter().flatten().map(|it| self.resolve(it));
        parameters
            .filter(|parameter| parameter["in"] == "query")
            .map(|it| (it["name"].as_str().unwrap().to_owned(), &it["schema"]))
            .collect()
    }

    /// The schema of the JSON that an operation is sent.
    pub(super) fn payload(&self, operation: &Operation) -> Option<&Value> {
        let body = &self.find(operation)["requestBody"];
        let schema = body["content"].get("application/json")?;
        assert_eq!(body["required"], true);
        Some(self.resolve(&schema["schema"]))
    }

    pub(super) fn schema(&self, name: &str) -> &Value {
        &self.0["components"]["schemas"][name]
    }

    /// What is wrong with a response: its status, its headers, its body.
    pub(super) fn faults(
        &self,
        operation: &Operation,
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Vec<String> {
        let mut faults = Vec::new();
        let Some(response) = self.find(operation)["responses"].get(status.as_str()) else {
            return vec![format!("status {status} is not in the file")];
        };
        for (name, header) in response["headers"].as_object().into_iter().flatten() {
            assert_eq!(header["schema"]["type"], "integer");
            let value = headers.get(name).and_then(|value| value.to_str().ok());
            if value.is_none_or(|value| value.parse::<u32>().is_err()) {
                faults.push(format!("the header {name} is {value:?}"));
            }
        }
        let schema = &response["content"]["application/json"]["schema"];
        if schema.is_null() {
            let is_empty = body.is_empty() && !headers.contains_key(header::CONTENT_TYPE);
            faults.extend((!is_empty).then(|| "there is a body".to_owned()));
            return faults;
        }
        // The file knows one type; the docs have the other for problems.
        let content_type = headers.get(header::CONTENT_TYPE).map(|it| it.as_bytes());
        match content_type {
            Some(b"application/json") => {}
            Some(b"application/problem+json") if !status.is_success() => {}
            other => faults.push(format!("the type of the body is {other:?}")),
        }
        match serde_json::from_slice(body) {
            Ok(value) => self.compare(schema, &value, "", &mut faults),
            Err(error) => faults.push(error.to_string()),
        }
        faults
    }

    /// Compares a value to a schema. A field that the schema does not have is a fault: most of them are not required, so
    /// that one of another name would not be missed.
    pub(super) fn compare(
        &self,
        schema: &Value,
        value: &Value,
        at: &str,
        faults: &mut Vec<String>,
    ) {
        let schema = self.resolve(schema);
        if value.is_null() && schema["nullable"] == true {
            return;
        }
        let fits = match schema["type"].as_str() {
            Some("string") => value.is_string(),
            Some("integer") => value.is_u64() || value.is_i64(),
            Some("number") => value.is_number(),
            Some("boolean") => value.is_boolean(),
            Some("array") => value.is_array(),
            Some("object") => value.is_object(),
            _ => false,
        };
        let one_of = schema["enum"].as_array();
        let number = value.as_f64().unwrap_or_default();
        let date = || value.as_str().is_some_and(is_date);
        if !fits
            || one_of.is_some_and(|values| !values.contains(value))
            || schema["minimum"]
                .as_f64()
                .is_some_and(|least| number < least)
            || schema["maximum"].as_f64().is_some_and(|most| number > most)
            || schema["format"] == "date-time" && !date()
        {
            faults.push(format!("{at} is {value}, and should be {schema}"));
            return;
        }
        for (index, item) in value.as_array().into_iter().flatten().enumerate() {
            self.compare(&schema["items"], item, &format!("{at}/{index}"), faults);
        }
        for required in schema["required"].as_array().into_iter().flatten() {
            if value.get(required.as_str().unwrap()).is_none() {
                faults.push(format!("{at} lacks {required}"));
            }
        }
        for (name, field) in value.as_object().into_iter().flatten() {
            let at = format!("{at}/{name}");
            match schema["properties"].get(name) {
                Some(schema) => self.compare(schema, field, &at, faults),
                // The schema of problems forgets it; the example beside it has it.
                None if name == "range" && value["status"] == 400 => {}
                None => faults.push(format!("{at} is not in the file")),
            }
        }
    }

    fn find(&self, (method, path): &Operation) -> &Value {
        &self.0["paths"][path][method.to_lowercase()]
    }

    fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(reference) => self.0.pointer(&reference[1..]).unwrap(),
            None => value,
        }
    }
}

/// `2020-12-02T10:13:19+00:00`
fn is_date(text: &str) -> bool {
    let shape: String = text
        .chars()
        .map(|it| if it.is_ascii_digit() { '0' } else { it })
        .collect();
    shape == "0000-00-00T00:00:00+00:00"
}
