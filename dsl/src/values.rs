//! Values of parameters from a JSON file.

use std::collections::BTreeMap;

use serde::de::{MapAccess, Visitor};
use serde_json::Value;

/// Why a file of values is not understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ValuesError {
    /// It is no JSON.
    #[error("line {line}, column {column}: {why}")]
    Json {
        /// 1-based line.
        line: usize,
        /// 1-based column.
        column: usize,
        /// What the reader says.
        why: String,
    },
    /// It is JSON, but no object.
    #[error("the file holds {0}, not an object; write `{{\"name\": value}}`")]
    NotAnObject(&'static str),
    /// Two values of one parameter.
    #[error("`{0}` is given twice")]
    Twice(String),
    /// A value is of a form that no parameter has.
    #[error("`{name}` is {found}; a value is a text, a number, true or false, or a list of these")]
    Form {
        /// The parameter.
        name: String,
        /// What is there.
        found: &'static str,
    },
    /// An element that a list cannot hold.
    #[error("an element of `{name}` holds a comma, which separates elements: {element:?}")]
    Comma {
        /// The parameter.
        name: String,
        /// The element.
        element: String,
    },
}

/// Reads a JSON object of parameter values as what `--set` would be given: `check` then reads them
/// by the declared types. Durations and amounts of memory are texts, such as `"30m"`; `null` leaves
/// the parameter at its default. A byte order mark at the beginning is passed over.
///
/// ```
/// let sets = headstart_dsl::sets_from_json(r#"{ "rank": 8, "wait": "30m", "styles": ["a", "b"] }"#)?;
/// assert_eq!(sets["styles"], "a,b");
/// # Ok::<(), headstart_dsl::ValuesError>(())
/// ```
///
/// # Errors
/// If it is no JSON object of such values, or gives a parameter twice.
pub fn sets_from_json(text: &str) -> Result<BTreeMap<String, String>, ValuesError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let wrong = |e: serde_json::Error| {
        let why = e.to_string();
        // The place is separate from the reason.
        let why = why.split(" at line ").next().unwrap_or_default().to_owned();
        ValuesError::Json { line: e.line(), column: e.column(), why }
    };
    let value: Value = serde_json::from_str(text).map_err(wrong)?;
    if !value.is_object() {
        return Err(ValuesError::NotAnObject(describe(&value)));
    }
    let Fields(all) = serde_json::from_str(text).map_err(wrong)?;
    let mut out = BTreeMap::new();
    let mut given = std::collections::BTreeSet::new();
    for (name, value) in all {
        if !given.insert(name.clone()) {
            return Err(ValuesError::Twice(name));
        }
        let text = match &value {
            Value::Null => continue,
            Value::Array(items) => list(&name, items)?,
            other => plain(&name, other)?,
        };
        out.insert(name, text);
    }
    Ok(out)
}

/// The fields of an object as they are written; a map would keep the last of two.
struct Fields(Vec<(String, Value)>);

impl<'de> serde::Deserialize<'de> for Fields {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Fields;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of values")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Each)
    }
}

fn list(name: &str, items: &[Value]) -> Result<String, ValuesError> {
    let mut out = Vec::with_capacity(items.len());
    for item in items {
        let text = plain(name, item)?;
        if text.contains(',') {
            return Err(ValuesError::Comma { name: name.to_owned(), element: text });
        }
        out.push(text);
    }
    Ok(out.join(","))
}

fn plain(name: &str, value: &Value) -> Result<String, ValuesError> {
    match value {
        Value::String(t) => Ok(t.clone()),
        Value::Number(n) => Ok(n.to_string()),
        Value::Bool(b) => Ok(b.to_string()),
        other => Err(ValuesError::Form { name: name.to_owned(), found: describe(other) }),
    }
}

fn describe(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_become_what_set_takes() {
        let text = r#"{ "a": 1, "b": -0.5, "c": true, "d": "30m", "e": [0.3, 1.0], "f": null, "g": [] }"#;
        let sets = sets_from_json(text).expect("it is right");
        let all: Vec<String> = sets.iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(all, ["a=1", "b=-0.5", "c=true", "d=30m", "e=0.3,1.0", "g="]);
    }

    #[test]
    fn errors_are_reported() {
        let why = |text: &str| sets_from_json(text).expect_err("a mistake").to_string();
        assert_eq!(why("[1]"), "the file holds a list, not an object; write `{\"name\": value}`");
        assert_eq!(why("{\n  \"a\": }"), "line 2, column 8: expected value");
        assert!(why(r#"{ "a": { "b": 1 } }"#).starts_with("`a` is an object;"));
        assert!(why(r#"{ "a": ["x,y"] }"#).contains("holds a comma"));
        assert_eq!(why(r#"{ "a": 1, "b": 2, "a": 1 }"#), "`a` is given twice");
    }

    #[test]
    fn a_byte_order_mark_is_passed_over() {
        let sets = sets_from_json("\u{feff}{ \"a\": 1 }").expect("it is right");
        assert_eq!(sets["a"], "1");
    }
}
