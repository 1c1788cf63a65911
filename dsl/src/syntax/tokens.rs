//! Tokens and brackets of a text that the grammar does not accept.

use std::ops::Range;

use crate::words;

/// How deep brackets, signs and fields may nest. Keeps every recursive walk of the tree shallow.
pub const MAX_DEPTH: usize = 64;

/// Where the given number of tokens behind `from` end.
pub(super) fn behind_tokens(text: &str, from: usize, count: usize) -> usize {
    let mut at = from;
    for _ in 0..count {
        at += text[at..].len() - text[at..].trim_start().len();
        at += token(&text[at..]).len();
    }
    at
}

/// Where the argument, setting or element at `from` ends: at the next comma or closing bracket
/// outside of brackets, or at the end of the line.
pub(super) fn part_end(text: &str, from: usize) -> usize {
    let mut depth = 0usize;
    let mut commas = text[from..].char_indices();
    let end = commas.find(|(_, c)| match c {
        '(' | '[' | '{' => {
            depth += 1;
            false
        }
        ')' | ']' | '}' if depth > 0 => {
            depth -= 1;
            false
        }
        ')' | ']' | '}' | '\n' => true,
        ',' => depth == 0,
        _ => false,
    });
    end.map_or(text.len(), |(i, _)| from + i)
}

/// The token at the start of a text: a word, a closed text, a known pair of characters, or one
/// character.
pub(super) fn token(text: &str) -> &str {
    let Some(first) = text.chars().next() else { return "" };
    if first == '\n' || first == '\r' {
        return "\n";
    }
    if first.is_alphanumeric() || first == '_' {
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        return &text[..end];
    }
    if first == '"' {
        let mut escaped = false;
        for (at, c) in text.char_indices().skip(1) {
            match c {
                '\n' | '\r' => break,
                '"' if !escaped => return &text[..=at],
                c => escaped = c == '\\' && !escaped,
            }
        }
        return "\"";
    }
    let pairs = ["&&", "||", "/*", "==", "!=", "<=", ">=", ":=", "<-", "${", "=>", "->", "=<"];
    pairs.into_iter().find(|p| text.starts_with(p)).unwrap_or(&text[..first.len_utf8()])
}

/// Calls `f` with every bracket outside texts and comments; ends where `f` gives something.
fn brackets<T>(text: &str, mut f: impl FnMut(usize, u8) -> Option<T>) -> Option<T> {
    let b = text.as_bytes();
    let mut i = 0;
    while i < b.len() {
        match b[i] {
            b'"' => {
                i += 1;
                while i < b.len() && b[i] != b'"' && b[i] != b'\n' {
                    i += if b[i] == b'\\' && b.get(i + 1) != Some(&b'\n') { 2 } else { 1 };
                }
            }
            b'/' if b.get(i + 1) == Some(&b'/') => {
                while i < b.len() && b[i] != b'\n' {
                    i += 1;
                }
                continue;
            }
            c @ (b'(' | b'[' | b'{' | b')' | b']' | b'}' | b'<' | b'>' | b'\n') => {
                if let Some(out) = f(i, c) {
                    return Some(out);
                }
            }
            _ => {}
        }
        i += 1;
    }
    None
}

/// The innermost bracket that is never closed.
pub(super) fn unclosed(text: &str) -> Option<usize> {
    let mut open = Vec::new();
    brackets::<()>(text, |at, c| {
        match c {
            b'(' | b'[' | b'{' => open.push(at),
            b')' | b']' | b'}' => {
                open.pop();
            }
            _ => {}
        }
        None
    });
    open.pop()
}

/// The first bracket that nests deeper than `max`.
pub(super) fn too_deep(text: &str, max: usize) -> Option<usize> {
    let (mut depth, mut angles) = (0usize, 0usize);
    brackets(text, |at, c| {
        match c {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            b'<' => angles += 1,
            b'>' => angles = angles.saturating_sub(1),
            _ => {
                angles = 0;
                // An unclosed bracket must not count against everything that follows it.
                let rest = &text[at + 1..];
                if words::names(words::ITEMS).any(|k| rest.starts_with(k)) {
                    depth = 0;
                }
            }
        }
        (depth > max || angles > max).then_some(at)
    })
}

/// Where the name lies that a broken item would have declared.
pub(super) fn declared_name(text: &str) -> Option<Range<usize>> {
    let word = |from: usize| -> Option<Range<usize>> {
        let start = from + text[from..].find(|c: char| c != ' ' && c != '\t')?;
        let rest = &text[start..];
        let len = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        (len > 0).then_some(start..start + len)
    };
    let mut keyword = word(0)?;
    if &text[keyword.clone()] == "private" {
        keyword = word(keyword.end)?;
    }
    if &text[keyword.clone()] == "import" {
        let line_end = text.find('\n').unwrap_or(text.len());
        let at = text[..line_end].rfind(" as ")?;
        return word(at + 4);
    }
    let name = word(keyword.end)?;
    (!text[name.clone()].starts_with(|c: char| c.is_ascii_digit())).then_some(name)
}

/// The word, or else the character, at the end of a text.
pub(super) fn token_before(text: &str) -> &str {
    let word = text.trim_end_matches(|c: char| c.is_alphanumeric() || c == '_').len();
    match text[word..].is_empty() {
        false => &text[word..],
        true => text.char_indices().next_back().map_or("", |(i, _)| &text[i..]),
    }
}
