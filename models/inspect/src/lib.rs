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

mod analysis;
pub mod template;
mod tokenizer;

use headstart_protocol::Digest;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use analysis::judge as judge_template;
pub use tokenizer::judge as judge_tokenizer;

/// The files that [`inspect`] reads.
pub const FILES: [&str; 4] = [template::FILE, "tokenizer_config.json", template::JSON_FILE, "tokenizer.json"];

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

/// The parts of a model that handle text, of the files that `read` gives by name; `None` is a file that the
/// model lacks. What cannot be read is conditional.
///
/// # Errors
/// Those of `read`.
pub fn inspect<E>(read: impl Fn(&str) -> Result<Option<Vec<u8>>, E>) -> Result<Vec<Part>, E> {
    let config = read("tokenizer_config.json")?;
    let (jinja, json) = (read(template::FILE)?, read(template::JSON_FILE)?);
    let mut parts = Vec::new();
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
        let (digest, conditional) = match serde_json::from_slice::<Value>(&bytes) {
            Ok(json) => (tokenizer::digest(&json), tokenizer::judge(&json)),
            Err(e) => (Digest::of(&bytes), Some(format!("tokenizer.json is malformed: {e}"))),
        };
        parts.push(Part { kind: PartKind::Tokenizer, digest, conditional });
    }
    Ok(parts)
}
