//! Diagnostics of text that the grammar does not accept.

use super::failure::{Diagnosis, ParseFailure};
use super::places::Edit;
use super::tokens::{token, unclosed};
use crate::codes::Code;
use crate::diagnostic::Diagnostic;
use crate::names;
use crate::span::Span;
use crate::words;

impl ParseFailure<'_> {
    pub fn diagnose(&self) -> Diagnosis {
        if let Some(diagnosis) = self.no_item().or_else(|| self.common_mistake()) {
            return diagnosis;
        }
        if self.text[self.at..].trim().is_empty()
            && let Some(open) = unclosed(self.text)
        {
            return self.not_closed(open);
        }
        let (what, span) = match self.found() {
            "" | "\n" => ("the end of the line".to_owned(), self.end_of_line()),
            t => (format!("`{t}`"), self.span(self.at, self.at + t.len())),
        };
        let expected = self.expected_text();
        if expected.is_empty() {
            let d = Diagnostic::new(Code::E0001, format!("unexpected {what}"));
            return Diagnosis::new(d.at(span, "not understood"));
        }
        let d = Diagnostic::new(Code::E0001, format!("expected {expected}, found {what}"));
        let d = d.at(span, format!("expected {expected}"));
        Diagnosis::new(d.maybe_help(self.example()))
    }

    /// What was expected, the most telling first, at most five.
    fn expected_text(&self) -> String {
        let mut list = self.expected.to_vec();
        if list.len() > 1 {
            // A value may continue almost anywhere; that is no useful message where something else is missing.
            list.retain(|s| !matches!(*s, "an operator" | "a comparison" | "`or`" | "`.`" | "`?`" | "`<`"));
        }
        if list.contains(&"a value") {
            list.retain(|s| !matches!(*s, "`not`" | "a name" | "a number" | "a text in double quotes"));
        }
        if list.len() > 1 && !self.text[self.at..].starts_with('(') {
            list.retain(|s| !matches!(*s, "`[`" | "`(`"));
        }
        // Clauses and settings may follow, but the end is what was probably meant.
        if list.contains(&"the end of the line") {
            list.retain(|s| !matches!(*s, "`on`" | "`for`" | "`when`" | "`{`"));
        }
        list.truncate(5);
        names::listed(&list, "or")
    }

    /// How an item of this keyword is written, for a head that goes wrong.
    fn example(&self) -> Option<String> {
        let keyword = token(self.text.trim_start());
        let keyword = if keyword == "private" { "dataset" } else { keyword };
        let head = !self.text[..self.at].contains(['(', '{', '[']);
        let word = words::find(words::ITEMS, keyword).filter(|_| head)?;
        Some(format!("write it as `{}`", word.example))
    }

    fn not_closed(&self, open: usize) -> Diagnosis {
        let bracket = &self.text[open..=open];
        let close = match bracket {
            "(" => ")",
            "[" => "]",
            _ => "}",
        };
        let d = Diagnostic::new(Code::E0003, format!("unclosed `{bracket}`"))
            .at(self.span(open, open + 1), format!("no `{close}` follows"));
        let (end, d) = match self.clause(open + 1) {
            Some(at) => {
                let clause = self.span(at, at + token(&self.text[at..]).len());
                (at, d.see(clause, "this belongs after the brackets"))
            }
            None => (self.before(), d.see(self.end_of_line(), "the item ends here")),
        };
        Diagnosis { diagnostic: d, edits: vec![Edit::guess(end, end, close)] }
    }

    /// Where a clause or a block of settings begins outside of further brackets: one inside a
    /// bracket was meant to stand behind it. What a name and `:` begin is an argument.
    fn clause(&self, from: usize) -> Option<usize> {
        let (mut at, mut depth) = (from, 0usize);
        while at < self.text.len() {
            let start = at + self.text[at..].len() - self.text[at..].trim_start().len();
            let found = token(&self.text[start..]);
            at = start + found.len();
            match found {
                "" => return None,
                "(" | "[" => depth += 1,
                ")" | "]" => depth = depth.saturating_sub(1),
                "{" if depth == 0 => return Some(start),
                "for" | "when" | "on" if depth == 0 && !self.text[at..].trim_start().starts_with(':') => {
                    return Some(start);
                }
                _ => {}
            }
        }
        None
    }
}

pub(super) fn too_deep_diagnostic(span: Span, max: usize) -> Diagnostic {
    Diagnostic::new(Code::E0006, format!("nested deeper than {max} levels"))
        .at(span, format!("level {}", max + 1))
        .help("name the inner values in separate items")
}

pub(super) fn unknown_escape(span: Span, c: char) -> Diagnostic {
    Diagnostic::new(Code::E0004, format!("unknown escape `\\{c}`"))
        .at(span, "")
        .help("a backslash itself is written `\\\\`; the others are `\\\"`, `\\n`, `\\t`")
}

pub(super) fn inner_not(span: Span) -> Diagnostic {
    Diagnostic::new(Code::E0001, "`not` must stand before a whole comparison")
        .at(span, "inside one")
        .help("put parentheses around what is negated")
}

pub(super) fn chained_comparison(span: Span) -> Diagnostic {
    Diagnostic::new(Code::E0001, "comparisons cannot be chained").at(span, "a second comparison")
}

pub(super) fn separator(what: &str, span: Span) -> Diagnostic {
    Diagnostic::new(Code::E0001, format!("missing comma after this {what}"))
        .at(span, "something else follows")
}

pub(super) fn unprintable(span: Span) -> Diagnostic {
    Diagnostic::new(Code::E0001, "unprintable character").at(span, "not understood").help("remove it")
}

pub(super) fn doc_of_nothing(span: Span) -> Diagnostic {
    Diagnostic::new(Code::W0006, "documentation without an item")
        .at(span, "documents nothing")
        .help("write `//` for a plain comment")
}

pub(super) fn late_file_doc(span: Span) -> Diagnostic {
    Diagnostic::new(Code::W0006, "`//!` must come before the first item")
        .at(span, "documents nothing here")
        .help("write `///` to document the next item, or `//` for a plain comment")
}
