//! Plays one schedule.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::Duration,
};

use apivideo_auth::{
    ApiVideoAuthLayer, Credentials, MinLifetime,
    testing::{FakeApi, ManualClock},
};
use bytes::Bytes;
use fastrand::Rng;
use futures::{FutureExt, future::BoxFuture, task::AtomicWaker};
use http::Request;
use http_body_util::Full;
use tokio::time::{Instant, sleep};
use tower::{Layer, Service, ServiceExt};

use crate::{
    line::{Line, carry_out},
    model::Id,
    script::{Ask, Leaves, Op, Setting, Step},
    store::{Client, Disk, LEASE},
    world::{Asked, Instance, Life, Outcome, Shared, World, now, since, sleep_for, wake_up},
};

type Body = Full<Bytes>;

/// A renewal, the waiter's own time on top, and the same again after a 401.
const BOUND: Duration = Duration::from_secs(2 * 33);

/// What a caller of a healthy process waits for at the most: one renewal, and a mark that settles.
const HELD_UP: Duration = Duration::from_secs(33);

/// After this a source has recovered. Its cool-downs are over by now, but 401s that a renewal did not cure close the guard of
/// G15 for 30 s.
const RECOVERY: Duration = Duration::from_secs(31);

pub(crate) struct Failure {
    pub(crate) what: String,
    pub(crate) story: Vec<String>,
}

/// Plays these steps in this setting. With `tells` the story is kept.
pub(crate) fn play(
    seed: u64,
    setting: &Setting,
    steps: &[Step],
    tells: bool,
) -> (Option<Failure>, Vec<String>) {
    // The crate's jitter, and the letters of the tokens.
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    wake_up();
    let world = runtime.block_on(async {
        let clock = ManualClock::with_tokio();
        let api = FakeApi::builder()
            .clock(clock.clone())
            .token_lifetime(setting.lifetime)
            .login_kills_refresh_tokens(setting.login_kills_refresh_tokens)
            .refresh_kills_access_token(setting.refresh_kills_access_token)
            .journal(false)
            .short_tokens(true)
            .build();
        let world = World::new(api, clock, setting.lifetime, tells);
        let world = Shared(Arc::new(Mutex::new(world)));
        let callers = Callers::default();
        tokio::spawn(callers.clone().all());
        let mut play = Play {
            callers,
            disk: world.lock().disk.clone(),
            world: world.clone(),
            setting: setting.clone(),
            running: vec![None; setting.keyed.len()],
            seeds: vec![None; setting.keyed.len()],
            slack: Duration::ZERO,
        };
        play.run(seed, steps).await;
        world
    });
    drop(runtime);
    // They hold the world, which holds them.
    let instances = std::mem::take(&mut world.lock().instances);
    drop(instances);
    let mut world = world.lock();
    let story = world.story.take().unwrap_or_default();
    let failure = world.violation.take().map(|what| Failure {
        what,
        story: story.clone(),
    });
    (failure, story)
}

type Caller = (Life, BoxFuture<'static, ()>);

/// All callers, as one task that polls them in order: who waits for one renewal is woken in any order. Those of a killed
/// process are kept, and not polled any more.
#[derive(Clone, Default)]
struct Callers(Arc<Mutex<Vec<Caller>>>, Arc<AtomicWaker>);

impl Callers {
    fn call(&self, life: Life, work: impl Future<Output = ()> + Send + 'static) {
        self.calls().push((life, Box::pin(work)));
        self.1.wake();
    }

    fn calls(&self) -> MutexGuard<'_, Vec<Caller>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn all(self) {
        poll_fn(|cx| {
            self.1.register(cx.waker());
            let mut calls = std::mem::take(&mut *self.calls());
            calls.retain_mut(|(life, call)| life.is_dead() || call.poll_unpin(cx).is_pending());
            let mut new = self.calls();
            calls.append(&mut new);
            *new = calls;
            Poll::<()>::Pending
        })
        .await
    }
}

struct Play {
    callers: Callers,
    world: Shared,
    disk: Disk,
    setting: Setting,
    /// Which run of each process is on.
    running: Vec<Option<Id>>,
    seeds: Vec<Option<String>>,
    /// What the API itself has asked for.
    slack: Duration,
}

