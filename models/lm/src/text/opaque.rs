//! What a conversation says, kept out of its chat template's sight.
//!
//! A template that is judged to treat all content alike is given a mark in place of what each turn says, and the
//! texts are put into what it wrote. So whatever it does, it does for every text of the same roles: a mistake in
//! the judgement can make a wrong text, but none that depends on what a turn says.
//!
//! What can happen to a text on its way is what can be seen at its mark, and no more:
//! - white space at its beginning, its end or both is taken off,
//! - it is written as the inside of a JSON string, once,
//! - it is written up to [`REPEATS`] times, or not at all.

use std::ops::Range;

/// How often a template may write what one turn says.
pub(super) const REPEATS: usize = 8;

/// White space before and behind a mark, which a template that trims takes off. No template writes these itself;
/// there are two, so that what is before a mark is not taken for what is behind the last.
const BEFORE: char = '\u{205F}';
const BEHIND: char = '\u{2008}';
/// Before and behind the number of a turn: of the characters for private use, like its digits.
const OPEN: char = '\u{E0F2}';
const CLOSE: char = '\u{E0F3}';
const ZERO: u32 = 0xE100;

/// What stands for the text of a turn. Its quotation mark shows whether it was written as JSON.
pub(super) fn mark(turn: usize) -> String {
    let digits = turn.to_string();
    let digits = digits.bytes().filter_map(|d| char::from_u32(ZERO + u32::from(d - b'0')));
    let mut mark = String::from_iter([BEFORE, OPEN]);
    mark.extend(digits);
    mark.extend(['"', CLOSE, BEHIND]);
    mark
}

/// What a template wrote, with the texts in the place of their marks.
#[derive(Debug)]
pub(super) struct Filled {
    pub text: String,
    /// Where each mark was, and where its text is.
    places: Vec<(Range<usize>, Range<usize>)>,
}

impl Filled {
    /// Where a place of what the template wrote has come to lie.
    pub(super) fn at(&self, place: usize) -> usize {
        let before = self.places.partition_point(|(mark, _)| mark.start < place);
        match before.checked_sub(1).and_then(|last| self.places.get(last)) {
            Some((mark, text)) if place < mark.end => text.end,
            Some((mark, text)) => text.end + (place - mark.end),
            None => place,
        }
    }
}

/// Why texts cannot be put into what a template wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// A mark was changed.
    Changed,
    /// A mark is there more than [`REPEATS`] times.
    Repeated,
}

/// Puts the texts of turns in the place of their marks.
///
/// # Errors
/// [`Unfit`], whatever the texts are.
pub(super) fn fill(written: &str, texts: &[&str]) -> Result<Filled, Unfit> {
    let mut filled = Filled { text: String::new(), places: Vec::new() };
    let mut times = vec![0usize; texts.len()];
    let mut copied = 0;
    while let Some(at) = written[copied..].find(OPEN) {
        let open = copied + at;
        let seen = Seen::read(&written[open..]).filter(|m| m.turn < texts.len()).ok_or(Unfit::Changed)?;
        let (before, behind) = (&written[copied..open], &written[open + seen.bytes..]);
        let (untrimmed, spaced) = (before.strip_suffix(BEFORE), behind.starts_with(BEHIND));
        times[seen.turn] += 1;
        if times[seen.turn] > REPEATS {
            return Err(Unfit::Repeated);
        }
        let mut text = texts[seen.turn];
        if untrimmed.is_none() {
            text = text.trim_start();
        }
        if !spaced {
            text = text.trim_end();
        }
        let before = whole(untrimmed.unwrap_or(before))?;
        filled.text.push_str(before);
        let (from, start) = (copied + before.len(), filled.text.len());
        match seen.json {
            true => filled.text.push_str(inside_json(text).as_str()),
            false => filled.text.push_str(text),
        }
        copied = open + seen.bytes + if spaced { BEHIND.len_utf8() } else { 0 };
        filled.places.push((from..copied, start..filled.text.len()));
    }
    filled.text.push_str(whole(&written[copied..])?);
    Ok(filled)
}

/// A mark in what a template wrote.
struct Seen {
    turn: usize,
    json: bool,
    bytes: usize,
}

