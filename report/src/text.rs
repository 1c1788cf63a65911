//! Numbers, bars and lines of text.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

pub use headstart_protocol::text::{bytes, counted, grouped};

/// Seconds for people: `3.2 ms`, `0.84 s`, `42.1 s`, `3 min 20 s`, `2 h 5 min`.
pub fn seconds(s: f64) -> String {
    match s {
        s if s < 0.0 || s.is_nan() => "—".into(),
        s if s < 0.0005 => "0 s".into(),
        s if s < 0.1 => format!("{:.0} ms", s * 1e3),
        s if s < 9.995 => format!("{s:.2} s"),
        s if s < 119.95 => format!("{s:.1} s"),
        s if s < 7199.5 => format!("{} min {:.0} s", (s.round() / 60.0).floor(), s.round() % 60.0),
        s => format!("{} h {:.0} min", (s / 3600.0).floor(), (s % 3600.0 / 60.0).floor()),
    }
}

/// A share as a percentage without decimals, never rounded up to certainty. The space before the sign is
/// narrow and does not break.
pub fn percent(share: f64) -> String {
    let p = 100.0 * share;
    let number = match p {
        p if p > 99.0 && p < 100.0 => ">99".into(),
        p if p > 0.0 && p < 1.0 => "<1".into(),
        p => minus(&format!("{p:.0}")),
    };
    format!("{number}\u{202f}%")
}

/// A number with a true minus sign.
pub fn minus(number: &str) -> String {
    let zero = number.trim_start_matches('-').chars().all(|c| c == '0' || c == '.');
    if zero { number.trim_start_matches('-').to_owned() } else { number.replace('-', "−") }
}

/// A coefficient with two decimals.
pub fn coefficient(x: f64) -> String {
    minus(&format!("{x:.2}"))
}

/// A metric: whole numbers with thin separators, others with three significant decimals.
pub fn metric(x: f64) -> String {
    metric_with(x, decimals(x))
}

/// Two numbers that are compared: with as many decimals as the one that has more.
pub fn metrics(a: f64, b: f64) -> [String; 2] {
    let most = decimals(a).max(decimals(b));
    [a, b].map(|x| metric_with(x, most))
}

/// Decimals that a number is written with. One that was rounded before it left a device has few: further
/// zeros would claim what is not known.
fn decimals(x: f64) -> usize {
    let exact = x.to_string().split_once('.').map_or(0, |(_, decimals)| decimals.len());
    exact.min(if x.abs() >= 100.0 { 1 } else { 3 })
}

fn metric_with(x: f64, decimals: usize) -> String {
    if decimals == 0 && x.abs() < 1e15 {
        let sign = if x < 0.0 { "−" } else { "" };
        return format!("{sign}{}", grouped(x.abs().round() as u64));
    }
    minus(&format!("{x:.decimals$}"))
}

/// Words as a list in a sentence: `a`, `a and b`, `a, b and c`.
pub fn listed(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

/// A counter's name for people: `forward_passes` as `forward passes`.
pub fn spaced(name: &str) -> String {
    name.replace('_', " ")
}

/// A bar of at most `width` cells, in eighths; something is always visible of a share above 0.
pub fn bar(share: f64, width: usize) -> String {
    const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    if share.is_nan() || share <= 0.0 {
        return String::new();
    }
    let eighths = ((share.min(1.0) * width as f64 * 8.0).round() as usize).max(1);
    format!("{}{}", "█".repeat(eighths / 8), PARTS[eighths % 8])
}

/// Columns of a text in a terminal: wide characters have two, combining ones none.
pub fn width(text: &str) -> usize {
    text.width()
}

/// Fills up with spaces on the right.
pub fn pad(text: &str, to: usize) -> String {
    format!("{text}{}", " ".repeat(to.saturating_sub(width(text))))
}

/// Fills up with spaces on the left.
pub fn pad_left(text: &str, to: usize) -> String {
    format!("{}{text}", " ".repeat(to.saturating_sub(width(text))))
}

/// Cuts to a width, with an ellipsis where something is lost.
pub fn cut(text: &str, to: usize) -> String {
    if width(text) <= to {
        return text.to_owned();
    }
    let (kept, _) = split(text, to.saturating_sub(1));
    format!("{}…", kept.trim_end())
}

/// The longest beginning of at most `to` columns, and the rest.
fn split(text: &str, to: usize) -> (&str, &str) {
    let mut used = 0;
    let end = text.char_indices().find(|(_, c)| {
        used += c.width().unwrap_or(0);
        used > to
    });
    text.split_at(end.map_or(text.len(), |(at, _)| at))
}

/// Breaks a text into lines of at most `to` columns, `lines` at most; white space collapses.
pub fn wrap(text: &str, to: usize, lines: usize) -> Vec<String> {
    let to = to.max(1);
    let mut out: Vec<String> = vec![String::new()];
    for word in text.split_whitespace() {
        let last = out.last_mut().expect("there is always a line");
        if last.is_empty() {
            *last = cut(word, to);
        } else if width(last) + 1 + width(word) <= to {
            last.push(' ');
            last.push_str(word);
        } else {
            out.push(cut(word, to));
        }
    }
    if out.len() > lines {
        out.truncate(lines);
        if let Some(last) = out.last_mut() {
            *last = cut(&format!("{last} …"), to);
        }
    }
    out
}

/// Breaks lines that are wider than `to` columns, between words where there are some; what follows is
/// indented by two more columns than the line. ANSI codes take no room.
pub fn fold(text: &str, to: usize) -> String {
    text.lines().fold(String::new(), |mut out, line| {
        fold_line(line, to.max(4), &mut out);
        out.push('\n');
        out
    })
}

fn fold_line(line: &str, to: usize, out: &mut String) {
    let indent = line.chars().take_while(|c| *c == ' ').count();
    let hang = (indent + 2).min(to / 3);
    let mut used = 0;
    // Columns used at the last break between words, and where that is in `out`.
    let mut space: Option<(usize, usize)> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c == '\x1b' {
            out.push(c);
            for code in chars.by_ref() {
                out.push(code);
                if code.is_ascii_alphabetic() {
                    break;
                }
            }
            continue;
        }
        let wide = c.width().unwrap_or(0);
        if used + wide > to {
            let tail = match space {
                Some((at, columns)) if columns > hang => {
                    let tail = out.split_off(at);
                    used -= columns;
                    tail.strip_prefix(' ').map(str::to_owned).unwrap_or(tail)
                }
                _ => {
                    used = 0;
                    String::new()
                }
            };
            out.push('\n');
            out.push_str(&" ".repeat(hang));
            used = hang + used.saturating_sub(usize::from(!tail.is_empty()));
            used = used.min(to);
            out.push_str(&tail);
            space = None;
            if c == ' ' && tail.is_empty() {
                continue;
            }
        }
        if c == ' ' {
            space = Some((out.len(), used));
        }
        out.push(c);
        used += wide;
    }
}

