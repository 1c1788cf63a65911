//! Messages for text that the grammar does not understand. Common slips are known by sight
//! ([`slips`]).

mod slips;

use std::ops::Range;

use crate::codes::Code;
use crate::diagnostic::Diagnostic;
use crate::names;
use crate::span::{FileId, Span};
use crate::syntax::Edit;
use crate::words;

/// A place where the parse of an item, a setting or an argument ended. Places are of `text`.
pub(crate) struct Mistake<'t> {
    pub file: FileId,
    /// The item, setting or argument.
    pub text: &'t str,
    /// Where nothing fitted.
    pub at: usize,
    /// What would have fitted, in words.
    pub expected: &'t [&'static str],
}

/// What is wrong, and edits of which the first that helps lets the parse go on.
pub(crate) struct Slip {
    pub diagnostic: Diagnostic,
    pub edits: Vec<Edit>,
}

impl Slip {
    fn new(diagnostic: Diagnostic) -> Self {
        Self { diagnostic, edits: Vec::new() }
    }

    /// A slip with one sure fix, which is offered to editors as well.
    fn fixed(diagnostic: Diagnostic, file: FileId, edit: Edit) -> Self {
        let diagnostic = diagnostic.fix(Span::new(file, edit.start, edit.end), edit.text.clone());
        Self { diagnostic, edits: vec![edit] }
    }
}

