//! What can be seen of a source: events, log lines, metrics, and the table that names them (guarantee G29).

mod events;
mod log;
mod metrics;
mod table;
