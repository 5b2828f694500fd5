//! What a fault does to a call, at the point where it is met.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use http::{HeaderMap, Response};

use super::{
    body::FakeBody,
    fault::{Fault, Kind, Payload, Point},
    gate::GateState,
    responses,
};

/// Between two bytes of [`Fault::drip`].
const DRIP_INTERVAL: Duration = Duration::from_millis(100);
/// How many bytes of it come where it is broken off.
const DRIPS: usize = 10;
/// A piece of [`Fault::huge`], in bytes.
const HUGE_CHUNK: usize = 64 * 1024;
/// How many pieces there are: 8 MiB in all.
const HUGE_CHUNKS: usize = 128;

/// At a point before the response. `None`: the call goes on.
pub(super) async fn strike(
    fault: Option<&Fault>,
    point: Point,
) -> Option<io::Result<Response<FakeBody>>> {
    match &fault.filter(|fault| fault.point == point)?.kind {
        Kind::Response(status, headers, payload) => {
            let body = match payload {
                Payload::Bytes(bytes) => FakeBody::whole(bytes.clone()),
                Payload::Huge => FakeBody::stream(None, huge()),
                Payload::Drip => FakeBody::stream(None, drip()),
            };
            Some(response(*status, headers, body))
        }
        Kind::Disconnect => Some(Err(closed())),
        Kind::Latency(latency) => {
            tokio::time::sleep(*latency).await;
            None
        }
        Kind::Json(_) => None,
    }
}

/// The response of a call that was carried out, with what a fault does to its JSON or in the middle of its body.
pub(super) fn send(
    fault: Option<Fault>,
    mut sent: Response<Bytes>,
    gate: Option<Arc<GateState>>,
) -> io::Result<Response<FakeBody>> {
    let (mut wait, mut breaks_off) = (Duration::ZERO, false);
    match fault.map(|fault| (fault.point, fault.kind)) {
        Some((_, Kind::Json(edit))) if sent.status().is_success() => {
            // A 204 has none, and what a test plays may be anything.
            if let Ok(mut value) = serde_json::from_slice(sent.body()) {
                edit(&mut value);
                *sent.body_mut() = value.to_string().into();
            }
        }
        Some((Point::MidBody, Kind::Latency(latency))) => wait = latency,
        Some((Point::MidBody, Kind::Disconnect)) => breaks_off = true,
        Some((Point::MidBody, Kind::Response(status, headers, Payload::Bytes(body)))) => {
            sent = response(status, &headers, body)?;
            breaks_off = true;
        }
        Some((Point::MidBody, Kind::Response(status, headers, Payload::Huge))) => {
            return response(status, &headers, cut(huge(), 1 + HUGE_CHUNKS / 2));
        }
        Some((Point::MidBody, Kind::Response(status, headers, Payload::Drip))) => {
            return response(status, &headers, cut(drip(), DRIPS));
        }
        _ => {}
    }
    if breaks_off && sent.body().is_empty() {
        return Err(closed());
    }
    if !breaks_off && wait.is_zero() && gate.is_none() {
        return Ok(sent.map(FakeBody::whole));
    }
    let between = async move {
        if let Some(gate) = gate {
            gate.pass().await;
        }
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        if breaks_off {
            return Err(cut_short().await);
        }
        Ok(())
    };
    Ok(sent.map(|body| {
        let half = body.len() / 2;
        let (first, rest) = (body.slice(..half), body.slice(half..));
        let rest = stream::once(async move { between.await.map(|()| rest) });
        FakeBody::stream(
            Some(body.len() as u64),
            stream::iter([Ok(first)]).chain(rest),
        )
    }))
}

/// A fault's own response: it has no headers but these.
fn response<T>(status: u16, headers: &HeaderMap, body: T) -> io::Result<Response<T>> {
    let mut response = Response::new(body);
    *response.status_mut() = responses::status(status)?;
    *response.headers_mut() = headers.clone();
    Ok(response)
}

/// Begins like a pair, so that a client which reads on has something to wait for.
fn huge() -> BoxStream<'static, io::Result<Bytes>> {
    let start = Bytes::from_static(br#"{"token_type":"Bearer","access_token":""#);
    let chunk = Bytes::from(vec![b'a'; HUGE_CHUNK]);
    let pieces = std::iter::once(start).chain(std::iter::repeat_n(chunk, HUGE_CHUNKS));
    stream::iter(pieces.map(Ok)).boxed()
}

/// White space without end: valid JSON so far, at every moment.
fn drip() -> BoxStream<'static, io::Result<Bytes>> {
    let drips = stream::repeat(()).then(|()| async {
        tokio::time::sleep(DRIP_INTERVAL).await;
        Ok(Bytes::from_static(b" "))
    });
    drips.boxed()
}

/// So many pieces, and then the end of the connection.
fn cut(body: BoxStream<'static, io::Result<Bytes>>, pieces: usize) -> FakeBody {
    let end = stream::once(async { Err(cut_short().await) });
    FakeBody::stream(None, body.take(pieces).chain(end))
}

/// What a client sees in the middle of a body.
async fn cut_short() -> io::Error {
    // Lets the HTTP server write out what it has before it closes the connection.
    tokio::task::yield_now().await;
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the fake server cut the response short",
    )
}

/// What a client sees of a connection that was closed.
fn closed() -> io::Error {
    io::Error::new(
        io::ErrorKind::ConnectionReset,
        "the fake server closed the connection",
    )
}
