//! G16: what is sent again, byte for byte, and what goes out once.

mod made;
mod passed_on;
mod replayed;

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use apivideo_auth::testing::FakeApi;
use axum::body::Body;
use bytes::Bytes;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use http::{Method, Request, Response};
use http_body::{Frame, SizeHint};
use tokio::time::sleep;
use tower::{BoxError, Layer, ServiceExt};

use crate::support::{Client, MIB, bytes, plain, with_key};

/// A body of frames that says how long it is, truly or not.
struct Sized {
    frames: BoxStream<'static, io::Result<Frame<Bytes>>>,
    size: u64,
}

impl http_body::Body for Sized {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.frames.poll_next_unpin(cx)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.size)
    }
}

/// Says that it has `size` bytes and has `parts`, one each 10 ms.
fn slow(size: usize, parts: Vec<io::Result<Frame<Bytes>>>) -> Body {
    let frames = stream::iter(parts).then(|part| async {
        sleep(Duration::from_millis(10)).await;
        part
    });
    Body::new(Sized {
        frames: frames.boxed(),
        size: size as u64,
    })
}

fn in_parts(bytes: &Bytes) -> Vec<Bytes> {
    bytes.chunks(100_000).map(Bytes::copy_from_slice).collect()
}

async fn send(client: &Client, request: Request<Body>) -> Result<u16, BoxError> {
    Ok(client.clone().oneshot(request).await?.status().as_u16())
}

/// Fetches the first token.
async fn warm_up(api: &FakeApi, client: &Client) {
    send(client, echo(Method::GET, Body::empty()))
        .await
        .unwrap();
    sent(api);
}

/// The bodies of the API requests since the last look.
fn sent(api: &FakeApi) -> Vec<(Method, Bytes)> {
    let journal = api.journal();
    api.clear_journal();
    let sent = journal
        .into_iter()
        .filter(|exchange| !exchange.is_token_call);
    sent.map(|exchange| (exchange.method, exchange.body))
        .collect()
}

fn echo(method: Method, body: Body) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri("/echo")
        .body(body)
        .unwrap()
}
