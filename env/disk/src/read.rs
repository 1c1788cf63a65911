//! Reading files that somebody else may have made: regular files only, and never more than is stated.
//!
//! A path that a user, a manifest or a model names may lead to a FIFO, a device or a socket, whose reader
//! would wait or read for ever, or to a file that is larger than the memory. Everything that reads such a path
//! opens it here. [`open`] follows symbolic links: where a path may lead is for the caller to check. A file that
//! somebody can replace by a link between the check and the opening is opened by [`open_below`] or
//! [`open_resolved`], which follow none.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Take};
use std::path::{Component, Path};
use std::{error, fmt};

/// Bytes of a file of settings at most: config.json, `adapter_config.json`, declarations, parameters.
pub const SETTINGS: u64 = 16 << 20;
/// Bytes of a pipeline file at most.
pub const PIPELINE: u64 = 16 << 20;
/// Bytes of a tokenizer.json at most; those of large vocabularies have 35 MB.
pub const TOKENIZER: u64 = 64 << 20;
/// Bytes of one line of a JSON Lines file at most.
pub const LINE: u64 = 16 << 20;
/// Bytes of one line of rows that Headstart wrote itself at most: a row can take more room than the line that it was
/// made of.
pub const ROW: u64 = 4 * LINE;
/// Bytes of a JSON Lines file at most that is held in memory as rows.
pub const ROWS: u64 = 4 << 30;
/// Bytes of a safetensors file at most that is read whole: adapters, and vectors of answers.
pub const TENSORS: u64 = 4 << 30;
/// Bytes of facts about many things at most, such as those of a catalog with 100,000 pLLMs.
pub const FACTS: u64 = 256 << 20;

/// Why a file is not read although the system would.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is none that has an end: what it is instead.
    NotRegular(&'static str),
    /// It is larger than any of its kind.
    TooLarge {
        /// Bytes that it has, as far as is known.
        size: u64,
        /// Bytes that are read at most.
        limit: u64,
    },
    /// One of its lines is longer than any may be.
    LongLine {
        /// 1-based number of the line.
        line: usize,
        /// Bytes of a line at most.
        limit: u64,
    },
    /// It is not text in UTF-8.
    NotText {
        /// 0-based offset of the first byte that is none.
        at: usize,
    },
}

impl Refusal {
    /// The refusal behind an error, if it is one.
    pub fn of(e: &io::Error) -> Option<Self> {
        e.get_ref()?.downcast_ref().copied()
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRegular(what) => write!(f, "is {what}, not a regular file"),
            Self::TooLarge { size, limit } => {
                write!(f, "has {size} bytes, but at most {limit} are read")
            }
            Self::LongLine { line, limit } => {
                write!(f, "line {line} is longer than {limit} bytes, the most that a line may have")
            }
            Self::NotText { at } => write!(f, "is not UTF-8 text (byte {})", at + 1),
        }
    }
}

impl error::Error for Refusal {}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> Self {
        let kind = match refusal {
            Refusal::NotRegular("a folder") => ErrorKind::IsADirectory,
            Refusal::NotRegular(_) => ErrorKind::InvalidInput,
            Refusal::TooLarge { .. } => ErrorKind::FileTooLarge,
            Refusal::LongLine { .. } | Refusal::NotText { .. } => ErrorKind::InvalidData,
        };
        Self::new(kind, refusal)
    }
}

/// Opens a regular file for reading. Never waits for a writer, as opening a FIFO would.
///
/// # Errors
/// What the system says, and [`Refusal::NotRegular`].
pub fn open(path: &Path) -> io::Result<File> {
    // Opening alone can act on a device, so it is looked at before as well as after.
    regular(&fs::metadata(path)?)?;
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, flags.bits().cast_signed());
    }
    let file = options.open(path)?;
    regular(&file.metadata()?)?;
    Ok(file)
}

/// Opens a regular file below a folder for reading. No link is followed on the way from the folder to the file,
/// nor in the place of the file: whatever somebody who can write the folder puts there meanwhile, what is opened
/// lies below it. Links on the way to the folder are followed.
///
/// # Errors
/// What the system says, and [`Refusal::NotRegular`], also for links; [`ErrorKind::InvalidInput`] for a name that
/// leads out of the folder.
pub fn open_below(folder: &Path, name: &Path) -> io::Result<File> {
    let is_below = name.components().all(|part| matches!(part, Component::Normal(_)));
    if !is_below || name.as_os_str().is_empty() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "the name leads out of its folder"));
    }
    let file = below(folder, name)?;
    regular(&file.metadata()?)?;
    Ok(file)
}

