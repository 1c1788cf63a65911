//! The event log of a run: append only, checksummed, durable in groups.
//!
//! # Format
//! A file begins with 16 bytes: `HSLOG\r\n\x1a`, the format version as a little-endian `u32`, and
//! the CRC-32 of those twelve bytes. Then follow records. A record is a group of events that were
//! made durable together:
//!
//! | bytes | what |
//! | --- | --- |
//! | 4 | `HSR1` |
//! | 4 | length of the body, little endian |
//! | 4 | number of events in the body |
//! | 4 | CRC-32 of the body |
//! | 4 | CRC-32 of the previous record's last header field (or the file's) and the 16 bytes above |
//! | … | body: one event a line, as compact JSON, each line ended by `\n` |
//!
//! Every record's header depends on the one before, so a record that is lost, repeated or moved is
//! noticed as surely as one that is changed.
//!
//! # What a crash can leave
//! A record is on disk before the next one is written. So only the last can be incomplete: the
//! file ends inside it, or sectors of it were never written and read as zeros (JSON has no zero
//! bytes, so they cannot be mistaken for content). That is a torn tail; it is cut. Anything else
//! is damage, reported with its offset, and nothing is read past it.

mod frame;
mod reader;
mod ticket;
mod writer;

pub use reader::LogTail;
pub use ticket::Ticket;
pub use writer::RunLog;

pub(crate) use reader::{bytes, check, read_all, read_last};
pub(crate) use writer::{Lock, is_live};

pub(crate) use frame::file_header;
