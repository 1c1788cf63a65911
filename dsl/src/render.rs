//! Diagnostics for people and for tools.

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet, normalize_untrusted_str};
use serde::Serialize;

use crate::codes::{Code, Severity};
use crate::diagnostic::{Diagnostic, Label};
use crate::span::{FileId, Sources};

/// Columns of a rendered diagnostic.
const WIDTH: usize = 120;

/// Renders diagnostics as a compiler does: message, the marked lines of every file involved, notes,
/// help. Ends with a line break unless empty.
pub fn render(diagnostics: &[Diagnostic], sources: &Sources, color: bool) -> String {
    let renderer = if color { Renderer::styled() } else { Renderer::plain() }.term_width(WIDTH);
    let mut out = String::new();
    for d in diagnostics {
        out.push_str(&renderer.render(&[group(d, sources)]));
        out.push_str("\n\n");
    }
    out.truncate(out.trim_end().len());
    if !out.is_empty() {
        out.push('\n');
    }
    out
}

fn group<'a>(d: &'a Diagnostic, sources: &'a Sources) -> Group<'a> {
    let level = match d.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
        Severity::Note => Level::NOTE,
    };
    let title = level.primary_title(normalize_untrusted_str(&d.message)).id(d.code.as_str());
    let mut group = Group::with_title(title);
    for file in files(d) {
        let source = sources.file(file);
        let labels = d.labels.iter().filter(|l| l.span.file == file);
        let snippet = Snippet::source(source.text.as_ref())
            .path(source.path.as_str())
            .annotations(labels.map(|l| annotation(l, source.text.len())));
        group = group.element(snippet);
    }
    for note in &d.notes {
        group = group.element(Level::NOTE.message(normalize_untrusted_str(note)));
    }
    for help in &d.help {
        group = group.element(Level::HELP.message(normalize_untrusted_str(help)));
    }
    group
}

/// The files that a diagnostic marks, the primary one first.
fn files(d: &Diagnostic) -> Vec<FileId> {
    let mut out: Vec<FileId> = d.span().map(|s| s.file).into_iter().collect();
    for l in &d.labels {
        if !out.contains(&l.span.file) {
            out.push(l.span.file);
        }
    }
    out
}

fn annotation(l: &Label, len: usize) -> annotate_snippets::Annotation<'_> {
    let kind = if l.primary { AnnotationKind::Primary } else { AnnotationKind::Context };
    // A span outside its text would panic in the renderer.
    let range = l.span.range();
    let range = range.start.min(len)..range.end.min(len).max(range.start.min(len));
    let annotation = kind.span(range);
    if l.text.is_empty() { annotation } else { annotation.label(normalize_untrusted_str(&l.text)) }
}

/// A diagnostic as tools read it; lines and columns count from 1, columns in characters.
#[derive(Serialize)]
struct JsonDiagnostic<'a> {
    code: Code,
    severity: Severity,
    message: &'a str,
    labels: Vec<JsonLabel<'a>>,
    notes: &'a [String],
    help: &'a [String],
    /// An edit that fixes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<JsonFix<'a>>,
}

#[derive(Serialize)]
struct JsonFix<'a> {
    path: &'a str,
    /// Bytes from the start of the file; equal where text is put in.
    start: u32,
    end: u32,
    text: &'a str,
}

#[derive(Serialize)]
struct JsonLabel<'a> {
    path: &'a str,
    line: u32,
    column: u32,
    end_line: u32,
    end_column: u32,
    /// Bytes from the start of the file.
    start: u32,
    end: u32,
    text: &'a str,
    primary: bool,
}

/// Diagnostics as a JSON array.
///
/// # Panics
/// Never: every part of a diagnostic can be written as JSON.
pub fn to_json(diagnostics: &[Diagnostic], sources: &Sources) -> serde_json::Value {
    let all: Vec<_> = diagnostics.iter().map(|d| json(d, sources)).collect();
    serde_json::to_value(all).expect("texts and numbers can be written as JSON")
}

fn json<'a>(d: &'a Diagnostic, sources: &'a Sources) -> JsonDiagnostic<'a> {
    let labels = d.labels.iter().map(|l| {
        let file = sources.file(l.span.file);
        let (line, column) = file.line_column(l.span.start);
        let (end_line, end_column) = file.line_column(l.span.end);
        JsonLabel {
            path: &file.path,
            line,
            column,
            end_line,
            end_column,
            start: l.span.start,
            end: l.span.end,
            text: &l.text,
            primary: l.primary,
        }
    });
    JsonDiagnostic {
        code: d.code,
        severity: d.severity,
        message: &d.message,
        labels: labels.collect(),
        notes: &d.notes,
        help: &d.help,
        fix: d.fix.as_ref().map(|f| JsonFix {
            path: &sources.file(f.span.file).path,
            start: f.span.start,
            end: f.span.end,
            text: &f.text,
        }),
    }
}
