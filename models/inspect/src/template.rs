//! Where a chat template stands among a model's files, and the program text that is executed.

use std::borrow::Cow;
use std::sync::LazyLock;

use minijinja::machinery::{Span, Token, WhitespaceConfig, tokenize};
use regex::Regex;
use serde_json::Value;

/// The file that holds nothing but the template.
pub const FILE: &str = "chat_template.jinja";
/// The file that holds it as JSON, beside processors.
pub const JSON_FILE: &str = "chat_template.json";
/// Bytes of a template at most; published ones have up to 20 kB.
pub const LONGEST: usize = 1 << 20;

/// The key of a message that holds its role; beside it a message has [`CONTENT`] and nothing else.
pub const ROLE: &str = "role";
/// The key of a message that holds what it says.
pub const CONTENT: &str = "content";

/// Transformers' own block for marking answers; it prints its content.
static GENERATION: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\{%(-?)\s*(end)?generation\s*(-?)%\}").expect("a constant pattern"));

/// The template in a `chat_template` key: a text, or `[{name, template}]` with one named `default`.
pub fn named(value: Option<&Value>) -> Option<String> {
    let value = value?;
    let named = || {
        let default = value.as_array()?.iter().find(|t| t["name"] == "default")?;
        default["template"].as_str()
    };
    value.as_str().or_else(named).map(str::to_owned)
}

/// The text that is executed: Jinja, with transformers' block for answers written as a condition that holds,
/// and Python's `'text' % values` as the filter that does the same.
pub fn executed(source: &str) -> Cow<'_, str> {
    let source = GENERATION.replace_all(source, |found: &regex::Captures| {
        let word = if found.get(2).is_some() { "endif" } else { "if true" };
        format!("{{%{} {word} {}%}}", &found[1], &found[3])
    });
    match formatted(&source) {
        Some(rewritten) => Cow::Owned(rewritten),
        None => source,
    }
}

/// The text with `'text' % values` written as `('text'|format(values))`; none where there is no such thing, or
/// the text is no template.
fn formatted(source: &str) -> Option<String> {
    let whitespace = WhitespaceConfig { trim_blocks: true, lstrip_blocks: true, ..Default::default() };
    let tokens: Vec<(Token, Span)> =
        tokenize(source, false, Default::default(), whitespace).collect::<Result<_, _>>().ok()?;
    let mut out = String::new();
    let mut copied = 0;
    for at in 0..tokens.len().saturating_sub(2) {
        let [(Token::Str(_) | Token::String(_), text), (Token::Mod, _), ..] = &tokens[at..] else { continue };
        let (start, end) = (text.start_offset as usize, text.end_offset as usize);
        if start < copied {
            continue;
        }
        let values = at + 2..operand(&tokens, at + 2)?;
        let from = tokens.get(values.start)?.1.start_offset as usize;
        let to = tokens.get(values.end.checked_sub(1)?)?.1.end_offset as usize;
        // Values in parentheses are the arguments already.
        let is_group = group(&tokens, values.start) == Some(values.end)
            && matches!(tokens[values.start].0, Token::ParenOpen);
        let (open, close) = if is_group { ("", "") } else { ("(", ")") };
        let (text, values) = (source.get(start..end)?, source.get(from..to)?);
        out.push_str(source.get(copied..start)?);
        out.push_str(&format!("({text}|format{open}{values}{close})"));
        copied = to;
    }
    out.push_str(&source[copied..]);
    (copied > 0).then_some(out)
}

/// Behind a value with its attributes, items, calls and filters, which bind more tightly than `%`.
fn operand(tokens: &[(Token, Span)], start: usize) -> Option<usize> {
    let mut at = start;
    if matches!(tokens.get(at)?.0, Token::Minus) {
        at += 1;
    }
    at = match tokens.get(at)?.0 {
        Token::ParenOpen | Token::BracketOpen | Token::BraceOpen => group(tokens, at)?,
        _ => at + 1,
    };
    loop {
        at = match tokens.get(at).map(|(token, _)| token) {
            Some(Token::Dot | Token::Pipe) => at + 2,
            Some(Token::ParenOpen | Token::BracketOpen) => group(tokens, at)?,
            _ => return Some(at),
        };
    }
}

/// Behind the bracket that closes the one at `start`.
fn group(tokens: &[(Token, Span)], start: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (at, (token, _)) in tokens.iter().enumerate().skip(start) {
        match token {
            Token::ParenOpen | Token::BracketOpen | Token::BraceOpen => depth += 1,
            Token::ParenClose | Token::BracketClose | Token::BraceClose => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return Some(at + 1);
        }
    }
    None
}

/// The template of a model, from what stands in [`FILE`], in tokenizer_config.json and in [`JSON_FILE`]; the
/// first that there is.
///
/// # Errors
/// The bytes that cannot be read, and why.
pub(crate) fn find(
    file: Option<Vec<u8>>,
    config: Option<&[u8]>,
    json: Option<&[u8]>,
) -> Result<Option<String>, (Vec<u8>, String)> {
    if let Some(bytes) = file {
        return match String::from_utf8(bytes) {
            Ok(source) => Ok(Some(source)),
            Err(e) => Err((e.into_bytes(), format!("{FILE} is not UTF-8"))),
        };
    }
    for (name, bytes) in [("tokenizer_config.json", config), (JSON_FILE, json)] {
        let Some(bytes) = bytes else { continue };
        let read: Value = serde_json::from_slice(bytes)
            .map_err(|e| (bytes.to_vec(), format!("{name} is malformed: {e}")))?;
        if let Some(source) = named(read.get("chat_template")) {
            return Ok(Some(source));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::executed;

    #[test]
    fn percent_of_a_text_is_the_filter_that_formats() {
        for (source, expected) in [
            ("{{ '%s-%s' % ('a', m.x) }}", "{{ ('%s-%s'|format('a', m.x)) }}"),
            ("{{ 'x' + '%s' % m['role']|upper + 'y' }}", "{{ 'x' + ('%s'|format(m['role']|upper)) + 'y' }}"),
            ("{% set a = \"%d\" % loop.index %}b", "{% set a = (\"%d\"|format(loop.index)) %}b"),
            (
                "{{ '%s' % f(1, 2).y[0] ~ '%s' % -1 }}",
                "{{ ('%s'|format(f(1, 2).y[0])) ~ ('%s'|format(-1)) }}",
            ),
        ] {
            assert_eq!(executed(source), expected);
        }
        for same in
            ["{{ loop.index0 % 2 }}", "100 % sure {{ 'a' }}", "{% if a %}'x' % y{% endif %}", "{{ 'x' %"]
        {
            assert_eq!(executed(same), same);
        }
    }
}
