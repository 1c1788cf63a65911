//! Sources of datasets: JSON Lines, simulated users, concatenation.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::Path;

use headstart_disk::read::{LINE, Lines, ROWS};
use headstart_disk::{OtherFile, files};
use headstart_kit::read_rows;
use headstart_protocol::artifacts::Rows;
use headstart_protocol::rows::{self, ROWS_FILE, Row, text_digest};
use headstart_protocol::{Args, Context, Failure, Output, Stage, Type};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value};

use crate::conversation::{Turns, conversation, is_set, kind};

/// The keys where none are given; only then may every row lack them.
const PROMPT: &str = "prompt";
const RESPONSE: &str = "response";
const MESSAGES: &str = "messages";

/// Keys beside a conversation that chat templates are given, or that change what its messages mean.
const MEANINGFUL: [&str; 13] = [
    "tools",
    "functions",
    "documents",
    "chat_template",
    "chat_template_kwargs",
    "enable_thinking",
    "images",
    "image",
    "videos",
    "audios",
    "audio",
    "tool_choice",
    "weights",
];

/// `jsonl`: rows of JSON Lines files.
pub struct JsonLines;

impl Stage for JsonLines {
    fn kind(&self) -> &'static str {
        "jsonl"
    }

    fn run(&self, args: &Args, ctx: &dyn Context) -> Result<Output, Failure> {
        let turns = match args.text("turns")? {
            "all" => Turns::All,
            "first" => Turns::First,
            other => return Err(Failure::input(format!("argument `turns`: `{other}` is not all or first"))),
        };
        let keys = Keys {
            prompt: args.texts("prompt"),
            response: args.text("response")?,
            messages: args.text("messages")?,
            turns,
        };
        let paths = args.texts("path");
        if paths.is_empty() {
            return Err(Failure::input("no files: the list of paths is empty"));
        }
        let (mut rows, mut met) = (Vec::new(), Met::default());
        for path in &paths {
            rows.extend(keys.read(&ctx.path(path), &mut met)?);
        }
        keys.check_effect(&met).map_err(|why| Failure::input(format!("{}: {why}", paths.join(", "))))?;
        if args.bool("sort")? {
            rows.sort_by_cached_key(|row| text_digest(&row.prompt));
        }
        let (found, skip) = (rows.len(), args.count("skip")?);
        let take = args.positive_opt("take")?;
        let rows: Vec<Row> = rows.into_iter().skip(skip).take(take.unwrap_or(usize::MAX)).collect();
        if rows.is_empty() {
            let what = format!("no rows are left of {}: it has {found}", paths.join(", "));
            let cut = take.map_or(String::new(), |n| format!(", {n} are taken"));
            return Err(Failure::input(format!("{what}, {skip} are skipped{cut}")));
        }
        write(ctx, &rows)
    }
}

/// What is wrong with a row.
enum Wrong {
    /// A key is missing.
    Key(String),
    /// A value is not what it should be.
    Value(String),
}

/// The keys under which a file keeps prompt and response.
struct Keys<'a> {
    prompt: Vec<&'a str>,
    response: &'a str,
    messages: &'a str,
    turns: Turns,
}

/// What was met in the rows of all files.
#[derive(Default)]
struct Met {
    /// Every key of a row.
    keys: BTreeSet<String>,
    /// Rows that are conversations, and others.
    conversations: usize,
    plain: usize,
}