impl Play {
    async fn run(&mut self, seed: u64, steps: &[Step]) {
        self.world.lock().model.login_kills_refresh_tokens =
            self.setting.login_kills_refresh_tokens;
        let mut rng = Rng::with_seed(seed ^ 0x5eed);
        if self.setting.stored {
            let id = self.start(0, true, None);
            self.requests(id, 1, Ask::default());
            sleep(Duration::from_millis(1)).await;
            self.shut_down(0);
            sleep(Duration::from_secs(1)).await;
        }
        for process in 0..self.running.len() {
            if self.setting.seeded && !self.setting.keyed[process] {
                self.seeds[process] = Some(self.mint());
            }
            self.start(
                process,
                self.setting.keyed[process],
                self.seeds[process].clone(),
            );
        }
        for step in steps {
            self.world.tell(|_| format!("* {:?}", step.what));
            self.step(&step.what, &mut rng).await;
            for _ in 0..step.yields {
                tokio::task::yield_now().await;
            }
            sleep(step.then).await;
            self.overdue();
            if self.world.lock().violation.is_some() {
                return;
            }
        }
        self.recover().await;
    }

    /// A pair that an operator has got.
    fn mint(&self) -> String {
        let mut world = self.world.lock();
        let (access, refresh) = world.api.mint_pair();
        let lifetime = world.lifetime;
        world
            .model
            .granted((&access, &refresh), None, None, lifetime);
        refresh
    }

    fn start(&mut self, process: usize, has_key: bool, seed: Option<String>) -> Id {
        let id = self.world.lock().instances.len();
        let (life, clock) = (Life::default(), ManualClock::with_tokio());
        let (url, key) = {
            let world = self.world.lock();
            (world.api.url(), world.api.api_key().to_owned())
        };
        let mut builder = ApiVideoAuthLayer::builder()
            .base_url(url)
            .clock(clock.clone());
        if self.setting.store {
            builder = builder.store(Client {
                disk: self.disk.clone(),
                world: self.world.clone(),
                id,
                life: life.clone(),
            });
        }
        if has_key {
            builder = builder.api_key(key);
        }
        if let Some(seed) = &seed {
            builder = builder.refresh_token(seed.clone());
        }
        let layer = builder.build().expect("good settings");
        let line = Line {
            world: self.world.clone(),
            id,
            life: life.clone(),
        };
        let client = layer.layer(line);
        let instance = Instance {
            process,
            has_key,
            has_store: self.setting.store,
            seed,
            life,
            clock,
            source: Some(client.source::<Body>()),
            client: Some(client.clone()),
            old_clone: Some(client),
            layer: Some(layer),
            keeper: None,
            newest: None,
            invalidated: Default::default(),
            rejected: Default::default(),
            asked: Default::default(),
            free_since: None,
            key_refused: None,
            held_up: None,
            was_shut_down: false,
            was_set_back: false,
        };
        let mut world = self.world.lock();
        world.instances.push(instance);
        world.tell(|world| {
            let (has_key, has_seed) = (has_key, world.instances[id].seed.is_some());
            format!("{} starts: key {has_key}, seed {has_seed}", world.name(id))
        });
        self.running[process] = Some(id);
        id
    }

    fn shut_down(&mut self, process: usize) {
        let Some(id) = self.running[process].take() else {
            return;
        };
        let layer = {
            let mut world = self.world.lock();
            let instance = &mut world.instances[id];
            instance.was_shut_down = true;
            (
                instance.layer.take(),
                (instance.client.take(), instance.old_clone.take()),
                instance.source.take(),
                instance.keeper.take(),
            )
        };
        tokio::spawn(async move {
            if let Some(layer) = &layer.0 {
                layer.shutdown(Duration::from_secs(30)).await;
            }
            drop(layer);
        });
    }

