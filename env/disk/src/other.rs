//! Files of a well-known kind under a name that promises another.

use std::io::Read;
use std::path::Path;

use crate::read;

/// A kind of file that is told by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OtherFile {
    /// What it is, such as `a Parquet file`.
    pub what: &'static str,
    /// What to do.
    pub help: &'static str,
}

/// Beginnings of files, and what they mean.
const KINDS: [(&[u8], OtherFile); 13] = [
    (
        b"version https://git-lfs",
        of("a Git LFS pointer", "the file itself was not fetched: run `git lfs pull`"),
    ),
    (b"\x1F\x8B", of("compressed with gzip", "unpack it first: `gunzip FILE`")),
    (b"\x28\xB5\x2F\xFD", of("compressed with zstd", "unpack it first: `zstd -d FILE`")),
    (b"BZh", of("compressed with bzip2", "unpack it first: `bunzip2 FILE`")),
    (b"\xFD7zXZ\0", of("compressed with xz", "unpack it first: `unxz FILE`")),
    (
        b"PAR1",
        of(
            "a Parquet file",
            "write it as JSON Lines first: pandas.read_parquet(…).to_json(…, orient=\"records\", lines=True)",
        ),
    ),
    (b"ARROW1", of("an Arrow file", "write it as JSON Lines first, such as with datasets' to_json")),
    (
        b"PK\x03\x04",
        of(
            "a zip archive, such as .npz or PyTorch's .bin and .pt",
            "unpack it, or load it where it was made and save it as safetensors",
        ),
    ),
    (b"\x93NUMPY", of("a NumPy array", "load it where it was made and save it as safetensors")),
    (b"\x89HDF", of("an HDF5 file", "load it where it was made and save it as safetensors")),
    (b"\x80\x02", of("a Python pickle", "load it where it was made and save it as safetensors")),
    (
        b"<!DOCTYPE",
        of("a web page", "the download gave a page, not the file: fetch it again, signed in if it must be"),
    ),
    (
        b"<html",
        of("a web page", "the download gave a page, not the file: fetch it again, signed in if it must be"),
    ),
];

const fn of(what: &'static str, help: &'static str) -> OtherFile {
    OtherFile { what, help }
}

impl OtherFile {
    /// The kind of a file that begins so, where it is one of those that are mistaken for others.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        KINDS.iter().find(|(start, _)| bytes.starts_with(start)).map(|(_, kind)| *kind)
    }

    /// The same of a file; none where it cannot be read.
    pub fn at(path: &Path) -> Option<Self> {
        let mut bytes = [0; 64];
        let read = read::open(path).ok()?.read(&mut bytes).ok()?;
        Self::of(&bytes[..read])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_by_their_beginning() {
        let what = |bytes: &[u8]| OtherFile::of(bytes).map(|kind| kind.what);
        assert_eq!(
            what(b"version https://git-lfs.github.com/spec/v1\noid sha256:0"),
            Some("a Git LFS pointer")
        );
        assert_eq!(what(b"PAR1\x15\x04"), Some("a Parquet file"));
        assert_eq!(what(&[0x1F, 0x8B, 8]), Some("compressed with gzip"));
        assert_eq!(what(b"{\"a\": 1}"), None);
        assert_eq!(what(b"version 2"), None);
        assert_eq!(what(b""), None);
    }
}
