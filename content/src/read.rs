//! Reading files whose size somebody else decided.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::ContentError;

/// The whole of a file that is small by its nature; `None` where there is no such file.
///
/// # Errors
/// [`ContentError::TooLarge`] beyond `limit` bytes, so that a damaged or foreign file cannot fill
/// the memory; [`ContentError::Disk`].
pub fn read_bounded(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, ContentError> {
    let failed = |e| ContentError::io("read", path)(e);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    let size = file.metadata().map_err(failed)?.len();
    let mut bytes = Vec::with_capacity(usize::try_from(size.min(limit)).unwrap_or(0));
    // One byte more than allowed shows that the file is, or has grown, too large.
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limit {
        let size = size.max(bytes.len() as u64);
        return Err(ContentError::TooLarge { path: path.to_owned(), size, limit });
    }
    Ok(Some(bytes))
}