/// Opens a regular file whose path was resolved before ([`fs::canonicalize`]) for reading. A link that somebody has put
/// on the way to it meanwhile, or in its place, is not followed.
///
/// # Errors
/// As [`open_below`].
pub fn open_resolved(path: &Path) -> io::Result<File> {
    let root = path.ancestors().last().filter(|root| root.has_root());
    let name = root.and_then(|root| path.strip_prefix(root).ok());
    match (root, name) {
        (Some(root), Some(name)) => open_below(root, name),
        _ => Err(io::Error::new(ErrorKind::InvalidInput, "the path is not absolute")),
    }
}

#[cfg(unix)]
mod nofollow {
    use std::os::fd::OwnedFd;

    use rustix::fs::{Mode, OFlags, open, openat};
    use rustix::io::Errno;

    use super::{ErrorKind, File, Path, Refusal, io};

    /// How folders on the way are opened.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    const THROUGH: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    const THROUGH: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC);

    /// How the file is opened. A FIFO is not waited for.
    const READ: OFlags =
        OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

    pub(super) fn below(folder: &Path, name: &Path) -> io::Result<File> {
        let folder = open(folder, THROUGH, Mode::empty())?;
        #[cfg(any(target_os = "linux", target_os = "android"))]
        {
            use rustix::fs::{ResolveFlags, openat2};
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            match openat2(&folder, name, READ, Mode::empty(), resolve) {
                // What kernels before 5.6 say, and containers that do not know the call.
                Err(Errno::NOSYS | Errno::PERM) => {}
                done => return done.map(File::from).map_err(refused),
            }
        }
        walk(folder, name)
    }

    /// Folder by folder.
    pub(super) fn walk(mut folder: OwnedFd, name: &Path) -> io::Result<File> {
        let mut steps = name.iter().peekable();
        while let Some(step) = steps.next() {
            if steps.peek().is_none() {
                return openat(&folder, step, READ, Mode::empty()).map(File::from).map_err(refused);
            }
            folder = openat(&folder, step, THROUGH | OFlags::NOFOLLOW, Mode::empty()).map_err(refused)?;
        }
        Err(ErrorKind::InvalidInput.into())
    }

    fn refused(e: Errno) -> io::Error {
        if e == Errno::LOOP { Refusal::NotRegular("a symbolic link, or behind one").into() } else { e.into() }
    }
}

#[cfg(unix)]
use nofollow::below;

/// Where folders cannot be opened, links are looked for before and after.
#[cfg(not(unix))]
fn below(folder: &Path, name: &Path) -> io::Result<File> {
    let no_links = || -> io::Result<()> {
        let mut at = folder.to_owned();
        for step in name {
            at.push(step);
            if fs::symlink_metadata(&at)?.is_symlink() {
                return Err(Refusal::NotRegular("a symbolic link, or behind one").into());
            }
        }
        Ok(())
    };
    no_links()?;
    let file = open(&folder.join(name))?;
    no_links()?;
    Ok(file)
}

/// How many names a file has: whoever can write one of its folders may have given it a second one (a hard link), by which it is
/// changed later. 1 where the system does not tell.
#[must_use]
pub fn names(found: &Metadata) -> u64 {
    #[cfg(unix)]
    return std::os::unix::fs::MetadataExt::nlink(found);
    #[cfg(not(unix))]
    {
        let _ = found;
        1
    }
}

fn regular(found: &Metadata) -> Result<(), Refusal> {
    if found.is_file() {
        return Ok(());
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        let ty = found.file_type();
        for (is, what) in [
            (ty.is_fifo(), "a FIFO"),
            (ty.is_socket(), "a socket"),
            (ty.is_char_device(), "a device"),
            (ty.is_block_device(), "a device"),
        ] {
            if is {
                return Err(Refusal::NotRegular(what));
            }
        }
    }
    Err(Refusal::NotRegular(if found.is_dir() { "a folder" } else { "something else" }))
}

/// The whole of a regular file of at most `limit` bytes.
///
/// # Errors
/// As [`open`], and [`Refusal::TooLarge`].
pub fn whole(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let size = file.metadata()?.len();
    if size > limit {
        return Err(Refusal::TooLarge { size, limit }.into());
    }
    // Of a growing file, only what fits is read.
    read(file, size, limit)
}

