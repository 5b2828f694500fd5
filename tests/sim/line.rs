//! The way of one process to the API: it plays what networks and proxies do, and watches what goes out.

use std::{
    io,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use tokio::time::sleep;
use tower::{Service, ServiceExt};

use crate::{
    model::{Heard, Id, Presenter, Save, User},
    world::{CALL_TIMEOUT, Call, EARLY, Life, Shared, World, now, since},
};

type Body = Full<Bytes>;

/// What becomes of a token call. The times are before and after the server has carried it out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallFault {
    pub(crate) before: Duration,
    pub(crate) what: What,
    pub(crate) after: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Good,
    /// Provably not sent.
    ConnectionRefused,
    LostBefore,
    LostAfter,
    HangsBefore,
    HangsAfter,
    /// A proxy's page, before the call was carried out.
    Page(u16),
    /// A 502 after the call was carried out.
    BadGatewayAfter,
    RateLimited(u64),
}

/// The service under the layer of one process.
#[derive(Clone)]
pub(crate) struct Line {
    pub(crate) world: Shared,
    pub(crate) id: Id,
    pub(crate) life: Life,
}

impl Service<Request<Body>> for Line {
    type Response = Response<Body>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Response<Body>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let line = self.clone();
        Box::pin(async move {
            let life = line.life.clone();
            life.lives(async move {
                if request.uri().path().starts_with("/auth/") {
                    line.token_call(request).await
                } else {
                    line.request(request).await
                }
            })
            .await
        })
    }
}

/// A call under way, until it ends or is dropped.
struct Under(Shared, usize, Life);

impl Drop for Under {
    fn drop(&mut self) {
        if !self.2.is_dead() {
            self.0.lock().calls.retain(|call| call.number != self.1);
        }
    }
}

