//! The token source: the token in use, the credentials, and the one renewal that may be under way.
//!
//! From the ground up; each file uses only those above it in this list.
//!
//! | file | what it is |
//! | --- | --- |
//! | `policy` | numbers in, a decision out |
//! | `events` | what a source tells |
//! | `log` | each event as a line of `tracing`, and the span of a renewal |
//! | `metrics` | each event as metrics (feature `metrics`) |
//! | `teller` | the one place that tells it |
//! | `deadline` | the one timer that knows it overslept |
//! | `cool_down` | when nobody calls, and with which error |
//! | `single_flight` | one leader at a time; knows no tokens |
//! | `current` | the token that requests use; the one owner of generations |
//! | `rejections` | which 401s are worth a renewal |
//! | `snapshot` | what is stored, and which pair goes before which |
//! | `session` | the store under its lock |
//! | `store_session` | the store of a source, and the pair that could not be saved |
//! | `spent_seeds` | which given refresh tokens are spent |
//! | `bought` | what a response was bought with |
//! | `failure` | why a renewal ends without a token |
//! | `ledger` | which credential comes next; the one home of the refresh token |
//! | `awaited` | the one response that nobody waits for any more |
//! | `state` | all of the above in one place |
//! | `saver` | goes on saving a pair that could not be saved |
//! | `commit` | saves what came in, then puts it to use |
//! | `attempt` | one token call, which commits what it brings |
//! | `fleet` | adopts from the store, agrees with it, leaves it to others |
//! | `report` | what one renewal tells: its span, start, attempts and end |
//! | `renewal` | the leader: calls until there is a token |
//! | `acquire` | have a token, or join or start a renewal, and wait |
//! | `keeper` | renewal without traffic |
//! | `token_source` | the public face |

mod acquire;
mod attempt;
mod awaited;
mod bought;
mod commit;
mod cool_down;
mod current;
mod deadline;
mod events;
mod failure;
mod fleet;
mod keeper;
mod ledger;
mod log;
#[cfg(feature = "metrics")]
mod metrics;
mod policy;
mod rejections;
mod renewal;
mod report;
mod saver;
mod session;
mod single_flight;
mod snapshot;
mod spent_seeds;
mod state;
mod store_session;
mod teller;
mod token_source;

pub(crate) use self::{
    acquire::{SlotWanted, Tokens},
    current::Generations,
    state::Settings,
    store_session::SourceStore,
    teller::Teller,
};
pub use self::{
    events::{AttemptOutcome, Event, Events, GrantType, Notice, RenewalEvent, RenewalReason},
    keeper::KeepFresh,
    token_source::{SourceStatus, StoreStatus, TokenSource},
};
