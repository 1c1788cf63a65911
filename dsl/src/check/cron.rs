//! Five-field cron expressions: checked field by field, with the place of what is wrong.

use std::ops::Range;
use std::str::FromStr;

/// What is wrong with an expression.
#[derive(Debug, PartialEq)]
pub(super) struct Wrong {
    pub message: String,
    pub label: String,
    /// Bytes of the expression.
    pub at: Range<usize>,
    pub help: Option<String>,
}

struct Field {
    name: &'static str,
    min: u32,
    max: u32,
    words: &'static [&'static str],
}

const MONTHS: &[&str] = &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: &[&str] = &["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const FIELDS: [Field; 5] = [
    Field { name: "minute", min: 0, max: 59, words: &[] },
    Field { name: "hour", min: 0, max: 23, words: &[] },
    Field { name: "day of month", min: 1, max: 31, words: &[] },
    Field { name: "month", min: 1, max: 12, words: MONTHS },
    Field { name: "day of week", min: 0, max: 7, words: DAYS },
];

/// Days of each month at most.
const MONTH_DAYS: [u32; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/// Checks an expression.
pub(super) fn check(text: &str) -> Result<(), Wrong> {
    let parts = words(text);
    let whole = 0..text.len();
    if text.trim_start().starts_with('@') {
        let help = match text.trim() {
            "@hourly" => "0 * * * *",
            "@daily" | "@midnight" => "0 0 * * *",
            "@weekly" => "0 0 * * 0",
            "@monthly" => "0 0 1 * *",
            "@yearly" | "@annually" => "0 0 1 1 *",
            _ => "0 3 * * *",
        };
        return Err(Wrong {
            message: "cron expressions are written in five fields".to_owned(),
            label: "an abbreviation".to_owned(),
            at: whole,
            help: Some(format!("write `{help}`")),
        });
    }
    if parts.len() != 5 {
        let help =
            (parts.len() == 6).then(|| "there is no field for seconds: leave the first out".to_owned());
        return Err(Wrong {
            message: format!("a cron expression has five fields, this has {}", parts.len()),
            label: format!("{} fields", parts.len()),
            at: whole,
            help,
        });
    }
    let mut sets: Vec<Vec<u32>> = Vec::with_capacity(5);
    for (field, at) in FIELDS.iter().zip(&parts) {
        sets.push(values(field, &text[at.clone()], at.start)?);
    }
    // Where both day fields are restricted, either is enough; else the day must exist.
    let free_weekday = text[parts[4].clone()].starts_with('*');
    let possible = sets[3].iter().any(|m| sets[2].iter().any(|d| *d <= MONTH_DAYS[*m as usize - 1]));
    if free_weekday && !possible {
        return Err(Wrong {
            message: "this never fires: no such day exists".to_owned(),
            label: "not a day of any of these months".to_owned(),
            at: parts[2].start..parts[3].end,
            help: None,
        });
    }
    calendar_accepts(&sets).map_err(|why| Wrong {
        message: format!("the calendar does not take this expression: {why}"),
        label: String::new(),
        at: whole,
        help: None,
    })
}

/// The calendar library counts seconds first and weekdays from 1, Sunday; what it cannot read now
/// would fail at run time.
fn calendar_accepts(sets: &[Vec<u32>]) -> Result<(), String> {
    let list = |set: &[u32]| set.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let weekdays: Vec<u32> = sets[4].iter().map(|d| d % 7 + 1).collect();
    let text = format!(
        "0 {} {} {} {} {}",
        list(&sets[0]),
        list(&sets[1]),
        list(&sets[2]),
        list(&sets[3]),
        list(&weekdays)
    );
    cron::Schedule::from_str(&text).map(|_| ()).map_err(|e| e.to_string())
}

fn words(text: &str) -> Vec<Range<usize>> {
    let mut out = Vec::new();
    let mut start = None;
    for (i, c) in text.char_indices().chain([(text.len(), ' ')]) {
        match (c.is_whitespace(), start) {
            (false, None) => start = Some(i),
            (true, Some(s)) => {
                out.push(s..i);
                start = None;
            }
            _ => {}
        }
    }
    out
}

/// The values of a field: `*`, `*/5`, `1-5`, `1-10/2`, `mon,wed`.
fn values(field: &Field, text: &str, start: usize) -> Result<Vec<u32>, Wrong> {
    let mut out = Vec::new();
    let mut at = start;
    for part in text.split(',') {
        let place = at..at + part.len();
        at += part.len() + 1;
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(step)),
            None => (part, None),
        };
        let wrong = |label: String, at: Range<usize>| Wrong {
            message: format!("the {} `{part}` is not understood", field.name),
            label,
            // An empty part has no width of its own.
            at: if at.is_empty() { at.start.saturating_sub(1)..at.end.max(1) } else { at },
            help: None,
        };
        let step = match step.map(str::parse::<u32>) {
            None => 1,
            Some(Ok(n)) if n > 0 && (range == "*" || range.contains('-')) => n,
            Some(Ok(0)) => return Err(wrong("a step of 0 goes nowhere".to_owned(), place)),
            Some(Ok(n)) => {
                let mut w = wrong("a step needs a range".to_owned(), place);
                w.help = Some(format!("write `{range}-{}/{n}` or `*/{n}`", field.max));
                return Err(w);
            }
            Some(Err(_)) => return Err(wrong("the step is not a number".to_owned(), place)),
        };
        let (low, high) = match range.split_once('-') {
            _ if range == "*" => (field.min, field.max),
            None => {
                let n = one(field, range).map_err(|why| wrong(why, place.clone()))?;
                (n, n)
            }
            Some((low, high)) => {
                let low = one(field, low).map_err(|why| wrong(why, place.clone()))?;
                let high = one(field, high).map_err(|why| wrong(why, place.clone()))?;
                // `fri-sun`: Sunday is the last day of a range that ends with it.
                (low, if field.max == 7 && high == 0 && low > 0 { 7 } else { high })
            }
        };
        if low > high {
            return Err(wrong(format!("{low} comes after {high}"), place));
        }
        out.extend((low..=high).step_by(step as usize));
    }
    out.sort_unstable();
    out.dedup();
    Ok(out)
}

