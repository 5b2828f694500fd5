//! Guides: how the crate works, for those who use it.
//!
//! The reference says what each item does. A guide tells one story from its beginning to its end, with
//! the numbers and the reasons. These modules have no items: they are to be read.
//!
//! - [Expiry and renewal](expiry_and_renewal): the life of a token, which credential is presented next,
//!   and what a caller sees while a renewal runs, fails or hangs.
//! - [Bodies](bodies): which request bodies can be sent, what the builder has to be told of them, and what is sent again.
//! - [Stores and fleets](stores_and_fleets): which store for what, what processes that share one do, what goes wrong, and a
//!   store of your own.
//! - [Observing](observing): events, log, metrics; what to alert on, and what each warning means.
//! - [Login](login): five minutes from an API key to a program that never sees it, with the command line.
#![cfg_attr(
    feature = "upload-tokens",
    doc = "- [Uploads](uploads): what is sent again and what is not, what an error means, how to go on in another process."
)]

pub mod bodies;
pub mod expiry_and_renewal;
pub mod login;
pub mod observing;
pub mod stores_and_fleets;
#[cfg(feature = "upload-tokens")]
pub mod uploads;
