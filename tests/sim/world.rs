//! What all doubles share: the model, the processes, the weather, and the story.

use std::{
    cell::Cell,
    collections::{HashMap, HashSet, VecDeque},
    future::poll_fn,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use apivideo_auth::{
    ApiVideoAuth, ApiVideoAuthLayer, Clock, TokenSource,
    testing::{FakeApi, ManualClock},
};
use tokio::time::Instant;

use crate::{
    line::{CallFault, Line},
    model::{Id, Model},
    store::{Disk, StoreFault},
};

pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(10);
pub(crate) const EARLY: Duration = Duration::from_secs(300);

thread_local! {
    static SLEPT: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// The time of the world: timers stand still while machines sleep, and it goes on.
pub(crate) fn now() -> Instant {
    Instant::now() + SLEPT.get()
}

pub(crate) fn since(at: Instant) -> Duration {
    now().saturating_duration_since(at)
}

pub(crate) fn sleep_for(by: Duration) {
    SLEPT.set(SLEPT.get() + by);
}

pub(crate) fn wake_up() {
    SLEPT.set(Duration::ZERO);
}

#[derive(Clone)]
pub(crate) struct Shared(pub(crate) Arc<Mutex<World>>);

pub(crate) struct World {
    pub(crate) api: FakeApi,
    pub(crate) server_clock: ManualClock,
    pub(crate) disk: Disk,
    pub(crate) begun: Instant,
    pub(crate) model: Model,
    pub(crate) lifetime: Duration,
    /// All that were ever started, by their number.
    pub(crate) instances: Vec<Instance>,
    pub(crate) weather: HashMap<usize, Weather>,
    pub(crate) requests: Vec<Asked>,
    pub(crate) calls: Vec<Call>,
    pub(crate) violation: Option<String>,
    pub(crate) story: Option<Vec<String>>,
    next_call: usize,
}

/// What goes wrong for one process, restarts included.
#[derive(Default)]
pub(crate) struct Weather {
    pub(crate) next: VecDeque<CallFault>,
    pub(crate) lasting: Option<CallFault>,
    pub(crate) store: Option<StoreFault>,
    pub(crate) store_failed: Option<Instant>,
}

/// One run of a process.
pub(crate) struct Instance {
    pub(crate) process: usize,
    pub(crate) has_key: bool,
    pub(crate) has_store: bool,
    pub(crate) seed: Option<String>,
    pub(crate) life: Life,
    pub(crate) clock: ManualClock,
    pub(crate) layer: Option<ApiVideoAuthLayer>,
    pub(crate) client: Option<ApiVideoAuth<Line>>,
    pub(crate) old_clone: Option<ApiVideoAuth<Line>>,
    pub(crate) source: Option<TokenSource>,
    pub(crate) keeper: Option<apivideo_auth::KeepFresh>,
    /// The newest token that went out with a request of it.
    pub(crate) newest: Option<String>,
    pub(crate) invalidated: HashSet<String>,
    pub(crate) rejected: HashSet<String>,
    /// A renewal was asked for at this generation.
    pub(crate) asked: HashSet<Option<u64>>,
    pub(crate) free_since: Option<Instant>,
    pub(crate) key_refused: Option<Instant>,
    /// It is well, and since then its requests have failed.
    pub(crate) held_up: Option<Instant>,
    pub(crate) was_shut_down: bool,
    /// Its wall clock was.
    pub(crate) was_set_back: bool,
}

/// Whether it was killed, and when.
#[derive(Clone, Default)]
pub(crate) struct Life(Arc<AtomicBool>, Arc<Mutex<Option<Instant>>>);

impl Life {
    pub(crate) fn kill(&self) {
        self.0.store(true, Ordering::Relaxed);
        *self.1.lock().unwrap_or_else(PoisonError::into_inner) = Some(now());
    }

    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn died_at(&self) -> Option<Instant> {
        *self.1.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A killed process runs nothing any more. What it holds is dropped with its world, and has no effect then.
    pub(crate) async fn lives<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        poll_fn(|cx| match self.is_dead() {
            true => Poll::Pending,
            false => work.as_mut().poll(cx),
        })
        .await
    }
}

/// A request of the script, until it has ended.
pub(crate) struct Asked {
    pub(crate) id: Id,
    pub(crate) at: Instant,
    /// There was a usable token: it has to leave at once.
    pub(crate) leaves_at_once: bool,
    pub(crate) must_succeed: bool,
    pub(crate) has_left: bool,
    pub(crate) limit: Duration,
    /// Of which so long nothing was polled.
    pub(crate) jumped: Duration,
    pub(crate) outcome: Option<Outcome>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Status(u16),
    Failed(String),
    Dropped,
}

/// A token call under way.
pub(crate) struct Call {
    pub(crate) number: usize,
    pub(crate) by: Id,
    pub(crate) at: Instant,
    pub(crate) request: Option<http::Request<http_body_util::Full<bytes::Bytes>>>,
    pub(crate) refresh: Option<String>,
    pub(crate) sent: apivideo_auth::Now,
    pub(crate) has_lock: bool,
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn tell(&self, line: impl FnOnce(&World) -> String) {
        self.lock().tell(line);
    }
}

impl World {
    pub(crate) fn new(
        api: FakeApi,
        server_clock: ManualClock,
        lifetime: Duration,
        tells: bool,
    ) -> Self {
        Self {
            api,
            server_clock,
            disk: Disk::default(),
            begun: now(),
            model: Model::default(),
            lifetime,
            instances: Vec::new(),
            weather: HashMap::new(),
            requests: Vec::new(),
            calls: Vec::new(),
            violation: None,
            story: tells.then(Vec::new),
            next_call: 0,
        }
    }

    pub(crate) fn tell(&mut self, line: impl FnOnce(&Self) -> String) {
        // What comes after a violation says little.
        if self.story.is_some() && self.violation.is_none() {
            let at = since(self.begun).as_secs_f64();
            let line = format!("{at:9.3}  {}", line(self));
            self.story.get_or_insert_default().push(line);
        }
    }

    /// The first one counts: what follows from it says little.
    pub(crate) fn violate(&mut self, what: String) {
        self.tell(|_| format!("VIOLATION: {what}"));
        self.violation.get_or_insert(what);
    }

    pub(crate) fn check(&mut self, id: Id, result: Result<(), String>) {
        if let Err(what) = result {
            let name = self.name(id);
            self.violate(format!("{name}: {what}"));
        }
    }

    pub(crate) fn name(&self, id: Id) -> String {
        let process = self.process(id);
        let started = self.instances.iter().take(id + 1);
        let starts = started.filter(|i| i.process == process).count();
        match starts {
            0 | 1 => format!("process {process}"),
            _ => format!("process {process} (start {starts})"),
        }
    }

    fn process(&self, id: Id) -> usize {
        self.instances
            .get(id)
            .map_or(id, |instance| instance.process)
    }

    pub(crate) fn new_call(&mut self) -> usize {
        self.next_call += 1;
        self.next_call
    }

    pub(crate) fn weather(&mut self, id: Id) -> &mut Weather {
        let process = self.process(id);
        self.weather.entry(process).or_default()
    }

    /// Whether the store has failed it a while ago, so that it goes on without.
    pub(crate) fn store_has_failed(&mut self, id: Id) -> bool {
        let disturbed = self.model.locks_lost.max(self.model.emptied);
        let failed = self.weather(id).store_failed.max(disturbed);
        failed.is_some_and(|at| since(at) < Duration::from_secs(120))
    }

    /// The API key, if it was not refused a short while ago.
    pub(crate) fn has_usable_key(&self, id: Id) -> bool {
        let instance = &self.instances[id];
        instance.has_key
            && instance
                .key_refused
                .is_none_or(|at| since(at) > Duration::from_secs(301))
    }

    /// Alive, without a key, and with a pair that the store does not have.
    pub(crate) fn keeps_unsaved(&self, id: Id) -> bool {
        let instance = &self.instances[id];
        !instance.has_key
            && !instance.life.is_dead()
            && !instance.was_shut_down
            && instance.free_since.is_none()
            && self.model.is_unsaved(id)
    }

    pub(crate) fn now(&self, id: Id) -> apivideo_auth::Now {
        self.instances[id].clock.now()
    }
}
