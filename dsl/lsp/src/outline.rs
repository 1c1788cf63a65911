//! Document symbols, and what can be folded.

use headstart_dsl::symbols::SymbolKind as K;
use lsp_types::{DocumentSymbol, FoldingRange, FoldingRangeKind, SymbolKind};

use crate::documents::{Analysis, Text};

/// The items of the file, in its order.
pub fn outline(a: &Analysis, text: &Text) -> Vec<DocumentSymbol> {
    a.index
        .declared(Analysis::ROOT)
        .map(|s| {
            let ty = s.ty.as_ref().map(|t| format!(": {t}")).unwrap_or_default();
            #[expect(deprecated, reason = "the crate offers no other way to make one")]
            DocumentSymbol {
                name: s.name.clone(),
                detail: Some(format!("{}{ty}", s.kind.keyword())),
                kind: match s.kind {
                    K::Import => SymbolKind::MODULE,
                    K::Program => SymbolKind::PACKAGE,
                    K::Param => SymbolKind::CONSTANT,
                    K::Model => SymbolKind::CLASS,
                    K::Dataset => SymbolKind::ARRAY,
                    K::Space => SymbolKind::INTERFACE,
                    K::Stage => SymbolKind::FUNCTION,
                    K::Output => SymbolKind::PROPERTY,
                    K::Schedule => SymbolKind::EVENT,
                    K::Variable => SymbolKind::VARIABLE,
                },
                tags: None,
                deprecated: None,
                range: text.range(s.whole),
                selection_range: text.range(s.span),
                children: None,
            }
        })
        .collect()
}

/// Items of several lines, and comments of several lines.
pub fn folding(a: &Analysis, text: &Text) -> Vec<FoldingRange> {
    let fold = |start_line: u32, end_line: u32, kind| FoldingRange {
        start_line,
        end_line,
        kind,
        ..FoldingRange::default()
    };
    let items = a.index.declared(Analysis::ROOT).map(|s| text.range(s.whole));
    let items = items.map(|r| fold(r.start.line, r.end.line, None));
    let mut out: Vec<FoldingRange> = items.collect();
    let mut open: Option<u32> = None;
    let lines = text.text.lines().map(|l| l.trim_start().starts_with("//"));
    for (n, comment) in lines.chain([false]).enumerate() {
        match (comment, open) {
            (true, None) => open = Some(n as u32),
            (false, Some(start)) => {
                out.push(fold(start, n as u32 - 1, Some(FoldingRangeKind::Comment)));
                open = None;
            }
            _ => {}
        }
    }
    out.retain(|f| f.end_line > f.start_line);
    out.sort_by_key(|f| f.start_line);
    out
}