/// The whole of a regular file of text.
///
/// # Errors
/// As [`whole`], and [`Refusal::NotText`].
pub fn text(path: &Path, limit: u64) -> io::Result<String> {
    utf8(whole(path, limit)?)
}

/// Everything that a stream gives, such as standard input.
///
/// # Errors
/// [`Refusal::TooLarge`], and the stream's own.
pub fn stream(from: impl Read, limit: u64) -> io::Result<Vec<u8>> {
    read(from, 0, limit)
}

/// All text that a stream gives.
///
/// # Errors
/// As [`stream`], and [`Refusal::NotText`].
pub fn stream_text(from: impl Read, limit: u64) -> io::Result<String> {
    utf8(stream(from, limit)?)
}

fn read(from: impl Read, expected: u64, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let expected = usize::try_from(expected.min(limit)).map_err(|_| ErrorKind::OutOfMemory)?;
    // A size that no memory suffices for is an error, not the end of the process.
    bytes.try_reserve_exact(expected).map_err(|_| ErrorKind::OutOfMemory)?;
    // One byte more than allowed shows that there is too much.
    from.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    let size = bytes.len() as u64;
    if size > limit { Err(Refusal::TooLarge { size, limit }.into()) } else { Ok(bytes) }
}

fn utf8(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|e| Refusal::NotText { at: e.utf8_error().valid_up_to() }.into())
}

/// The lines of a text, one at a time. A line that is too long is never held in memory.
#[derive(Debug)]
pub struct Lines<R> {
    from: R,
    limit: u64,
    number: usize,
    line: Vec<u8>,
}

/// The lines of a file.
pub type FileLines = Lines<BufReader<Take<File>>>;

impl FileLines {
    /// The lines of a regular file, each of at most `limit` bytes, all of at most `size`.
    ///
    /// # Errors
    /// As [`open`], and [`Refusal::TooLarge`].
    pub fn open(path: &Path, limit: u64, size: u64) -> io::Result<Self> {
        let file = open(path)?;
        let found = file.metadata()?.len();
        if found > size {
            return Err(Refusal::TooLarge { size: found, limit: size }.into());
        }
        // Of a growing file, only what was there is read.
        Ok(Self::new(BufReader::with_capacity(1 << 16, file.take(size)), limit))
    }
}

impl<R: BufRead> Lines<R> {
    /// The lines of a stream, each of at most `limit` bytes.
    pub fn new(from: R, limit: u64) -> Self {
        Self { from, limit, number: 0, line: Vec::new() }
    }

    /// 1-based number of the line that was read last; 0 before the first.
    pub fn number(&self) -> usize {
        self.number
    }

