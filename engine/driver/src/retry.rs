//! When an attempt that failed is tried again.

use std::time::Duration;

use headstart_core::RunState;
use headstart_dsl::plan::Place;
use headstart_env::Random;
use headstart_env::backoff::Backoff;
use headstart_protocol::contract::NOT_APPROVED;
use headstart_protocol::{Failure, FailureClass};

/// How often a missing artifact may send an attempt back, beyond its own retries.
const MISSING_RETRIES: u32 = 3;
/// Pause before the first retry, unless the pipeline says otherwise.
const BACKOFF: Duration = Duration::from_secs(1);
/// Longest pause before a retry, before it is varied.
const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// When to try again after a failure that may pass; `None` for one that does not, or if it was tried often
/// enough.
pub(crate) fn retry_at(
    state: &RunState,
    instance: u32,
    failure: &Failure,
    now: u64,
    random: &dyn Random,
) -> Option<u64> {
    let failures = state.failures(instance);
    let tries = match failure.class {
        // Its device lacks something, and may get it: as often as that takes.
        class if class.is_environment() => state.lost(instance),
        FailureClass::Transient | FailureClass::Timeout => {
            (failures < state.instance(instance).policy.retry).then_some(failures)?
        }
        // Before the next attempt, losses are counted.
        FailureClass::Lost => state.stage_losses(instance),
        // Its device stopped it, and will ask for work again.
        FailureClass::Cancelled if state.instance(instance).place != Place::Server => 0,
        // The device takes it once its owner has approved it; until then it is not offered.
        FailureClass::Denied if failure.message == NOT_APPROVED => return Some(now),
        FailureClass::MissingArtifact if failures < MISSING_RETRIES => return Some(now),
        _ => return None,
    };
    let first = state.instance(instance).policy.backoff_ms.map_or(BACKOFF, Duration::from_millis);
    let backoff = Backoff { first, factor: 2.0, longest: MAX_BACKOFF.max(first), tries: None };
    let pause = backoff.after(tries as usize, random)?;
    Some(now.saturating_add(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)))
}
