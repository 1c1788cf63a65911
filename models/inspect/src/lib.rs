//! What a model's own files do with the text that goes through them, found out without running anything.
//!
//! Whoever wrote a model's chat template or tokenizer chose a function of the text. One that looks at what a
//! message says can turn it into a number, such as a count of tokens, that leaves a device. So a device runs
//! only those over private data that treat all content alike, or that its owner approved by digest.
//!
//! # Layout
//! - [`template`]: where a chat template stands, and the program text that is executed.
//! - `analysis`: whether what a message says can change what a template does.
//! - `tokenizer`: whether a tokenizer's rules are those of a closed list.
//! - `unique`: JSON in which each key stands once.

mod analysis;
pub mod template;
mod tokenizer;
mod unique;

use headstart_protocol::Digest;
use headstart_protocol::text::folded_name;
use serde::{Deserialize, Serialize};

pub use analysis::{RESERVED, judge as judge_template};
pub use tokenizer::judge as judge_tokenizer;

/// The files that [`inspect`] reads.
pub const FILES: [&str; 5] =
    [template::FILE, "tokenizer_config.json", template::JSON_FILE, "tokenizer.json", MODEL_CONFIG];

/// The file that says how many tokens a model knows.
const MODEL_CONFIG: &str = "config.json";

/// A part of a model that handles text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// What it is.
    pub kind: PartKind,
    /// BLAKE3 of the template's text, or of the tokenizer's rules as canonical JSON.
    pub digest: Digest,
    /// Why it may treat texts differently by what they say; none where it is known not to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditional: Option<String>,
}

/// The parts that handle text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartKind {
    /// The chat template.
    Template,
    /// The tokenizer's normalizer, pre-tokenizer, post-processor and decoder.
    Tokenizer,
}

impl PartKind {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Template => "chat template",
            Self::Tokenizer => "tokenizer",
        }
    }
}

/// A name that one of [`FILES`] would be found under where letters are not told by case, and is not spelled so.
pub fn lookalike<'n>(names: impl IntoIterator<Item = &'n str>) -> Option<(&'n str, &'static str)> {
    names.into_iter().find_map(|name| {
        let folded = folded_name(name);
        FILES.into_iter().find(|known| folded == *known && name != *known).map(|known| (name, known))
    })
}

