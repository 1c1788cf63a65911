//! What Python gives a chat template: methods of its values, how it writes them, JSON, and a date.

use std::fmt::Write;

use jiff::civil::Date;
use minijinja::value::{Kwargs, Value, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, Output, State};
use minijinja_contrib::pycompat::unknown_method_callback;

/// The day that a template is told that asks for it, where none is given: results must not depend on
/// when they are computed. It is the one that Llama 3.2's template itself falls back to.
pub(super) const DAY: Date = jiff::civil::date(2024, 7, 26);

/// Adds what transformers gives a template.
pub(super) fn extend(env: &mut Environment<'static>, day: Date) {
    env.add_function("raise_exception", |message: String| -> Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    env.add_function("strftime_now", move |format: &str| -> Result<String, Error> {
        jiff::fmt::strtime::format(format, day.at(0, 0, 0, 0))
            .map_err(|e| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: `{format}`: {e}")))
    });
    env.add_filter("tojson", to_json);
    env.add_filter("string", |value: Value| match value.as_str() {
        Some(_) => value,
        None => Value::from(shown(&value)),
    });
    env.set_unknown_method_callback(python_method);
    env.set_formatter(|out: &mut Output, state: &State, value: &Value| match value.kind() {
        ValueKind::Bool | ValueKind::None | ValueKind::Seq | ValueKind::Map => {
            out.write_str(&shown(value)).map_err(Error::from)
        }
        _ => minijinja::escape_formatter(out, state, value),
    });
}

/// A value as Python's `str` gives it.
fn shown(value: &Value) -> String {
    match value.kind() {
        ValueKind::Undefined => String::new(),
        ValueKind::String => value.as_str().unwrap_or_default().to_owned(),
        _ => represented(value),
    }
}

/// A value as Python's `repr` gives it.
fn represented(value: &Value) -> String {
    let all = |value: &Value| value.try_iter().into_iter().flatten().collect::<Vec<_>>();
    match value.kind() {
        ValueKind::None => "None".into(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.into(),
        ValueKind::Seq => {
            let items: Vec<String> = all(value).iter().map(represented).collect();
            format!("[{}]", items.join(", "))
        }
        ValueKind::Map => {
            let item = |key: &Value| {
                let value = value.get_item(key).unwrap_or_default();
                format!("{}: {}", represented(key), represented(&value))
            };
            let items: Vec<String> = all(value).iter().map(item).collect();
            format!("{{{}}}", items.join(", "))
        }
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
            let mut out = String::from(quote);
            for c in text.chars() {
                match c {
                    '\n' => out.push_str("\\n"),
                    '\r' => out.push_str("\\r"),
                    '\t' => out.push_str("\\t"),
                    '\\' => out.push_str("\\\\"),
                    c if c == quote => out.extend(['\\', c]),
                    c => out.push(c),
                }
            }
            out.push(quote);
            out
        }
        _ => value.to_string(),
    }
}

/// transformers' filter: Python's `json.dumps`, with nothing escaped for HTML.
fn to_json(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let ascii: Option<bool> = options.get("ensure_ascii")?;
    let sorted: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let [item, key] = match separators.as_deref() {
        Some([item, key]) => [item.clone(), key.clone()],
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "tojson: `separators` are two texts")),
        None => [if indent.is_some() { "," } else { ", " }.into(), ": ".into()],
    };
    let style = Style { indent, item, key, ascii: ascii.unwrap_or(false), sorted: sorted.unwrap_or(false) };
    let mut out = String::new();
    style.write(value, 0, &mut out)?;
    Ok(out)
}

/// How deep lists and objects may lie in each other, as JSON.
const DEEPEST: usize = 128;

/// How JSON is written.
struct Style {
    indent: Option<usize>,
    item: String,
    key: String,
    ascii: bool,
    sorted: bool,
}

