//! The arguments of the call that is being written.

use headstart_protocol::kinds::{DefaultValue, Kind, Kinds};
use lsp_types::{
    Documentation, MarkupContent, MarkupKind, ParameterInformation, ParameterLabel, SignatureHelp,
    SignatureInformation,
};

use crate::hover;
use crate::scan::{Scan, Token, scan};

/// What the call around a byte of the text takes; the argument at the cursor is marked.
pub fn signature(text: &str, at: usize, kinds: &Kinds) -> Option<SignatureHelp> {
    let scan = scan(text, at)?;
    let calls = scan.open.iter().rev().filter(|(bracket, _)| *bracket == '(');
    let (kind, open) = calls.filter_map(|(_, n)| Some((kinds.find(&scan.callee(*n)?)?, *n))).next()?;
    Some(SignatureHelp {
        signatures: vec![described(kind)],
        active_signature: Some(0),
        active_parameter: Some(active(&scan, kind, open)? as u32),
    })
}

/// Which argument the cursor is in: the one whose name is written, else the next that is not given.
fn active(scan: &Scan<'_>, kind: &Kind, open: usize) -> Option<usize> {
    let mut depth = 0usize;
    let mut current = open + 1;
    for (n, t) in scan.tokens.iter().enumerate().skip(open + 1) {
        match t {
            Token::Mark('(' | '[' | '{') => depth += 1,
            Token::Mark(')' | ']' | '}') => depth = depth.saturating_sub(1),
            Token::Mark(',') if depth == 0 => current = n + 1,
            _ => {}
        }
    }
    let named = |n: usize| match scan.tokens.get(n..n + 2)? {
        [Token::Word(name), Token::Mark(':')] => kind.args.iter().position(|a| a.name == *name),
        _ => None,
    };
    let first = current == open + 1;
    let given: Vec<usize> = (open + 1..current).filter_map(named).collect();
    let free = (usize::from(!first)..kind.args.len()).find(|n| !given.contains(n));
    named(current).or(free)
}

fn described(kind: &Kind) -> SignatureInformation {
    let mut label = format!("{}(", kind.name);
    let mut parameters = Vec::new();
    for (n, a) in kind.args.iter().enumerate() {
        label += if n == 0 { "" } else { ", " };
        let start = label.encode_utf16().count() as u32;
        let optional = if a.default == DefaultValue::Required { "" } else { "?" };
        label += &format!("{}{optional}: {}", a.name, hover::accepts(a));
        let end = label.encode_utf16().count() as u32;
        parameters.push(ParameterInformation {
            label: ParameterLabel::LabelOffsets([start, end]),
            documentation: Some(markdown(hover::argument(a))),
        });
    }
    label += &format!(") → {}", kind.returns);
    SignatureInformation {
        label,
        documentation: Some(markdown(kind.doc.clone())),
        parameters: Some(parameters),
        active_parameter: None,
    }
}

fn markdown(value: String) -> Documentation {
    Documentation::MarkupContent(MarkupContent { kind: MarkupKind::Markdown, value })
}
