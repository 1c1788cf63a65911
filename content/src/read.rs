//! Reading files whose size somebody else decided.

use std::path::Path;

use headstart_disk::read::{Refusal, whole};

use crate::error::ContentError;

/// The whole of a regular file that is small by its nature; `None` where there is no such file.
///
/// # Errors
/// [`ContentError::TooLarge`] beyond `limit` bytes, so that a damaged or foreign file cannot fill
/// the memory; [`ContentError::Disk`].
pub fn read_bounded(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, ContentError> {
    match whole(path, limit) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(match Refusal::of(&e) {
            Some(Refusal::TooLarge { size, limit }) => {
                ContentError::TooLarge { path: path.to_owned(), size, limit }
            }
            _ => ContentError::io("read", path)(e),
        }),
    }
}
