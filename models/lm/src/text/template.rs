//! Chat templates: Jinja, with the settings, globals and loop controls that transformers gives them and
//! the methods of Python's strings, lists and dictionaries.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use headstart_disk::read;
use headstart_inspect::template;
use headstart_protocol::text::bytes;
use jiff::civil::Date;
use minijinja::value::Value;
use minijinja::{Environment, Error, ErrorKind, context};

use super::opaque::{self, Filled, REPEATS, Unfit};
use super::{python, read_json};
use crate::error::LmError;

/// Instructions of a template that are executed at most, and how many more for each turn: published
/// templates take a few hundred for a turn.
const FUEL: u64 = 1_000_000;
const FUEL_PER_TURN: u64 = 20_000;

/// Bytes that a template writes of its own at most, beside eight times what the turns hold.
const LONGEST_OUTPUT: usize = 1 << 20;

/// A model's chat template.
pub(super) struct ChatTemplate {
    env: Environment<'static>,
    path: PathBuf,
    bos: Option<String>,
    eos: Option<String>,
    /// Whether it is given marks in place of what turns say.
    opaque: bool,
}

impl ChatTemplate {
    /// The template of a model folder: `chat_template.jinja`, or the key in tokenizer_config.json
    /// (a text, or a list of named ones of which `default` is taken), or `chat_template.json`.
    pub(super) fn find(
        dir: &Path,
        config: &serde_json::Value,
        bos: Option<String>,
        eos: Option<String>,
    ) -> Result<Option<Self>, LmError> {
        let path = dir.join(template::FILE);
        let (path, source) = match read::text(&path, template::LONGEST as u64) {
            Ok(source) => (path, Some(source)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let path = dir.join("tokenizer_config.json");
                match template::named(config.get("chat_template")) {
                    Some(source) => (path, Some(source)),
                    None => {
                        let path = dir.join(template::JSON_FILE);
                        let json = read_json(&path)?;
                        let source = json.and_then(|j| template::named(j.get("chat_template")));
                        (path, source)
                    }
                }
            }
            Err(e) => return Err(LmError::io(path, e)),
        };
        let Some(source) = source else { return Ok(None) };
        Self::new(path, &source, bos, eos, day(dir)?).map(Some)
    }

    fn new(
        path: PathBuf,
        source: &str,
        bos: Option<String>,
        eos: Option<String>,
        day: Date,
    ) -> Result<Self, LmError> {
        if source.len() > template::LONGEST {
            let why = format!(
                "the chat template has {}; at most {} bytes are read",
                bytes(source.len() as u64),
                template::LONGEST
            );
            return Err(LmError::file(path, why));
        }
        // Of the very text that is executed, so that nothing can be judged in its stead.
        let opaque = headstart_inspect::judge_template(source).is_none();
        let source = template::executed(source);
        let mut env = environment(day);
        // Named so that nothing is escaped for HTML.
        let added = env.add_template_owned("chat", source.into_owned());
        added.map_err(|e| LmError::file(&path, format!("chat template: {e}")))?;
        Ok(Self { env, path, bos, eos, opaque })
    }

    /// Turns, as (role, content), up to where the next answer begins, with what they say in its place.
    pub(super) fn question(&self, turns: &[(&str, &str)]) -> Result<String, LmError> {
        if !self.opaque {
            return self.asked(turns);
        }
        let marks = marks(turns);
        Ok(self.fill(&self.asked(&marked(turns, &marks))?, turns)?.text)
    }

    /// Whether the template is given marks in place of what turns say. It is where it is known to treat all
    /// content alike: then nothing that it does can depend on what a turn says, even if that is wrong.
    pub(super) fn is_opaque(&self) -> bool {
        self.opaque
    }

    /// Puts what turns say in the place of their marks.
    pub(super) fn fill(&self, written: &str, turns: &[(&str, &str)]) -> Result<Filled, LmError> {
        let texts: Vec<&str> = turns.iter().map(|(_, content)| *content).collect();
        opaque::fill(written, &texts).map_err(|e| LmError::File {
            path: self.path.clone(),
            why: match e {
                Unfit::Changed => "the chat template takes what a turn says apart".into(),
                Unfit::Repeated => {
                    format!("the chat template writes what a turn says more than {REPEATS} times")
                }
            },
            help: Some("use the template that was published with the model".into()),
        })
    }

    /// Turns, as (role, content), up to where the next answer begins.
    pub(super) fn asked(&self, turns: &[(&str, &str)]) -> Result<String, LmError> {
        self.render(turns, true)
    }

    /// Turns of which the last is an answer, with what closes it.
    pub(super) fn answered(&self, turns: &[(&str, &str)]) -> Result<String, LmError> {
        self.render(turns, false)
    }

    /// Turns of which the last is a question, without what begins an answer.
    pub(super) fn told(&self, turns: &[(&str, &str)]) -> Result<String, LmError> {
        self.render(turns, false)
    }

    /// An answer cannot be found in what the template writes.
    pub(super) fn indistinct(&self) -> LmError {
        LmError::File {
            path: self.path.clone(),
            why:
                "the chat template writes the turns around an answer differently by what the answer says, so \
                  answers cannot be told from prompts"
                    .into(),
            help: Some("use a template whose conversation begins with its generation prompt".into()),
        }
    }

