//! Recovery from syntax errors: what is wrong is reported and repaired in a copy of the text, and the
//! parse starts again. So one run reports every error of an item, and an item whose errors leave no
//! doubt about what was meant is checked like any other.

use pest::Parser;
use pest::error::{ErrorVariant, InputLocation};

use super::failure::ParseFailure;
use super::places::{Edit, Places};
use super::rule_names;
use super::rules::{Grammar, Rule};
use super::tokens::{self, MAX_DEPTH};
use crate::diagnostic::Diagnostic;
use crate::span::{FileId, Span};

/// Errors of one item that are looked for.
const MAX_ERRORS: usize = 8;
/// Longer items are not repaired: every attempt parses the whole item.
const MAX_LENGTH: usize = 16 << 10;
/// Takes the place of a missing value.
pub(super) const HOLE: &str = "\0";

/// A text that the grammar did not accept, repaired as far as possible.
pub(super) struct Recovered {
    /// The text, with the reported errors repaired.
    pub text: String,
    pub places: Places,
    /// What is wrong, at places of the text as written.
    pub diags: Vec<Diagnostic>,
    /// Whether the grammar accepts it now, and it says what was meant.
    pub whole: bool,
}

/// How far a parse came.
enum Reached {
    All,
    Up { to: usize, expected: Vec<&'static str> },
}

fn reached(rule: Rule, text: &str) -> Reached {
    let e = match Grammar::parse(rule, text) {
        Ok(_) => return Reached::All,
        Err(e) => e,
    };
    let to = match e.location {
        InputLocation::Pos(p) | InputLocation::Span((p, _)) => p,
    };
    let mut expected: Vec<&'static str> = Vec::new();
    if let ErrorVariant::ParsingError { positives, .. } = &e.variant {
        for s in positives.iter().filter_map(|r| rule_names::symbol(*r)) {
            // Arguments and settings are parsed without their brackets.
            let s = match (s, rule) {
                (rule_names::END, Rule::some_args) => "`)`",
                (rule_names::END, Rule::some_settings) => "`}`",
                (s, _) => s,
            };
            if !expected.contains(&s) {
                expected.push(s);
            }
        }
    }
    Reached::Up { to, expected }
}

/// Finds the errors of a text that `rule` should accept; none where it does.
pub(super) fn recover(rule: Rule, file: FileId, text: &str) -> Recovered {
    let mut m =
        Recovered { text: text.to_owned(), places: Places::default(), diags: Vec::new(), whole: false };
    let mut sure = true;
    for _ in 0..MAX_ERRORS {
        let (at, expected) = match reached(rule, &m.text) {
            Reached::All => {
                m.whole = sure;
                return m;
            }
            Reached::Up { to, expected } => (to, expected),
        };
        let diagnosis = ParseFailure { file, text: &m.text, at, expected: &expected }.diagnose();
        m.report(diagnosis.diagnostic);
        if text.len() > MAX_LENGTH || text.contains(HOLE) {
            return m;
        }
        // Where it is known what was meant, nothing else is tried.
        let edit = match diagnosis.edits.is_empty() {
            true => guess(rule, &m.text, at, &expected),
            false => diagnosis.edits.into_iter().find(|e| goes_on(rule, &m.text, e).is_some()),
        };
        let Some(edit) = edit.filter(|e| m.places.edited(e, &m.text)) else { return m };
        sure &= edit.sure;
        m.text = edit.apply(&m.text);
    }
    m
}

impl Recovered {
    /// Records a diagnostic whose places are of the text as repaired so far.
    fn report(&mut self, mut d: Diagnostic) {
        let place = |s: &mut Span| {
            let (start, end) = (self.places.written(s.start as usize), self.places.written(s.end as usize));
            *s = Span::new(s.file, start, end.max(start));
        };
        d.labels.iter_mut().for_each(|l| place(&mut l.span));
        d.fix.iter_mut().for_each(|f| place(&mut f.span));
        self.diags.push(d);
    }
}

/// How far the parse comes with an edit; none where that is not clearly further than the edit: what
/// would be found there may well be made by the edit.
fn goes_on(rule: Rule, text: &str, edit: &Edit) -> Option<usize> {
    let new = edit.apply(text);
    if tokens::too_deep(&new, MAX_DEPTH).is_some() {
        return None;
    }
    let Reached::Up { to, .. } = reached(rule, &new) else { return Some(usize::MAX) };
    let end = edit.start + edit.text.len();
    let tokens = if edit.sure { 1 } else { 2 };
    (to > tokens::behind_tokens(&new, end, tokens)).then(|| to - end)
}

/// The edit of one token that lets the parse go on furthest.
fn guess(rule: Rule, text: &str, at: usize, expected: &[&'static str]) -> Option<Edit> {
    let token = at + tokens::token(&text[at..]).len();
    let put = |new: &str| Edit::sure(at, at, new);
    let mut all: Vec<Edit> = Vec::new();
    for what in [":", "=", ",", ")", "]", "}", ">", "in ", "as "] {
        if expected.contains(&format!("`{}`", what.trim_end()).as_str()) {
            all.push(put(what));
        }
    }
    if expected.contains(&"a value") {
        all.push(put(HOLE));
        all.push(Edit::sure(at, token, HOLE));
        all.push(Edit::sure(at, tokens::part_end(text, at), HOLE));
    }
    all.push(Edit::guess(at, token, ""));
    all.push(Edit::guess(at, tokens::part_end(text, at), ""));
    let mut best: Option<(usize, Edit)> = None;
    for edit in all.into_iter().filter(|e| e.end > e.start || !e.text.is_empty()) {
        if let Some(to) = goes_on(rule, text, &edit)
            && best.as_ref().is_none_or(|(b, _)| to > *b)
        {
            best = Some((to, edit));
        }
    }
    best.map(|(_, edit)| edit)
}
