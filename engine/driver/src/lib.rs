//! Drives a run: folds events, looks up the cache, hands tasks to runners.
//!
//! # Layout
//! - [`hub`]: the devices.
pub mod hub;

pub use hub::{DeviceInfo, Hub};