    /// What the assistant says has no place in what the template writes.
    pub(super) fn leaves_out(&self) -> LmError {
        LmError::File {
            path: self.path.clone(),
            why: "the chat template leaves out what the assistant says, so nothing can be scored or trained"
                .into(),
            help: Some("use the template that was published with the model".into()),
        }
    }

    fn render(&self, turns: &[(&str, &str)], generation: bool) -> Result<String, LmError> {
        // These two keys and no others: `headstart_inspect` relies on it.
        let messages: Vec<Value> = turns.iter().map(|(role, content)| context! { role, content }).collect();
        // A token that the tokenizer does not have stays undefined, as in transformers.
        let token = |t: &Option<String>| t.clone().map_or(Value::UNDEFINED, Value::from);
        let variables = context! {
            messages,
            add_generation_prompt => generation,
            bos_token => token(&self.bos),
            eos_token => token(&self.eos),
            tools => (),
            documents => (),
        };
        let mut env = self.env.clone();
        env.set_fuel(Some(FUEL + FUEL_PER_TURN * turns.len() as u64));
        let chat = env.get_template("chat").expect("added in `new`");
        let said: usize = turns.iter().map(|(_, content)| content.len()).sum();
        let mut out =
            Written { text: Vec::new(), most: LONGEST_OUTPUT.saturating_add(said.saturating_mul(8)) };
        // The library takes some things for granted that a template need not keep to, such as `[][::-1]`.
        let rendered =
            catch_unwind(AssertUnwindSafe(|| chat.render_captured_to(variables, &mut out).map(drop)));
        let rendered = rendered.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::InvalidOperation, "the template library cannot execute it"))
        });
        let rendered = rendered.and_then(|_| {
            String::from_utf8(out.text).map_err(|e| Error::new(ErrorKind::WriteFailure, e.to_string()))
        });
        rendered.map_err(|e| match e.kind() {
            ErrorKind::WriteFailure => LmError::File {
                path: self.path.clone(),
                why: format!("the chat template writes far more than the {} turns hold", turns.len()),
                help: Some("use the template that was published with the model".into()),
            },
            ErrorKind::OutOfFuel => LmError::File {
                path: self.path.clone(),
                why: format!("the chat template does not come to an end for {} turns", turns.len()),
                help: Some("use the template that was published with the model".into()),
            },
            _ => LmError::file(&self.path, format!("chat template: {e}")),
        })
    }
}

/// Whether a template that is judged to treat all content alike does so for turns, as (role, content): what it
/// writes of their texts is what it writes of marks, with the texts in their place. `None` where it is not judged
/// so, cannot be executed, or fails for marks as well as for texts. For tests and for fuzzing.
///
/// # Errors
/// The two texts that differ, or why one of them is not there.
#[doc(hidden)]
pub fn treats_alike(source: &str, turns: &[(&str, &str)], generation: bool) -> Option<Result<(), String>> {
    let tokens = (Some("<s>".to_owned()), Some("</s>".to_owned()));
    let template = ChatTemplate::new(PathBuf::from("chat"), source, tokens.0, tokens.1, python::DAY).ok()?;
    if !template.opaque {
        return None;
    }
    let direct = template.render(turns, generation);
    let marks = marks(turns);
    let hidden = template.render(&marked(turns, &marks), generation).map(|w| template.fill(&w, turns));
    // Sizes are limited by what turns say, so either may be too long for its own.
    let too_long = |e: &LmError| e.to_string().contains("writes far more");
    match (direct, hidden) {
        (Err(_), Err(_)) => None,
        (Err(e), _) | (_, Err(e)) if too_long(&e) => None,
        (Ok(_), Ok(Err(e))) if e.to_string().contains("more than") => None,
        (Ok(direct), Ok(Ok(hidden))) if direct == hidden.text => Some(Ok(())),
        (direct, hidden) => Some(Err(format!("{direct:?} of the texts, {hidden:?} of marks"))),
    }
}

/// A mark for each turn.
pub(super) fn marks(turns: &[(&str, &str)]) -> Vec<String> {
    (0..turns.len()).map(opaque::mark).collect()
}

/// Turns that say their marks.
pub(super) fn marked<'t>(turns: &[(&'t str, &str)], marks: &'t [String]) -> Vec<(&'t str, &'t str)> {
    turns.iter().zip(marks).map(|((role, _), mark)| (*role, mark.as_str())).collect()
}

/// What templates are executed in.
fn environment(day: Date) -> Environment<'static> {
    let mut env = Environment::new();
    env.set_trim_blocks(true);
    env.set_lstrip_blocks(true);
    python::extend(&mut env, day);
    env
}

/// The file in a model's folder that says which day a chat template is told: `{"date": "2026-01-31"}`.
pub const DATE_FILE: &str = "chat_date.json";

/// The day that [`DATE_FILE`] says, or the fixed one.
fn day(dir: &Path) -> Result<Date, LmError> {
    let path = dir.join(DATE_FILE);
    match read_json(&path)? {
        None => Ok(python::DAY),
        Some(json) => json["date"]
            .as_str()
            .and_then(|day| day.parse().ok())
            .ok_or_else(|| LmError::file(path, "`date` is not a day such as 2026-01-31")),
    }
}

/// What a template writes, up to a largest size.
struct Written {
    text: Vec<u8>,
    most: usize,
}

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if bytes.len() > self.most.saturating_sub(self.text.len()) {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