impl Keys<'_> {
    /// Refuses an argument that no row fits: it would have no effect, and is likely misspelt.
    fn check_effect(&self, met: &Met) -> Result<(), String> {
        let there = || met.keys.iter().map(String::as_str);
        if met.conversations == 0 {
            if self.messages != MESSAGES {
                return Err(format!("argument `messages`: {}", missing(self.messages, there())));
            }
            if self.turns == Turns::First {
                let why = missing(self.messages, there());
                return Err(format!("argument `turns` is for conversations, and no row is one: {why}"));
            }
        }
        if met.plain == 0 {
            let given = [
                ("prompt", self.prompt != [PROMPT], self.prompt.join("`, `")),
                ("response", self.response != RESPONSE, self.response.to_owned()),
            ];
            if let Some((name, _, key)) = given.into_iter().find(|(_, given, _)| *given) {
                let messages = self.messages;
                return Err(format!(
                    "argument `{name}` names `{key}`, but every row is a conversation under `{messages}`; {}",
                    keys_there(there())
                ));
            }
        }
        Ok(())
    }

    fn read(&self, path: &Path, met: &mut Met) -> Result<Vec<Row>, Failure> {
        let unreadable = |e: std::io::Error| {
            match e.kind() {
            ErrorKind::NotFound => Failure::input(format!("{}: there is no such file", path.display()))
                .help("a path starts at the pipeline's folder; with `--set`, at the current folder; on a device, at its data folder"),
            _ => Failure::io(path, &e),
        }
        };
        if let Some(other) = OtherFile::at(path) {
            let why = format!("{}: is {}, not JSON Lines", path.display(), other.what);
            return Err(Failure::input(why).help(other.help));
        }
        let mut lines = Lines::open(path, LINE, ROWS).map_err(unreadable)?;
        let mut rows = Vec::new();
        let mut answered = false;
        let mut number = 0;
        while let Some(line) = lines.next_line().map_err(unreadable)? {
            number += 1;
            let at = |why: String| Failure::input(format!("{}, line {number}: {why}", path.display()));
            let line = if number == 1 { line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line) } else { line };
            let line = std::str::from_utf8(line).map_err(|e| {
                at(format!("byte {} is not UTF-8", e.valid_up_to() + 1)).help("save the file as UTF-8")
            })?;
            if line.trim().is_empty() {
                continue;
            }
            let object: Map<String, Value> = serde_json::from_str(line)
                .map_err(|e| at(malformed(&e)).help("each line must be one JSON object"))?;
            answered |= object.contains_key(self.response) || object.contains_key(self.messages);
            let (row, is_conversation) = self.row(&object).map_err(|why| match why {
                Wrong::Key(why) => {
                    at(why).help("name the keys of the file, as in `jsonl(…, prompt: \"question\")`")
                }
                Wrong::Value(why) => at(why),
            })?;
            rows.push(row);
            if is_conversation {
                met.conversations += 1
            } else {
                met.plain += 1
            }
            // Most rows have the keys of the row before.
            for (key, _) in object {
                if !met.keys.contains(&key) {
                    met.keys.insert(key);
                }
            }
        }
        if rows.is_empty() {
            return Err(Failure::input(format!("{}: the file has no rows", path.display())));
        }
        if !answered && self.response != RESPONSE {
            let why = missing(self.response, met.keys.iter().map(String::as_str));
            return Err(Failure::input(format!("{}: {why}", path.display())));
        }
        Ok(rows)
    }

    /// A row, and whether it is a conversation.
    fn row(&self, object: &Map<String, Value>) -> Result<(Row, bool), Wrong> {
        let has_prompt = self.prompt.iter().all(|key| object.contains_key(*key));
        if let Some(messages) = object.get(self.messages).filter(|m| m.is_array() || !has_prompt) {
            for key in MEANINGFUL {
                if object.get(key).is_some_and(is_set) {
                    let why = format!(
                        "the key `{key}` beside the conversation is not supported, and leaving it out could change \
                         what the conversation means; take it out of the file if it does not matter, or the rows \
                         that have it"
                    );
                    return Err(Wrong::Value(why));
                }
            }
            let system = match object.get("system").filter(|v| is_set(v)) {
                None => None,
                Some(Value::String(system)) => Some(system.as_str()),
                Some(other) => return Err(Wrong::Value(format!("`system` is {}, not text", kind(other)))),
            };
            let row = conversation(messages, system, self.turns);
            return row
                .map(|row| (row, true))
                .map_err(|why| Wrong::Value(format!("`{}`: {why}", self.messages)));
        }
        let text = |key: &str| match object.get(key) {
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(Value::Null) => Ok(Some("")),
            Some(other) => Err(Wrong::Value(format!("`{key}` is {}, not text", kind(other)))),
            None => Ok(None),
        };
        let mut parts = Vec::new();
        for key in &self.prompt {
            let part =
                text(key)?.ok_or_else(|| Wrong::Key(missing(key, object.keys().map(String::as_str))))?;
            if !part.is_empty() {
                parts.push(part);
            }
        }
        if parts.is_empty() {
            return Err(Wrong::Value("the prompt is empty".into()));
        }
        let response = text(self.response)?.unwrap_or_default();
        Ok((Row::new(parts.join("\n"), response), false))
    }
}

