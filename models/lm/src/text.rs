//! Text to token ids and back: a model's tokenizer, its prompt format, and where an answer ends.
//!
//! # Layout
//! - [`TextCodec`]: what the decoder and the trainer use.
//! - `template`: the chat template, rendered as the transformers library renders it.

mod template;

use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use headstart_disk::read;
use headstart_protocol::rows::{Role, Row};
use serde_json::Value;
use tokenizers::Tokenizer;

use crate::error::LmError;
use template::ChatTemplate;

/// Puts prompts and answers into a causal model's own format and tokenizes them.
///
/// A conversation goes into the model's chat template, a lone prompt as a user's turn. A model
/// without a template is given each turn and a line break. Both forms end where the answer begins,
/// and a row's ids always begin with exactly its prompt's ids: answers are tokenized on their own,
/// as they are when the model writes them.
pub struct TextCodec {
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    eos: Vec<u32>,
    vocab: usize,
    /// The tokenizer's file, for error messages.
    path: PathBuf,
}

impl TextCodec {
    /// Reads `tokenizer.json`, and where they exist `tokenizer_config.json`, `chat_template.jinja`,
    /// `generation_config.json` and `config.json`.
    ///
    /// # Errors
    /// [`LmError::File`] where a file is missing or malformed, where nothing names an
    /// end-of-sequence token, or where the template writes a token that the tokenizer lacks.
    pub fn load(model_dir: &Path) -> Result<Self, LmError> {
        let path = model_dir.join("tokenizer.json");
        let tokenizer = load_tokenizer(&path)?;
        let config_path = model_dir.join("tokenizer_config.json");
        let config = read_json(&config_path)?.unwrap_or(Value::Null);
        let bos = special_text(&config, "bos_token");
        let eos_text = special_text(&config, "eos_token");
        let template = ChatTemplate::find(model_dir, &config, bos, eos_text.clone())?;
        let vocab = tokenizer.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        let mut codec = Self { tokenizer, template, eos: Vec::new(), vocab, path };
        codec.eos = codec.eos_ids(model_dir, eos_text.as_deref(), &config_path)?;
        if let Some(end) = codec.end_of_turn()? {
            codec.eos.retain(|id| *id != end);
            codec.eos.insert(0, end);
        }
        Ok(codec)
    }

    /// Ids of a prompt, up to where the answer begins.
    ///
    /// # Errors
    /// [`LmError::File`] where the chat template fails.
    pub fn prompt_ids(&self, prompt: &str) -> Result<Vec<u32>, LmError> {
        Ok(self.ids(&[("user", prompt)])?.0)
    }

    /// Ids of a row's conversation up to where the answer to its prompt begins.
    ///
    /// # Errors
    /// [`LmError::File`] where the chat template fails.
    pub fn question_ids(&self, row: &Row) -> Result<Vec<u32>, LmError> {
        Ok(self.ids(&turns(row)[..=row.history.len()])?.0)
    }

    /// Ids of a row up to and including the token that ends its response, and which of them are
    /// answers: a range for each, its end token included. The text before the last range equals
    /// [`TextCodec::question_ids`].
    ///
    /// # Errors
    /// [`LmError::File`] where the chat template fails or does not keep a prompt's form once there
    /// is an answer.
    pub fn row_ids(&self, row: &Row) -> Result<(Vec<u32>, Vec<Range<usize>>), LmError> {
        self.ids(&turns(row))
    }

