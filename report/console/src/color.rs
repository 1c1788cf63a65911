//! Colours and columns.
//!
//! `--color` decides; left at `auto`, `NO_COLOR`, `CLICOLOR_FORCE`, `CLICOLOR` and `TERM` do, and then
//! whether the stream is a terminal.

use std::borrow::Cow;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicU8, Ordering};

use clap::ValueEnum;

/// When ANSI colours are written.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ColorWhen {
    /// On a terminal, unless `NO_COLOR` is set; anywhere if `CLICOLOR_FORCE` is.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Sets when colours are written, for the whole process.
pub fn set(when: ColorWhen) {
    WHEN.store(when as u8, Ordering::Relaxed);
}

static WHEN: AtomicU8 = AtomicU8::new(ColorWhen::Auto as u8);

/// Whether a stream gets colours, by what was set and by these variables.
fn decide(when: u8, variable: impl Fn(&str) -> Option<String>, terminal: impl FnOnce() -> bool) -> bool {
    let set = |name| variable(name).filter(|v| !v.is_empty());
    match when {
        w if w == ColorWhen::Always as u8 => true,
        w if w == ColorWhen::Never as u8 => false,
        _ if set("NO_COLOR").is_some() => false,
        _ if set("CLICOLOR_FORCE").is_some_and(|v| v != "0") => true,
        _ if set("CLICOLOR").is_some_and(|v| v == "0") => false,
        _ if cfg!(unix) && set("TERM").is_none_or(|t| t == "dumb") => false,
        _ => terminal(),
    }
}

fn wanted(stream: &impl IsTerminal) -> bool {
    decide(WHEN.load(Ordering::Relaxed), |name| std::env::var(name).ok(), || stream.is_terminal())
}

/// Sets what `--color` says before the command line is parsed, so that its errors obey it too.
pub fn set_from<'a>(args: impl IntoIterator<Item = &'a str>) {
    let mut args = args.into_iter().take_while(|a| *a != "--").peekable();
    while let Some(arg) = args.next() {
        let value = match arg.strip_prefix("--color") {
            Some("") => args.peek().copied(),
            Some(rest) => rest.strip_prefix('='),
            None => continue,
        };
        if let Some(when) = value.and_then(|v| ColorWhen::from_str(v, true).ok()) {
            set(when);
        }
    }
}

/// Whether standard output gets colours.
pub fn stdout() -> bool {
    wanted(&std::io::stdout())
}

/// Whether standard error gets colours.
pub fn stderr() -> bool {
    wanted(&std::io::stderr())
}

/// A text without ANSI codes.
pub fn plain(text: &str) -> Cow<'_, str> {
    if text.contains('\x1b') { anstream::adapter::strip_str(text).to_string().into() } else { text.into() }
}

/// Columns that are used where no terminal says how many it has.
const COLUMNS: usize = 100;
/// Fewer are not laid out for.
pub const NARROWEST: usize = 20;
/// Lines are no longer than this, however wide the terminal.
const WIDEST: usize = 110;

/// Columns of standard output: those of its terminal, or what `COLUMNS` says.
pub fn width() -> usize {
    let said = std::env::var("COLUMNS").ok().and_then(|c| c.trim().parse().ok()).filter(|c| *c > 0);
    let terminal = || terminal_size::terminal_size_of(std::io::stdout()).map(|(w, _)| usize::from(w.0));
    said.or_else(terminal).unwrap_or(COLUMNS).clamp(NARROWEST, WIDEST)
}

/// What has a colour, by what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ink {
    /// An error.
    Error,
    /// A warning, or something that waits.
    Warning,
    /// Success.
    Good,
    /// Help, and other hints.
    Help,
    /// What may be overlooked.
    Quiet,
}

/// A text with ANSI codes. Streams that may have no colours drop them.
pub fn paint(ink: Ink, text: &str) -> String {
    let code = match ink {
        Ink::Error => "1;31",
        Ink::Warning => "1;33",
        Ink::Good => "32",
        Ink::Help => "36",
        Ink::Quiet => "2",
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_variables_and_variables_over_the_terminal() {
        let auto = ColorWhen::Auto as u8;
        let with = |when: u8, vars: &'static [(&str, &str)], terminal| {
            let of = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
            decide(when, of, || terminal)
        };
        assert!(with(auto, &[("TERM", "xterm")], true) && !with(auto, &[("TERM", "xterm")], false));
        assert!(!with(auto, &[("TERM", "dumb")], true) && !with(auto, &[], true));
        assert!(!with(auto, &[("TERM", "xterm"), ("NO_COLOR", "1")], true));
        assert!(with(auto, &[("TERM", "xterm"), ("NO_COLOR", "")], true), "empty is as good as unset");
        assert!(
            with(auto, &[("CLICOLOR_FORCE", "1")], false) && !with(auto, &[("CLICOLOR_FORCE", "0")], false)
        );
        assert!(!with(auto, &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], true));
        assert!(with(ColorWhen::Always as u8, &[("NO_COLOR", "1")], false));
        assert!(!with(ColorWhen::Never as u8, &[("CLICOLOR_FORCE", "1")], true));
    }

    #[test]
    fn codes_are_stripped_whole() {
        assert_eq!(plain(&paint(Ink::Error, "no")), "no");
        assert_eq!(plain("as it is"), "as it is");
    }
}
