//! The rules of G11, G25 and G26, under arbitrary outcomes in arbitrary order. A reference model knows what each token was
//! presented for and what was heard of it; it says what may be presented next.

use std::{collections::HashMap, time::SystemTime};

use proptest::{
    collection::vec,
    prelude::{Just, Strategy, any},
    prop_assert, prop_assert_eq, prop_oneof, proptest,
    test_runner::{Config, TestCaseError},
};

use super::*;
use crate::store::{Header, StoredTokens};

const SECRET: &str = "test-only-secret";

#[derive(Clone, Debug)]
enum Op {
    Wait(u64),
    /// A renewal begins.
    Begin,
    /// It asks what comes next, and presents it unless the call is held back.
    Call {
        may_call: bool,
        is_held_back: bool,
    },
    /// The response to one of the calls under way, however late.
    Heard(usize, Heard),
    Give {
        key: bool,
        token: bool,
    },
    /// The store is looked at under its lock: what is there, by the side of ours.
    Enter(Stored),
    Adopt(Stored),
}

#[derive(Clone, Copy, Debug)]
enum Heard {
    /// With or without a refresh token, saved or not.
    Granted {
        refresh: bool,
        is_saved: bool,
    },
    Lone,
    NotSent,
    Transient,
    Ambiguous,
    Refused,
    Suspended,
}

#[derive(Clone, Copy, Debug)]
enum Stored {
    Nothing,
    /// Of our family, so many revisions on, with so many marks.
    Ours(i8, u32),
    /// Ours, as another process that has seen it refused leaves it.
    Refused,
    Other(u64, u32),
    LoggedOut,
}

fn op() -> impl Strategy<Value = Op> {
    let heard = prop_oneof![
        (any::<bool>(), any::<bool>())
            .prop_map(|(refresh, is_saved)| Heard::Granted { refresh, is_saved }),
        Just(Heard::Lone),
        Just(Heard::NotSent),
        Just(Heard::Transient),
        Just(Heard::Ambiguous),
        Just(Heard::Refused),
        Just(Heard::Suspended),
    ];
    let stored = || {
        prop_oneof![
            Just(Stored::Nothing),
            (-2_i8..3, 0_u32..3).prop_map(|(by, marks)| Stored::Ours(by, marks)),
            Just(Stored::Refused),
            (1_u64..4, 0_u32..2).prop_map(|(revision, marks)| Stored::Other(revision, marks)),
            Just(Stored::LoggedOut),
        ]
    };
    prop_oneof![
        1 => prop_oneof![Just(1), Just(299), Just(301), Just(3601)].prop_map(Op::Wait),
        3 => Just(Op::Begin),
        8 => (0..4).prop_map(|dice| Op::Call {
            may_call: dice != 0,
            is_held_back: dice == 1,
        }),
        8 => (0_usize..3, heard).prop_map(|(call, heard)| Op::Heard(call, heard)),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(key, token)| Op::Give { key, token }),
        2 => stored().prop_map(Op::Enter),
        1 => stored().prop_map(Op::Adopt),
    ]
}

/// What is known of a refresh token.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// The API has refused it, or has sent a pair for it with another refresh token.
    is_dead: bool,
    /// Nothing is known of a presentation.
    is_doubtful: bool,
    /// How often it was presented in this renewal while it was doubtful.
    again: u32,
}

struct Model {
    ledger: Ledger,
    round: Round,
    seconds: u64,
    generation: u64,
    tokens: u32,
    families: u64,
    /// With the number of the renewal that made each.
    calls: Vec<(Bought, u64)>,
    renewals: u64,
    known: HashMap<String, Known>,
    key_refused: Option<u64>,
    skips_until: u64,
    /// A seed is taken up once.
    taken_up: Vec<String>,
}

impl Model {
    fn new(key: bool, token: bool, has_store: bool, preference: GrantPreference) -> Self {
        let mut model = Self {
            ledger: Ledger::new(Credentials::new(), preference, has_store),
            round: Round::default(),
            seconds: 0,
            generation: 0,
            tokens: 0,
            families: 1,
            calls: Vec::new(),
            renewals: 0,
            known: HashMap::new(),
            key_refused: None,
            skips_until: 0,
            taken_up: Vec::new(),
        };
        let credentials = model.credentials(key, token);
        model.ledger = Ledger::new(credentials, preference, has_store);
        model
    }

