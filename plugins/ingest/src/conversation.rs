//! Conversations of chat datasets: lists of messages, as one row.

use headstart_protocol::rows::{Role, Row, Turn};
use serde_json::{Map, Value};

/// The part of a conversation that is taken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turns {
    /// Everything up to its last answer.
    All,
    /// Its first question and answer.
    First,
}

/// A list of messages as a row: the last answer, the question before it, and all that was said
/// before. Without an answer it is the last question and what was said before.
///
/// Messages are `{"role", "content"}` with the roles system, user and assistant; ShareGPT's
/// `{"from", "value"}` with human and gpt are read as well, and contents that are lists of text
/// parts. `system` is a system message that is written beside the list, as ShareGPT's files do.
///
/// An answer with `weight: 0` or `train: false` is context and has no part in a loss. Other keys that
/// a chat template could read are refused.
///
/// # Errors
/// Which message is wrong, counted from 1, and why.
pub(crate) fn conversation(messages: &Value, system: Option<&str>, take: Turns) -> Result<Row, String> {
    let list = messages.as_array().ok_or_else(|| format!("is {}, not a list of messages", kind(messages)))?;
    let read = |(i, m): (usize, &Value)| turn(m).map_err(|why| format!("message {}: {why}", i + 1));
    let mut turns: Vec<Turn> = list.iter().enumerate().map(read).collect::<Result<_, _>>()?;
    if let Some(system) = system {
        if turns.first().is_some_and(|t| t.role == Role::System) {
            return Err("there is a system message in the list and another under `system`".into());
        }
        turns.insert(0, Turn::new(Role::System, system));
    }
    for (i, pair) in turns.windows(2).enumerate() {
        if pair[1].role == Role::Assistant && pair[0].role != Role::User {
            let who = pair[0].role.name();
            return Err(format!(
                "message {}: an answer must follow a user's message, not the {who}'s",
                i + 2
            ));
        }
        if pair[1].role == Role::System {
            return Err(format!("message {}: a system message must be the first", i + 2));
        }
    }
    if turns.first().is_some_and(|t| t.role == Role::Assistant) {
        return Err("message 1: an answer must follow a user's message".into());
    }
    let answered = |t: &Turn| t.role == Role::Assistant;
    let counts = |t: &Turn| answered(t) && !t.unscored;
    if turns.iter().any(answered) && !turns.iter().any(counts) {
        return Err("every answer has weight 0, so nothing of it counts".into());
    }
    let last = match take {
        // What follows the last answer that counts has no part in the result.
        Turns::All => turns.iter().rposition(counts),
        Turns::First => turns.iter().position(answered),
    };
    if take == Turns::First && last.is_some_and(|at| turns[at].unscored) {
        return Err("the first answer has weight 0, so nothing of it counts".into());
    }
    let response = last.map_or(String::new(), |at| {
        let answer = turns.remove(at).content;
        turns.truncate(at);
        answer
    });
    let question = turns.pop().filter(|t| t.role == Role::User).ok_or("there is no user's message")?;
    if take == Turns::First {
        turns.clear();
    }
    Ok(Row { prompt: question.content, response, history: turns })
}

