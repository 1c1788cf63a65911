//! Numeric literals and their units; shared by the parser and by `--set`.

use headstart_protocol::text::similar;

use crate::ast::Number;
use crate::codes::Code;
use crate::diagnostic::Diagnostic;
use crate::span::Span;

/// Units of time, with their milliseconds.
pub const DURATIONS: &[(&str, u64)] =
    &[("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// Units of memory, with their bytes.
pub const SIZES: &[(&str, u64)] =
    &[("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];

/// Why a literal is not a number.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NumberError {
    /// The unit is not known.
    #[error("`{0}` is not a unit")]
    Unit(String),
    /// The number does not fit.
    #[error("`{0}` is too large")]
    Range(String),
    /// Part of a byte or of a millisecond.
    #[error("`{0}` is not a whole number of {1}")]
    Fraction(String, &'static str),
}

/// Reads a literal such as `3`, `0.6`, `30m`, `1GiB`.
///
/// # Errors
/// [`NumberError`] for an unknown unit, a number that is too large, or a part of the smallest unit.
pub fn number(text: &str) -> Result<Number, NumberError> {
    let digits = text.replace('_', "");
    let split = unit_start(&digits);
    let (value, unit) = digits.split_at(split);
    let range = || NumberError::Range(text.to_owned());
    if unit.is_empty() {
        if value.contains(['.', 'e', 'E']) {
            let x: f64 = value.parse().map_err(|_| range())?;
            return if x.is_finite() { Ok(Number::Float(x)) } else { Err(range()) };
        }
        return value.parse().map(Number::Int).map_err(|_| range());
    }
    let scale = |table: &[(&str, u64)]| table.iter().find(|(u, _)| *u == unit).map(|(_, n)| *n);
    let whole = |factor: u64, what: &'static str| -> Result<u64, NumberError> {
        if let Ok(n) = value.parse::<u64>() {
            return n.checked_mul(factor).ok_or_else(range);
        }
        let x: f64 = value.parse::<f64>().map_err(|_| range())? * factor as f64;
        // Beyond 2^53 a float no longer tells whole numbers apart.
        if !(0.0..9.0e15).contains(&x) {
            return Err(range());
        }
        if x.fract() == 0.0 { Ok(x as u64) } else { Err(NumberError::Fraction(text.to_owned(), what)) }
    };
    if let Some(factor) = scale(DURATIONS) {
        whole(factor, "milliseconds").map(Number::Duration)
    } else if let Some(factor) = scale(SIZES) {
        whole(factor, "bytes").map(Number::Bytes)
    } else {
        // The unit as written: underscores are dropped from digits only.
        Err(NumberError::Unit(unit.to_owned()))
    }
}

/// Where the unit starts: behind digits, fraction and exponent.
fn unit_start(text: &str) -> usize {
    let b = text.as_bytes();
    let digits = |mut i: usize| {
        while b.get(i).is_some_and(u8::is_ascii_digit) {
            i += 1;
        }
        i
    };
    let mut i = digits(0);
    if b.get(i) == Some(&b'.') {
        i = digits(i + 1);
    }
    if matches!(b.get(i), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(b.get(i + 1), Some(b'+' | b'-')));
        let end = digits(i + 1 + sign);
        if end > i + 1 + sign {
            i = end;
        }
    }
    i
}

impl NumberError {
    /// The diagnostic, at the place of the literal, which is `written` so.
    pub fn diagnostic(&self, written: &str, span: Span) -> Diagnostic {
        let d = Diagnostic::new(Code::E0005, self.to_string());
        match self {
            Self::Unit(unit) => {
                let known = || DURATIONS.iter().chain(SIZES).map(|(u, _)| *u);
                let d = d.at(span, "unknown unit");
                let better = suggest_unit(unit).or_else(|| similar(unit, known()));
                let number = written.strip_suffix(unit.as_str()).unwrap_or_default();
                match better {
                    Some(better) => {
                        let meant = format!("{number}{better}");
                        d.help(format!("did you mean `{meant}`?")).fix(span, meant)
                    }
                    None => d,
                }
                .note("units of time are `ms`, `s`, `m`, `h`, `d`; of memory `B`, `KiB`, `MiB`, `GiB`, `TiB`")
            }
            Self::Range(_) => d.at(span, "does not fit into 64 bits"),
            Self::Fraction(_, what) => d.at(span, format!("leaves a fraction of {what}")),
        }
    }
}

/// The type of a literal.
pub fn type_of(n: Number) -> headstart_protocol::Type {
    match n {
        Number::Int(_) => headstart_protocol::Type::Int,
        Number::Float(_) => headstart_protocol::Type::Float,
        Number::Duration(_) => headstart_protocol::Type::Duration,
        Number::Bytes(_) => headstart_protocol::Type::Bytes,
    }
}

/// The unit that a word is, or is written for.
pub fn meant_unit(word: &str) -> Option<&'static str> {
    let known = DURATIONS.iter().chain(SIZES).map(|(u, _)| *u).find(|u| *u == word);
    known.or_else(|| suggest_unit(word))
}

/// What people write instead of our units.
fn suggest_unit(unit: &str) -> Option<&'static str> {
    Some(match unit.to_ascii_lowercase().as_str() {
        "sec" | "secs" | "second" | "seconds" => "s",
        "min" | "mins" | "minute" | "minutes" => "m",
        "hr" | "hrs" | "hour" | "hours" => "h",
        "day" | "days" => "d",
        "kb" | "k" | "kib" => "KiB",
        "mb" | "mib" => "MiB",
        "gb" | "g" | "gib" => "GiB",
        "tb" | "t" | "tib" => "TiB",
        _ => return None,
    })
}

/// A duration for people, in the largest unit that divides it.
pub fn show_duration(ms: u64) -> String {
    show(ms, DURATIONS)
}

/// A size for people, in the largest unit that divides it.
pub fn show_bytes(bytes: u64) -> String {
    show(bytes, SIZES)
}

fn show(n: u64, units: &[(&str, u64)]) -> String {
    let (unit, factor) =
        units.iter().rev().find(|(_, f)| n >= *f && n.is_multiple_of(*f)).unwrap_or(&units[0]);
    format!("{}{unit}", n / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_units() {
        assert_eq!(number("10_000"), Ok(Number::Int(10_000)));
        assert_eq!(number("1e-3"), Ok(Number::Float(0.001)));
        assert_eq!(number("1.5h"), Ok(Number::Duration(5_400_000)));
        assert_eq!(number("2GiB"), Ok(Number::Bytes(2 << 30)));
        assert_eq!(number("4GB"), Err(NumberError::Unit("GB".into())));
        assert_eq!(number("0.5ms"), Err(NumberError::Fraction("0.5ms".into(), "milliseconds")));
        assert_eq!(number("99999999999999999999"), Err(NumberError::Range("99999999999999999999".into())));
        assert_eq!(show_duration(5_400_000), "90m");
        assert_eq!(show_bytes(2 << 30), "2GiB");
        assert_eq!(show_bytes(0), "0B");
    }
}
