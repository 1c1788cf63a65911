//! Colours and columns.
//!
//! `--color` decides; left at `auto`, `NO_COLOR`, `CLICOLOR_FORCE`, `CLICOLOR` and `TERM` do, and then
//! whether the stream is a terminal.

use std::borrow::Cow;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicU8, Ordering};

use clap::ValueEnum;
use headstart_protocol::text::visible;

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

/// A text as a terminal may have it: of control sequences only colours and weights of text are left, if
/// `colors`; everything else that could command it is written as an escape. So no name from outside moves
/// the cursor, sets the title or hides a line.
pub fn safe(text: &str, colors: bool) -> Cow<'_, str> {
    if visible(text) == text {
        return text.into();
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\x1b') {
        out.push_str(&visible(&rest[..at]));
        match style_code(&rest[at..]) {
            Some(code) => {
                if colors {
                    out.push_str(code);
                }
                rest = &rest[at + code.len()..];
            }
            None => {
                out.push_str(&visible("\x1b"));
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(&visible(rest));
    out.into()
}

/// The code at the beginning of a text, if it is one of those that this program writes: weights,
/// underline and colours, but not those that hide text or make it blink.
fn style_code(text: &str) -> Option<&str> {
    let digits = text.strip_prefix("\x1b[")?;
    let end = digits.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    let known = |code: &str| match code.parse::<u8>() {
        Ok(code) => matches!(code, 0..=4 | 22..=24 | 30..=37 | 39 | 90..=97),
        Err(_) => code.is_empty(),
    };
    // 256 colours: `38;5;N`, as the renderer of diagnostics writes them.
    let codes = &digits[..end];
    let indexed = codes.strip_prefix("38;5;").is_some_and(|n| n.parse::<u8>().is_ok());
    let sound = digits[end..].starts_with('m') && (indexed || codes.split(';').all(known));
    sound.then(|| &text[..2 + end + 1])
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
    fn colours_are_left_out_or_passed_on() {
        assert_eq!(safe(&paint(Ink::Error, "no"), false), "no");
        assert_eq!(safe(&paint(Ink::Error, "no"), true), "\x1b[1;31mno\x1b[0m");
        assert_eq!(safe("as it is", true), "as it is");
    }

    #[test]
    fn no_other_sequence_reaches_a_terminal() {
        let hostile = [
            "\x1b[2J",
            "\x1b[1A",
            "\x1b]0;title\x07",
            "\x1b[8m",
            "\x1b[5m",
            "\x1bc",
            "\x1bP1$r\x1b\\",
            "\u{9b}2J",
            "\x1b[38;2;0;0;0m",
            "\x1b[?25l",
            "\x1b[31",
            "\x1b[",
            "\x1b",
            "\r",
            "\x08",
            "\u{202e}",
            "\x1b[99999999999m",
            "\x1b[38;5;300m",
        ];
        for colors in [true, false] {
            for text in hostile {
                let safe = safe(text, colors);
                assert_eq!(safe, visible(text), "{text:?}");
                assert!(!safe.contains(char::is_control), "{text:?}: {safe:?}");
            }
            let between = safe("a\x1b[32mb\x1b[2Jc\x1b[0m", colors);
            assert!(
                between.ends_with(if colors { "b\\u001b[2Jc\x1b[0m" } else { "ab\\u001b[2Jc" }),
                "{between:?}"
            );
        }
    }
}
