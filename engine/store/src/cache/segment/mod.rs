//! Segments: the append-only files that hold the cache.
//!
//! Each process appends to a segment of its own; every process reads all of them. A segment is
//! sealed by an index beside it when its process ends, when it is long enough, or by another process that
//! finds it abandoned. Until then whoever reads it keeps in memory where its entries are.
//!
//! # Format
//! A segment begins with 24 bytes: `HSSEG\r\n\x1a`, the format version as a little-endian `u32`, a random
//! `u64`, the segment's salt, and the CRC-32 of those twenty bytes. Then follow frames, one for each entry:
//!
//! | bytes | what |
//! | --- | --- |
//! | 4 | `HSC1` |
//! | 4 | kind of the entry, little endian |
//! | 4 | length of the body |
//! | 4 | CRC-32 of the body |
//! | 4 | CRC-32 of the salt, the frame's offset in the file, and the 16 bytes above |
//! | … | body, see [`entry`] |
//!
//! A frame proves by itself that it is whole and where it belongs, so what is intact behind a damaged
//! one counts.
//!
//! # What a crash can leave
//! The last frames may be incomplete: the file ends inside one, or sectors of them were never written
//! and read as zeros. That is a torn tail; it is cut when the segment is sealed.
//!
//! # Layout
//! - [`frame`]: frames, and how a file of them is read.
//! - [`entry`]: what a frame holds.
//! - [`index`]: the index beside a sealed segment.
//! - [`own`]: the segment that this process appends to.
//! - [`set`]: all segments of a workspace.

pub(crate) mod entry;
pub(crate) mod frame;
pub(crate) mod index;
pub(crate) mod own;
pub(crate) mod set;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;

/// Where a frame is in its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loc {
    pub(crate) offset: u64,
    /// Bytes of the frame, header included.
    pub(crate) len: u32,
}

/// Fills `buffer` from an offset of a file, whose position does not move.
#[cfg(unix)]
pub(crate) fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

/// Fills `buffer` from an offset of a file.
#[cfg(windows)]
pub(crate) fn read_exact_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, buffer, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => (buffer, offset) = (&mut buffer[n..], offset + n as u64),
        }
    }
    Ok(())
}
