//! Chat templates: Jinja, with the settings, globals and loop controls that transformers gives them and
//! the methods of Python's strings, lists and dictionaries.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use headstart_disk::read;
use headstart_inspect::template;
use headstart_protocol::text::bytes;
use minijinja::value::{Value, from_args};
use minijinja::{Environment, Error, ErrorKind, State, context};
use minijinja_contrib::pycompat::unknown_method_callback;
use regex::Regex;

use super::read_json;
use crate::error::LmError;

/// Special tokens written by hand in a template look like this in every model family read here.
static TOKEN: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"<\|[^\s<>|]+\|>").expect("a constant pattern"));

/// Instructions of a template that are executed at most, and how many more for each turn: published
/// templates take a few hundred for a turn.
const FUEL: u64 = 1_000_000;
const FUEL_PER_TURN: u64 = 20_000;

/// Bytes that a template writes of its own at most, beside eight times what the turns hold.
const LONGEST_OUTPUT: usize = 1 << 20;

const QUESTION: &str = "What is rain?";
const ANSWER: &str = "Falling water.";

/// A model's chat template.
pub(super) struct ChatTemplate {
    env: Environment<'static>,
    path: PathBuf,
    bos: Option<String>,
    eos: Option<String>,
}

/// A sample conversation, rendered.
pub(super) struct Sample {
    /// All of it.
    pub text: String,
    /// The text behind the answer.
    pub behind: String,
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
        source.map(|source| Self::new(path, &source, bos, eos)).transpose()
    }

    fn new(path: PathBuf, source: &str, bos: Option<String>, eos: Option<String>) -> Result<Self, LmError> {
        if source.len() > template::LONGEST {
            let why = format!(
                "the chat template has {}; at most {} bytes are read",
                bytes(source.len() as u64),
                template::LONGEST
            );
            return Err(LmError::file(path, why));
        }
        let source = template::executed(source);
        let mut env = Environment::new();
        env.set_trim_blocks(true);
        env.set_lstrip_blocks(true);
        env.add_function("raise_exception", |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        env.set_unknown_method_callback(python_method);
        // Named so that nothing is escaped for HTML.
        let added = env.add_template_owned("chat", source.into_owned());
        added.map_err(|e| LmError::file(&path, format!("chat template: {e}")))?;
        Ok(Self { env, path, bos, eos })
    }

    /// The file that holds it.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Turns, as (role, content), up to where the next answer begins.
    pub(super) fn asked(&self, turns: &[(&str, &str)]) -> Result<String, LmError> {
        self.render(turns, true)
    }

    /// Turns of which the last is an answer, with what closes it.
    pub(super) fn answered(&self, turns: &[(&str, &str)]) -> Result<String, LmError> {
        self.render(turns, false)
    }

    /// What a longer form of a conversation adds to a shorter one.
    pub(super) fn behind<'a>(&self, longer: &'a str, shorter: &str) -> Result<&'a str, LmError> {
        longer.strip_prefix(shorter).ok_or_else(|| LmError::File {
            path: self.path.clone(),
            why: "the chat template writes a turn differently once another follows, so answers cannot be \
                  told from prompts"
                .into(),
            help: Some("use a template whose conversation begins with its generation prompt".into()),
        })
    }

    /// A conversation of one question and one answer.
    pub(super) fn sample(&self) -> Result<Sample, LmError> {
        let turns = [("user", QUESTION), ("assistant", ANSWER)];
        let (start, text) = (self.asked(&turns[..1])?, self.answered(&turns)?);
        let tail = self.behind(&text, &start)?;
        let behind = tail.rsplit_once(ANSWER).map(|(_, behind)| behind.to_owned());
        let behind = behind.ok_or_else(|| {
            LmError::file(&self.path, "the chat template leaves out what the assistant says")
        })?;
        Ok(Sample { text, behind })
    }

    /// The special tokens in a rendered text.
    pub(super) fn tokens_in<'a>(&'a self, text: &'a str) -> impl Iterator<Item = &'a str> {
        let named = [&self.bos, &self.eos].into_iter().flatten().map(String::as_str);
        let named = named.filter(move |t| !t.is_empty() && text.contains(*t));
        TOKEN.find_iter(text).map(|m| m.as_str()).chain(named)
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
        let rendered = chat.render_captured_to(variables, &mut out);
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

/// The methods of Python's strings, lists and dictionaries: those of `pycompat`, and three of strings
/// that it lacks and published templates call.
fn python_method(state: &State, on: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let Some(s) = on.as_str() else { return unknown_method_callback(state, on, name, args) };
    match name {
        "removeprefix" => from_args(args).map(|(p,): (&str,)| Value::from(s.strip_prefix(p).unwrap_or(s))),
        "removesuffix" => from_args(args).map(|(p,): (&str,)| Value::from(s.strip_suffix(p).unwrap_or(s))),
        "rsplit" => {
            let (by, most): (&str, Option<i64>) = from_args(args)?;
            let parts =
                most.and_then(|n| usize::try_from(n).ok()).map_or(usize::MAX, |n| n.saturating_add(1));
            let mut parts: Vec<&str> = s.rsplitn(parts, by).collect();
            parts.reverse();
            Ok(parts.into_iter().map(Value::from).collect())
        }
        _ => unknown_method_callback(state, on, name, args),
    }
}
