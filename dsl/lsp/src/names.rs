//! Definition, references, highlights, rename.

use std::collections::HashSet;
use std::sync::Arc;

use headstart_dsl::Span;
use headstart_dsl::symbols::{Mark, SymbolKind, Target};
use lsp_types::{DocumentHighlight, DocumentHighlightKind, Location, TextEdit, Uri, WorkspaceEdit};

use crate::documents::{Analysis, Text, to_uri};

/// The name at a byte of the file: its number and its place there.
fn symbol_at(a: &Analysis, offset: usize) -> Option<(usize, Span)> {
    let mark = a.index.at(Analysis::ROOT, offset)?;
    match mark.target {
        Target::Symbol(n) => Some((n, mark.span)),
        _ => None,
    }
}

/// Where the name at a byte is declared; the start of the file for an import's path.
pub fn definition(a: &Analysis, offset: usize) -> Option<Location> {
    let mark = a.index.at(Analysis::ROOT, offset)?;
    match mark.target {
        Target::Symbol(n) => a.location(a.index.symbols[n].span),
        Target::File(f) => a.location(Span::new(f, 0, 0)),
        _ => None,
    }
}

/// Every place of the name at a byte of `of[0]`'s file: in that file, in what it imports, and in the
/// other open files, which may import it.
pub fn references(of: &[Arc<Analysis>], offset: usize, declaration: bool) -> Option<Vec<Location>> {
    let (symbol, _) = symbol_at(of.first()?, offset)?;
    let all = places(of, symbol).into_iter().filter(|(_, m)| declaration || !m.definition);
    Some(all.filter_map(|(a, m)| a.location(m.span)).collect())
}

/// Every place of a name of `of[0]`, each once, though several analyses may know it.
fn places(of: &[Arc<Analysis>], symbol: usize) -> Vec<(&Analysis, &Mark)> {
    let known = everywhere(of, symbol).into_iter();
    let mut all: Vec<_> = known.flat_map(|(a, n)| a.index.places(n).map(move |m| (a, m))).collect();
    if of.len() > 1 {
        let mut seen = HashSet::new();
        all.retain(|(a, m)| seen.insert((a.path(m.span), m.span.start)));
    }
    all
}

/// The same name in each analysis that knows it: known by the place of its declaration.
fn everywhere(of: &[Arc<Analysis>], symbol: usize) -> Vec<(&Analysis, usize)> {
    let place = |a: &Analysis, n: usize| {
        let span = a.index.symbols[n].span;
        (a.path(span).to_owned(), span.start)
    };
    let Some(wanted) = of.first().map(|a| place(a, symbol)) else { return Vec::new() };
    let found = of.iter().enumerate().filter_map(|(at, a)| {
        let n = match at {
            0 => symbol,
            _ => (0..a.index.symbols.len()).find(|n| place(a, *n) == wanted)?,
        };
        Some((a.as_ref(), n))
    });
    found.collect()
}

/// The places of the name at a byte within its file, declared ones marked.
pub fn highlights(a: &Analysis, text: &Text, offset: usize) -> Option<Vec<DocumentHighlight>> {
    let (symbol, _) = symbol_at(a, offset)?;
    let here = a.index.places(symbol).filter(|m| m.span.file == Analysis::ROOT);
    let highlight = |m: &Mark| DocumentHighlight {
        range: text.range(m.span),
        kind: Some(if m.definition { DocumentHighlightKind::WRITE } else { DocumentHighlightKind::READ }),
    };
    Some(here.map(highlight).collect())
}

/// The name at a byte, if it can be renamed.
pub fn renamable(a: &Analysis, offset: usize) -> Option<Span> {
    symbol_at(a, offset).map(|(_, span)| span)
}

/// The edits that rename the symbol at a byte of `of[0]`'s file, here and in the other open files;
/// or why it cannot be renamed.
///
/// # Errors
/// Why it cannot be renamed: it is no name, or the new name is invalid or taken.
pub fn rename(of: &[Arc<Analysis>], offset: usize, new: &str) -> Result<WorkspaceEdit, String> {
    let a = of.first().ok_or("the file is not open")?;
    let (symbol, _) = symbol_at(a, offset).ok_or("only names can be renamed")?;
    let head = new.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    if !head || !new.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') || new == "true" || new == "false"
    {
        return Err(format!(
            "`{new}` is no name: names are letters, digits and `_`, and start with no digit"
        ));
    }
    let s = &a.index.symbols[symbol];
    let output = |k: SymbolKind| k == SymbolKind::Output;
    let schedule = |k: SymbolKind| k == SymbolKind::Schedule;
    // Outputs, schedules and all other names do not get in each other's way.
    let rivals = a.index.symbols.iter().filter(|o| {
        o.span.file == s.span.file && output(o.kind) == output(s.kind) && schedule(o.kind) == schedule(s.kind)
    });
    if let Some(other) = rivals.into_iter().find(|o| o.name == new && o.span != s.span) {
        return Err(format!("the name `{new}` is taken in line {}", a.checked.sources.line(other.span)));
    }
    #[allow(clippy::mutable_key_type, reason = "the protocol's crate asks for this map")]
    let mut changes: std::collections::HashMap<Uri, Vec<TextEdit>> = Default::default();
    for (a, mark) in places(of, symbol) {
        if let Some(uri) = to_uri(a.path(mark.span)) {
            let edit = TextEdit::new(a.range(mark.span), new.to_owned());
            changes.entry(uri).or_default().push(edit);
        }
    }
    Ok(WorkspaceEdit { changes: Some(changes), ..Default::default() })
}
