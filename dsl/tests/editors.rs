//! The TextMate grammar knows the words of the language.

use headstart_dsl::words;
use headstart_protocol::Type;

#[test]
fn the_grammar_knows_every_word() {
    let text = include_str!("../editors/vscode/syntaxes/pllm.tmLanguage.json");
    let grammar: serde_json::Value = serde_json::from_str(text).expect("JSON");
    let mut patterns = Vec::new();
    collect(&grammar, &mut patterns);
    // Words between brackets and bars: enough to find what is missing.
    let known: Vec<&str> =
        patterns.iter().flat_map(|p| p.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')).collect();
    let units = words::DURATIONS.iter().chain(words::SIZES).map(|(u, _)| *u);
    let all =
        words::names(words::ITEMS).chain(words::names(words::CLAUSES)).chain(Type::names()).chain(units);
    let missing: Vec<&str> = all.filter(|w| !known.contains(w)).collect();
    assert!(missing.is_empty(), "the grammar lacks {missing:?}");
}

fn collect(value: &serde_json::Value, out: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(all) => all.iter().for_each(|(key, v)| match v.as_str() {
            Some(text) if key == "match" => out.push(text.to_owned()),
            _ => collect(v, out),
        }),
        serde_json::Value::Array(all) => all.iter().for_each(|v| collect(v, out)),
        _ => {}
    }
}