impl Mistake<'_> {
    fn span(&self, start: usize, end: usize) -> Span {
        Span::new(self.file, start, end)
    }

    fn expects(&self, what: &str) -> bool {
        self.expected.contains(&what)
    }

    /// What stands where nothing fitted.
    fn found(&self) -> &str {
        token(&self.text[self.at..])
    }

    /// Where the last token before the mistake ends.
    fn before(&self) -> usize {
        self.text[..self.at].trim_end().len()
    }

    pub fn diagnose(&self) -> Slip {
        if let Some(slip) = self.no_item().or_else(|| self.known_slip()) {
            return slip;
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
            return Slip::new(d.at(span, "not understood"));
        }
        let d = Diagnostic::new(Code::E0001, format!("expected {expected}, found {what}"));
        let d = d.at(span, format!("expected {expected}"));
        Slip::new(d.maybe_help(self.example()))
    }

    /// The last character before the mistake, where the mistake itself has no width.
    fn end_of_line(&self) -> Span {
        let before = self.before();
        self.span(before, before)
    }

    /// What was expected, the most telling first, at most five.
    fn expected_text(&self) -> String {
        let mut list = self.expected.to_vec();
        if list.len() > 1 {
            // A value may go on almost anywhere; that is not news where something else is missing.
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
        Some(format!("an item of this kind is written so: `{}`", word.example))
    }

    fn not_closed(&self, open: usize) -> Slip {
        let bracket = &self.text[open..=open];
        let close = match bracket {
            "(" => ")",
            "[" => "]",
            _ => "}",
        };
        let d = Diagnostic::new(Code::E0003, format!("this `{bracket}` is not closed"))
            .at(self.span(open, open + 1), format!("no `{close}` follows"));
        let (end, d) = match self.clause(open + 1) {
            Some(at) => {
                let clause = self.span(at, at + token(&self.text[at..]).len());
                (at, d.see(clause, "this stands behind the brackets"))
            }
            None => (self.before(), d.see(self.end_of_line(), "the item ends here")),
        };
        Slip { diagnostic: d, edits: vec![Edit::guess(end, end, close)] }
    }

    /// Where a clause or a block of settings begins outside of further brackets: one that stands in a
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

/// Where the given number of tokens behind `from` end.
pub(crate) fn behind_tokens(text: &str, from: usize, count: usize) -> usize {
    let mut at = from;
    for _ in 0..count {
        at += text[at..].len() - text[at..].trim_start().len();
        at += token(&text[at..]).len();
    }
    at
}

/// Where the argument, setting or element at `from` ends: at the next comma or closing bracket
/// outside of brackets, or at the end of the line.
pub(crate) fn part_end(text: &str, from: usize) -> usize {
    let mut depth = 0usize;
    let mut commas = text[from..].char_indices();
    let end = commas.find(|(_, c)| match c {
        '(' | '[' | '{' => {
            depth += 1;
            false
        }
        ')' | ']' | '}' if depth > 0 => {
            depth -= 1;
            false
        }
        ')' | ']' | '}' | '\n' => true,
        ',' => depth == 0,
        _ => false,
    });
    end.map_or(text.len(), |(i, _)| from + i)
}

/// The token at the start of a text: a word, a closed text, a known pair of characters, or one
/// character.
pub(crate) fn token(text: &str) -> &str {
    let Some(first) = text.chars().next() else { return "" };
    if first == '\n' || first == '\r' {
        return "\n";
    }
    if first.is_alphanumeric() || first == '_' {
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        return &text[..end];
    }
    if first == '"' {
        let mut escaped = false;
        for (at, c) in text.char_indices().skip(1) {
            match c {
                '\n' | '\r' => break,
                '"' if !escaped => return &text[..=at],
                c => escaped = c == '\\' && !escaped,
            }
        }
        return "\"";
    }
    let pairs = ["&&", "||", "/*", "==", "!=", "<=", ">=", ":=", "<-", "${", "=>", "->", "=<"];
    pairs.into_iter().find(|p| text.starts_with(p)).unwrap_or(&text[..first.len_utf8()])
}

/// Calls `f` with every bracket outside texts and comments; ends where `f` gives something.
fn brackets<T>(text: &str, mut f: impl FnMut(usize, u8) -> Option<T>) -> Option<T> {
    let b = text.as_bytes();
    let mut i = 0;
    while i < b.len() {
        match b[i] {
            b'"' => {
                i += 1;
                while i < b.len() && b[i] != b'"' && b[i] != b'\n' {
                    i += if b[i] == b'\\' && b.get(i + 1) != Some(&b'\n') { 2 } else { 1 };
                }
            }
            b'/' if b.get(i + 1) == Some(&b'/') => {
                while i < b.len() && b[i] != b'\n' {
                    i += 1;
                }
                continue;
            }
            c @ (b'(' | b'[' | b'{' | b')' | b']' | b'}' | b'<' | b'>' | b'\n') => {
                if let Some(out) = f(i, c) {
                    return Some(out);
                }
            }
            _ => {}
        }
        i += 1;
    }
    None
}

/// The innermost bracket that is never closed.
fn unclosed(text: &str) -> Option<usize> {
    let mut open = Vec::new();
    brackets::<()>(text, |at, c| {
        match c {
            b'(' | b'[' | b'{' => open.push(at),
            b')' | b']' | b'}' => {
                open.pop();
            }
            _ => {}
        }
        None
    });
    open.pop()
}

/// The first bracket that nests deeper than `max`.
pub(crate) fn too_deep(text: &str, max: usize) -> Option<usize> {
    let (mut depth, mut angles) = (0usize, 0usize);
    brackets(text, |at, c| {
        match c {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            b'<' => angles += 1,
            b'>' => angles = angles.saturating_sub(1),
            _ => {
                angles = 0;
                // An unclosed bracket must not count against everything that follows it.
                let rest = &text[at + 1..];
                if words::names(words::ITEMS).any(|k| rest.starts_with(k)) {
                    depth = 0;
                }
            }
        }
        (depth > max || angles > max).then_some(at)
    })
}

pub(crate) fn too_deep_diagnostic(span: Span, max: usize) -> Diagnostic {
    Diagnostic::new(Code::E0006, format!("nested deeper than {max} levels"))
        .at(span, format!("level {}", max + 1))
        .help("name the inner values with items of their own")
}

pub(crate) fn unknown_escape(span: Span, c: char) -> Diagnostic {
    Diagnostic::new(Code::E0004, format!("`\\{c}` is not an escape"))
        .at(span, "")
        .help("a backslash itself is written `\\\\`; the others are `\\\"`, `\\n`, `\\t`")
}

pub(crate) fn inner_not(span: Span) -> Diagnostic {
    Diagnostic::new(Code::E0001, "`not` stands in front of a whole comparison")
        .at(span, "inside one")
        .help("put parentheses around what is negated")
}

pub(crate) fn chained_comparison(span: Span) -> Diagnostic {
    Diagnostic::new(Code::E0001, "comparisons do not chain").at(span, "a second comparison")
}

pub(crate) fn separator(what: &str, span: Span) -> Diagnostic {
    Diagnostic::new(Code::E0001, format!("a comma is missing behind this {what}"))
        .at(span, "something else follows")
}

pub(crate) fn unprintable(span: Span) -> Diagnostic {
    Diagnostic::new(Code::E0001, "a character that cannot be printed stands here")
        .at(span, "not understood")
        .help("remove it")
}

pub(crate) fn doc_of_nothing(span: Span) -> Diagnostic {
    Diagnostic::new(Code::W0006, "no item follows this documentation")
        .at(span, "documents nothing")
        .help("write `//` for a plain comment")
}

pub(crate) fn late_file_doc(span: Span) -> Diagnostic {
    Diagnostic::new(Code::W0006, "`//!` documents the file and stands before its first item")
        .at(span, "documents nothing here")
        .help("write `///` to document the next item, or `//` for a plain comment")
}

/// Where the name lies that a broken item would have declared.
pub(crate) fn declared_name(text: &str) -> Option<Range<usize>> {
    let word = |from: usize| -> Option<Range<usize>> {
        let start = from + text[from..].find(|c: char| c != ' ' && c != '\t')?;
        let rest = &text[start..];
        let len = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        (len > 0).then_some(start..start + len)
    };
    let mut keyword = word(0)?;
    if &text[keyword.clone()] == "private" {
        keyword = word(keyword.end)?;
    }
    if &text[keyword.clone()] == "import" {
        let line_end = text.find('\n').unwrap_or(text.len());
        let at = text[..line_end].rfind(" as ")?;
        return word(at + 4);
    }
    let name = word(keyword.end)?;
    (!text[name.clone()].starts_with(|c: char| c.is_ascii_digit())).then_some(name)
}