    fn now(&self) -> Now {
        let since = Duration::from_secs(self.seconds);
        Now::new(SystemTime::UNIX_EPOCH + since, since)
    }

    fn new_token(&mut self) -> RefreshToken {
        self.tokens += 1;
        format!("{SECRET}-{}", self.tokens).into()
    }

    fn credentials(&mut self, key: bool, token: bool) -> Credentials {
        let mut credentials = Credentials::new();
        if key {
            credentials = credentials.api_key(format!("{SECRET}-key"));
        }
        if token {
            let token = self.new_token();
            credentials = credentials.refresh_token(token.expose());
        }
        credentials
    }

    fn known(&mut self, token: &RefreshToken) -> &mut Known {
        self.known.entry(token.expose().to_owned()).or_default()
    }

    fn has_usable_key(&self) -> bool {
        let is_refused = |at: u64| self.seconds < at + ASK_AGAIN.as_secs();
        self.ledger.api_key.is_some() && !self.key_refused.is_some_and(is_refused)
    }

    fn step(&mut self, op: &Op) -> Result<(), TestCaseError> {
        let (before, held) = (self.ledger.version, self.ledger.refresh_token.clone());
        match op {
            Op::Wait(seconds) => self.seconds += seconds,
            Op::Begin => {
                self.round = Round::new(self.ledger.edition());
                self.renewals += 1;
                self.known.values_mut().for_each(|known| known.again = 0);
            }
            Op::Call {
                may_call,
                is_held_back,
            } => self.call(*may_call, *is_held_back)?,
            Op::Heard(call, heard) => {
                if !self.calls.is_empty() {
                    let call = call % self.calls.len();
                    let is_last = call + 1 == self.calls.len();
                    let (bought, renewal) = self.calls.remove(call);
                    let is_waited_for = is_last && renewal == self.renewals;
                    self.heard(&bought, *heard, is_waited_for)?;
                }
            }
            Op::Give { key, token } => {
                let key = *key || !*token;
                let credentials = self.credentials(key, *token);
                self.ledger.give(credentials);
                (self.key_refused, self.skips_until) = (None, 0);
                self.known.values_mut().for_each(|known| known.again = 0);
            }
            Op::Enter(stored) => self.enter(*stored)?,
            Op::Adopt(stored) => {
                if let Some(stored) = self.stored(*stored)
                    && stored.tokens().refresh_token.is_some()
                    && stored.version().revision > 0
                    && self.ledger.version.is_none_or(|ours| {
                        stored.version().family != ours.family
                            || stored.version().revision > ours.revision
                    })
                {
                    self.ledger.adopt(&stored, self.generation);
                    self.generation += 1;
                    self.took(&stored);
                }
            }
        }
        // G25: within a family nothing goes back. After a refusal, what is stored may be older, and is not presented.
        if let (Some(before), Some(after)) = (before, self.ledger.version)
            && before.family == after.family
            && self.ledger.refresh_token.is_some()
        {
            prop_assert!(after.revision >= before.revision, "revision {:?}", after);
        }
        // What a caller can take away makes a pair with its access token, and is not doubtful.
        if let Some(token) = self.ledger.refresh_token_of(self.generation) {
            let known = *self.known(&token);
            prop_assert!(
                !known.is_dead && !known.is_doubtful,
                "a pair with {known:?}"
            );
        }
        // What was given or bought does not come back for an earlier one.
        if let (Some(held), Some(now)) = (held, &self.ledger.refresh_token)
            && held != *now
        {
            prop_assert!(!self.known(&now.clone()).is_dead, "a dead token is held");
        }
        let texts = format!("{:?} {:?}", self.ledger, self.round);
        prop_assert!(!texts.contains(SECRET), "a secret in {}", texts);
        Ok(())
    }

