//! Messages for text that the grammar does not understand. Knows common slips by sight.

use std::ops::Range;

use crate::codes::Code;
use crate::diagnostic::Diagnostic;
use crate::names;
use crate::span::{FileId, Span};
use crate::words;

/// A place where the parse of an item or setting ended.
pub(crate) struct Mistake<'t> {
    pub file: FileId,
    /// The whole file.
    pub text: &'t str,
    /// The item or setting.
    pub start: usize,
    pub end: usize,
    /// Where nothing fitted.
    pub at: usize,
    /// What would have fitted, in words.
    pub expected: Vec<&'static str>,
}

impl Mistake<'_> {
    fn span(&self, start: usize, end: usize) -> Span {
        Span::new(self.file, start, end)
    }

    fn expects(&self, what: &str) -> bool {
        self.expected.contains(&what)
    }

    pub fn diagnose(&self) -> Diagnostic {
        let found = token(&self.text[self.at..]);
        if let Some(d) = self.misspelt_keyword().or_else(|| self.known_slip(found)) {
            return d;
        }
        if self.text[self.at..self.end].trim().is_empty() {
            if let Some(open) = unclosed(&self.text[self.start..self.end]) {
                return self.not_closed(self.start + open);
            }
        }
        let (what, span) = match found {
            "" => ("the end of the file".to_owned(), self.end_of_line()),
            "\n" => ("the end of the line".to_owned(), self.end_of_line()),
            t => (format!("`{t}`"), self.span(self.at, self.at + t.len())),
        };
        let expected = self.expected_text();
        if expected.is_empty() {
            return Diagnostic::new(Code::E0001, format!("unexpected {what}")).at(span, "not understood");
        }
        Diagnostic::new(Code::E0001, format!("expected {expected}, found {what}"))
            .at(span, format!("expected {expected}"))
    }

    /// The last character before the mistake, where the mistake itself has no width.
    fn end_of_line(&self) -> Span {
        let before = self.text[..self.at].trim_end().len().max(self.start);
        self.span(before, before)
    }

    /// What was expected, the most telling first, at most four.
    fn expected_text(&self) -> String {
        let mut list = self.expected.clone();
        if list.len() > 1 {
            // A value may go on almost anywhere; that is not news where something else is missing.
            list.retain(|s| !matches!(*s, "an operator" | "a comparison" | "`or`" | "`.`" | "`?`" | "`<`"));
        }
        if list.iter().any(|s| *s == "a value") {
            list.retain(|s| !matches!(*s, "`not`" | "a name" | "a number" | "a text in double quotes"));
        }
        if list.len() > 1 && !self.text[self.at..].starts_with('(') {
            list.retain(|s| !matches!(*s, "`[`" | "`(`"));
        }
        list.truncate(5);
        names::listed(&list, "or")
    }

    /// The item starts with a word that is no keyword.
    fn misspelt_keyword(&self) -> Option<Diagnostic> {
        let first = token(&self.text[self.start..]);
        if self.at != self.start || !self.expects("an item") {
            return None;
        }
        let span = self.span(self.start, self.start + first.len().max(1));
        if !first.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return match first {
                "#" | "/*" | "'" => self.known_slip(first),
                _ => None,
            };
        }
        let d = Diagnostic::new(Code::E0001, format!("no item starts with `{first}`"));
        let d = d.at(span, "expected an item");
        Some(match names::similar(first, words::names(words::ITEMS)) {
            Some(k) => d.help(format!("did you mean `{k}`?")),
            None => {
                d.help(format!("an item starts with {}", names::quoted(words::names(words::ITEMS), "or")))
            }
        })
    }

    /// Spellings of other languages.
    fn known_slip(&self, found: &str) -> Option<Diagnostic> {
        let at = self.span(self.at, self.at + found.len());
        let new = |message: &str| Diagnostic::new(Code::E0001, message);
        Some(match found {
            "\"" => {
                let line = self.text[self.at..].lines().next().unwrap_or_default();
                Diagnostic::new(Code::E0002, "this text is not closed")
                    .at(self.span(self.at, self.at + line.trim_end().len()), "opened here, never closed")
                    .help("end it with `\"` on the same line; write a line break as `\\n`")
            }
            "'" => new("texts stand in double quotes").at(at, "").help("write `\"…\"`"),
            "#" => new("`#` starts no comment").at(at, "").help("a comment starts with `//`"),
            "/*" => new("comments end with their line").at(at, "").help("start every line with `//`"),
            "&&" | "and" if self.expects("`or`") => {
                new("there is no `and`").at(at, "").help("let one stage take the condition of another")
            }
            "||" => new("`||` is written `or`").at(at, "").help("write `or`"),
            "!" => new("`!` is written `not`").at(at, "").help("write `not`"),
            "=" if self.expects("`:`") && !self.expects("`=`") => {
                new("`=` binds names only; arguments and settings take `:`")
                    .at(at, "")
                    .help("write `name: value`")
            }
            ":" if self.expects("`=`") && !self.expects("`:`") => {
                new("expected `=`, found `:`").at(at, "").help("`=` says how the item is made")
            }
            ";" => new("items end with their line, not with `;`").at(at, "").help("remove it"),
            "$" | "${" => new("texts hold no templates").at(at, "").help("pass a parameter instead"),
            _ => return None,
        })
    }

    fn not_closed(&self, open: usize) -> Diagnostic {
        let bracket = &self.text[open..=open];
        let close = match bracket {
            "(" => ")",
            "[" => "]",
            _ => "}",
        };
        Diagnostic::new(Code::E0003, format!("this `{bracket}` is not closed"))
            .at(self.span(open, open + 1), format!("no `{close}` follows"))
            .see(self.end_of_line(), "the item ends here")
    }
}

/// The token at the start of a text: a word, a known pair of characters, or one character.
fn token(text: &str) -> &str {
    let Some(first) = text.chars().next() else { return "" };
    if first == '\n' || first == '\r' {
        return "\n";
    }
    if first.is_alphanumeric() || first == '_' {
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        return &text[..end];
    }
    let pairs = ["&&", "||", "/*", "==", "!=", "<=", ">=", "${", "=>", "->"];
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
