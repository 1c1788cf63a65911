//! Names that nobody else uses.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// How many names are tried at most.
const TRIES: u32 = 64;

/// Makes something under a fresh name in `dir` that begins with `prefix`; where the name is taken, under
/// another.
pub(crate) fn in_dir<T>(
    dir: &Path,
    prefix: &str,
    mut make: impl FnMut(&Path) -> io::Result<T>,
) -> io::Result<(T, PathBuf)> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    for _ in 0..TRIES {
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        // A `RandomState` has keys that the system chose at random.
        let random = RandomState::new().hash_one((std::process::id(), count));
        let path = dir.join(format!("{prefix}{random:016x}"));
        match make(&path) {
            Ok(made) => return Ok((made, path)),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    Err(io::Error::new(ErrorKind::AlreadyExists, "no free name for a temporary file was found"))
}