    fn requests(&self, id: Id, count: usize, ask: Ask) -> Vec<usize> {
        let (client, source, life) = {
            let world = self.world.lock();
            let instance = &world.instances[id];
            (
                instance.client.clone(),
                instance.source.clone(),
                instance.life.clone(),
            )
        };
        let (Some(client), Some(source)) = (client, source) else {
            return Vec::new();
        };
        let status = source.status();
        let mut numbers = Vec::new();
        for _ in 0..count {
            let number = {
                let mut world = self.world.lock();
                if ask.min_lifetime.is_some() {
                    world.instances[id].asked.insert(status.generation);
                }
                let instance = &world.instances[id];
                let must_succeed = self.setting.one_is_sick
                    && instance.process != 0
                    && instance.has_key
                    && !instance.was_shut_down
                    && ask.leaves.is_none();
                let limit = if must_succeed { HELD_UP } else { BOUND };
                world.requests.push(Asked {
                    id,
                    at: Instant::now(),
                    leaves_at_once: false,
                    must_succeed,
                    has_left: false,
                    limit: limit + ask.latency * 2,
                    jumped: Duration::ZERO,
                    outcome: None,
                });
                world.requests.len() - 1
            };
            numbers.push(number);
            let latency = u64::try_from(ask.latency.as_millis()).unwrap_or_default();
            let mut request = Request::get("/echo")
                .header("x-asked", number)
                .header("x-latency", latency)
                .header("x-denied", u64::from(ask.is_denied))
                .body(Body::default())
                .expect("a good request");
            if let Some(wanted) = ask.min_lifetime {
                request.extensions_mut().insert(MinLifetime(wanted));
            }
            let (client, world, source) = (client.clone(), self.world.clone(), source.clone());
            self.callers.call(life.clone(), async move {
                let is_usable = source.status().is_usable;
                drop(source);
                world.lock().requests[number].leaves_at_once =
                    is_usable && ask.min_lifetime.is_none();
                let old = world.lock().instances[id].old_clone.take();
                let response = match old.filter(|_| ask.by_old_clone) {
                    Some(mut old) => {
                        let response = old.call(request);
                        world.lock().instances[id].old_clone = Some(old);
                        response.left_future()
                    }
                    None => client.oneshot(request).right_future(),
                };
                let outcome = match until(response, ask.leaves).await {
                    None => Outcome::Dropped,
                    Some(Ok(response)) => Outcome::Status(response.status().as_u16()),
                    Some(Err(error)) => Outcome::Failed(error.to_string()),
                };
                ended(&world, number, outcome);
            });
        }
        numbers
    }

    /// Requests that wait for longer than they may.
    fn overdue(&self) {
        let mut world = self.world.lock();
        let overdue = world
            .requests
            .iter()
            .position(|asked| asked.outcome.is_none() && asked.at.elapsed() > asked.limit);
        if let Some(number) = overdue {
            let asked = &mut world.requests[number];
            asked.outcome = Some(Outcome::Dropped);
            let (id, waited) = (asked.id, asked.at.elapsed());
            let name = world.name(id);
            world.violate(format!("{name}: a request waits for {waited:?}"));
        }
    }