    /// The next line without its line break; `None` behind the last.
    ///
    /// # Errors
    /// [`Refusal::LongLine`], and the stream's own.
    pub fn next_line(&mut self) -> io::Result<Option<&[u8]>> {
        self.line.clear();
        self.number += 1;
        // The line break is one byte more.
        let most = self.limit.saturating_add(1);
        if (&mut self.from).take(most).read_until(b'\n', &mut self.line)? == 0 {
            return Ok(None);
        }
        let ended = self.line.pop_if(|b| *b == b'\n').is_some();
        if !ended && self.line.len() as u64 > self.limit {
            return Err(Refusal::LongLine { line: self.number, limit: self.limit }.into());
        }
        Ok(Some(&self.line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str, limit: u64) -> Vec<Result<String, String>> {
        let mut lines = Lines::new(text.as_bytes(), limit);
        let mut out = Vec::new();
        loop {
            match lines.next_line() {
                Ok(None) => return out,
                Ok(Some(line)) => out.push(Ok(String::from_utf8(line.to_vec()).expect("text"))),
                Err(e) => {
                    out.push(Err(e.to_string()));
                    return out;
                }
            }
        }
    }

    #[test]
    fn lines_end_with_or_without_a_break_and_have_a_largest_length() {
        let ok = |texts: &[&str]| texts.iter().map(|t| Ok((*t).to_owned())).collect::<Vec<_>>();
        assert_eq!(lines("", 4), ok(&[]));
        assert_eq!(lines("abcd\n\nef", 4), ok(&["abcd", "", "ef"]));
        assert_eq!(lines("ab\nabcd", 4), ok(&["ab", "abcd"]));
        for long in ["ab\nabcde\n", "ab\nabcde"] {
            let read = lines(long, 4);
            assert_eq!(read[0], Ok("ab".into()));
            assert_eq!(read[1], Err("line 2 is longer than 4 bytes, the most that a line may have".into()));
        }
    }

    #[test]
    fn a_file_is_read_up_to_its_limit_and_only_as_text_where_it_is_text() {
        let dir = tempfile::tempdir().expect("a folder");
        let at = dir.path().join("file");
        fs::write(&at, b"0123456789").expect("written");
        assert_eq!(whole(&at, 10).expect("read"), b"0123456789");
        let e = whole(&at, 9).expect_err("too large");
        assert_eq!(Refusal::of(&e), Some(Refusal::TooLarge { size: 10, limit: 9 }));
        assert_eq!(e.to_string(), "has 10 bytes, but at most 9 are read");
        fs::write(&at, b"ab\xff").expect("written");
        assert_eq!(Refusal::of(&text(&at, 10).expect_err("no text")), Some(Refusal::NotText { at: 2 }));
        assert_eq!(
            Refusal::of(&stream(io::repeat(b'x'), 99).expect_err("endless")),
            Some(Refusal::TooLarge { size: 100, limit: 99 })
        );
        let e = whole(dir.path(), 10).expect_err("a folder");
        assert_eq!(
            (e.kind(), e.to_string().as_str()),
            (ErrorKind::IsADirectory, "is a folder, not a regular file")
        );
    }

    #[cfg(unix)]
    #[test]
    fn nothing_is_reached_by_a_link_below_a_folder() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().expect("a folder");
        let root = dir.path().canonicalize().expect("its real path");
        let (inside, outside) = (root.join("inside"), root.join("outside"));
        for folder in [&inside, &outside, &inside.join("sub")] {
            fs::create_dir(folder).expect("a folder");
        }
        for file in [inside.join("file"), inside.join("sub/file"), outside.join("secret")] {
            fs::write(file, "x").expect("written");
        }
        symlink(outside.join("secret"), inside.join("link")).expect("a link");
        symlink("sub/file", inside.join("within")).expect("a link");
        symlink(&outside, inside.join("folder")).expect("a link");
        symlink(&inside, root.join("to")).expect("a link");
        let walked = |name: &str| {
            let folder = rustix::fs::open(&inside, rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty());
            nofollow::walk(folder.expect("opens"), Path::new(name)).map(drop)
        };
        let opened = |name: &str| open_below(&inside, Path::new(name)).map(drop);
        for name in ["file", "sub/file"] {
            assert!(walked(name).is_ok() && opened(name).is_ok(), "{name}");
            open_resolved(&inside.join(name)).expect("no link on the way");
            open_below(&root.join("to"), Path::new(name)).expect("a link on the way to the folder is fine");
            open_resolved(&root.join("to").join(name)).expect_err("but not on the way to the file");
        }
        for name in ["link", "within", "folder/secret"] {
            assert!(walked(name).is_err(), "{name}");
            let e = opened(name).expect_err(name);
            assert_eq!(
                Refusal::of(&e),
                Some(Refusal::NotRegular("a symbolic link, or behind one")),
                "{name}"
            );
            open_resolved(&inside.join(name)).expect_err(name);
        }
        assert_eq!(Refusal::of(&opened("sub").expect_err("a folder")), Some(Refusal::NotRegular("a folder")));
        for name in ["../outside/secret", "/etc/hostname", "", "sub/../file", "."] {
            assert_eq!(opened(name).expect_err(name).kind(), ErrorKind::InvalidInput, "{name}");
        }
        open_resolved(Path::new("inside/file")).expect_err("not absolute");
        assert_eq!(names(&fs::metadata(inside.join("file")).expect("there")), 1);
        fs::hard_link(inside.join("file"), inside.join("second")).expect("a link");
        assert_eq!(names(&fs::metadata(inside.join("file")).expect("there")), 2);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_has_no_end_is_refused_at_once() {
        let dir = tempfile::tempdir().expect("a folder");
        let (fifo, link, socket) =
            (dir.path().join("fifo"), dir.path().join("link"), dir.path().join("socket"));
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0)
            .expect("a FIFO");
        std::os::unix::fs::symlink(&fifo, &link).expect("a link");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
        for (at, what) in [
            (fifo.as_path(), "a FIFO"),
            (&link, "a FIFO"),
            (&socket, "a socket"),
            (Path::new("/dev/zero"), "a device"),
        ] {
            let e = open(at).expect_err("refused");
            assert_eq!(e.to_string(), format!("is {what}, not a regular file"), "{}", at.display());
            assert_eq!(Refusal::of(&e), Some(Refusal::NotRegular(what)));
        }
    }
}
