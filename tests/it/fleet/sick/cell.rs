//! One cell: a fleet of three, one of which is sick while the others renew.

use apivideo_auth::Credentials;
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    member::{Asked, Member},
    sickness::{Health, Onset, Sickness},
    stores::{Kind, Shared},
    *,
};

const SICK_FROM: Duration = Duration::from_secs(60);
const SICK_UNTIL: Duration = Duration::from_secs(4800);
const ENDS: Duration = Duration::from_secs(6600);

/// After this at the latest a member is well again, and what others waited for is there.
const RECOVERS_WITHIN: Duration = Duration::from_secs(31);

/// What happened in a cell.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) healthy: Asked,
    /// While it was sick.
    pub(super) sick: Asked,
    /// All but those of an operator.
    pub(super) token_calls: usize,
    pub(super) logins: usize,
    pub(super) is_presented_twice: bool,
}

/// What it costs the healthy ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Price {
    Nothing,
    /// They have nothing to go on with until it is mended: the sick one alone has the newest pair, and its lock says so.
    Waiting,
    /// The same, but its lock has ended: the refresh token is presented once more, when the mark on it has settled (G22).
    AnotherPresentation,
}

impl Price {
    fn of(sickness: Sickness, onset: Onset, kind: Kind, has_key: bool) -> Self {
        if has_key || onset == Onset::BeforeRenewal {
            Self::Nothing
        } else if kind == Kind::Redis && sickness.ends_lease() {
            Self::AnotherPresentation
        } else {
            Self::Waiting
        }
    }
}

pub(super) async fn play(sickness: Sickness, onset: Onset, kind: Kind, has_key: bool) -> Seen {
    let name = format!("{}, {kind:?}, key: {has_key}", sickness.name(onset));
    let price = Price::of(sickness, onset, kind, has_key);
    // For all jitter.
    fastrand::seed(7);
    let (clock, own_clock) = (ManualClock::with_tokio(), ManualClock::with_tokio());
    let api = FakeApi::builder()
        .clock(clock.clone())
        .journal(false)
        .build();
    let shared = Shared::new(kind, sickness);
    let with_key = |builder: Builder| builder.api_key(api.api_key());
    let like_all = |builder: Builder, window: f64| {
        let builder = builder.early_window(seconds(window));
        if has_key { with_key(builder) } else { builder }
    };
    let start = |change: &dyn Fn(Builder) -> Builder| {
        Member::start(&api, shared.healthy(&clock), &clock, None, change)
    };
    let log_in = async || {
        let operator = start(&with_key);
        operator
            .client
            .source::<Body>()
            .renew()
            .await
            .expect("a login");
        assert!(operator.layer.shutdown(HOUR).await);
    };
    log_in().await;

    let begun = Instant::now();
    let healthy = [0, 1].map(|_| start(&|builder| like_all(builder, 300.0)));
    let health = Health::new(sickness, onset);
    // Its early window makes the sick one the first that renews.
    let sick = Member::start(
        &api,
        shared.sick(&own_clock, &health),
        &own_clock,
        Some(health.clone()),
        |builder| like_all(builder, 900.0),
    );
    let change_clock = |is_set_forward: bool| {
        if is_set_forward {
            own_clock.advance_wall(2 * HOUR);
        } else {
            own_clock.set_wall_back(2 * HOUR);
        }
    };
    let give_key = |key: Option<&str>| {
        let credentials = Credentials::new();
        let credentials = match key {
            Some(key) => credentials.api_key(key),
            None => credentials,
        };
        sick.layer.set_credentials(credentials).expect("good ones");
    };

    let falls_ill = async {
        sleep_until(begun + SICK_FROM).await;
        health.fall_ill();
        match sickness {
            Sickness::ClockAhead => change_clock(true),
            Sickness::ClockBehind => change_clock(false),
            Sickness::OtherApiKey => give_key(Some("test-only-other-key")),
            _ => {}
        }
        if sickness.ends_lease() {
            health.begun.notified().await;
            sleep(seconds(5.0)).await;
            shared.end_lease();
        }
    };
    let is_sick_and_recovers = async {
        let (_, seen) = tokio::join!(falls_ill, sick.ask_until(begun + SICK_UNTIL));
        health.recover();
        match sickness {
            Sickness::ClockAhead => change_clock(false),
            Sickness::ClockBehind => change_clock(true),
            Sickness::OtherApiKey => give_key(has_key.then_some(api.api_key())),
            _ => {}
        }
        if price == Price::AnotherPresentation {
            // A strict server has revoked the family.
            log_in().await;
        }
        let mended = Instant::now();
        loop {
            let outcome = sick.ask().await;
            if outcome == "served" {
                break;
            }
            assert!(mended.elapsed() < RECOVERS_WITHIN, "{name}: {outcome}");
            sleep(seconds(0.5)).await;
        }
        (seen, sick.ask_until(begun + ENDS).await)
    };
    let is_healthy = async |member: &Member, at: f64| {
        // At times of their own, so that the machine does not settle who is first.
        sleep(seconds(at)).await;
        let seen = member.ask_until(begun + SICK_UNTIL).await;
        sleep(seconds(160.0) + RECOVERS_WITHIN).await;
        (seen, member.ask_until(begun + ENDS).await)
    };
    let ((mut seen, after), (other, after_other), (sick_one, recovered)) = tokio::join!(
        is_healthy(&healthy[0], 1.0),
        is_healthy(&healthy[1], 2.0),
        is_sick_and_recovers
    );
    seen.add(other);
    for after in [after, after_other, recovered] {
        assert!(after.is_well(), "{name}: {after:?}");
    }
    assert!(
        seen.is_well() == (price == Price::Nothing),
        "{name}: {seen:?}"
    );
    for member in healthy.iter().chain([&sick]) {
        assert!(member.layer.shutdown(HOUR).await, "{name}");
    }
    let (counts, is_presented_twice) = (api.counts(), api.most_presentations() > 1);
    let is_allowed = price == Price::AnotherPresentation;
    assert_eq!(
        (is_presented_twice, counts.reuse_violations),
        (is_allowed, usize::from(is_allowed)),
        "{name}"
    );
    let of_operator = 1 + usize::from(is_presented_twice);
    Seen {
        healthy: seen,
        sick: sick_one,
        token_calls: counts.token_calls - of_operator,
        logins: counts.logins - of_operator,
        is_presented_twice,
    }
}
