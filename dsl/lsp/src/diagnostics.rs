//! The checker's diagnostics, in the protocol's form.

use headstart_dsl::Code;
use headstart_dsl::symbols::Target;
use headstart_dsl::{Diagnostic, Severity, Span};
use lsp_types::{DiagnosticRelatedInformation, DiagnosticSeverity, DiagnosticTag, NumberOrString, Range};

use crate::documents::{Analysis, Text};

/// The diagnostics of a file. Those of imported files are reported where they are imported.
pub fn diagnostics(a: &Analysis, text: &Text) -> Vec<lsp_types::Diagnostic> {
    a.checked.diagnostics.iter().map(|d| diagnostic(a, text, d)).collect()
}

/// A diagnostic in the protocol's form.
pub fn diagnostic(a: &Analysis, text: &Text, d: &Diagnostic) -> lsp_types::Diagnostic {
    let (range, mut message) = place(a, text, d);
    let labels = d.labels.iter().filter(|l| l.primary && !l.text.is_empty());
    for l in labels {
        message += &format!(" ({})", l.text);
    }
    d.notes.iter().for_each(|n| message += &format!("\nnote: {n}"));
    d.help.iter().for_each(|h| message += &format!("\nhelp: {h}"));
    let related = d.labels.iter().filter(|l| !l.primary).filter_map(|l| {
        Some(DiagnosticRelatedInformation { location: a.location(l.span)?, message: l.text.clone() })
    });
    let related: Vec<_> = related.collect();
    let unused = matches!(d.code, Code::W0001 | Code::W0002 | Code::W0003 | Code::W0007);
    lsp_types::Diagnostic {
        range,
        severity: Some(match d.severity {
            Severity::Error => DiagnosticSeverity::ERROR,
            Severity::Warning => DiagnosticSeverity::WARNING,
            Severity::Note => DiagnosticSeverity::INFORMATION,
        }),
        code: Some(NumberOrString::String(d.code.to_string())),
        source: Some("headstart".to_owned()),
        message,
        related_information: (!related.is_empty()).then_some(related),
        tags: unused.then(|| vec![DiagnosticTag::UNNECESSARY]),
        ..Default::default()
    }
}

/// Where a diagnostic is shown, and its message.
fn place(a: &Analysis, text: &Text, d: &Diagnostic) -> (Range, String) {
    match d.span() {
        None => (Range::default(), d.message.clone()),
        Some(span) if span.file == Analysis::ROOT => (text.range(span), d.message.clone()),
        Some(span) => {
            let message = format!("{}: {}", a.checked.sources.locate(span), d.message);
            let import = |s: &Span| s.file == Analysis::ROOT;
            // A declaration's diagnostic names the program that it is for.
            if let Some(label) = d.labels.iter().find(|l| import(&l.span)) {
                return (text.range(label.span), message);
            }
            let marks = a.index.marks.iter().filter(|m| import(&m.span));
            let direct = marks.clone().find(|m| matches!(m.target, Target::File(f) if f == span.file));
            // Imported by what is imported: the first import stands for all.
            let any = || marks.clone().find(|m| matches!(m.target, Target::File(_)));
            let at = direct.or_else(any).map(|m| text.range(m.span));
            (at.unwrap_or_default(), message)
        }
    }
}