/// The parts of a model that handle text: of its files, all of whose names are in `names`, those that `read`
/// gives by name; `None` is a file that the model lacks. What cannot be read is conditional.
///
/// # Errors
/// Those of `read`.
pub fn inspect<'n, E>(
    names: impl IntoIterator<Item = &'n str>,
    read: impl Fn(&str) -> Result<Option<Vec<u8>>, E>,
) -> Result<Vec<Part>, E> {
    let config = read("tokenizer_config.json")?;
    let (jinja, json) = (read(template::FILE)?, read(template::JSON_FILE)?);
    let mut parts = Vec::new();
    if let Some((name, known)) = lookalike(names) {
        let why = format!("`{name}` would be read as `{known}` where names that differ by case are one");
        parts.push(Part {
            kind: PartKind::Template,
            digest: Digest::of(name.as_bytes()),
            conditional: Some(why),
        });
    }
    match template::find(jinja, config.as_deref(), json.as_deref()) {
        Ok(None) => {}
        Ok(Some(source)) => parts.push(Part {
            kind: PartKind::Template,
            digest: Digest::of(source.as_bytes()),
            conditional: analysis::judge(&source),
        }),
        Err((bytes, why)) => {
            let digest = Digest::of(&bytes);
            parts.push(Part { kind: PartKind::Template, digest, conditional: Some(why) });
        }
    }
    if let Some(bytes) = read("tokenizer.json")? {
        let (digest, conditional) = match unique::from_slice(&bytes) {
            Ok(json) => {
                let config = read(MODEL_CONFIG)?.and_then(|bytes| unique::from_slice(&bytes).ok());
                let known = config.and_then(|config| config.get("vocab_size")?.as_u64());
                let fails = || tokenizer::unreadable(&json, known);
                (tokenizer::digest(&json), tokenizer::judge(&json).or_else(fails))
            }
            Err(e) => (Digest::of(&bytes), Some(format!("tokenizer.json is malformed: {e}"))),
        };
        parts.push(Part { kind: PartKind::Tokenizer, digest, conditional });
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(files: &[(&str, &str)]) -> Vec<Part> {
        let read = |name: &str| -> Result<_, ()> {
            Ok(files.iter().find(|(n, _)| *n == name).map(|(_, text)| text.as_bytes().to_vec()))
        };
        inspect(files.iter().map(|(name, _)| *name), read).unwrap()
    }

    /// Where names are not told by case, the second of these is the one that is executed.
    #[test]
    fn a_file_whose_name_differs_by_case_alone_is_named() {
        let honest = ("tokenizer_config.json", r#"{"chat_template": "{{ messages[0].content }}"}"#);
        assert!(parts(&[honest]).iter().all(|p| p.conditional.is_none()));
        for name in ["Chat_Template.jinja", "chat_template.jinja.", "TOKENIZER.json", "to\u{212a}enizer.json"]
        {
            let found = parts(&[honest, (name, "{{ messages[0].content | length }}")]);
            let why = found.iter().find_map(|p| p.conditional.as_deref());
            assert!(why.is_some_and(|why| why.contains(name)), "{name}: {found:?}");
        }
        for other in ["a/Chat_Template.jinja", "chat_template2.jinja", "README.md"] {
            assert!(parts(&[honest, (other, "")]).iter().all(|p| p.conditional.is_none()), "{other}");
        }
    }

    /// A model that cannot read some text ends its stage early, which shows from outside.
    #[test]
    fn a_text_that_a_model_cannot_read_is_named() {
        let config = ("config.json", r#"{"vocab_size": 3}"#);
        let vocab = r#""vocab": {"a": 0, "b": 1, "<unk>": 2}"#;
        let tokenizer = |model: &str, added: &str| {
            format!(r#"{{"model": {{{model}, {vocab}}}, "added_tokens": [{added}]}}"#)
        };
        let why = |model: &str, added: &str| {
            let text = tokenizer(model, added);
            parts(&[config, ("tokenizer.json", &text)])[0].conditional.clone()
        };
        let bpe = r#""type": "BPE", "unk_token": "<unk>""#;
        assert_eq!(why(bpe, r#"{"id": 2, "content": "<unk>"}"#), None);
        assert_eq!(why(r#""type": "BPE", "unk_token": null"#, ""), None);
        for (model, added, named) in [
            (bpe, r#"{"id": 3, "content": "pin is 4711"}"#, "pin is 4711"),
            (bpe, r#"{"content": "pin"}"#, "pin"),
            (r#""type": "BPE", "unk_token": "<oov>""#, "", "<oov>"),
            (r#""type": "WordPiece""#, "", "[UNK]"),
            (r#""type": "WordLevel", "unk_token": "?""#, "", "?"),
            (r#""type": "Unigram", "unk_id": null"#, "", "unknown"),
        ] {
            assert!(why(model, added).is_some_and(|why| why.contains(named)), "{model} {added}");
        }
        let unigram = |unk: &str| {
            let text = format!(
                r#"{{"model": {{"type": "Unigram", "unk_id": {unk}, "vocab": [["<unk>", 0.0], ["a", -1.0]]}}}}"#
            );
            parts(&[config, ("tokenizer.json", &text)])[0].conditional.clone()
        };
        assert_eq!(unigram("0"), None);
        assert!(unigram("2").is_some() && unigram("null").is_some());
        let beyond = r#"{"model": {"type": "BPE", "vocab": {"a": 0, "secret": 7}}}"#;
        let found = parts(&[config, ("tokenizer.json", beyond)]);
        assert!(found[0].conditional.as_deref().is_some_and(|why| why.contains("secret")), "{found:?}");
    }

    #[test]
    fn what_stands_twice_in_a_tokenizer_is_refused() {
        let twice = r#"{"normalizer": {"type": "Replace"}, "normalizer": null, "model": {"type": "BPE"}}"#;
        let found = parts(&[("tokenizer.json", twice)]);
        let why = found.iter().find_map(|p| p.conditional.as_deref());
        assert!(why.is_some_and(|why| why.contains("`normalizer` stands twice")), "{found:?}");
        let nested = r#"{"model": {"type": "BPE", "dropout": 0.5, "dropout": null}}"#;
        assert!(parts(&[("tokenizer.json", nested)])[0].conditional.is_some());
    }
}
