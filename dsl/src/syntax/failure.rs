//! Where a parse ended, and what is said about it.

use super::places::Edit;
use super::tokens::token;
use crate::diagnostic::Diagnostic;
use crate::span::{FileId, Span};

/// A place where the parse of an item, a setting or an argument ended. Places are of `text`.
pub(super) struct ParseFailure<'t> {
    pub file: FileId,
    /// The item, setting or argument.
    pub text: &'t str,
    /// Where nothing fitted.
    pub at: usize,
    /// What would have fitted, in words.
    pub expected: &'t [&'static str],
}

/// What is wrong, and edits of which the first that helps lets the parse go on.
pub(super) struct Diagnosis {
    pub diagnostic: Diagnostic,
    pub edits: Vec<Edit>,
}

impl Diagnosis {
    pub fn new(diagnostic: Diagnostic) -> Self {
        Self { diagnostic, edits: Vec::new() }
    }

    /// A diagnosis with one sure fix, which is offered to editors as well.
    pub fn fixed(diagnostic: Diagnostic, file: FileId, edit: Edit) -> Self {
        let diagnostic = diagnostic.fix(Span::new(file, edit.start, edit.end), edit.text.clone());
        Self { diagnostic, edits: vec![edit] }
    }
}

impl ParseFailure<'_> {
    pub fn span(&self, start: usize, end: usize) -> Span {
        Span::new(self.file, start, end)
    }

    pub fn expects(&self, what: &str) -> bool {
        self.expected.contains(&what)
    }

    /// What is where nothing fitted.
    pub fn found(&self) -> &str {
        token(&self.text[self.at..])
    }

    /// Where the last token before the failure ends.
    pub fn before(&self) -> usize {
        self.text[..self.at].trim_end().len()
    }

    /// The last character before the failure, where the failure itself has no width.
    pub fn end_of_line(&self) -> Span {
        let before = self.before();
        self.span(before, before)
    }
}