    fn call(&mut self, may_call: bool, is_held_back: bool) -> Result<(), TestCaseError> {
        let now = self.now();
        let is_new_edition = self.round.edition != self.ledger.edition;
        let next = self.ledger.next_grant(&mut self.round, may_call, now);
        let grant = match next {
            Err(failure) => {
                let texts = format!("{:?} {}", failure.error, failure.error);
                prop_assert!(!texts.contains(SECRET), "a secret in {}", texts);
                prop_assert!(!self.has_usable_key(), "the API key was not tried");
                let spends = self.ledger.preference == GrantPreference::RefreshToken;
                let holds = self.ledger.refresh_token.is_some() && spends;
                prop_assert!(!holds || self.round.store_failed.is_some());
                return Ok(());
            }
            Ok(None) => {
                let is_represented = self.ledger.in_doubt && self.round.represented;
                prop_assert!(!may_call || is_represented, "nothing comes next");
                return Ok(());
            }
            Ok(Some((grant, _))) => grant,
        };
        prop_assert!(may_call);
        if is_new_edition {
            self.known.values_mut().for_each(|known| known.again = 0);
        }
        if is_held_back {
            self.round.held_back();
            return Ok(());
        }
        match &grant {
            Grant::ApiKey(_) => prop_assert!(self.has_usable_key(), "a refused key is asked"),
            Grant::RefreshToken(token) => {
                let (has_key, skips) = (self.has_usable_key(), self.seconds < self.skips_until);
                prop_assert_eq!(self.ledger.preference, GrantPreference::RefreshToken);
                prop_assert!(!(has_key && skips), "refreshing was given up");
                let known = self.known(token);
                prop_assert!(!known.is_dead, "a dead token is presented");
                prop_assert!(!(has_key && known.is_doubtful), "and not the API key");
                known.again += u32::from(known.is_doubtful);
                prop_assert!(known.again <= 1, "twice in one renewal");
                known.is_doubtful = true;
            }
        }
        let version = self.ledger.version;
        let bought = self
            .ledger
            .presented(&grant, self.generation, version, false);
        self.calls
            .extend(bought.map(|bought| (bought, self.renewals)));
        Ok(())
    }

    /// If no renewal waits for it any more, only what is certain counts.
    fn heard(
        &mut self,
        bought: &Bought,
        heard: Heard,
        is_waited_for: bool,
    ) -> Result<(), TestCaseError> {
        let (now, grant) = (self.now(), bought.grant().clone());
        let error = Error::new(ErrorKind::Unavailable, "test-only");
        let token = match &grant {
            Grant::RefreshToken(token) => Some(token.clone()),
            Grant::ApiKey(_) => None,
        };
        let was_doubtful = self.round.was_in_doubt;
        let outcome = match heard {
            Heard::Granted { refresh, is_saved } => {
                let new = refresh.then(|| self.new_token());
                if let Some(token) = token.filter(|_| refresh) {
                    self.known(&token).is_dead = true;
                }
                let version = match bought.version() {
                    Some(version) if !bought.is_login() => Version {
                        revision: version.revision + 1,
                        ..version
                    },
                    _ => {
                        self.families += 1;
                        Version {
                            family: self.families,
                            revision: 1,
                        }
                    }
                };
                let saved = self.ledger.has_store.then_some((version, is_saved));
                let is_newest = bought.edition() == self.ledger.edition;
                let is_used = self.ledger.received(bought, new, self.generation, saved);
                prop_assert!(
                    is_newest || !is_used || !self.ledger.has_store,
                    "of older credentials"
                );
                self.generation += u64::from(is_used);
                if is_used && bought.is_login() {
                    self.key_refused = None;
                }
                return Ok(());
            }
            Heard::Lone => {
                let new = self.new_token();
                let is_kept = self.ledger.received_alone(bought, new, self.generation);
                if let Some(token) = token {
                    self.known(&token).is_dead = true;
                }
                prop_assert!(!is_kept || self.ledger.refresh_token.is_some());
                return Ok(());
            }
            Heard::NotSent => Outcome::NotSent(error),
            Heard::Transient => Outcome::Transient { error, wait: None },
            Heard::Suspended => Outcome::Suspended(error),
            Heard::Ambiguous => Outcome::Ambiguous {
                error,
                refresh_token: None,
            },
            Heard::Refused => Outcome::Refused(error),
        };
        let mut nobody = Round::default();
        let round = match is_waited_for {
            true => &mut self.round,
            false if matches!(heard, Heard::Refused) => &mut nobody,
            false => return Ok(()),
        };
        let gives_up = self.ledger.apply(&grant, &outcome, round, now);
        if gives_up {
            prop_assert!(self.ledger.api_key.is_some());
            self.skips_until = self.seconds + SKIP_REFRESH.as_secs();
        }
        match (heard, token) {
            (Heard::Refused, Some(token)) => self.known(&token).is_dead = true,
            (Heard::Refused, None) if self.ledger.has(&grant) => {
                self.key_refused = Some(self.seconds);
            }
            // A doubt from before the call stays.
            (Heard::NotSent | Heard::Transient | Heard::Suspended, Some(token)) => {
                self.known(&token).is_doubtful &= was_doubtful;
            }
            _ => {}
        }
        Ok(())
    }

