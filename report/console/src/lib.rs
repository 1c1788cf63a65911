//! What both commands do at a terminal, in one place.
//!
//! - Standard output: [`print()`] and [`outln!`]. A closed pipe ends quietly; any other failure is an
//!   [`OutputError`], which both commands end with exit code [`exit::OUTPUT`].
//! - Messages on standard error: [`say`] and [`errln!`], which never fail and never panic.
//! - Colour and width: [`color`]. ANSI codes reach a stream only if it may have them.
//! - Warnings: [`log`] puts what libraries report into the command's own voice.
//! - [`suggest`]: "did you mean". [`generate`]: shell completions and man pages.

pub mod color;
pub mod exit;
pub mod generate;
pub mod log;
mod stream;
pub mod suggest;

pub use color::{ColorWhen, width};
pub use stream::{LogFormat, OutputError, divert, print, say, set_log_format};

/// Prints a line on standard output, as [`print()`] does.
#[macro_export]
macro_rules! outln {
    () => { $crate::print("\n") };
    ($($arg:tt)*) => { $crate::print(&format!("{}\n", format_args!($($arg)*))) };
}

/// Prints a line on standard error, as [`say`] does.
#[macro_export]
macro_rules! errln {
    ($($arg:tt)*) => { $crate::say(&format!($($arg)*)) };
}