    /// Ids of turns, as (role, content): up to the end of the last answer, or where it begins.
    fn ids(&self, turns: &[(&str, &str)]) -> Result<(Vec<u32>, Vec<Range<usize>>), LmError> {
        let answers = turns.iter().enumerate().filter(|(_, t)| t.0 == ANSWERS).map(|(i, _)| i);
        let asks = turns.last().is_some_and(|t| t.0 != ANSWERS).then_some(turns.len());
        let (mut ids, mut spans, mut written) = (Vec::new(), Vec::new(), String::new());
        for (i, at) in answers.chain(asks).enumerate() {
            let (asked, told) = match &self.template {
                Some(t) => {
                    let asked = t.asked(&turns[..at])?;
                    let new = self.encode(t.behind(&asked, &written)?, false)?;
                    let Some(all) = turns.get(..=at) else { return Ok(([ids, new].concat(), spans)) };
                    let answered = t.answered(all)?;
                    let told = self.encode(t.behind(&answered, &asked)?, false)?;
                    written = answered;
                    (new, told)
                }
                None => {
                    let from = turns[..at].iter().rposition(|t| t.0 == ANSWERS).map_or(0, |last| last + 1);
                    let text: String = turns[from..at].iter().map(|(_, text)| format!("{text}\n")).collect();
                    let mut new = self.encode(&text, i == 0)?;
                    // Some tokenizers close every text; the answer is still to come.
                    while new.last().is_some_and(|id| self.eos.contains(id)) {
                        new.pop();
                    }
                    let Some((_, answer)) = turns.get(at) else { return Ok(([ids, new].concat(), spans)) };
                    (new, [self.encode(answer, false)?, vec![self.eos[0]]].concat())
                }
            };
            ids.extend(asked);
            // What a template writes behind the end of a turn is never generated.
            let (told, rest) = match told.iter().rposition(|id| self.eos.contains(id)) {
                Some(end) => (told[..=end].to_vec(), told[end + 1..].to_vec()),
                None => ([told, vec![self.eos[0]]].concat(), Vec::new()),
            };
            spans.push(ids.len()..ids.len() + told.len());
            ids.extend(told);
            if at + 1 < turns.len() {
                ids.extend(rest);
            }
        }
        Ok((ids, spans))
    }

    /// Ids of a text as it is, with the tokens that the tokenizer itself puts around a text. Empty
    /// for an empty text where it puts none.
    ///
    /// # Errors
    /// [`LmError::File`] where the tokenizer fails.
    pub fn text_ids(&self, text: &str) -> Result<Vec<u32>, LmError> {
        self.encode(text, true)
    }

    /// Text of ids, special tokens left out.
    pub fn decode(&self, ids: &[u32]) -> String {
        // Fails only in decoders that reject their own vocabulary, which none of the supported does.
        guarded(&self.path, || self.tokenizer.decode(ids, true).ok()).ok().flatten().unwrap_or_default()
    }

    /// Ids that end an answer; never empty. The first is the one that is trained.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// Text of one token, special ones included; empty for an id that is none.
    pub fn token_text(&self, id: u32) -> String {
        guarded(&self.path, || self.tokenizer.decode(&[id], false).ok()).ok().flatten().unwrap_or_default()
    }

    /// One more than the largest id. A model's own vocabulary may be larger, padded.
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, LmError> {
        encode(&self.tokenizer, text, special, self.vocab, &self.path)
    }

    /// Ids named by generation_config.json and config.json, and the tokenizer's own, each once.
    fn eos_ids(&self, dir: &Path, eos_text: Option<&str>, config: &Path) -> Result<Vec<u32>, LmError> {
        let mut ids = Vec::new();
        if let Some(text) = eos_text {
            ids.push(self.tokenizer.token_to_id(text).ok_or_else(|| {
                let why = format!("eos_token `{text}` is not a token of tokenizer.json");
                LmError::file(config, why)
            })?);
        }
        for name in ["generation_config.json", "config.json"] {
            let path = dir.join(name);
            let Some(json) = read_json(&path)? else { continue };
            for id in id_list(json.get("eos_token_id")) {
                if self.tokenizer.id_to_token(id).is_none() {
                    let why = format!("eos_token_id {id} is not a token of tokenizer.json");
                    return Err(LmError::file(path, why));
                }
                if !ids.contains(&id) {
                    ids.push(id);
                }
            }
        }
        if ids.is_empty() {
            return Err(LmError::File {
                path: dir.join("config.json"),
                why: "no end-of-sequence token: nothing says where an answer ends".into(),
                help: Some(
                    "set eos_token_id in config.json or generation_config.json, or eos_token in \
                     tokenizer_config.json"
                        .into(),
                ),
            });
        }
        Ok(ids)
    }