    async fn step(&mut self, op: &Op, rng: &mut Rng) {
        let on = |process: &usize| self.running[*process];
        match op {
            Op::Requests {
                process,
                count,
                ask,
            } => {
                if let Some(id) = on(process) {
                    self.requests(id, *count, *ask);
                }
            }
            Op::Foreign(process) => {
                let Some(id) = on(process) else { return };
                let (client, life) = {
                    let world = self.world.lock();
                    let instance = &world.instances[id];
                    (instance.client.clone(), instance.life.clone())
                };
                let hosts = [
                    "https://other.example/echo",
                    "http://127.0.0.1.other.example/echo",
                    "https://evil.test/videos",
                ];
                let request = Request::get(hosts[rng.usize(..hosts.len())]);
                let request = request.body(Body::default()).expect("a good request");
                if let Some(client) = client {
                    self.callers.call(life, client.oneshot(request).map(drop));
                }
            }
            Op::Renew(process) => {
                let Some(id) = on(process) else { return };
                let source = self.world.lock().instances[id].source.clone();
                let Some(source) = source else { return };
                let generation = source.status().generation;
                let life = {
                    let mut world = self.world.lock();
                    let instance = &mut world.instances[id];
                    instance.asked.insert(generation);
                    instance.life.clone()
                };
                self.callers.call(life, source.renew().map(drop));
            }
            Op::Invalidate(process) => {
                let Some(id) = on(process) else { return };
                let source = self.world.lock().instances[id].source.clone();
                let Some(source) = source.filter(|source| source.status().is_usable) else {
                    return;
                };
                if let Some(Ok(token)) = source.token().now_or_never() {
                    source.invalidate(&token);
                    let mut world = self.world.lock();
                    world.instances[id]
                        .invalidated
                        .insert(token.expose().to_owned());
                }
            }
            Op::Keep(process) => {
                let Some(id) = on(process) else { return };
                let source = self.world.lock().instances[id].source.clone();
                let keeper = source.and_then(|source| source.keep_fresh().ok());
                let before = {
                    let mut world = self.world.lock();
                    std::mem::replace(&mut world.instances[id].keeper, keeper)
                };
                drop(before);
            }
            Op::NextCalls(process, faults) => {
                let mut world = self.world.lock();
                let weather = world.weather.entry(*process).or_default();
                weather.next = faults.iter().copied().collect();
                drop(world);
                self.asked_to_wait(faults.iter());
            }
            Op::Line(process, fault) => {
                self.world
                    .lock()
                    .weather
                    .entry(*process)
                    .or_default()
                    .lasting = *fault;
                self.asked_to_wait(fault.iter());
            }
            Op::Store(process, fault) => {
                self.world.lock().weather.entry(*process).or_default().store = *fault;
            }
            Op::EmptyStore { seeds } => {
                self.disk.empty(*seeds);
                let mut world = self.world.lock();
                world.model.emptied = Some(now());
                world.model.forgets_seeds |= seeds;
            }
            Op::LoseLocks => {
                self.disk.lose_locks();
                self.world.lock().model.locks_lost = Some(now());
            }
            Op::RevokeAccessTokens => self.world.lock().api.revoke_access_tokens(),
            Op::RevokeRefreshTokens => {
                let mut world = self.world.lock();
                world.api.revoke_refresh_tokens();
                world.model.revoke_refresh_tokens();
            }
            Op::RefuseKey(refuse) => {
                self.world.lock().api.refuse_api_key(*refuse);
                self.slack = self.slack.max(Duration::from_secs(310));
            }
            Op::Suspend(suspend) => {
                self.world.lock().api.suspend(*suspend);
                self.slack = self.slack.max(Duration::from_secs(310));
            }
            Op::WallForward(process, by) => {
                let Some(id) = on(process) else { return };
                let mut world = self.world.lock();
                world.instances[id].clock.advance_wall(*by);
                world.instances[id].free_since = Some(now());
            }
            Op::WallBack(process, by) => {
                let Some(id) = on(process) else { return };
                let mut world = self.world.lock();
                world.instances[id].clock.set_wall_back(*by);
                world.instances[id].was_set_back = true;
            }
            Op::Jump(by) => {
                {
                    let mut world = self.world.lock();
                    for asked in &mut world.requests {
                        asked.limit += *by;
                        asked.jumped += *by;
                    }
                }
                tokio::time::advance(*by).await;
            }
            Op::Sleep(by) => {
                sleep_for(*by);
                let mut world = self.world.lock();
                world.server_clock.advance(*by);
                for instance in &mut world.instances {
                    instance.clock.suspend(*by);
                    instance.free_since = Some(now());
                }
            }
            Op::Kill {
                process,
                carried_out,
            } => self.kill(*process, *carried_out).await,
            Op::ShutDown(process) => self.shut_down(*process),
            Op::Start(process) => {
                if on(process).is_none() {
                    if !self.setting.store && !self.setting.keyed[*process] {
                        // Without a store nobody knows that a seed was spent.
                        self.seeds[*process] = Some(self.mint());
                    }
                    self.start(
                        *process,
                        self.setting.keyed[*process],
                        self.seeds[*process].clone(),
                    );
                }
            }
            Op::Give { process, key, seed } => {
                let Some(id) = on(process) else { return };
                let mut credentials = Credentials::new();
                if *key {
                    credentials = credentials.api_key(self.world.lock().api.api_key());
                }
                if *seed {
                    let seed = self.mint();
                    credentials = credentials.refresh_token(seed.clone());
                    self.seeds[*process] = Some(seed);
                }
                let layer = self.world.lock().instances[id].layer.clone();
                if let Some(layer) = layer {
                    layer
                        .set_credentials(credentials)
                        .expect("good credentials");
                    let generation = layer_generation(&self.world, id);
                    let mut world = self.world.lock();
                    let instance = &mut world.instances[id];
                    instance.has_key = *key;
                    instance.key_refused = None;
                    instance.seed = self.seeds[*process].clone().filter(|_| *seed);
                    instance.free_since = Some(now());
                    instance.asked.insert(generation);
                    self.setting.keyed[*process] = *key;
                }
            }
        }
    }

