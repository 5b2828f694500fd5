//! Who visits: each browser has a cookie, and what belongs to it is found under that.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::http::{HeaderMap, HeaderValue, header};
use tokio::time::Instant;
use tokio_rustls::rustls::crypto::ring;

use super::upload::Upload;

/// How many sessions are kept, of an address and in total. The one that was not used for the longest time goes first, and
/// those that upload stay: there are fewer of them than this. An address that asks for many ends its own.
const OF_AN_ADDRESS: usize = 50;
const IN_TOTAL: usize = 1000;

/// How many uploads a session remembers.
const UPLOADS: usize = 100;

struct Session {
    address: IpAddr,
    used: Instant,
    uploads: Vec<Arc<Upload>>,
}

impl Session {
    fn is_uploading(&self) -> bool {
        self.uploads.iter().any(|upload| upload.is_open())
    }
}

#[derive(Default)]
pub(crate) struct Sessions(Mutex<HashMap<String, Session>>);

impl Sessions {
    /// Returns the value of the cookie that carries it.
    pub(crate) fn begin(&self, address: IpAddr) -> Option<HeaderValue> {
        let mut random = [0; 16];
        let source = ring::default_provider().secure_random;
        source.fill(&mut random).ok()?;
        let id = format!("{:032x}", u128::from_le_bytes(random));
        let cookie = format!("__Host-session={id}; Path=/; Secure; HttpOnly; SameSite=Lax");

        let mut all = self.lock();
        let own = |session: &Session| session.address == address;
        if all.values().filter(|session| own(session)).count() >= OF_AN_ADDRESS {
            remove_oldest(&mut all, own);
        } else if all.len() >= IN_TOTAL {
            remove_oldest(&mut all, |_| true);
        }
        let session = Session {
            address,
            used: Instant::now(),
            uploads: Vec::new(),
        };
        all.insert(id, session);
        HeaderValue::try_from(cookie).ok()
    }

    /// The session that a request belongs to.
    pub(crate) fn find(&self, headers: &HeaderMap) -> Option<String> {
        let cookies = headers.get_all(header::COOKIE).iter();
        let id = cookies
            .filter_map(|value| value.to_str().ok())
            .flat_map(|cookies| cookies.split("; "))
            .find_map(|it| it.strip_prefix("__Host-session="))?;
        self.lock().get_mut(id)?.used = Instant::now();
        Some(id.to_owned())
    }

    pub(crate) fn add(&self, id: &str, upload: Arc<Upload>) {
        if let Some(session) = self.lock().get_mut(id) {
            session.uploads.retain(|upload| !upload.is_gone());
            if session.uploads.len() == UPLOADS {
                session.uploads.remove(0);
            }
            session.uploads.push(upload);
        }
    }

    /// The session's own uploads, the oldest first.
    pub(crate) fn uploads(&self, id: &str) -> Vec<Arc<Upload>> {
        let all = self.lock();
        all.get(id).map_or_else(Vec::new, |it| it.uploads.clone())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn remove_oldest(all: &mut HashMap<String, Session>, of: impl Fn(&Session) -> bool) {
    let candidates = all.iter().filter(|(_, session)| of(session));
    let oldest = candidates.min_by_key(|(_, session)| (session.is_uploading(), session.used));
    if let Some(id) = oldest.map(|(id, _)| id.clone()) {
        all.remove(&id);
    }
}
