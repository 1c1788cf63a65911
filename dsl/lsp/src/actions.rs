//! Fixes of diagnostics, offered as edits.

use headstart_dsl::{Diagnostic, Fix};
use lsp_types::{CodeAction, CodeActionKind, CodeActionOrCommand, Range, TextEdit, Uri, WorkspaceEdit};

use crate::diagnostics;
use crate::documents::{Analysis, Text};

/// The fixes of diagnostics in a range of the file.
pub fn actions(a: &Analysis, text: &Text, uri: &Uri, range: Range) -> Vec<CodeActionOrCommand> {
    let here = |d: &&Diagnostic| {
        let place = d.span().filter(|s| s.file == Analysis::ROOT).map(|s| text.range(s));
        place.is_some_and(|p| p.start <= range.end && range.start <= p.end)
    };
    let found = a.checked.diagnostics.iter().filter(here);
    found.filter_map(|d| action(a, text, uri, d, d.fix.as_ref()?)).collect()
}

fn action(a: &Analysis, text: &Text, uri: &Uri, d: &Diagnostic, fix: &Fix) -> Option<CodeActionOrCommand> {
    if fix.span.file != Analysis::ROOT {
        return None;
    }
    let old = a.checked.sources.text(fix.span);
    let title = match (old.trim().is_empty(), fix.text.trim()) {
        (_, "") => format!("Remove `{old}`"),
        (true, new) => format!("Put in `{new}`"),
        (false, new) => format!("Write `{new}`"),
    };
    let edit = TextEdit::new(text.range(fix.span), fix.text.clone());
    #[allow(clippy::mutable_key_type, reason = "the protocol's crate asks for this map")]
    let changes = [(uri.clone(), vec![edit])].into_iter().collect();
    Some(CodeActionOrCommand::CodeAction(CodeAction {
        title,
        kind: Some(CodeActionKind::QUICKFIX),
        diagnostics: Some(vec![diagnostics::diagnostic(a, text, d)]),
        edit: Some(WorkspaceEdit { changes: Some(changes), ..Default::default() }),
        is_preferred: Some(true),
        ..Default::default()
    }))
}
