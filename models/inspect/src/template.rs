//! Where a chat template stands among a model's files, and the program text that is executed.

use std::borrow::Cow;
use std::sync::LazyLock;

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

/// The text that is executed: Jinja, with transformers' block for answers written as a condition that holds.
pub fn executed(source: &str) -> Cow<'_, str> {
    GENERATION.replace_all(source, |found: &regex::Captures| {
        let word = if found.get(2).is_some() { "endif" } else { "if true" };
        format!("{{%{} {word} {}%}}", &found[1], &found[3])
    })
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
