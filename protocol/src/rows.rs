//! The row format shared by datasets and responses, JSON Lines in the file `rows.jsonl`; and a cache of
//! rows.

use std::io::BufRead;

use headstart_disk::read::{Lines, ROW, Refusal};
use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Name of the file that holds the rows of a `Dataset` or `Responses` artifact.
pub const ROWS_FILE: &str = "rows.jsonl";

/// A prompt and what was answered to it; in a conversation, the last question and its answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The question or instruction.
    pub prompt: String,
    /// The answer; empty in a dataset of bare prompts.
    #[serde(default)]
    pub response: String,
    /// What was said before the prompt, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Turn>,
}

impl Row {
    /// One question and its answer.
    pub fn new(prompt: impl Into<String>, response: impl Into<String>) -> Self {
        Self { prompt: prompt.into(), response: response.into(), history: Vec::new() }
    }
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// Who says it.
    pub role: Role,
    /// What.
    pub content: String,
    /// Of an answer, that it is context only: it has no part in a loss (`weight: 0`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unscored: bool,
}

impl Turn {
    /// A message that counts.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into(), unscored: false }
    }
}

/// Who speaks in a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sets the scene, once at the beginning.
    System,
    /// Asks.
    User,
    /// Answers.
    Assistant,
}

impl Role {
    /// As chat templates spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// Why rows cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    /// A line is not a row.
    #[error("line {line} is not a row: {why}")]
    NotARow {
        /// 1-based line number.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
    /// The lines cannot be read, or one is too long.
    #[error("{}", headstart_disk::reason(.0))]
    Unreadable(#[from] std::io::Error),
}

/// Writes rows as JSON Lines.
pub fn to_jsonl(rows: &[Row]) -> String {
    let mut out = String::new();
    for row in rows {
        out.push_str(&serde_json::to_string(row).expect("a row always serializes"));
        out.push('\n');
    }
    out
}

/// Reads JSON Lines as written by [`to_jsonl`]; blank lines are skipped.
///
/// # Errors
/// [`RowError`] with the line that is no row, or longer than [`ROW`] bytes.
pub fn from_jsonl(text: &str) -> Result<Vec<Row>, RowError> {
    from_lines(Lines::new(text.as_bytes(), ROW))
}

/// The same from lines that are read one at a time.
///
/// # Errors
/// As [`from_jsonl`], and where the lines cannot be read.
pub fn from_lines(mut lines: Lines<impl BufRead>) -> Result<Vec<Row>, RowError> {
    let mut rows = Vec::new();
    let mut number = 0;
    while let Some(line) = lines.next_line()? {
        number += 1;
        let text = std::str::from_utf8(line).map_err(|e| Refusal::NotText { at: e.valid_up_to() });
        let text = text.map_err(|e| RowError::NotARow { line: number, why: e.to_string() })?;
        if text.trim().is_empty() {
            continue;
        }
        let row = serde_json::from_str(text);
        rows.push(row.map_err(|e| RowError::NotARow { line: number, why: e.to_string() })?);
    }
    Ok(rows)
}

/// Digest of a text, as used in the row cache.
pub fn text_digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}

/// Remembers rows, so that a stage in which 12 of 10,000 rows changed computes 12.
/// A cache may forget anything at any time; failures inside it are its own business.
pub trait RowCache: Sync {
    /// Vectors of texts in a space, in the order of `texts`.
    fn embeddings(&self, space: &Digest, texts: &[Digest]) -> Vec<Option<Vec<f32>>>;
    /// Remembers vectors of texts in a space.
    fn put_embeddings(&self, space: &Digest, rows: &[(Digest, Vec<f32>)]);
    /// What a model answered to prompts under the given settings, in the order of `prompts`.
    fn responses(&self, model: &Digest, settings: &Digest, prompts: &[Digest]) -> Vec<Option<String>>;
    /// Remembers answers.
    fn put_responses(&self, model: &Digest, settings: &Digest, rows: &[(Digest, String)]);
}
