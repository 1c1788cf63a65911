//! What is wrong with a pipeline file, where, and what to do.

use headstart_protocol::text::similar;
use serde::Serialize;

use crate::codes::{Code, Severity};
use crate::span::Span;

/// A marked place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Label {
    /// Where.
    pub span: Span,
    /// What this place has to do with it; may be empty for a primary label.
    pub text: String,
    /// Whether it is the place of the error itself, rather than one that explains it.
    pub primary: bool,
}

/// An edit that fixes a diagnostic: what `span` covers is replaced by `text`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fix {
    /// What is replaced; empty where something is put in.
    pub span: Span,
    /// What is there afterwards.
    pub text: String,
}

/// One diagnostic. The message says what is wrong without needing the labels; help says what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// Stable code; each has a page.
    pub code: Code,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in one sentence without a full stop.
    pub message: String,
    /// Marked places; the primary one first. Empty where no file is at fault, as with `--set`.
    pub labels: Vec<Label>,
    /// Facts that explain it.
    pub notes: Vec<String>,
    /// Concrete fixes, in words.
    pub help: Vec<String>,
    /// The fix as an edit, where it is one edit and there is no doubt about it.
    pub fix: Option<Fix>,
}

impl Diagnostic {
    /// A diagnostic of this code, with the code's severity.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            severity: code.severity(),
            message: message.into(),
            labels: Vec::new(),
            notes: Vec::new(),
            help: Vec::new(),
            fix: None,
        }
    }

    /// Marks the place of the error.
    #[must_use]
    pub fn at(mut self, span: Span, text: impl Into<String>) -> Self {
        self.labels.push(Label { span, text: text.into(), primary: true });
        self
    }

    /// Marks a place that explains the error.
    #[must_use]
    pub fn see(mut self, span: Span, text: impl Into<String>) -> Self {
        self.labels.push(Label { span, text: text.into(), primary: false });
        self
    }

    /// Adds a fact.
    #[must_use]
    pub fn note(mut self, text: impl Into<String>) -> Self {
        self.notes.push(text.into());
        self
    }

    /// Adds a fix.
    #[must_use]
    pub fn help(mut self, text: impl Into<String>) -> Self {
        self.help.push(text.into());
        self
    }

    /// Adds the fix as an edit; its words are a help.
    #[must_use]
    pub fn fix(mut self, span: Span, text: impl Into<String>) -> Self {
        self.fix = Some(Fix { span, text: text.into() });
        self
    }

    /// Adds a fix in words, if there is one.
    #[must_use]
    pub fn maybe_help(mut self, text: Option<String>) -> Self {
        self.help.extend(text);
        self
    }

    /// Asks whether the most similar known name was meant, if any is like `name`, which stands at
    /// `span`.
    #[must_use]
    pub fn suggest<'a>(self, name: &str, span: Span, known: impl IntoIterator<Item = &'a str>) -> Self {
        match similar(name, known) {
            Some(meant) => self.help(format!("did you mean `{meant}`?")).fix(span, meant),
            None => self,
        }
    }

    /// Like [`Self::suggest`], where what is known is written as a text in quotes.
    #[must_use]
    pub fn suggest_text<'a>(self, text: &str, span: Span, known: impl IntoIterator<Item = &'a str>) -> Self {
        match similar(text, known) {
            Some(meant) => {
                let meant = format!("{meant:?}");
                self.help(format!("did you mean {meant}?")).fix(span, meant)
            }
            None => self,
        }
    }

    /// The place of the error.
    pub fn span(&self) -> Option<Span> {
        self.labels.iter().find(|l| l.primary).map(|l| l.span)
    }
}
