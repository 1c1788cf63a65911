//! How much a device may upload: decided from the sizes that its commit states, before the first byte. An upload
//! that is longer than it states is refused where it is read.

use headstart_protocol::text::bytes;
use headstart_protocol::wire::WireError;

use super::{codes, wire};

/// Bytes that the files of one commit may have together, as much as a device takes from an engine by default.
const LARGEST_COMMIT: u64 = 20 << 30;
/// Bytes that uploads leave free on the engine's disk, for its logs and its own stages.
const RESERVE: u64 = 1 << 30;

/// Checks that a commit whose files have `all` bytes, of which `missing` are still to be uploaded, may be stored
/// on a disk with `free` bytes left; `None` where the system does not say.
///
/// # Errors
/// [`codes::INVALID`] for a commit that is too large at any time, [`codes::NO_ROOM`] for one that may be handed
/// in again when there is room.
pub(super) fn check(all: u64, missing: u64, free: Option<u64>) -> Result<(), WireError> {
    if all > LARGEST_COMMIT {
        let m = format!("the commit brings {}, and at most {} are taken", bytes(all), bytes(LARGEST_COMMIT));
        return Err(wire(codes::INVALID, m));
    }
    match free {
        Some(free) if missing.saturating_add(RESERVE) > free => {
            tracing::error!(
                "no room for uploads of {}: {} are free on the disk, of which {} stay free",
                bytes(missing),
                bytes(free),
                bytes(RESERVE)
            );
            Err(wire(codes::NO_ROOM, format!("the engine has no room for {}", bytes(missing))))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_has_a_largest_size_and_waits_for_room() {
        let code = |all, missing, free| check(all, missing, free).err().map(|e| e.code);
        assert_eq!(code(LARGEST_COMMIT, 5, None), None);
        assert_eq!(code(LARGEST_COMMIT + 1, 0, None).as_deref(), Some(codes::INVALID));
        assert_eq!(code(u64::MAX, u64::MAX, Some(u64::MAX)).as_deref(), Some(codes::INVALID));
        assert_eq!(code(100, 100, Some(RESERVE + 100)), None);
        assert_eq!(code(100, 100, Some(RESERVE + 99)).as_deref(), Some(codes::NO_ROOM));
        assert_eq!(code(100, 0, Some(RESERVE)), None, "nothing is to be uploaded");
    }
}
