//! Numbers, bars and lines of text.

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

/// A share as a percentage without decimals, never rounded up to certainty.
pub fn percent(share: f64) -> String {
    let p = 100.0 * share;
    match p {
        p if p > 99.0 && p < 100.0 => ">99%".into(),
        p if p > 0.0 && p < 1.0 => "<1%".into(),
        p => format!("{}%", minus(&format!("{p:.0}"))),
    }
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
    if x.fract() == 0.0 && x.abs() < 1e15 {
        let sign = if x < 0.0 { "−" } else { "" };
        return format!("{sign}{}", grouped(x.abs() as u64));
    }
    let decimals = if x.abs() >= 100.0 { 1 } else { 3 };
    minus(&format!("{x:.decimals$}"))
}

/// An integer with narrow spaces between groups of three digits.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(c);
    }
    out
}

/// Bytes for people: `812 B`, `4.7 kB`, `1.2 MB`.
pub fn bytes(n: u64) -> String {
    match n {
        0..1_000 => format!("{n} B"),
        1_000..999_950 => format!("{:.1} kB", n as f64 / 1e3),
        _ => format!("{:.1} MB", n as f64 / 1e6),
    }
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

/// Columns of a text, a character each.
pub fn width(text: &str) -> usize {
    text.chars().count()
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
    let kept: String = text.chars().take(to.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

/// Breaks a text into lines of at most `to` columns, `lines` at most; white space collapses.
pub fn wrap(text: &str, to: usize, lines: usize) -> Vec<String> {
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
            [">99%", "100%", "<1%", "−25%"]
        );
        assert_eq!([coefficient(-0.301), coefficient(-0.001)], ["−0.30", "0.00"]);
        assert_eq!([metric(1234567.0), metric(0.55123)], ["1\u{202f}234\u{202f}567", "0.551"]);
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
    fn long_texts_are_broken_and_cut() {
        assert_eq!(wrap("one two three four five", 9, 2), ["one two", "three …"]);
        assert_eq!(wrap("", 9, 2), [""]);
        assert_eq!(cut("abcdef", 4), "abc…");
    }
}