/// How sure a confidence is, in words.
pub fn sureness(confidence: f64) -> &'static str {
    match confidence {
        c if c >= 0.95 => "very sure",
        c if c >= 0.8 => "sure",
        c if c >= 0.6 => "fairly sure",
        _ => "unsure",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_well() {
        let shown: Vec<_> = [0.0, 0.032, 0.84, 42.12, 119.99, 200.0, 7500.0].map(seconds).into();
        assert_eq!(shown, ["0 s", "32 ms", "0.84 s", "42.1 s", "2 min 0 s", "3 min 20 s", "2 h 5 min"]);
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            [percent(0.996), percent(1.0), percent(0.004), percent(-0.25)],
            [">99\u{202f}%", "100\u{202f}%", "<1\u{202f}%", "−25\u{202f}%"]
        );
        assert_eq!([coefficient(-0.301), coefficient(-0.001)], ["−0.30", "0.00"]);
        assert_eq!([metric(1234567.0), metric(0.55123)], ["1\u{202f}234\u{202f}567", "0.551"]);
        assert_eq!([metric(0.19), metric(-0.5), metric(0.19004)], ["0.19", "−0.5", "0.190"]);
        assert_eq!(metrics(4.1, 19.0), ["4.1", "19.0"]);
        assert_eq!(metrics(7.114, 1.73), ["7.114", "1.730"]);
    }

    #[test]
    fn bytes_and_lists_read_well() {
        assert_eq!([bytes(812), bytes(4_721), bytes(1_249_000)], ["812 B", "4.7 kB", "1.2 MB"]);
        let words = ["a", "b", "c"].map(str::to_owned);
        assert_eq!(
            [listed(&words[..1]), listed(&words[..2]), listed(&words)],
            ["a", "a and b", "a, b and c"]
        );
    }

    #[test]
    fn bars_are_exact_to_an_eighth() {
        assert_eq!([bar(0.5, 4), bar(0.53125, 4), bar(1e-9, 4), bar(0.0, 4)], ["██", "██▏", "▏", ""]);
    }

    #[test]
    fn folded_lines_keep_to_their_columns() {
        let text = "  one two three four five six\n    abcdefghijklmnopqrstuvwxyz0123456789\n\x1b[32mgreen words that go on\x1b[0m\n";
        let folded = fold(text, 20);
        for line in folded.lines() {
            let plain = line.replace("\x1b[32m", "").replace("\x1b[0m", "");
            assert!(width(&plain) <= 20, "{line:?}");
        }
        let squeezed = |t: &str| t.split_whitespace().collect::<String>();
        assert_eq!(squeezed(&folded), squeezed(text), "nothing is lost");
        assert_eq!(fold("short\n", 20), "short\n");
    }

    #[test]
    fn wide_characters_have_two_columns() {
        assert_eq!([width("日本"), width("e\u{301}")], [4, 1]);
        assert_eq!(cut("日本語", 5), "日本…");
    }

    #[test]
    fn long_texts_are_broken_and_cut() {
        assert_eq!(wrap("one two three four five", 9, 2), ["one two", "three …"]);
        assert_eq!(wrap("", 9, 2), [""]);
        assert_eq!(cut("abcdef", 4), "abc…");
    }
}