fn turn(message: &Value) -> Result<Turn, String> {
    let object = message.as_object().ok_or_else(|| format!("is {}, not an object", kind(message)))?;
    let of = |keys: [&'static str; 2]| keys.into_iter().find_map(|k| object.get(k).map(|v| (k, v)));
    let (key, role) = of(["role", "from"]).ok_or("there is no `role`")?;
    let role = match role.as_str() {
        Some("system") => Role::System,
        Some("user" | "human") => Role::User,
        Some("assistant" | "gpt") => Role::Assistant,
        _ => return Err(format!("`{key}` {role} is not supported; there are system, user and assistant")),
    };
    refuse_unknown(object)?;
    let unscored = !scored(object, role)?;
    let (key, content) = of(["content", "value"]).ok_or("there is no `content`")?;
    let content = text(content).map_err(|why| format!("`{key}`: {why}"))?;
    if content.is_empty() {
        return Err(format!("`{key}` is empty"));
    }
    Ok(Turn { role, content, unscored })
}

/// Keys of a message that are read here.
const READ: [&str; 8] = ["role", "from", "content", "value", "weight", "train", "training", "loss"];

/// Keys of a message that say where it comes from, not what it means.
const ABOUT: [&str; 22] = [
    "id",
    "_id",
    "uuid",
    "message_id",
    "parent_id",
    "parent",
    "tree_id",
    "index",
    "idx",
    "timestamp",
    "time",
    "date",
    "created_at",
    "create_time",
    "updated_at",
    "source",
    "model",
    "lang",
    "language",
    "rank",
    "token_count",
    "num_tokens",
];

/// Refuses the keys of a message that a chat template could read.
fn refuse_unknown(object: &Map<String, Value>) -> Result<(), String> {
    let odd = object.iter().find(|(key, value)| {
        is_set(value) && !READ.contains(&key.as_str()) && !ABOUT.contains(&key.as_str())
    });
    match odd {
        None => Ok(()),
        Some((key, _)) => Err(format!(
            "the key `{key}` is not supported, and leaving it out could change what the conversation means; \
             take it out of the file if it does not matter, or the rows that have it"
        )),
    }
}

/// Whether a value says anything.
pub(crate) fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(s) => !s.is_empty(),
        Value::Array(a) => !a.is_empty(),
        Value::Object(o) => !o.is_empty(),
        _ => true,
    }
}

/// Whether a message counts in a loss. What is not an answer never does.
fn scored(object: &Map<String, Value>, role: Role) -> Result<bool, String> {
    let mut all = None;
    for key in ["weight", "train", "training", "loss"] {
        let Some(value) = object.get(key).filter(|v| !v.is_null()) else { continue };
        let counts = match (value.as_bool(), value.as_f64()) {
            (Some(flag), _) => flag,
            (_, Some(0.0)) => false,
            (_, Some(1.0)) => true,
            _ => {
                return Err(format!("`{key}` is {value}; an answer counts (1, true) or does not (0, false)"));
            }
        };
        if all.is_some_and(|before| before != counts) {
            return Err(format!("`{key}` contradicts another key that says whether the answer counts"));
        }
        if counts && role != Role::Assistant {
            return Err(format!("`{key}` is {value}, but only answers can count in a loss"));
        }
        all = Some(counts);
    }
    Ok(role != Role::Assistant || all.unwrap_or(true))
}

/// A text, or the texts of a list of parts.
fn text(content: &Value) -> Result<String, String> {
    let part = |part: &Value| match (part["type"].as_str(), part["text"].as_str()) {
        (None | Some("text"), Some(text)) => Ok(text.to_owned()),
        (other, _) => Err(format!("a part of type {} is not supported", other.unwrap_or("unknown"))),
    };
    match content {
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) => parts.iter().map(part).collect(),
        other => Err(format!("is {}, not text", kind(other))),
    }
}

