//! Document symbols.

use headstart_dsl::symbols::SymbolKind as K;
use lsp_types::{DocumentSymbol, SymbolKind};

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