impl Seen {
    /// The mark that a text begins with, from [`OPEN`] to [`CLOSE`].
    fn read(written: &str) -> Option<Self> {
        let inner = written.strip_prefix(OPEN)?;
        let inner = &inner[..inner.find(CLOSE)?];
        let bytes = OPEN.len_utf8() + inner.len() + CLOSE.len_utf8();
        let digits = inner.strip_suffix('"')?;
        let (digits, json) = match digits.strip_suffix('\\') {
            Some(digits) => (digits, true),
            None => (digits, false),
        };
        let digit = |c: char| (c as u32).checked_sub(ZERO).filter(|d| *d < 10);
        let turn = digits.chars().try_fold(0u32, |n, c| n.checked_mul(10)?.checked_add(digit(c)?))?;
        (!digits.is_empty()).then_some(Self { turn: turn as usize, json, bytes })
    }
}

/// A text that no part of a mark was left in.
fn whole(text: &str) -> Result<&str, Unfit> {
    let of_mark = |c: char| c == CLOSE || c == OPEN || (ZERO..ZERO + 10).contains(&(c as u32));
    if text.contains(of_mark) { Err(Unfit::Changed) } else { Ok(text) }
}

/// A text as it stands between the quotation marks of a JSON string.
fn inside_json(text: &str) -> String {
    let json = serde_json::Value::from(text).to_string();
    json[1..json.len() - 1].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_put_in_the_place_of_their_marks() {
        let texts = [" a\u{E0F2} ", "b\"\n", "{{ c }}"];
        let [a, b, c] = [mark(0), mark(1), mark(2)];
        for (written, expected) in [
            (format!("<{a}>{c}!"), "< a\u{E0F2} >{{ c }}!".to_owned()),
            (format!("<{}>{}", a.trim(), b.trim_end()), "<a\u{E0F2}>b\"".into()),
            (format!("<{}>", a.trim_start()), "<a\u{E0F2} >".into()),
            (format!("{b}{}", serde_json::Value::from(b.as_str())), "b\"\n\"b\\\"\\n\"".into()),
            (format!("{}", serde_json::Value::from(b.trim())), "\"b\\\"\"".into()),
            (format!("{}{a}{}", a.trim(), b.trim()), "a\u{E0F2} a\u{E0F2} b\"".into()),
            ("nothing".into(), "nothing".into()),
        ] {
            assert_eq!(fill(&written, &texts).unwrap().text, expected);
        }
        // What a text says is no mark.
        assert_eq!(fill(&mark(0), &[&mark(1), "secret"]).unwrap().text, mark(1));
        let many: String = (0..12).map(mark).collect();
        let texts: Vec<String> = (0..12).map(|i| format!("{i},")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        assert_eq!(fill(&many, &texts).unwrap().text, "0,1,2,3,4,5,6,7,8,9,10,11,");
    }

    #[test]
    fn changed_and_repeated_marks_are_refused() {
        let m = mark(1);
        let twice = serde_json::Value::from(serde_json::Value::from(m.as_str()).to_string()).to_string();
        let chars: Vec<char> = m.chars().collect();
        let cut = |range: Range<usize>| chars[range].iter().collect::<String>();
        let unknown = mark(2);
        for written in [twice.as_str(), &cut(0..3), &cut(2..6), &cut(3..6), &cut(4..6), &cut(2..3), &unknown]
        {
            assert_eq!(fill(written, &["a", "b"]).unwrap_err(), Unfit::Changed, "{written:?}");
        }
        assert!(fill(&m.repeat(REPEATS), &["", "b"]).is_ok());
        assert_eq!(fill(&m.repeat(REPEATS + 1), &["", "b"]).unwrap_err(), Unfit::Repeated);
    }

    #[test]
    fn places_move_with_the_texts() {
        let written = format!("ab{}cd{}e", mark(0), mark(1));
        let filled = fill(&written, &["xyz", ""]).unwrap();
        assert_eq!(filled.text, "abxyzcde");
        let [a, b] = [mark(0).len(), mark(1).len()];
        for (from, to) in [(0, 0), (2, 2), (2 + a, 5), (3 + a, 6), (4 + a, 7), (4 + a + b, 7), (5 + a + b, 8)]
        {
            assert_eq!(filled.at(from), to, "{from}");
        }
    }
}