/// What a value of JSON is, in words.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn turn(role: Role, content: &str) -> Turn {
        Turn::new(role, content)
    }

    #[test]
    fn the_last_answer_is_the_response() {
        let messages = json!([
            {"role": "system", "content": "s"}, {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"}, {"from": "human", "value": "c"},
            {"from": "gpt", "value": [{"type": "text", "text": "d"}, {"type": "text", "text": "e"}]},
            {"role": "user", "content": "never answered"},
        ]);
        let row = conversation(&messages, None, Turns::All).unwrap();
        let history = vec![turn(Role::System, "s"), turn(Role::User, "a"), turn(Role::Assistant, "b")];
        assert_eq!(row, Row { history, ..Row::new("c", "de") });
        assert_eq!(conversation(&messages, None, Turns::First).unwrap(), Row::new("a", "b"));
        let bare = json!([{"role": "user", "content": "a"}]);
        assert_eq!(conversation(&bare, None, Turns::All).unwrap(), Row::new("a", ""));
    }

    #[test]
    fn an_answer_of_weight_0_is_context() {
        let of = |first: Value, second: Value| {
            let mut messages = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
                {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]);
            for (at, keys) in [(1, first), (3, second)] {
                for (key, value) in keys.as_object().unwrap() {
                    messages[at][key] = value.clone();
                }
            }
            conversation(&messages, None, Turns::All)
        };
        for keys in
            [json!({"weight": 0}), json!({"weight": 0.0}), json!({"train": false}), json!({"loss": false})]
        {
            let row = of(keys.clone(), json!({"weight": 1})).unwrap();
            assert!(row.history[1].unscored && !row.history[0].unscored, "{keys}");
            assert_eq!((row.prompt.as_str(), row.response.as_str()), ("c", "d"));
            // Nothing behind the last answer that counts matters.
            assert_eq!(of(json!({}), keys).unwrap(), Row::new("a", "b"));
        }
        assert!(!of(json!({}), json!({"train": null})).unwrap().history[1].unscored);
        for (first, second, part) in [
            (json!({"weight": 0}), json!({"train": false}), "every answer has weight 0"),
            (json!({"weight": 0.5}), json!({}), "message 2: `weight` is 0.5"),
            (json!({"weight": 0, "train": true}), json!({}), "contradicts"),
        ] {
            let why = of(first, second).unwrap_err();
            assert!(why.contains(part), "{why}");
        }
        let asked =
            json!([{"role": "user", "content": "a", "train": true}, {"role": "assistant", "content": "b"}]);
        assert!(conversation(&asked, None, Turns::All).unwrap_err().contains("only answers can count"));
    }

    #[test]
    fn keys_that_a_template_could_read_are_refused_by_name() {
        let of = |key: &str, value: Value| {
            let mut messages =
                json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]);
            messages[1][key] = value;
            conversation(&messages, None, Turns::All)
        };
        let call = json!([{"type": "function", "function": {"name": "weather", "arguments": {}}}]);
        for (key, value) in [
            ("reasoning_content", json!("Clouds.")),
            ("thinking", json!("Clouds.")),
            ("reasoning", json!("Clouds.")),
            ("tool_calls", call.clone()),
            ("function_call", json!({"name": "weather"})),
            ("name", json!("Ada")),
            ("train_detail", json!([{"begin_offset": 0}])),
            ("prefix", json!(true)),
        ] {
            let why = of(key, value).unwrap_err();
            assert!(why.contains("message 2") && why.contains(&format!("`{key}`")), "{why}");
            assert!(of(key, Value::Null).is_ok() && of(key, json!([])).is_ok(), "{key} says nothing");
        }
        for key in ["id", "timestamp", "model"] {
            assert_eq!(of(key, json!("x")).unwrap(), Row::new("a", "b"), "{key}");
        }
        let called = json!([{"role": "user", "content": "a"},
            {"role": "assistant", "content": null, "tool_calls": call}]);
        assert!(conversation(&called, None, Turns::All).unwrap_err().contains("`tool_calls`"));
    }

    #[test]
    fn a_system_message_beside_the_list_is_the_first() {
        let messages = json!([{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]);
        let row = conversation(&messages, Some("Be kind."), Turns::All).unwrap();
        assert_eq!(row, Row { history: vec![turn(Role::System, "Be kind.")], ..Row::new("a", "b") });
        let both = json!([{"role": "system", "content": "s"}, {"role": "user", "content": "a"}]);
        assert!(conversation(&both, Some("x"), Turns::All).unwrap_err().contains("another under `system`"));
    }

    #[test]
    fn what_is_no_conversation_says_where() {
        let user = json!({"role": "user", "content": "a"});
        for (messages, part) in [
            (json!("text"), "is text, not a list"),
            (json!([]), "no user's message"),
            (json!([user, {"role": "tool", "content": "x"}]), "message 2: `role` \"tool\""),
            (json!([{"role": "assistant", "content": "x"}]), "message 1: an answer must follow"),
            (json!([{"role": "system", "content": "x"}, {"role": "assistant", "content": "x"}]), "message 2"),
            (json!([user, {"role": "assistant"}]), "message 2: there is no `content`"),
            (json!([user, {"role": "assistant", "content": ""}]), "`content` is empty"),
            (json!([user, {"role": "assistant", "content": [{"type": "image_url"}]}]), "type image_url"),
            (json!([user, {"role": "system", "content": "x"}]), "message 2: a system message"),
        ] {
            let why = conversation(&messages, None, Turns::All).unwrap_err();
            assert!(why.contains(part), "{messages}: {why}");
        }
    }
}
