//! Text to token ids and back: a model's tokenizer, its prompt format, and where an answer ends.
//!
//! # Layout
//! - [`TextCodec`]: what the decoder and the trainer use.
//! - `answers`: where the answers of a conversation lie in its rendered text and among its tokens.
//! - `opaque`: what turns say, kept out of a template's sight.
//! - `python`: what Python gives a template.
//! - `template`: the chat template, rendered as the transformers library renders it.

mod answers;
mod opaque;
mod python;
mod template;

use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use headstart_disk::{OtherFile, read};
use headstart_protocol::rows::{Role, Row};
use serde_json::Value;
use tokenizers::{Encoding, Tokenizer};

use crate::error::LmError;
pub use answers::{AnswerTokens, RowTokens};
use template::ChatTemplate;
pub use template::DATE_FILE;
#[doc(hidden)]
pub use template::treats_alike;

/// Puts prompts and answers into a causal model's own format and tokenizes them.
///
/// A conversation goes into the model's chat template, a lone prompt as a user's turn. A model
/// without a template is given each turn and a line break. The text is tokenized as a whole, as
/// transformers does, and answers are found by the offsets of its tokens: some tokenizers mark the
/// beginning of a text, so an answer on its own has other tokens.
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
        spelled_exactly(model_dir)?;
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
        self.asked(&[("user", prompt)])
    }

    /// Ids of a row's conversation up to where the answer to its prompt begins.
    ///
    /// # Errors
    /// [`LmError::File`] where the chat template fails.
    pub fn question_ids(&self, row: &Row) -> Result<Vec<u32>, LmError> {
        self.asked(&turns(row)[..=row.history.len()])
    }

    /// Ids of a row up to and including the token that ends its response, and which of them are
    /// answers that count: a range for each, its end token included.
    ///
    /// # Errors
    /// As [`Self::row_tokens`].
    pub fn row_ids(&self, row: &Row) -> Result<(Vec<u32>, Vec<Range<usize>>), LmError> {
        let tokens = self.row_tokens(row)?;
        Ok((tokens.ids, tokens.answers.into_iter().map(|a| a.tokens).collect()))
    }

    /// A row's tokens up to and including the one that ends its response, and the answers that count.
    ///
    /// # Errors
    /// [`LmError::File`] where the chat template fails, or writes a conversation in a way in which
    /// its answers cannot be told from the rest.
    pub fn row_tokens(&self, row: &Row) -> Result<RowTokens, LmError> {
        let turns = turns(row);
        let mut found = match &self.template {
            Some(template) => self.templated(template, &turns)?,
            None => self.plain(&turns)?,
        };
        let mut scored = scored(row);
        found.answers.retain(|_| scored.next().unwrap_or(true));
        Ok(found)
    }

    /// A row's response as the chat template writes it. Templates trim texts, and some leave
    /// reasoning out.
    ///
    /// # Errors
    /// As [`Self::row_tokens`].
    pub fn rendered_response(&self, row: &Row) -> Result<String, LmError> {
        let Some(template) = &self.template else { return Ok(row.response.clone()) };
        let (text, places) = template.conversation(&turns(row))?;
        let last = places.last().map_or(0..text.len(), |p| p.content.clone());
        Ok(text[last].to_owned())
    }

    /// Ids of turns of which the last is a question.
    fn asked(&self, turns: &[(&str, &str)]) -> Result<Vec<u32>, LmError> {
        match &self.template {
            Some(template) => self.encode(&template.question(turns)?, false),
            None => Ok(self.plain(turns)?.ids),
        }
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

    /// Refuses texts that need ids from `vocab` up: the model has no embedding for them. A tokenizer
    /// may name some that no text needs, such as a token for padding.
    ///
    /// # Errors
    /// [`LmError::File`] where a token that ends an answer is one of them.
    pub fn limit_vocab(&mut self, vocab: usize) -> Result<(), LmError> {
        if let Some(id) = self.eos.iter().find(|id| **id as usize >= vocab) {
            return Err(LmError::File {
                path: self.path.clone(),
                why: format!("the token {id} ends answers, but the model's vocabulary ends at {vocab}"),
                help: Some("the tokenizer must be the model's own".into()),
            });
        }
        self.vocab = self.vocab.min(vocab);
        Ok(())
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
        let added = self.tokenizer.get_added_tokens_decoder();
        let tail = self.encode(&template.closing()?, false)?;
        Ok(tail.into_iter().find(|id| added.get(id).is_some_and(|t| t.special)))
    }
}

/// The role whose turns are answers.
const ANSWERS: &str = "assistant";

/// Of each answer of a row, in order, whether it counts.
fn scored(row: &Row) -> impl Iterator<Item = bool> + '_ {
    let before = row.history.iter().filter(|t| t.role == Role::Assistant).map(|t| !t.unscored);
    before.chain([true])
}

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
    checked(encoding, vocab, path).map(|encoding| encoding.get_ids().to_vec())
}

/// What the tokenizer gave, each of its ids below `vocab`.
fn checked(encoding: tokenizers::Result<Encoding>, vocab: usize, path: &Path) -> Result<Encoding, LmError> {
    let encoding = encoding.map_err(|e| LmError::file(path, format!("cannot tokenize: {e}")))?;
    match encoding.get_ids().iter().find(|id| **id as usize >= vocab) {
        Some(id) => Err(LmError::File {
            path: path.to_owned(),
            why: format!("writes the token id {id}, but the vocabulary ends at {vocab}"),
            help: Some("the tokenizer must be the model's own".into()),
        }),
        None => Ok(encoding),
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
    if let Some(other) = OtherFile::of(&bytes) {
        return Err(LmError::File {
            path: path.to_owned(),
            why: format!("is {}, not a tokenizer", other.what),
            help: Some(other.help.into()),
        });
    }
    let mut tokenizer = guarded(path, || Tokenizer::from_bytes(&bytes))?
        .map_err(|e| LmError::file(path, format!("not a tokenizer in the published format: {e}")))?;
    let cleared = tokenizer.with_truncation(None).map(|_| ());
    cleared.map_err(|e| LmError::Internal(format!("clearing truncation: {e}")))?;
    tokenizer.with_padding(None);
    Ok(tokenizer)
}

/// Refuses a folder that holds a file under a name that differs from one that is read here by case alone: on some
/// systems it would be read as that, and elsewhere, where its template was judged, it would not.
fn spelled_exactly(dir: &Path) -> Result<(), LmError> {
    // A folder that cannot be listed has nothing to read either.
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let names: Vec<String> = entries.filter_map(|e| e.file_name().into_string().ok()).collect();
    match headstart_inspect::lookalike(names.iter().map(String::as_str)) {
        Some((name, known)) => Err(LmError::File {
            path: dir.join(name),
            why: format!("its name differs from `{known}` by case or invisible characters alone"),
            help: Some(format!("rename it to `{known}`, or remove it")),
        }),
        None => Ok(()),
    }
}

/// What stands where JSON should.
pub(crate) fn malformed(path: &Path, bytes: &[u8], e: &serde_json::Error) -> LmError {
    match OtherFile::of(bytes) {
        Some(other) => LmError::File {
            path: path.to_owned(),
            why: format!("is {}, not JSON", other.what),
            help: Some(other.help.into()),
        },
        None => LmError::file(path, format!("malformed JSON: {e}")),
    }
}

/// Reads a JSON file; `None` where there is none.
pub(crate) fn read_json(path: &Path) -> Result<Option<Value>, LmError> {
    match read::whole(path, read::SETTINGS) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| malformed(path, &bytes, &e)),
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
