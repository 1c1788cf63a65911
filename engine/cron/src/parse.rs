//! Five-field expressions: what they may say, and what is wrong where.

use std::ops::Range;

/// What is wrong with a schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    /// The expression is wrong.
    #[error("{why}")]
    Expression {
        /// Where in the expression, in bytes; empty only where the expression is empty.
        range: Range<usize>,
        /// What is wrong.
        why: String,
        /// What is allowed, or what is probably meant.
        help: String,
    },
    /// There is no such time zone.
    #[error("there is no time zone `{name}`")]
    Zone {
        /// The name.
        name: String,
        /// The zone that is probably meant.
        meant: Option<String>,
    },
}

impl CronError {
    /// What is allowed, or what is probably meant.
    pub fn help(&self) -> String {
        match self {
            Self::Expression { help, .. } => help.clone(),
            Self::Zone { meant: Some(zone), .. } => format!("did you mean `{zone}`?"),
            Self::Zone { meant: None, .. } => {
                "zones are named as in the IANA database, such as `Europe/London` or `UTC`".to_owned()
            }
        }
    }

    /// Where in the expression the error is, in bytes; `None` if it is the time zone.
    pub fn range(&self) -> Option<Range<usize>> {
        match self {
            Self::Expression { range, .. } => Some(range.clone()),
            Self::Zone { .. } => None,
        }
    }
}

fn error(range: Range<usize>, why: impl Into<String>, help: impl Into<String>) -> CronError {
    CronError::Expression { range, why: why.into(), help: help.into() }
}

/// What a field may contain.
struct Kind {
    name: &'static str,
    /// Its name with the article.
    one: &'static str,
    min: u8,
    max: u8,
    /// Names, of which the first stands for `min`.
    names: &'static [&'static str],
    allowed: &'static str,
}

const KINDS: [Kind; 5] = [
    Kind { name: "minute", one: "a minute", min: 0, max: 59, names: &[], allowed: "minutes are 0 to 59" },
    Kind { name: "hour", one: "an hour", min: 0, max: 23, names: &[], allowed: "hours are 0 to 23" },
    Kind {
        name: "day of the month",
        one: "a day of the month",
        min: 1,
        max: 31,
        names: &[],
        allowed: "days of the month are 1 to 31",
    },
    Kind {
        name: "month",
        one: "a month",
        min: 1,
        max: 12,
        names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
        allowed: "months are 1 to 12 or jan to dec",
    },
    Kind {
        name: "weekday",
        one: "a weekday",
        min: 0,
        max: 7,
        names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
        allowed: "weekdays are 0 to 7 or sun to sat; 0 and 7 are Sunday",
    },
];

/// Days of each month in a leap year.
const DAYS: [u8; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/// A field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Field {
    /// The values that match, ascending, each once. Sunday is 0.
    pub(crate) values: Vec<u8>,
    /// Whether it begins with `*`: it then restricts nothing that another field allows.
    pub(crate) star: bool,
}

/// An expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fields {
    pub(crate) minute: Field,
    pub(crate) hour: Field,
    pub(crate) day: Field,
    pub(crate) month: Field,
    pub(crate) weekday: Field,
}

const MACROS: &[(&str, &str)] = &[
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

const ORDER: &str = "the five fields are minute, hour, day of the month, month and weekday; \
                     `30 2 * * 1` is half past two on Mondays";

/// Parses an expression.
pub(crate) fn parse(text: &str) -> Result<Fields, CronError> {
    let words = words(text);
    let whole = words.first().map_or(0..text.len(), |f| f.start..words[words.len() - 1].end);
    if let Some(first) = words.first()
        && text[first.clone()].starts_with('@')
    {
        let word = &text[first.clone()];
        let help = match MACROS.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)) {
            Some((_, fields)) => format!("write `{fields}`"),
            None => ORDER.to_owned(),
        };
        return Err(error(whole, format!("`{word}` is not a cron expression"), help));
    }
    if words.len() != 5 {
        let count = match words.len() {
            0 => "the cron expression is empty".to_owned(),
            n @ 6..=7 => format!("expected five fields, found {n}; there are none for seconds and years"),
            n => format!("expected five fields, found {n}"),
        };
        return Err(error(whole, count, ORDER));
    }
    let mut fields = words.iter().zip(&KINDS).map(|(at, kind)| field(text, at.clone(), kind));
    let mut next = || fields.next().expect("there are five words and five kinds");
    let (minute, hour, day, month, mut weekday) = (next()?, next()?, next()?, next()?, next()?);
    if weekday.values.last() == Some(&7) {
        weekday.values.pop();
        if weekday.values.first() != Some(&0) {
            weekday.values.insert(0, 0);
        }
    }
    let fields = Fields { minute, hour, day, month, weekday };
    check_date(&fields, words[2].start..words[3].end)?;
    Ok(fields)
}

/// Refuses dates that never come. With a weekday beside it, a day is one of two ways to match.
fn check_date(fields: &Fields, range: Range<usize>) -> Result<(), CronError> {
    let longest = fields.month.values.iter().map(|m| DAYS[usize::from(*m) - 1]).max().unwrap_or(31);
    let first = fields.day.values.first().copied().unwrap_or(1);
    let either = !fields.day.star && !fields.weekday.star;
    if first <= longest || either {
        return Ok(());
    }
    let why = if fields.month.values.len() == 1 {
        let month = [
            "January",
            "February",
            "March",
            "April",
            "May",
            "June",
            "July",
            "August",
            "September",
            "October",
            "November",
            "December",
        ][usize::from(fields.month.values[0]) - 1];
        format!("{month} has no day {first}")
    } else {
        format!("none of these months has a day {first}")
    };
    Err(error(range, why, format!("the longest of them has {longest} days; this would never fire")))
}