impl Style {
    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        if depth > DEEPEST {
            let m = format!("tojson: lists and objects lie more than {DEEPEST} deep");
            return Err(Error::new(ErrorKind::BadSerialization, m));
        }
        if let Some(text) = value.as_str() {
            self.text(text, out);
            return Ok(());
        }
        match value.kind() {
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter()?.map(|item| (None, item));
                self.all('[', ']', items, depth, out)
            }
            ValueKind::Map => {
                let keys = value.try_iter()?;
                let mut items: Vec<(Option<String>, Value)> = keys
                    .map(|key| Ok((Some(json_key(&key)?), value.get_item(&key)?)))
                    .collect::<Result<_, Error>>()?;
                if self.sorted {
                    items.sort_by(|a, b| a.0.cmp(&b.0));
                }
                self.all('{', '}', items.into_iter(), depth, out)
            }
            _ => {
                let json = serde_json::to_string(value).map_err(|e| {
                    Error::new(ErrorKind::BadSerialization, format!("cannot be written as JSON: {e}"))
                })?;
                out.push_str(&json);
                Ok(())
            }
        }
    }

    fn all(
        &self,
        open: char,
        close: char,
        items: impl Iterator<Item = (Option<String>, Value)>,
        depth: usize,
        out: &mut String,
    ) -> Result<(), Error> {
        let mut empty = true;
        out.push(open);
        for (key, value) in items {
            if !std::mem::take(&mut empty) {
                out.push_str(&self.item);
            }
            self.line(depth + 1, out);
            if let Some(key) = key {
                self.text(&key, out);
                out.push_str(&self.key);
            }
            self.write(&value, depth + 1, out)?;
        }
        if !empty {
            self.line(depth, out);
        }
        out.push(close);
        Ok(())
    }

    fn line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = self.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    }

    fn text(&self, text: &str, out: &mut String) {
        let json = serde_json::Value::from(text).to_string();
        if !self.ascii {
            return out.push_str(&json);
        }
        let mut units = [0; 2];
        for c in json.chars() {
            match c.is_ascii() {
                true => out.push(c),
                false => c.encode_utf16(&mut units).iter().for_each(|unit| {
                    // Writing to a text cannot fail.
                    let _ = write!(out, "\\u{unit:04x}");
                }),
            }
        }
    }
}

/// The key of a JSON object, as Python makes one of a dictionary's.
fn json_key(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
        ValueKind::Number => Ok(key.to_string()),
        ValueKind::None => Ok("null".to_owned()),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.to_owned()),
        kind => {
            let m = format!("tojson: a key is {kind}, not a text, a number, a boolean or none");
            Err(Error::new(ErrorKind::BadSerialization, m))
        }
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
            let (by, most): (Option<&str>, Option<i64>) = from_args(args)?;
            let most = most.and_then(|n| usize::try_from(n).ok());
            let parts = most.map_or(usize::MAX, |n| n.saturating_add(1));
            let mut parts: Vec<&str> = match by {
                Some(by) => s.rsplitn(parts, by).collect(),
                None if most.is_none() => s.split_whitespace().rev().collect(),
                None => {
                    return Err(Error::new(
                        ErrorKind::InvalidOperation,
                        "rsplit: a number of parts needs a separator",
                    ));
                }
            };
            parts.reverse();
            Ok(parts.into_iter().map(Value::from).collect())
        }
        "partition" | "rpartition" => {
            let (by,): (&str,) = from_args(args)?;
            let (found, whole_first) = match name {
                "partition" => (s.split_once(by), true),
                _ => (s.rsplit_once(by), false),
            };
            let parts = match (found, whole_first) {
                (Some((before, behind)), _) => [before, by, behind],
                (None, true) => [s, "", ""],
                (None, false) => ["", "", s],
            };
            Ok(parts.into_iter().map(Value::from).collect())
        }
        "swapcase" => {
            let swap = |c: char| -> String {
                if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect() }
            };
            Ok(Value::from(s.chars().map(swap).collect::<String>()))
        }
        "zfill" | "ljust" | "rjust" | "center" => {
            let (width, fill): (usize, Option<&str>) = from_args(args)?;
            padded(s, name, width.min(1 << 16), fill)
        }
        _ => unknown_method_callback(state, on, name, args),
    }
}

/// A text filled up to a width.
fn padded(s: &str, name: &str, width: usize, fill: Option<&str>) -> Result<Value, Error> {
    let room = width.saturating_sub(s.chars().count());
    let fill = fill.unwrap_or(if name == "zfill" { "0" } else { " " });
    if fill.chars().count() != 1 {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("{name}: texts are filled with one character"),
        ));
    }
    let (sign, digits) = match (name, s.strip_prefix(['-', '+'])) {
        ("zfill", Some(digits)) => (&s[..s.len() - digits.len()], digits),
        _ => ("", s),
    };
    let left = match name {
        "ljust" => 0,
        // As Python does, which puts the odd one to the left where the width is odd.
        "center" => room / 2 + (room & width & 1),
        _ => room,
    };
    Ok(Value::from(format!("{sign}{}{digits}{}", fill.repeat(left), fill.repeat(room - left))))
}
