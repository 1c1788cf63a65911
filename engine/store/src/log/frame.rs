//! The bytes of a log, and how they are read.

use std::path::Path;

use crate::error::StoreError;

/// Bytes before the first record.
const FILE_HEADER: usize = 16;
/// Bytes before a record's body.
const HEADER: usize = 20;
/// What a disk writes whole or not at all.
const SECTOR: usize = 512;
/// Version of the format.
const VERSION: u32 = 1;

const FILE_MAGIC: &[u8; 8] = b"HSLOG\r\n\x1a";
const MAGIC: &[u8; 4] = b"HSR1";

/// The bytes that every log begins with.
pub(crate) fn file_header() -> [u8; FILE_HEADER] {
    let mut out = [0; FILE_HEADER];
    out[..8].copy_from_slice(FILE_MAGIC);
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    let crc = crc32fast::hash(&out[..12]);
    out[12..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// The chain value before the first record.
pub(crate) fn first_chain() -> u32 {
    u32_at(&file_header(), 12)
}

/// Appends a record to `out` and gives the chain value after it.
pub(crate) fn encode(out: &mut Vec<u8>, body: &[u8], events: u32, chain: u32) -> u32 {
    let start = out.len();
    out.extend_from_slice(MAGIC);
    let length = u32::try_from(body.len()).expect("the writer keeps records far below 4 GiB");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&events.to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(body).to_le_bytes());
    let next = head_crc(chain, &out[start..start + 16]);
    out.extend_from_slice(&next.to_le_bytes());
    out.extend_from_slice(body);
    next
}

fn head_crc(chain: u32, first16: &[u8]) -> u32 {
    let mut h = crc32fast::Hasher::new();
    h.update(&chain.to_le_bytes());
    h.update(first16);
    h.finalize()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// What is at a position of a log.
enum Found {
    /// An intact record.
    Record {
        /// Where its body begins.
        body: usize,
        /// Where it ends.
        end: usize,
        /// How many events it holds.
        events: u32,
        /// The chain value after it.
        chain: u32,
    },
    /// The end, or a record that was not written to its end.
    End,
    /// Damage.
    Corrupt(&'static str),
}

/// Goes through the intact records of the log at `path`, whose content is `bytes`: gives `each` where
/// a record begins, its body, and how many events that holds. Returns where the intact part ends and
/// the chain value there; what follows is torn.
pub(crate) fn records(
    path: &Path,
    bytes: &[u8],
    each: impl FnMut(usize, &[u8], u32) -> Result<(), StoreError>,
) -> Result<(usize, u32), StoreError> {
    if let Some(why) = wrong_header(bytes) {
        return Err(StoreError::corrupt(path, 0, why));
    }
    if bytes.len() < FILE_HEADER {
        return Ok((0, first_chain()));
    }
    let (end, chain) = records_from(path, &bytes[FILE_HEADER..], FILE_HEADER, first_chain(), each)?;
    Ok((end, chain))
}

/// As [`records`], where `bytes` begin at `offset` of the file, behind a record with this chain value.
pub(crate) fn records_from(
    path: &Path,
    bytes: &[u8],
    offset: usize,
    mut chain: u32,
    mut each: impl FnMut(usize, &[u8], u32) -> Result<(), StoreError>,
) -> Result<(usize, u32), StoreError> {
    let mut at = 0;
    loop {
        match check(bytes, at, offset, chain) {
            Found::Record { body, end, events, chain: next } => {
                each(offset + at, &bytes[body..end], events)?;
                (at, chain) = (end, next);
            }
            Found::End => return Ok((offset + at, chain)),
            Found::Corrupt(why) => return Err(StoreError::corrupt(path, offset + at, why)),
        }
    }
}

/// Why the beginning of a file is invalid; it may have been written only in part.
fn wrong_header(bytes: &[u8]) -> Option<&'static str> {
    let expected = file_header();
    let head = &bytes[..bytes.len().min(FILE_HEADER)];
    let unwritten = head.len() < FILE_HEADER && head.iter().all(|b| *b == 0);
    if expected.starts_with(head) || unwritten {
        None
    } else if head.len() < FILE_HEADER {
        Some("this is not an event log")
    } else if head.starts_with(FILE_MAGIC) && crc32fast::hash(&head[..12]) == u32_at(head, 12) {
        Some("it was written by another version of Headstart")
    } else {
        Some("this is not an event log, or its first bytes are damaged")
    }
}

/// What is at `at` of bytes that begin at `offset` of the file.
fn check(bytes: &[u8], at: usize, offset: usize, chain: u32) -> Found {
    let rest = &bytes[at..];
    if rest.len() < HEADER {
        return Found::End;
    }
    let sane = rest.starts_with(MAGIC) && head_crc(chain, &rest[..16]) == u32_at(rest, 16);
    let length = u32_at(rest, 4) as usize;
    if !sane {
        if followed_by_record(rest) {
            return Found::Corrupt("a record's header is damaged");
        }
        let header_unwritten = unwritten(rest, offset + at, HEADER);
        return if header_unwritten { Found::End } else { Found::Corrupt("a record's header is damaged") };
    }
    let end = HEADER + length;
    if end > rest.len() {
        return Found::End;
    }
    if crc32fast::hash(&rest[HEADER..end]) != u32_at(rest, 12) {
        let last = end == rest.len();
        if last && unwritten(rest, offset + at, end) {
            return Found::End;
        }
        return Found::Corrupt("a record's content is damaged");
    }
    Found::Record { body: at + HEADER, end: at + end, events: u32_at(rest, 8), chain: u32_at(rest, 16) }
}

/// Whether a sector, as far as it lies in the first `length` bytes, is all zeros: it was never
/// written. `offset` is where `bytes` begin in the file.
fn unwritten(bytes: &[u8], offset: usize, length: usize) -> bool {
    let to_boundary = SECTOR - offset % SECTOR;
    let mut start = 0;
    let mut end = to_boundary.min(length);
    while start < length {
        if bytes[start..end].iter().all(|b| *b == 0) {
            return true;
        }
        start = end;
        end = (end + SECTOR).min(length);
    }
    false
}

/// Whether an intact record begins anywhere later. It need not chain to anything: that it is there
/// shows that what precedes it was once complete.
fn followed_by_record(rest: &[u8]) -> bool {
    let mut from = 1;
    while let Some(found) = rest[from..].windows(4).position(|w| w == MAGIC) {
        let at = from + found;
        let record = &rest[at..];
        if record.len() >= HEADER {
            let end = (u32_at(record, 4) as usize).saturating_add(HEADER);
            if end <= record.len() && crc32fast::hash(&record[HEADER..end]) == u32_at(record, 12) {
                return true;
            }
        }
        from = at + 1;
    }
    false
}
