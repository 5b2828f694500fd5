//! Whether a request may pass.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use http::{HeaderValue, Response, header, request};
#[cfg(feature = "upload-tokens")]
use http::{Method, StatusCode};

#[cfg(feature = "upload-tokens")]
use super::route::Resource;
use super::{
    responses,
    route::Route,
    state::{Shared, State},
};
use crate::Now;

/// The refusal of a request that may not pass, if it may not.
///
/// Anything but exactly one `Authorization` is refused, as a strict server does. An account that is
/// suspended is told so only after its token was found to be good.
pub(super) fn judge(
    shared: &Shared,
    state: &mut State,
    parts: &request::Parts,
    route: Route<'_>,
    now: Now,
) -> Option<Response<Bytes>> {
    #[cfg(feature = "upload-tokens")]
    if route == Route::Resource(Resource::Upload) && parts.method == Method::POST {
        let (kind, name) = state.resources.admit(parts, now).err()?;
        // The OpenAPI file knows no 401 here.
        return Some(match shared.refusals_as_400 {
            true => responses::problem_as(StatusCode::BAD_REQUEST, kind, name),
            false => responses::named_problem(kind, name),
        });
    }
    if !route.is_guarded() {
        return None;
    }
    let mut values = parts.headers.get_all(header::AUTHORIZATION).iter();
    let refusal = match (values.next().map(HeaderValue::to_str), values.next()) {
        (None, _) => "authentication-missing-authorization-header",
        (Some(Ok(value)), None) => match value.split_once(' ') {
            Some(("Bearer", token))
                if state.refuse_all_bearers || !state.tokens.accepts(token, now.monotonic) =>
            {
                "authentication-invalid-access-token"
            }
            Some(("Basic", key)) if state.refuse_api_key || key != basic(&shared.api_key) => {
                "authentication-invalid-api-key"
            }
            Some(("Bearer" | "Basic", _)) if state.suspended => "authorization-suspended-account",
            Some(("Bearer" | "Basic", _)) => return None,
            _ => "authentication-invalid-authorization-header-value",
        },
        _ => "authentication-invalid-authorization-header-value",
    };
    Some(responses::problem(refusal))
}

/// What follows `Basic` in the header: the key is the user name, and the password is empty.
fn basic(api_key: &str) -> String {
    BASE64.encode(format!("{api_key}:"))
}
