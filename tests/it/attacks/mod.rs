//! Seven ways in which a source stopped serving although it could, each as a test of what is promised instead.

mod equal;
mod found;
mod full_store;
mod hanging;
mod late_responses;
mod paths;
mod rejected;
mod replaced;
mod revoked;
mod slots;
mod timeouts;
mod unpolled;
