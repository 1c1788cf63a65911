//! Conversations of chat datasets: lists of messages, as one row.

use headstart_protocol::rows::{Role, Row, Turn};
use serde_json::Value;

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
/// parts.
///
/// # Errors
/// Which message is wrong, counted from 1, and why.
pub(crate) fn conversation(messages: &Value, take: Turns) -> Result<Row, String> {
    let list = messages.as_array().ok_or_else(|| format!("is {}, not a list of messages", kind(messages)))?;
    let read = |(i, m): (usize, &Value)| turn(m).map_err(|why| format!("message {}: {why}", i + 1));
    let mut turns: Vec<Turn> = list.iter().enumerate().map(read).collect::<Result<_, _>>()?;
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
    let last = match take {
        Turns::All => turns.iter().rposition(answered),
        Turns::First => turns.iter().position(answered),
    };
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
    let (key, content) = of(["content", "value"]).ok_or("there is no `content`")?;
    let content = text(content).map_err(|why| format!("`{key}`: {why}"))?;
    if content.is_empty() {
        return Err(format!("`{key}` is empty"));
    }
    Ok(Turn { role, content })
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
        Turn { role, content: content.into() }
    }

    #[test]
    fn the_last_answer_is_the_response() {
        let messages = json!([
            {"role": "system", "content": "s"}, {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"}, {"from": "human", "value": "c"},
            {"from": "gpt", "value": [{"type": "text", "text": "d"}, {"type": "text", "text": "e"}]},
            {"role": "user", "content": "never answered"},
        ]);
        let row = conversation(&messages, Turns::All).unwrap();
        let history = vec![turn(Role::System, "s"), turn(Role::User, "a"), turn(Role::Assistant, "b")];
        assert_eq!(row, Row { history, ..Row::new("c", "de") });
        assert_eq!(conversation(&messages, Turns::First).unwrap(), Row::new("a", "b"));
        let bare = json!([{"role": "user", "content": "a"}]);
        assert_eq!(conversation(&bare, Turns::All).unwrap(), Row::new("a", ""));
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
            let why = conversation(&messages, Turns::All).unwrap_err();
            assert!(why.contains(part), "{messages}: {why}");
        }
    }
}
