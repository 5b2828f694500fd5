//! Reading an answer that nobody wants, so that its connection can be used again.

use std::{pin::pin, time::Duration};

use bytes::Buf;
use http_body::Body;
use http_body_util::BodyExt;
use tokio::{runtime::Handle, time};

/// The API's problem documents are far below both.
const MAX_BYTES: usize = 16 * 1024;
const MAX_TIME: Duration = Duration::from_millis(100);

/// Reads a body to its end, unless that takes too much or too long: then the connection is not worth it.
pub(crate) async fn drain<R: Body>(body: R) {
    let read = async {
        let mut body = pin!(body);
        let mut left = MAX_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Buf::remaining);
            let Some(rest) = left.checked_sub(length) else { return };
            left = rest;
        }
    };
    // There is no timer without a runtime.
    if Handle::try_current().is_ok() {
        let _ = time::timeout(MAX_TIME, read).await;
    }
}