    /// The special token with which the template closes an answer. Base models published with a
    /// chat template often do not list it among their eos ids.
    fn end_of_turn(&self) -> Result<Option<u32>, LmError> {
        let Some(template) = &self.template else { return Ok(None) };
        let sample = template.sample()?;
        for token in template.tokens_in(&sample.text) {
            if self.tokenizer.token_to_id(token).is_none() {
                return Err(LmError::File {
                    path: template.path().to_owned(),
                    why: format!("the chat template writes the token `{token}`, which tokenizer.json lacks"),
                    help: Some("take tokenizer and template from the same model".into()),
                });
            }
        }
        let added = self.tokenizer.get_added_tokens_decoder();
        let tail = self.encode(&sample.behind, false)?;
        Ok(tail.into_iter().find(|id| added.get(id).is_some_and(|t| t.special)))
    }
}

/// The role whose turns are answers.
const ANSWERS: &str = "assistant";

/// A row's conversation as (role, content).
fn turns(row: &Row) -> Vec<(&str, &str)> {
    let before = row.history.iter().map(|t| (t.role.name(), t.content.as_str()));
    before.chain([(Role::User.name(), row.prompt.as_str()), (ANSWERS, row.response.as_str())]).collect()
}

/// Runs the tokenizer library, which takes much of a tokenizer.json for granted and panics where that is wrong.
pub(crate) fn guarded<T>(path: &Path, run: impl FnOnce() -> T) -> Result<T, LmError> {
    // What it leaves half done is a tokenizer that is dropped, or its cache of words.
    std::panic::catch_unwind(AssertUnwindSafe(run)).map_err(|_| LmError::File {
        path: path.to_owned(),
        why: "the tokenizer library cannot work with this tokenizer".into(),
        help: Some("take tokenizer.json as it was published with the model".into()),
    })
}

/// Ids of a text, each below `vocab`.
///
/// # Errors
/// [`LmError::File`] where the tokenizer fails, or writes an id that it says it does not have.
pub(crate) fn encode(
    tokenizer: &Tokenizer,
    text: &str,
    special: bool,
    vocab: usize,
    path: &Path,
) -> Result<Vec<u32>, LmError> {
    let encoding = guarded(path, || tokenizer.encode_fast(text, special))?;
    let encoding = encoding.map_err(|e| LmError::file(path, format!("cannot tokenize: {e}")))?;
    let ids = encoding.get_ids();
    match ids.iter().find(|id| **id as usize >= vocab) {
        Some(id) => {
            let why = format!("writes the token id {id}, but its vocabulary ends at {vocab}");
            Err(LmError::file(path, why))
        }
        None => Ok(ids.to_vec()),
    }
}

/// Loads a tokenizer without its own truncation and padding, which belong to a batch.
pub(crate) fn load_tokenizer(path: &Path) -> Result<Tokenizer, LmError> {
    let bytes = read::whole(path, read::TOKENIZER).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => LmError::File {
            path: path.to_owned(),
            why: "the model has no tokenizer".into(),
            help: Some("a model folder needs tokenizer.json, as published with the model".into()),
        },
        _ => LmError::io(path, e),
    })?;
    let mut tokenizer = guarded(path, || Tokenizer::from_bytes(&bytes))?
        .map_err(|e| LmError::file(path, format!("not a tokenizer in the published format: {e}")))?;
    let cleared = tokenizer.with_truncation(None).map(|_| ());
    cleared.map_err(|e| LmError::Internal(format!("clearing truncation: {e}")))?;
    tokenizer.with_padding(None);
    Ok(tokenizer)
}

/// Reads a JSON file; `None` where there is none.
pub(crate) fn read_json(path: &Path) -> Result<Option<Value>, LmError> {
    match read::whole(path, read::SETTINGS) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| LmError::file(path, format!("malformed JSON: {e}"))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(LmError::io(path, e)),
    }
}

/// A special token of tokenizer_config.json: a text, or an object with `content`.
fn special_text(config: &Value, key: &str) -> Option<String> {
    let token = config.get(key)?;
    token.as_str().or_else(|| token.get("content")?.as_str()).map(str::to_owned)
}

/// `eos_token_id` is a number or a list of numbers.
fn id_list(value: Option<&Value>) -> Vec<u32> {
    let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
    match value {
        Some(Value::Array(items)) => items.iter().filter_map(id).collect(),
        Some(v) => id(v).into_iter().collect(),
        None => Vec::new(),
    }
}
