//! One page of a list: filtered, sorted, with its links and totals.
//!
//! Pages, links and totals are as the API gives them, so that a client which follows them is tested
//! too. What is not known is refused: a filter that is ignored finds too much.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode, request};
use serde::Serialize;
use serde_json::{Value, json};

use super::responses;

/// Whether an item is asked for by a parameter of the query. `None`: there is no such filter.
type Filter = fn(item: &Value, name: &str, value: &str) -> Option<bool>;

/// What a list can do.
pub(super) struct Kind {
    /// The first is the default.
    sortable: &'static [&'static str],
    filter: Filter,
}

pub(super) const VIDEOS: Kind = Kind {
    sortable: &["createdAt", "publishedAt", "updatedAt", "title"],
    filter: video_filter,
};

/// By their own `ttl`, so those that live for ever, whose `ttl` is 0, have the shortest: "descending is 9-0".
pub(super) const UPLOAD_TOKENS: Kind = Kind {
    sortable: &["createdAt", "ttl"],
    filter: |_, _, _| None,
};

/// The newest first if nothing else is asked for. No lock is held while the page is made.
pub(super) fn page(
    mut items: Vec<Arc<Value>>,
    parts: &request::Parts,
    kind: &Kind,
) -> Response<Bytes> {
    let query = parts.uri.query().unwrap_or_default();
    let (mut sort_by, mut descending) = (kind.sortable[0], true);
    let (mut page, mut size) = (1, 25);
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let number = value.parse::<usize>().ok();
        match (&*name, &*value) {
            ("sortOrder", "asc" | "desc") => descending = value == "desc",
            ("sortBy", by) => match kind.sortable.iter().find(|name| **name == by) {
                Some(by) => sort_by = by,
                None => return responses::named_problem("invalid-attribute", &name),
            },
            ("currentPage", _) => match number.filter(|page| *page >= 1) {
                Some(number) => page = number,
                None => return responses::out_of_range("page", json!({ "min": 1 })),
            },
            ("pageSize", _) => match number.filter(|size| (10..=100).contains(size)) {
                Some(number) => size = number,
                None => {
                    return responses::out_of_range("pageSize", json!({ "min": 10, "max": 100 }));
                }
            },
            (name, value) => {
                if (kind.filter)(&Value::Null, name, value).is_none() {
                    return responses::named_problem("invalid-attribute", name);
                }
                items.retain(|item| (kind.filter)(item, name, value) == Some(true));
            }
        }
    }
    items.sort_by_cached_key(|item| {
        let key = &item[sort_by];
        (key.as_u64(), key.as_str().map(str::to_owned))
    });
    if descending {
        items.reverse();
    }
    let total = items.len();
    let shown = items
        .iter()
        .skip((page - 1).saturating_mul(size))
        .take(size);
    let data: Vec<&Value> = shown.map(|item| &**item).collect();
    let pages = total.div_ceil(size).max(1);
    let mut links = vec![("self", page), ("first", 1)];
    links.extend((page > 1).then(|| ("previous", page - 1)));
    links.extend((page < pages).then(|| ("next", page + 1)));
    links.push(("last", pages));
    let path = parts.uri.path();
    let links: Vec<Value> = links
        .into_iter()
        .map(|(rel, page)| json!({ "rel": rel, "uri": format!("{path}?currentPage={page}&pageSize={size}") }))
        .collect();
    let pagination = json!({
        "currentPage": page, "currentPageItems": data.len(), "pageSize": size, "pagesTotal": pages,
        "itemsTotal": total, "links": links,
    });
    let page = serde_json::to_string(&Page { data, pagination }).expect("a list of JSON values");
    responses::with_type(StatusCode::OK, "application/json", page.into())
}

/// The items are not copied.
#[derive(Serialize)]
struct Page<'a> {
    data: Vec<&'a Value>,
    pagination: Value,
}

/// All that a query asks for has to be met. No video here was recorded from a live stream.
fn video_filter(video: &Value, name: &str, value: &str) -> Option<bool> {
    let any = |list: &str, found: &dyn Fn(&Value) -> bool| {
        video[list]
            .as_array()
            .is_some_and(|list| list.iter().any(found))
    };
    match name {
        "title" | "description" => Some(
            video[name]
                .as_str()
                .is_some_and(|text| text.contains(value)),
        ),
        "tags[]" => Some(any("tags", &|tag| tag == value)),
        "liveStreamId" => Some(false),
        _ => {
            let key = name.strip_prefix("metadata[")?.strip_suffix(']')?;
            Some(any("metadata", &|item| {
                item["key"] == key && item["value"] == value
            }))
        }
    }
}