impl Line {
    async fn token_call(self, request: Request<Body>) -> io::Result<Response<Body>> {
        let (parts, body) = request.into_parts();
        let body = body
            .collect()
            .await
            .unwrap_or_else(|never| match never {})
            .to_bytes();
        let payload: Value = serde_json::from_slice(&body).unwrap_or_default();
        let refresh = payload["refreshToken"].as_str().map(str::to_owned);
        let is_justified = self.is_justified();
        let (number, fault) = {
            let mut world = self.world.lock();
            let weather = world.weather(self.id);
            let fault = weather.next.pop_front().or(weather.lasting);
            let fault = fault.unwrap_or(CallFault {
                before: Duration::ZERO,
                what: What::Good,
                after: Duration::ZERO,
            });
            let number = world.new_call();
            let request = Request::from_parts(parts, Full::new(body));
            self.begins(
                &mut world,
                number,
                refresh.clone(),
                request,
                &fault,
                is_justified,
            );
            (number, fault)
        };
        let _under = Under(self.world.clone(), number, self.life.clone());
        let reset = || io::Error::from(io::ErrorKind::ConnectionReset);
        if fault.what == What::ConnectionRefused {
            self.heard(&refresh, number, Heard::Harmless, "was never sent");
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        sleep(fault.before).await;
        match fault.what {
            What::HangsBefore => std::future::pending().await,
            What::LostBefore => {
                self.heard(
                    &refresh,
                    number,
                    Heard::Nothing,
                    "was lost before the server had it",
                );
                return Err(reset());
            }
            What::Page(status) => {
                let heard = match status {
                    502 | 504 => Heard::Nothing,
                    _ => Heard::Harmless,
                };
                self.heard(&refresh, number, heard, &format!("gets a proxy's {status}"));
                return Ok(page(status));
            }
            What::RateLimited(seconds) => {
                self.heard(
                    &refresh,
                    number,
                    Heard::Harmless,
                    &format!("gets 429, {seconds} s"),
                );
                let mut response = page(429);
                let headers = response.headers_mut();
                headers.insert("x-ratelimit-retry-after", seconds.into());
                return Ok(response);
            }
            _ => {}
        }
        let response = carry_out(&self.world, number).await;
        sleep(fault.after).await;
        match fault.what {
            What::HangsAfter => std::future::pending().await,
            What::LostAfter => {
                self.heard(
                    &refresh,
                    number,
                    Heard::Nothing,
                    "was carried out, its response lost",
                );
                Err(reset())
            }
            What::BadGatewayAfter => {
                self.heard(
                    &refresh,
                    number,
                    Heard::Nothing,
                    "was carried out, and gets a 502",
                );
                Ok(page(502))
            }
            _ => {
                let heard = match response.status() {
                    StatusCode::OK => Heard::Granted,
                    StatusCode::FORBIDDEN => Heard::Harmless,
                    _ => Heard::Refused,
                };
                let status = response.status().as_u16();
                self.heard(&refresh, number, heard, &format!("gets {status}"));
                Ok(response)
            }
        }
    }

    /// One at a time, and for a reason.
    fn begins(
        &self,
        world: &mut World,
        number: usize,
        refresh: Option<String>,
        request: Request<Body>,
        fault: &CallFault,
        is_justified: bool,
    ) {
        let id = self.id;
        let what = match &refresh {
            Some(token) => format!("presents refresh token {}", world.model.name_of(token)),
            None => "logs in".to_owned(),
        };
        let name = world.name(id);
        world.tell(|_| format!("{name} {what} (call {number}, {fault:?})"));
        let free_since = world.instances[id].free_since;
        let is_under_way = world.calls.iter().any(|call| {
            call.by == id
                // Its time began before it was marked in the store.
                && since(call.at) + Duration::from_secs(3) < CALL_TIMEOUT
                && free_since.is_none_or(|at| at < call.at)
        });
        if is_under_way {
            world.violate(format!(
                "{name} {what} while another call of it is under way"
            ));
        }
        if !is_justified {
            world.violate(format!(
                "{name} {what} though its token is fresh, and accepted"
            ));
        }
        if let Some(token) = refresh
            .as_ref()
            .filter(|_| fault.what != What::ConnectionRefused)
        {
            let presenter = Presenter {
                id,
                call: number,
                has_usable_key: world.has_usable_key(id),
                shares_store: world.instances[id].has_store,
                free_since,
            };
            let keeps: Vec<bool> = (0..world.instances.len())
                .map(|id| world.keeps_unsaved(id))
                .collect();
            let result = world.model.present(token, &presenter, |id| keeps[id]);
            world.check(id, result);
        }
        let sent = world.now(id);
        let has_lock = world.disk.is_locked_by(&self.life);
        world.calls.push(Call {
            has_lock,
            number,
            by: id,
            at: now(),
            request: Some(request),
            refresh,
            sent,
        });
    }

    fn heard(&self, refresh: &Option<String>, call: usize, heard: Heard, words: &str) {
        let mut world = self.world.lock();
        let name = world.name(self.id);
        world.tell(|_| format!("{name}: call {call} {words}"));
        match refresh {
            Some(token) => world.model.heard(token, call, heard),
            None if heard == Heard::Refused => {
                world.instances[self.id].key_refused = Some(now());
            }
            None => {}
        }
    }

    /// Whether there is a reason for a token call: no token, a stale one, one that was taken out of use, or an order.
    fn is_justified(&self) -> bool {
        let (source, asked, rejected, invalidated, now) = {
            let world = self.world.lock();
            let instance = &world.instances[self.id];
            // A wall clock that was set back tells nothing.
            let Some(source) = instance.source.clone().filter(|_| !instance.was_set_back) else {
                return true;
            };
            (
                source,
                instance.asked.clone(),
                instance.rejected.clone(),
                instance.invalidated.clone(),
                world.now(self.id),
            )
        };
        let status = source.status();
        let Some(expires) = status.expires_at.filter(|_| status.is_usable) else {
            return true;
        };
        let left = expires.duration_since(now.wall).unwrap_or_default();
        let lifetime = self.world.lock().lifetime;
        if left <= EARLY.min(lifetime / 2) || left > lifetime || asked.contains(&status.generation)
        {
            return true;
        }
        let token = futures::FutureExt::now_or_never(source.token());
        token.and_then(Result::ok).is_none_or(|token| {
            rejected.contains(token.expose()) || invalidated.contains(token.expose())
        })
    }

    async fn request(self, request: Request<Body>) -> io::Result<Response<Body>> {
        let number = |name: &str| -> Option<u64> {
            request.headers().get(name)?.to_str().ok()?.parse().ok()
        };
        let asked = number("x-asked").and_then(|number| usize::try_from(number).ok());
        let latency = Duration::from_millis(number("x-latency").unwrap_or_default());
        let bearer = request.headers().get(header::AUTHORIZATION).cloned();
        let bearer = bearer.as_ref().and_then(|value| value.to_str().ok());
        let bearer = bearer
            .and_then(|value| value.strip_prefix("Bearer "))
            .map(str::to_owned);
        let api = {
            let mut world = self.world.lock();
            self.leaves(&mut world, asked, bearer.as_deref(), request.uri().host());
            world.api.clone()
        };
        sleep(latency / 2).await;
        if request.uri().host() != Some("127.0.0.1") {
            return Ok(page(204));
        }
        let response = match number("x-denied") {
            Some(1) => page(401),
            _ => whole(api.service().oneshot(request).await?).await,
        };
        sleep(latency / 2).await;
        if let Some(token) = bearer.filter(|_| response.status() == StatusCode::UNAUTHORIZED) {
            let mut world = self.world.lock();
            let (name, token_name) = (world.name(self.id), world.model.name_of(&token));
            world.tell(|_| format!("{name}: a request with access token {token_name} gets 401"));
            world.instances[self.id].rejected.insert(token);
        }
        Ok(response)
    }

    /// Which tokens may leave, and when.
    fn leaves(
        &self,
        world: &mut World,
        asked: Option<usize>,
        bearer: Option<&str>,
        host: Option<&str>,
    ) {
        let (id, name) = (self.id, world.name(self.id));
        let is_first = asked.is_some_and(|asked| {
            let asked = &mut world.requests[asked];
            !std::mem::replace(&mut asked.has_left, true)
        });
        if host != Some("127.0.0.1") {
            if bearer.is_some() {
                world.violate(format!("{name}: a token leaves for {host:?}"));
            }
            return;
        }
        if let Some(asked) = asked.filter(|_| is_first) {
            let asked = &world.requests[asked];
            if asked.leaves_at_once && asked.at.elapsed() > asked.jumped {
                let waited = asked.at.elapsed();
                world.violate(format!(
                    "{name}: a request waited {waited:?} though a token was usable"
                ));
            }
        }
        let Some(token) = bearer else {
            world.violate(format!("{name}: a request leaves without a token"));
            return;
        };
        let token_name = world.model.name_of(token);
        world.tell(|_| format!("{name}: a request leaves with access token {token_name}"));
        let saves = world.instances[id].has_store && !world.store_has_failed(id);
        let user = User {
            id,
            now: world.now(id),
            saves,
            was_set_back: world.instances[id].was_set_back,
            has_waited: !is_first
                || asked.is_some_and(|asked| !world.requests[asked].leaves_at_once),
        };
        let result = world.model.attach(token, &user);
        world.check(id, result);
        let instance = &world.instances[id];
        if instance.invalidated.contains(token) {
            world.violate(format!(
                "{name}: access token {token_name} leaves, invalidated"
            ));
        }
        let newest = world.instances[id].newest.clone();
        match newest {
            Some(newest) if world.model.goes_before(token, &newest) => {
                let newest = world.model.name_of(&newest);
                world.violate(format!(
                    "{name}: access token {token_name} leaves after {newest}"
                ));
            }
            _ => world.instances[id].newest = Some(token.to_owned()),
        }
    }
}

/// The server carries a call out, if it has not done so.
pub(crate) async fn carry_out(world: &Shared, number: usize) -> Response<Body> {
    let (request, api) = {
        let mut world = world.lock();
        let api = world.api.clone();
        let call = world.calls.iter_mut().find(|call| call.number == number);
        let Some(request) = call.and_then(|call| call.request.take()) else {
            return page(500);
        };
        (request, api)
    };
    let response = match api.service().oneshot(request).await {
        Ok(response) => whole(response).await,
        Err(_) => page(500),
    };
    let bytes = response.body().clone().collect().await;
    let body: Value =
        serde_json::from_slice(&bytes.unwrap_or_else(|never| match never {}).to_bytes())
            .unwrap_or_default();
    let mut world = world.lock();
    let Some(call) = world.calls.iter().find(|call| call.number == number) else {
        return response;
    };
    let (by, refresh, sent) = (call.by, call.refresh.clone(), call.sent);
    let has_lock = call.has_lock;
    match (
        body["access_token"].as_str(),
        body["refresh_token"].as_str(),
    ) {
        (Some(access), Some(new)) => {
            let lifetime = world.lifetime;
            world.model.granted(
                (access, new),
                refresh.as_deref(),
                Some((by, sent)),
                lifetime,
            );
            if !has_lock {
                // Without the lock it is saved later.
                world.model.save(access, Save::Tried);
            }
            let name = world.model.name_of(access);
            world.tell(|_| format!("the server carries out call {number}: pair {name}"));
        }
        _ => {
            if let Some(token) = refresh.filter(|_| response.status() != StatusCode::FORBIDDEN) {
                world.model.refused(&token);
            }
            let status = response.status();
            world.tell(|_| format!("the server refuses call {number}: {status}"));
        }
    }
    response
}

async fn whole<B>(response: Response<B>) -> Response<Body>
where
    B: http_body::Body<Data = Bytes>,
{
    let (parts, body) = response.into_parts();
    let body = body
        .collect()
        .await
        .map(|body| body.to_bytes())
        .unwrap_or_default();
    Response::from_parts(parts, Full::new(body))
}

fn page(status: u16) -> Response<Body> {
    let mut response = Response::new(Full::from("<html>test-only</html>"));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    let html = header::HeaderValue::from_static("text/html");
    response.headers_mut().insert(header::CONTENT_TYPE, html);
    response
}
