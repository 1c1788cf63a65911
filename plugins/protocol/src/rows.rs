//! The row format shared by datasets and responses: JSON Lines in the file `rows.jsonl`.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Name of the file that holds the rows of a `Dataset` or `Responses` artifact.
pub const ROWS_FILE: &str = "rows.jsonl";

/// A prompt and what was answered to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The question or instruction.
    pub prompt: String,
    /// The answer; empty in a dataset of bare prompts.
    #[serde(default)]
    pub response: String,
}

/// A line of a rows file is not a row.
#[derive(Debug, thiserror::Error)]
#[error("line {line} is not a row: {why}")]
pub struct RowError {
    /// 1-based line number.
    pub line: usize,
    /// What is wrong with it.
    pub why: String,
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
pub fn from_jsonl(text: &str) -> Result<Vec<Row>, RowError> {
    let lines = text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty());
    lines
        .map(|(i, l)| serde_json::from_str(l).map_err(|e| RowError { line: i + 1, why: e.to_string() }))
        .collect()
}

/// Digest of a text, as used in the row cache.
pub fn text_digest(text: &str) -> Digest {
    Digest::of(text.as_bytes())
}
