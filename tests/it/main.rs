//! One module per promise; a test's name begins with the guarantee it proves.

#![cfg(test)] // where clippy lets tests unwrap

mod attacks;
mod bodies;
mod browser_upload;
mod connections;
mod contract;
mod examples;
mod fleet;
mod freshness;
mod gateway;
mod keepers;
mod lifecycle;
#[cfg(target_os = "linux")] // whose words some of the messages end with
mod messages;
mod min_lifetime;
mod observing;
mod openapi;
mod origins;
mod outages;
mod outcomes;
mod readiness;
mod readme;
mod redirects;
mod redis_server;
mod reqwest;
mod responses;
mod runtimes;
mod secrets;
mod single_flight;
mod stacks;
mod stores;
mod support;
mod threads;
mod traces;
mod transports;
mod unauthorized;
mod upload_tokens;
mod uploads;
mod with_upload_token;