    fn asked_to_wait<'a>(&mut self, faults: impl Iterator<Item = &'a crate::line::CallFault>) {
        for fault in faults {
            if let crate::line::What::RateLimited(seconds) = fault.what {
                self.slack = self.slack.max(Duration::from_secs(seconds));
            }
        }
    }

    async fn kill(&mut self, process: usize, carried_out: bool) {
        let Some(id) = self.running[process].take() else {
            return;
        };
        let (keeper, calls): (_, Vec<usize>) = {
            let mut world = self.world.lock();
            world.instances[id].life.kill();
            let keeper = world.instances[id].keeper.take();
            for asked in world.requests.iter_mut().filter(|asked| asked.id == id) {
                asked.outcome.get_or_insert(Outcome::Dropped);
            }
            let calls = world.calls.iter().filter(|call| call.by == id);
            (keeper, calls.map(|call| call.number).collect())
        };
        // It would go on for nothing.
        drop(keeper);
        for call in calls {
            if carried_out {
                carry_out(&self.world, call).await;
            }
            self.world
                .lock()
                .calls
                .retain(|under_way| under_way.number != call);
        }
    }

    /// Faults end, and whoever has a good credential works again.
    async fn recover(&mut self) {
        {
            let mut world = self.world.lock();
            world.tell(|_| "* all faults end".to_owned());
            world.weather.values_mut().for_each(|weather| {
                weather.next.clear();
                (weather.lasting, weather.store) = (None, None);
            });
            world.api.refuse_api_key(false);
            world.api.suspend(false);
        }
        sleep(LEASE + BOUND).await;
        self.overdue();
        for process in 0..self.running.len() {
            let id = match self.running[process] {
                Some(id) => id,
                None if self.setting.store || self.setting.keyed[process] => self.start(
                    process,
                    self.setting.keyed[process],
                    self.seeds[process].clone(),
                ),
                None => continue,
            };
            if self.world.lock().violation.is_some() || !self.has_way(id) {
                continue;
            }
            let begun = Instant::now();
            loop {
                let number = self.requests(id, 1, Ask::default())[0];
                while self.world.lock().requests[number].outcome.is_none() {
                    sleep(Duration::from_millis(100)).await;
                    self.overdue();
                }
                let outcome = self.world.lock().requests[number].outcome.clone();
                if outcome == Some(Outcome::Status(200)) || self.world.lock().violation.is_some() {
                    break;
                }
                if begun.elapsed() > RECOVERY + self.slack {
                    let mut world = self.world.lock();
                    let name = world.name(id);
                    world.violate(format!("{name} does not recover: {outcome:?}"));
                    break;
                }
                sleep(Duration::from_secs(1)).await;
            }
        }
    }

    /// Whether a good credential is in reach of this process.
    fn has_way(&self, id: Id) -> bool {
        let world = self.world.lock();
        let instance = &world.instances[id];
        let stored = self.disk.pair();
        let is_stored = instance.has_store
            && stored
                .as_ref()
                .and_then(|pair| pair.1.as_deref())
                .is_some_and(|t| world.model.is_live(t));
        let is_seed = instance.seed.as_deref().is_some_and(|seed| {
            world.model.is_live(seed)
                && !world.model.was_presented(seed)
                && world.model.emptied.is_none()
        });
        instance.has_key || is_stored || is_seed
    }
}

fn layer_generation(world: &Shared, id: Id) -> Option<u64> {
    let source = world.lock().instances[id].source.clone();
    source.and_then(|source| source.status().generation)
}

/// Drops it when its caller leaves: then `None`.
async fn until<T>(work: impl Future<Output = T>, leaves: Option<Leaves>) -> Option<T> {
    let polls = match leaves {
        None => return Some(work.await),
        Some(Leaves::After(pause)) => return tokio::time::timeout(pause, work).await.ok(),
        Some(Leaves::Polls(polls)) => polls,
    };
    let (mut work, mut count) = (pin!(work), 0);
    poll_fn(|cx| {
        count += 1;
        match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if count >= polls => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

fn ended(world: &Shared, number: usize, outcome: Outcome) {
    let mut world = world.lock();
    let asked = &mut world.requests[number];
    if asked.outcome.is_some() {
        // Its process was killed.
        return;
    }
    asked.outcome = Some(outcome.clone());
    let (id, waited) = (asked.id, asked.at.elapsed());
    let (is_late, must_succeed) = (waited > asked.limit, asked.must_succeed);
    let leaves_at_once = asked.leaves_at_once && !asked.has_left;
    let name = world.name(id);
    world.tell(|_| format!("{name}: a request ends after {waited:?}: {outcome:?}"));
    if is_late {
        world.violate(format!("{name}: a request has taken {waited:?}"));
    }
    let was_shut_down = world.instances[id].was_shut_down;
    if must_succeed && !was_shut_down {
        // What the sick one has saved may be refused, and one renewal may end before its mark has settled.
        let is_held_up = match &outcome {
            Outcome::Status(status) => *status == 401,
            Outcome::Failed(why) => why.contains("the store's lock"),
            Outcome::Dropped => false,
        };
        let since_when = &mut world.instances[id].held_up;
        match outcome == Outcome::Status(200) {
            true => *since_when = None,
            false => _ = since_when.get_or_insert_with(now),
        }
        if since_when.is_some_and(|at| !is_held_up || since(at) > HELD_UP) {
            world.violate(format!(
                "{name} is well, and its request ends with {outcome:?}"
            ));
        }
    }
    if leaves_at_once && outcome != Outcome::Dropped {
        world.violate(format!(
            "{name}: a request never left though a token was usable: {outcome:?}"
        ));
    }
}