/// Where the words of a text are.
fn words(text: &str) -> Vec<Range<usize>> {
    let mut out = Vec::new();
    let mut start = None;
    for (i, c) in text.char_indices().chain([(text.len(), ' ')]) {
        match (c.is_whitespace(), start) {
            (false, None) => start = Some(i),
            (true, Some(from)) => {
                out.push(from..i);
                start = None;
            }
            _ => {}
        }
    }
    out
}

fn field(text: &str, at: Range<usize>, kind: &Kind) -> Result<Field, CronError> {
    let mut values = [false; 60];
    let mut start = at.start;
    for item in text[at.clone()].split(',') {
        let range = start..start + item.len();
        start = range.end + 1;
        if item.is_empty() {
            // The comma, so that there is something to point at.
            let comma = if range.start > at.start {
                range.start - 1..range.start
            } else {
                range.start..range.start + 1
            };
            return Err(error(comma, format!("expected {} beside this comma", kind.one), kind.allowed));
        }
        let (from, to, step) = item_values(text, range, kind)?;
        for v in (from..=to).step_by(usize::from(step)) {
            values[usize::from(v)] = true;
        }
    }
    let values = (kind.min..=kind.max).filter(|v| values[usize::from(*v)]).collect();
    Ok(Field { values, star: text[at].starts_with('*') })
}

/// `*`, `3`, `mon`, `1-5`, each but the single value also with `/step`: first, last, step.
fn item_values(text: &str, at: Range<usize>, kind: &Kind) -> Result<(u8, u8, u8), CronError> {
    let item = &text[at.clone()];
    let (base, step) = match item.split_once('/') {
        Some((base, step)) => (at.start..at.start + base.len(), Some(at.end - step.len()..at.end)),
        None => (at.clone(), None),
    };
    let last = if kind.max == 7 { 6 } else { kind.max };
    let (from, to) = if &text[base.clone()] == "*" {
        (kind.min, last)
    } else if let Some((from, _)) = text[base.clone()].split_once('-') {
        let middle = base.start + from.len();
        let from = value(text, base.start..middle, kind)?;
        let mut to = value(text, middle + 1..base.end, kind)?;
        if kind.max == 7 && to == 0 && from > 0 {
            to = 7; // `fri-sun`
        }
        if to < from {
            let (a, b) = text[base.clone()].split_once('-').expect("split above");
            let (min, max) = (kind.names.first().map_or(kind.min.to_string(), |n| (*n).to_owned()), last);
            let max = kind.names.last().map_or(max.to_string(), |n| (*n).to_owned());
            let help = format!("write both parts: `{a}-{max},{min}-{b}`");
            return Err(error(base, format!("the range ends before it begins: {from} to {to}"), help));
        }
        (from, to)
    } else {
        let v = value(text, base.clone(), kind)?;
        if step.is_some() {
            let help = format!("write where it ends: `{v}-{last}{}`", &text[base.end..at.end]);
            return Err(error(at, "a step needs a range", help));
        }
        (v, v)
    };
    let Some(step) = step else { return Ok((from, to, 1)) };
    // `parse` alone would take `+5`.
    let digits = text[step.clone()].bytes().all(|b| b.is_ascii_digit());
    let n: u32 = match text[step.clone()].parse() {
        Ok(n) if n > 0 && digits => n,
        _ => return Err(error(step, "a step is a whole number of at least 1", "`*/15` is every fifteenth")),
    };
    match u8::try_from(n) {
        Ok(step) if step <= to - from => Ok((from, to, step)),
        _ if n == 1 => Ok((from, to, 1)),
        _ => {
            let why = format!("a step of {n} goes beyond {from} to {to}, so that only {from} would match");
            let help =
                format!("steps count within the {}, not across; write `{from}` if that is meant", kind.name);
            Err(error(step, why, help))
        }
    }
}

fn value(text: &str, at: Range<usize>, kind: &Kind) -> Result<u8, CronError> {
    let word = &text[at.clone()];
    if word.is_empty() {
        return Err(error(at, format!("expected {}", kind.one), kind.allowed));
    }
    if word.bytes().all(|b| b.is_ascii_digit()) {
        return match word.parse::<u8>() {
            Ok(v) if (kind.min..=kind.max).contains(&v) => Ok(v),
            _ => Err(error(at, format!("{word} is not {}", kind.one), kind.allowed)),
        };
    }
    if let Some(i) = kind.names.iter().position(|n| n.eq_ignore_ascii_case(word)) {
        return Ok(kind.min + u8::try_from(i).expect("there are at most twelve names"));
    }
    let extra = word.contains(['?', 'L', 'W', '#', 'H', '*'])
        && kind.names.iter().all(|n| !word.eq_ignore_ascii_case(n));
    let help = match extra {
        true => {
            format!("{}; a field holds numbers, lists `1,3`, ranges `1-5`, steps `*/2` and `*`", kind.allowed)
        }
        false => kind.allowed.to_owned(),
    };
    Err(error(at, format!("`{word}` is not {}", kind.one), help))
}
