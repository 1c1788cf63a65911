//! The index beside a sealed segment: where its entries are, by hash.
//!
//! A lookup reads one page of it, so that a cache of any size costs its reader a few kilobytes. Each page
//! has a checksum; a damaged index is made again from its segment.
//!
//! | bytes | what |
//! | --- | --- |
//! | 8 | `HSIDX\r\n\x1a` |
//! | 4 | format version, little endian |
//! | 4 | number of pages |
//! | 8 | the segment's salt |
//! | 8 | bytes of the segment that it covers |
//! | 8 × pages | the first eight bytes of each page's first hash, as a number |
//! | 4 | CRC-32 of all that |
//! | 4096 × pages | pages: 146 entries of hash (16), offset (8), length (4); how many there are (4), CRC-32 (4) |

use std::collections::HashMap;
use std::fs::File;
use std::io;

use super::entry::Hash;
use super::frame::{u32_at, u64_at};
use super::{Loc, read_exact_at};

const MAGIC: &[u8; 8] = b"HSIDX\r\n\x1a";
const VERSION: u32 = 1;
const HEADER: usize = 32;
const PAGE: usize = 4096;
const ENTRY: usize = 28;
/// Entries of a page.
const FILL: usize = (PAGE - 8) / ENTRY;
/// Pages that are kept in memory: 4 MB.
const KEPT: usize = 1024;

/// An open index.
pub(crate) struct Index {
    file: File,
    /// The beginning of each page's first hash.
    firsts: Vec<u64>,
    pages: HashMap<usize, Box<[u8]>>,
    /// Bytes of the segment that it covers.
    pub(crate) covered: u64,
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

fn number(hash: &[u8]) -> u64 {
    u64::from_be_bytes(hash[..8].try_into().expect("eight bytes"))
}

/// The bytes of an index over these entries.
pub(crate) fn encode(mut entries: Vec<(Hash, Loc)>, salt: u64, covered: u64) -> Vec<u8> {
    entries.sort_unstable_by_key(|(hash, _)| *hash);
    let count = entries.len().div_ceil(FILL);
    let mut out = Vec::with_capacity(HEADER + 8 * count + 4 + PAGE * count);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&u32::try_from(count).expect("segments are bounded").to_le_bytes());
    out.extend_from_slice(&salt.to_le_bytes());
    out.extend_from_slice(&covered.to_le_bytes());
    entries.chunks(FILL).for_each(|page| out.extend_from_slice(&number(&page[0].0).to_le_bytes()));
    out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
    for page in entries.chunks(FILL) {
        let start = out.len();
        for (hash, loc) in page {
            out.extend_from_slice(hash);
            out.extend_from_slice(&loc.offset.to_le_bytes());
            out.extend_from_slice(&loc.len.to_le_bytes());
        }
        out.resize(start + PAGE - 8, 0);
        out.extend_from_slice(&(page.len() as u32).to_le_bytes());
        let crc = crc32fast::hash(&out[start..]);
        out.extend_from_slice(&crc.to_le_bytes());
    }
    out
}

impl Index {
    /// Opens the index of the segment with this salt.
    ///
    /// # Errors
    /// If it cannot be read, or is none of this segment.
    pub(crate) fn open(file: File, salt: u64) -> io::Result<Self> {
        let mut head = vec![0; HEADER];
        read_exact_at(&file, &mut head, 0)?;
        if !head.starts_with(MAGIC) || u32_at(&head, 8) != VERSION {
            return Err(damaged("this is no index, or its first bytes are damaged"));
        }
        let count = u32_at(&head, 12) as usize;
        let length = (HEADER + 4) as u64 + (count * (PAGE + 8)) as u64;
        if file.metadata()?.len() != length {
            return Err(damaged("it has another length than it says"));
        }
        head.resize(HEADER + 8 * count + 4, 0);
        read_exact_at(&file, &mut head[HEADER..], HEADER as u64)?;
        let (said, crc) = head.split_at(HEADER + 8 * count);
        if crc32fast::hash(said) != u32_at(crc, 0) {
            return Err(damaged("its directory is damaged"));
        }
        if u64_at(said, 16) != salt {
            return Err(damaged("it belongs to another segment"));
        }
        let firsts = said[HEADER..].chunks_exact(8).map(|n| u64_at(n, 0)).collect();
        Ok(Self { file, firsts, pages: HashMap::new(), covered: u64_at(said, 24) })
    }

    /// Where the entry of this hash is.
    ///
    /// # Errors
    /// If the page cannot be read, or is damaged.
    pub(crate) fn find(&mut self, hash: &Hash) -> io::Result<Option<Loc>> {
        let behind = self.firsts.partition_point(|first| *first <= number(hash));
        let Some(page) = behind.checked_sub(1) else { return Ok(None) };
        let page = self.page(page)?;
        let count = (u32_at(page, PAGE - 8) as usize).min(FILL);
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = (low + high) / 2;
            let entry = &page[middle * ENTRY..(middle + 1) * ENTRY];
            match entry[..16].cmp(hash) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Ok(Some(loc_of(entry))),
            }
        }
        Ok(None)
    }

    /// All entries, in the order of their hashes.
    ///
    /// # Errors
    /// If a page cannot be read, or is damaged.
    pub(crate) fn entries(&mut self) -> io::Result<Vec<(Hash, Loc)>> {
        let mut all = Vec::new();
        for number in 0..self.firsts.len() {
            let page = self.page(number)?;
            let count = (u32_at(page, PAGE - 8) as usize).min(FILL);
            all.extend(page.chunks_exact(ENTRY).take(count).map(|entry| {
                let hash: Hash = entry[..16].try_into().expect("sixteen bytes");
                (hash, loc_of(entry))
            }));
        }
        Ok(all)
    }

    fn page(&mut self, number: usize) -> io::Result<&[u8]> {
        if self.pages.len() >= KEPT && !self.pages.contains_key(&number) {
            self.pages.clear();
        }
        let file = &self.file;
        let begin = (HEADER + 8 * self.firsts.len() + 4 + number * PAGE) as u64;
        match self.pages.entry(number) {
            std::collections::hash_map::Entry::Occupied(page) => Ok(page.into_mut()),
            std::collections::hash_map::Entry::Vacant(place) => {
                let mut page = vec![0; PAGE];
                read_exact_at(file, &mut page, begin)?;
                if crc32fast::hash(&page[..PAGE - 4]) != u32_at(&page, PAGE - 4) {
                    return Err(damaged("a page is damaged"));
                }
                Ok(place.insert(page.into()))
            }
        }
    }
}

fn loc_of(entry: &[u8]) -> Loc {
    Loc { offset: u64_at(entry, 16), len: u32_at(entry, 24) }
}