fn one(field: &Field, text: &str) -> Result<u32, String> {
    if let Some(n) = field.words.iter().position(|w| w.eq_ignore_ascii_case(text)) {
        return Ok(n as u32 + field.min);
    }
    match text.parse::<u32>() {
        Ok(n) if (field.min..=field.max).contains(&n) => Ok(n),
        Ok(n) => Err(format!("{n} is not between {} and {}", field.min, field.max)),
        Err(_) if text.is_empty() => Err("something is missing".to_owned()),
        Err(_) if field.words.is_empty() => {
            Err(format!("expected a number from {} to {}", field.min, field.max))
        }
        Err(_) => Err(format!(
            "expected a number from {} to {} or a name such as `{}`",
            field.min, field.max, field.words[1]
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_expressions() {
        for text in [
            "0 3 * * *",
            "*/15 * * * *",
            "0 0 1-7 jan,Feb mon-fri",
            "0 0 29 2 *",
            "5 4 * * sun",
            "0 0 * * 5-7",
            "0 22 * * fri-sun",
            "30 2 30 2 1",
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn bad_expressions_are_located() {
        let bad = |text: &str| {
            let w = check(text).expect_err(text);
            (text[w.at].to_owned(), w.label)
        };
        assert_eq!(bad("0 24 * * *"), ("24".into(), "24 is not between 0 and 23".into()));
        assert_eq!(bad("0 3 * *"), ("0 3 * *".into(), "4 fields".into()));
        assert_eq!(bad("0 3 31 2,4 *"), ("31 2,4".into(), "not a day of any of these months".into()));
        assert_eq!(bad("1,x * * * *"), ("x".into(), "expected a number from 0 to 59".into()));
        assert_eq!(bad("5/10 * * * *"), ("5/10".into(), "a step needs a range".into()));
        assert_eq!(bad("* * * * fri-mon"), ("fri-mon".into(), "5 comes after 1".into()));
    }
}
