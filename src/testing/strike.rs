//! What a fault does to a call, at the point where it is met.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{HeaderMap, Response};

use super::{
    body::FakeBody,
    fault::{Fault, Kind, Payload, Point},
    gate::GateState,
    responses,
};

/// Between two bytes of [`Fault::drip`].
const DRIP_INTERVAL: Duration = Duration::from_millis(100);
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
                Payload::Huge => huge(),
                Payload::Drip => drip(),
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
            let mut value = serde_json::from_slice(sent.body()).map_err(io::Error::other)?;
            edit(&mut value);
            *sent.body_mut() = value.to_string().into();
        }
        Some((Point::MidBody, Kind::Latency(latency))) => wait = latency,
        Some((Point::MidBody, Kind::Disconnect)) => breaks_off = true,
        Some((Point::MidBody, Kind::Response(status, headers, Payload::Bytes(body)))) => {
            sent = response(status, &headers, body)?;
            breaks_off = true;
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
            // Lets the HTTP server write out the first half before it closes the connection.
            tokio::task::yield_now().await;
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the fake server cut the response short",
            ));
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
fn huge() -> FakeBody {
    let start = Bytes::from_static(br#"{"token_type":"Bearer","access_token":""#);
    let chunk = Bytes::from(vec![b'a'; HUGE_CHUNK]);
    let pieces = std::iter::once(start).chain(std::iter::repeat_n(chunk, HUGE_CHUNKS));
    FakeBody::stream(None, stream::iter(pieces.map(Ok)))
}

/// White space without end: valid JSON so far, at every moment.
fn drip() -> FakeBody {
    FakeBody::stream(
        None,
        stream::repeat(()).then(|()| async {
            tokio::time::sleep(DRIP_INTERVAL).await;
            Ok(Bytes::from_static(b" "))
        }),
    )
}

/// What a client sees of a connection that was closed.
fn closed() -> io::Error {
    io::Error::new(
        io::ErrorKind::ConnectionReset,
        "the fake server closed the connection",
    )
}
