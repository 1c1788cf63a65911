//! One module for each view.

pub(crate) mod cache;
pub(crate) mod catalog;
pub(crate) mod compare;
pub(crate) mod devices;
pub(crate) mod news;
pub(crate) mod progress;
pub(crate) mod run;
pub(crate) mod runs;
pub(crate) mod schedules;
pub(crate) mod sign_in;
pub(crate) mod stage;
