//! Frames: their bytes, and how a file of them is read.

use std::fs::File;
use std::io;

use super::{Loc, read_exact_at};

/// Bytes before the first frame.
pub(crate) const FILE_HEADER: usize = 24;
/// Bytes before a frame's body.
pub(crate) const HEADER: usize = 20;
/// Bytes of a frame at most.
pub(crate) const LARGEST: usize = 1 << 30;
/// What a disk writes whole or not at all.
const SECTOR: u64 = 512;
/// Version of the format.
const VERSION: u32 = 1;
/// Bytes that are read at once where a segment is read from end to end.
const WINDOW: usize = 1 << 20;

const FILE_MAGIC: &[u8; 8] = b"HSSEG\r\n\x1a";
const MAGIC: &[u8; 4] = b"HSC1";

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Stage = 1,
    Forget = 2,
    Embedding = 3,
    Response = 4,
}

impl Kind {
    fn of(number: u32) -> Option<Self> {
        [Self::Stage, Self::Forget, Self::Embedding, Self::Response]
            .into_iter()
            .find(|kind| *kind as u32 == number)
    }
}

/// The bytes that a segment of this salt begins with.
pub(crate) fn file_header(salt: u64) -> [u8; FILE_HEADER] {
    let mut out = [0; FILE_HEADER];
    out[..8].copy_from_slice(FILE_MAGIC);
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    out[12..20].copy_from_slice(&salt.to_le_bytes());
    let crc = crc32fast::hash(&out[..20]);
    out[20..].copy_from_slice(&crc.to_le_bytes());
    out
}

/// The salt of the segment in `file`; `None` if its first bytes were not all written.
///
/// # Errors
/// Why the file is no segment.
pub(crate) fn salt(file: &File) -> io::Result<Option<u64>> {
    let damaged = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidData, why.to_owned()));
    let mut head = [0; FILE_HEADER];
    match read_exact_at(file, &mut head, 0) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    if head.iter().all(|b| *b == 0) {
        return Ok(None);
    }
    if !head.starts_with(FILE_MAGIC) || crc32fast::hash(&head[..20]) != u32_at(&head, 20) {
        return damaged("its first bytes are damaged");
    }
    if u32_at(&head, 8) != VERSION {
        return damaged("it was written by another version of Headstart");
    }
    Ok(Some(u64_at(&head, 12)))
}

/// Appends a frame that will be at `offset` of the segment with this salt.
pub(crate) fn encode(out: &mut Vec<u8>, kind: Kind, body: &[u8], salt: u64, offset: u64) -> Loc {
    let start = out.len();
    let length = u32::try_from(body.len()).expect("entries are below the limit of a frame");
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&(kind as u32).to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(body).to_le_bytes());
    let crc = header_crc(salt, offset, &out[start..start + 16]);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(body);
    Loc { offset, len: length + HEADER as u32 }
}

fn header_crc(salt: u64, offset: u64, first16: &[u8]) -> u32 {
    let mut h = crc32fast::Hasher::new();
    h.update(&salt.to_le_bytes());
    h.update(&offset.to_le_bytes());
    h.update(first16);
    h.finalize()
}

/// Kind and length of the body of the frame whose header this is, if it is one.
fn header(bytes: &[u8], salt: u64, offset: u64) -> Option<(Kind, usize)> {
    let intact = bytes.starts_with(MAGIC) && header_crc(salt, offset, &bytes[..16]) == u32_at(bytes, 16);
    let kind = Kind::of(u32_at(bytes, 4))?;
    let length = u32_at(bytes, 8) as usize;
    (intact && length <= LARGEST - HEADER).then_some((kind, length))
}

/// Reads the frame at a place. `None` if what is there is no intact frame.
///
/// # Errors
/// What the system says.
pub(crate) fn read(file: &File, salt: u64, loc: Loc, into: &mut Vec<u8>) -> io::Result<Option<Kind>> {
    if (loc.len as usize) < HEADER || loc.len as usize > LARGEST {
        return Ok(None);
    }
    into.resize(loc.len as usize, 0);
    match read_exact_at(file, into, loc.offset) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let Some((kind, length)) = header(into, salt, loc.offset) else { return Ok(None) };
    let whole = length + HEADER == into.len() && crc32fast::hash(&into[HEADER..]) == u32_at(into, 12);
    if !whole {
        return Ok(None);
    }
    into.drain(..HEADER);
    Ok(Some(kind))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// What is next in a segment.
#[derive(Debug)]
pub(crate) enum Item<'a> {
    /// An intact frame.
    Frame { loc: Loc, kind: Kind, body: &'a [u8] },
    /// Bytes that are no frame, with intact frames behind them.
    Damage { at: u64, bytes: u64 },
    /// The rest holds no frame: `torn` if it looks like what was not written to its end.
    Tail { at: u64, bytes: u64, torn: bool },
}

/// Reads a segment from end to end.
pub(crate) struct Scan<'a> {
    file: &'a File,
    salt: u64,
    at: u64,
    end: u64,
    window: Vec<u8>,
    window_at: u64,
}

