//! Signed webhooks, and notifications that are delivered at least once.
//!
//! # Layout
//! - [`Secret`]: signs and verifies calls, in the form of the Standard Webhooks specification.
//! - [`Notice`], [`Event`]: what is told. [`Targets`]: to whom.
//! - [`Notifier`]: keeps notices until they are delivered, and delivers them.

mod deliver;
mod notice;
mod queue;
mod secret;

pub use notice::{Event, Notice};
pub use queue::{Notifier, NotifyError, Targets};
pub use secret::{SIGNED_WITHIN, Secret};