    fn stored(&mut self, stored: Stored) -> Option<Snapshot> {
        let ours = self.ledger.version.unwrap_or(Version {
            family: 1,
            revision: 1,
        });
        let (version, marks) = match stored {
            Stored::Nothing => return None,
            Stored::LoggedOut => {
                self.families += 1;
                let family = self.families;
                return Some(Snapshot::logged_out(Header::new(Version {
                    family,
                    revision: 1,
                })));
            }
            Stored::Ours(by, marks) => {
                let revision = ours.revision.saturating_add_signed(i64::from(by)).max(1);
                (Version { revision, ..ours }, marks)
            }
            Stored::Refused => (ours, 0),
            Stored::Other(revision, marks) => {
                self.families += 1;
                let family = self.families;
                (Version { family, revision }, marks)
            }
        };
        let is_same = Some(version) == self.ledger.version;
        let token = match self.ledger.refresh_token.clone().filter(|_| is_same) {
            Some(token) => token,
            None if is_same => return None,
            None => self.new_token(),
        };
        let tokens = StoredTokens {
            refresh_token: Some(token),
            ..StoredTokens::default()
        };
        let mut snapshot = Snapshot::new(Header::new(version), tokens);
        if marks > 0 {
            snapshot.mark(marks, Duration::ZERO);
        }
        if matches!(stored, Stored::Refused) {
            snapshot.forget_tokens();
        }
        Some(snapshot)
    }

    /// As `fleet::agree` does.
    fn enter(&mut self, stored: Stored) -> Result<(), TestCaseError> {
        if !self.ledger.has_store {
            return Ok(());
        }
        let mut stored = self.stored(stored);
        if let Some((version, marks, token)) = self.ledger.write_back(stored.as_ref()) {
            prop_assert!(!self.known(&token).is_dead, "a dead token is written back");
            prop_assert!(
                stored
                    .as_ref()
                    .is_none_or(|stored| stored.is_behind(version))
            );
            prop_assert_eq!(marks > 0, self.ledger.in_doubt);
            self.ledger.saved(version);
            self.ledger.marked(Some(version), marks);
            return Ok(());
        }
        self.ledger.agree(stored.as_ref());
        if let Some(stored) = &stored {
            self.took(stored);
        }
        if let Some(seed) = self.ledger.needed_seed()
            && !self.has_usable_key()
        {
            let name = seed.expose().to_owned();
            prop_assert!(!self.taken_up.contains(&name), "a seed is taken up again");
            prop_assert!(self.ledger.refresh_token.is_none());
            self.taken_up.push(name);
            let planted = stored.insert(Snapshot::planted(seed.clone()));
            self.ledger.agree(Some(planted));
            self.ledger.forget_seed(&seed);
            prop_assert!(self.ledger.has(&Grant::RefreshToken(seed)));
        }
        Ok(())
    }

    /// What another process may have done with it is as good as our own doubt.
    fn took(&mut self, stored: &Snapshot) {
        if let Some(token) = &stored.tokens().refresh_token {
            let is_doubtful = self.ledger.in_doubt;
            self.known(token).is_doubtful = is_doubtful;
        }
    }
}

proptest! {
    #![proptest_config(Config {
        cases: 500,
        failure_persistence: None,
        ..Config::default()
    })]

    #[test]
    fn g11_whatever_comes_in_whatever_order_no_rule_is_broken(
        (key, token, has_store, logs_in) in any::<(bool, bool, bool, bool)>(),
        ops in vec(op(), 1..60),
    ) {
        let preference = match logs_in && key {
            true => GrantPreference::ApiKey,
            false => GrantPreference::RefreshToken,
        };
        let mut model = Model::new(key, token, has_store, preference);
        for op in &ops {
            model.step(op)?;
        }
    }
}
