//! Seven ways in which a source stopped serving although it could, each as a test of what is promised instead.

mod found;
mod full_store;
mod hanging;
mod paths;
mod rejected;
mod replaced;
mod slots;
mod timeouts;
mod unpolled;