fn missing<'a>(key: &str, there: impl Iterator<Item = &'a str>) -> String {
    format!("there is no key `{key}`; {}", keys_there(there))
}

fn keys_there<'a>(there: impl Iterator<Item = &'a str>) -> String {
    let there: Vec<String> = there.map(|k| format!("`{k}`")).collect();
    format!("the keys there are: {}", if there.is_empty() { "none".to_owned() } else { there.join(", ") })
}

/// serde_json's message counts lines within the text it is given, which is one line here.
fn malformed(e: &serde_json::Error) -> String {
    let text = e.to_string();
    let why = text.rsplit_once(" at line ").map_or(text.as_str(), |(why, _)| why);
    format!("not a JSON object: {why}, at column {}", e.column())
}

/// `concat`: the rows of several datasets, one after another.
pub struct Concat;

impl Stage for Concat {
    fn kind(&self) -> &'static str {
        "concat"
    }

    fn run(&self, args: &Args, ctx: &dyn Context) -> Result<Output, Failure> {
        let mut all = Vec::new();
        for (_, dataset) in args.artifacts("datasets")? {
            all.extend(read_rows(ctx, dataset, "datasets")?);
        }
        if all.is_empty() {
            return Err(Failure::input("there is nothing to concatenate: the list of datasets is empty"));
        }
        write(ctx, &all)
    }
}

/// `blend`: a simulated user, a share of whose rows is in a style.
///
/// Prompts are drawn from those that both datasets answer, in an order that depends on the seed
/// alone, not on the files. The first of them take the styled answer, so with the same seed a
/// larger share keeps the styled rows of a smaller one.
pub struct Blend;

impl Stage for Blend {
    fn kind(&self) -> &'static str {
        "blend"
    }

    fn run(&self, args: &Args, ctx: &dyn Context) -> Result<Output, Failure> {
        let (share, count) = (args.float("share")?, args.positive("rows")?);
        if !(0.0..=1.0).contains(&share) {
            return Err(Failure::input(format!("argument `share` is {share}, but must lie between 0 and 1")));
        }
        let styled = answers(read_rows(ctx, args.artifact("styled")?, "styled")?);
        let mut plain = answers(read_rows(ctx, args.artifact("plain")?, "plain")?);
        let mut both: Vec<(String, String, String)> = styled
            .into_iter()
            .filter_map(|(prompt, styled)| plain.remove(&prompt).map(|plain| (prompt, styled, plain)))
            .collect();
        if both.len() < count {
            let found = both.len();
            return Err(Failure::input(format!(
                "`styled` and `plain` both answer {found} prompts, but argument `rows` asks for {count}"
            ))
            .help("both datasets must answer the same prompts, word for word"));
        }
        let mut rng = ChaCha8Rng::seed_from_u64(args.int("seed")? as u64);
        both.sort_by_cached_key(|(prompt, ..)| text_digest(prompt));
        both.shuffle(&mut rng);
        both.truncate(count);
        let in_style = (share * count as f64).round() as usize;
        let choose = |(i, (prompt, styled, plain)): (usize, (String, String, String))| {
            Row::new(prompt, if i < in_style { styled } else { plain })
        };
        let mut rows: Vec<Row> = both.into_iter().enumerate().map(choose).collect();
        rows.shuffle(&mut rng);
        write(ctx, &rows)
    }
}

/// The first answer to each prompt; prompts without an answer are left out, and so is what was
/// answered within a conversation.
fn answers(rows: Vec<Row>) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for row in rows.into_iter().filter(|row| !row.response.is_empty() && row.history.is_empty()) {
        out.entry(row.prompt).or_insert(row.response);
    }
    out
}

fn write(ctx: &dyn Context, rows: &[Row]) -> Result<Output, Failure> {
    let path = ctx.scratch().join(ROWS_FILE);
    files::write(ctx.disk(), &path, rows::to_jsonl(rows).as_bytes())?;
    Ok(Output::of(Type::Dataset, &Rows::dataset(rows.len()))?.file(ROWS_FILE, path))
}