/// What is at a place.
enum Found {
    Frame(Kind, usize),
    /// The file ends inside of it.
    Incomplete,
    Bad,
}

impl<'a> Scan<'a> {
    /// Of the bytes from `from`, or the first frame, to `end`.
    pub(crate) fn new(file: &'a File, salt: u64, from: u64, end: u64) -> Self {
        let at = from.max(FILE_HEADER as u64);
        Self { file, salt, at, end: end.max(at), window: Vec::new(), window_at: at }
    }

    /// Where the next item begins.
    pub(crate) fn position(&self) -> u64 {
        self.at
    }

    /// The next item; `None` behind the last.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn next(&mut self) -> io::Result<Option<Item<'_>>> {
        let at = self.at;
        if at >= self.end {
            return Ok(None);
        }
        let found = self.check(at)?;
        if let Found::Frame(kind, length) = found {
            self.at = at + (HEADER + length) as u64;
            let loc = Loc { offset: at, len: (HEADER + length) as u32 };
            let body = &self.bytes(at, HEADER + length)?[HEADER..];
            return Ok(Some(Item::Frame { loc, kind, body }));
        }
        if let Some(next) = self.find(at + 1)? {
            self.at = next;
            return Ok(Some(Item::Damage { at, bytes: next - at }));
        }
        self.at = self.end;
        let bytes = self.end - at;
        let torn = matches!(found, Found::Incomplete) || self.has_unwritten_sector(at)?;
        Ok(Some(Item::Tail { at, bytes, torn }))
    }

    /// `len` bytes from `at`, which are there.
    fn bytes(&mut self, at: u64, len: usize) -> io::Result<&[u8]> {
        let behind = self.window_at + self.window.len() as u64;
        if at < self.window_at || at + len as u64 > behind {
            let want = len.max(WINDOW).min(usize::try_from(self.end - at).unwrap_or(usize::MAX));
            self.window.resize(want, 0);
            self.window_at = at;
            read_exact_at(self.file, &mut self.window, at)?;
        }
        let from = (at - self.window_at) as usize;
        Ok(&self.window[from..from + len])
    }

    fn check(&mut self, at: u64) -> io::Result<Found> {
        let left = self.end - at;
        if left < HEADER as u64 {
            return Ok(Found::Incomplete);
        }
        let salt = self.salt;
        let head = self.bytes(at, HEADER)?;
        let Some((kind, length)) = header(head, salt, at) else { return Ok(Found::Bad) };
        let crc = u32_at(head, 12);
        if (HEADER + length) as u64 > left {
            return Ok(Found::Incomplete);
        }
        let body = &self.bytes(at, HEADER + length)?[HEADER..];
        Ok(if crc32fast::hash(body) == crc { Found::Frame(kind, length) } else { Found::Bad })
    }

    /// Where the next intact frame begins.
    fn find(&mut self, from: u64) -> io::Result<Option<u64>> {
        let mut at = from;
        while self.end.saturating_sub(at) >= HEADER as u64 {
            let len = WINDOW.min((self.end - at) as usize);
            let bytes = self.bytes(at, len)?;
            match bytes.windows(MAGIC.len()).position(|w| w == MAGIC) {
                Some(found) => {
                    at += found as u64;
                    if matches!(self.check(at)?, Found::Frame(..)) {
                        return Ok(Some(at));
                    }
                    at += 1;
                }
                // The magic may begin in the last bytes of the window.
                None => at += (len - MAGIC.len() + 1) as u64,
            }
        }
        Ok(None)
    }

    /// Whether a sector of what is left, as far as it lies there, is all zeros: it was never written.
    fn has_unwritten_sector(&mut self, at: u64) -> io::Result<bool> {
        let mut start = at;
        while start < self.end {
            let end = (start / SECTOR * SECTOR + SECTOR).min(self.end);
            if self.bytes(start, (end - start) as usize)?.iter().all(|b| *b == 0) {
                return Ok(true);
            }
            start = end;
        }
        Ok(false)
    }
}
