//! Exit codes, the same for both commands.

/// Success.
pub const SUCCESS: u8 = 0;
/// The run failed, `--check` found something, or the disk is full.
pub const FAILED: u8 = 1;
/// The input is wrong: the command line, the pipeline, a file it names.
pub const INPUT: u8 = 2;
/// An internal error.
pub const INTERNAL: u8 = 3;
/// Standard output could not be written.
pub const OUTPUT: u8 = 4;
/// Stopped by Ctrl-C or SIGTERM, as shells have it: 128 and the signal's number.
pub const INTERRUPTED: u8 = 130;

/// The table of exit codes, for `--help` and man pages.
pub const TABLE: &str = "Exit codes:\n  0    success\n  1    the run failed, or --check found something\n  2    the input is wrong\n  3    internal error\n  4    standard output could not be written\n  130  stopped by Ctrl-C or SIGTERM";
