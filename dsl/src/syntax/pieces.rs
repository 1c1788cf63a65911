//! Files in pieces: each is parsed alone, and only if its text was not parsed before.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::builder::{Builder, Piece};
use crate::ast::File;
use crate::ast::moved::{Move, Moved};
use crate::diagnostic::Diagnostic;
use crate::span::FileId;

/// A parsed file. When its text changes, what did not change is kept.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parsed {
    file: FileId,
    text: Arc<str>,
    pieces: Vec<Piece>,
}

impl Parsed {
    /// Parses a text, with as much as possible from what was parsed last time.
    pub fn again(self, file: FileId, text: Arc<str>) -> Self {
        let old_text = self.text;
        let mut known: HashMap<&str, Vec<Piece>> = HashMap::new();
        let mut first = None;
        for piece in self.pieces {
            // Only the first piece may hold a file's documentation and its byte order mark.
            if piece.range.start == 0 {
                first = Some(piece);
            } else {
                known.entry(&old_text[piece.range.clone()]).or_default().push(piece);
            }
        }
        let pieces = cut(&text).into_iter().map(|range| {
            let old = match range.start {
                0 => first.take().filter(|p| old_text[p.range.clone()] == text[range.clone()]),
                _ => known.get_mut(&text[range.clone()]).and_then(Vec::pop),
            };
            let Some(mut piece) = old else { return parsed(file, &text, range) };
            let by = range.start as i64 - piece.range.start as i64;
            if by != 0 || file != self.file {
                piece.moved(Move { file, by });
            }
            piece.range = range;
            piece
        });
        let pieces = pieces.collect();
        Self { file, pieces, text }
    }

    /// The whole tree, and what is wrong.
    pub fn tree(&self) -> (File, Vec<Diagnostic>) {
        let all = || self.pieces.iter();
        let tree = File {
            doc: all().flat_map(|p| p.doc.iter().cloned()).collect(),
            items: all().flat_map(|p| p.items.iter().cloned()).collect(),
            comments: all().flat_map(|p| p.comments.iter().copied()).collect(),
        };
        (tree, all().flat_map(|p| p.diags.iter().cloned()).collect())
    }
}

fn parsed(file: FileId, text: &str, range: Range<usize>) -> Piece {
    let piece = Builder::new(file, range.start).piece(&text[range.clone()], range.start == 0);
    Piece { range, ..piece }
}

/// Where a text can be cut: in front of every line that can only be the start of an item, and in
/// front of the comments before it. Text that is right has no such line inside an item; so what the
/// pieces give together is what the whole would give.
fn cut(text: &str) -> Vec<Range<usize>> {
    let mut starts = vec![0];
    let mut comments = None;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let start = line.trim_start_matches([' ', '\t', '\r']);
        if start.starts_with(['\n', '\r']) || start.is_empty() || start.starts_with("//") {
            comments.get_or_insert(at);
        } else {
            let free = comments.take().unwrap_or(at);
            if starts_item(start) && free > 0 {
                starts.push(free);
            }
        }
        at += line.len();
    }
    let ends = starts.iter().skip(1).copied().chain([text.len()]).collect::<Vec<_>>();
    starts.into_iter().zip(ends).map(|(s, e)| s..e).collect()
}

/// Whether a line starts an item for sure: a keyword and another word, unless that is one which may
/// follow a name in an expression (`model or other`).
fn starts_item(line: &str) -> bool {
    let word = |s: &str| s.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(s.len());
    let (keyword, rest) = line.split_at(word(line));
    let second = rest.trim_start_matches([' ', '\t']);
    if second.len() == rest.len() || !crate::words::names(crate::words::ITEMS).any(|k| k == keyword) {
        return false;
    }
    let second = &second[..word(second)];
    let clause = matches!(second, "or" | "in" | "for" | "when" | "on" | "as" | "not");
    second.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && !clause
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "//! f\n\n// c\nmodel a = local(\"m\")\n\n/// d\n// e\nstage m: Pllm = merge(\n  model or x\n)\n// why\n  for q in a\noutput o = m\n// end\n";

    #[test]
    fn files_are_cut_where_items_start() {
        let pieces: Vec<&str> = cut(TEXT).into_iter().map(|r| &TEXT[r]).collect();
        assert_eq!(pieces.len(), 3);
        assert!(pieces[0].ends_with("local(\"m\")\n"));
        assert!(pieces[1].starts_with("\n/// d\n") && pieces[1].ends_with("for q in a\n"));
        assert_eq!(pieces[2], "output o = m\n// end\n");
        assert_eq!(cut("").len(), 1);
        assert_eq!(cut("output a = b\noutput c = d").len(), 2);
    }

    #[test]
    fn after_a_change_the_tree_is_that_of_a_new_parse() {
        let texts = [
            TEXT.to_owned(),
            TEXT.replace("local", "  hf"),
            TEXT.replace("// why\n", ""),
            format!("model b = local(\"é\")\n{TEXT}"),
            TEXT.replace("output o = m", "output o = = m"),
            TEXT.replace("merge(", "merge"),
            format!("{TEXT}{TEXT}"),
            String::new(),
            TEXT.to_owned(),
        ];
        let mut parsed = Parsed::default();
        for (n, text) in texts.iter().enumerate() {
            let file = FileId(n as u32 % 2);
            parsed = parsed.again(file, text.as_str().into());
            let fresh = Parsed::default().again(file, text.as_str().into());
            assert_eq!(parsed.tree(), fresh.tree(), "{text}");
        }
    }
}
