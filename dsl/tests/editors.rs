//! The TextMate grammar: it knows the words of the language, and tokenises pipelines as an editor
//! would.

use fancy_regex::Regex;
use headstart_dsl::words;
use headstart_protocol::Type;
use serde_json::Value;

const GRAMMAR: &str = include_str!("../editors/vscode/syntaxes/pllm.tmLanguage.json");

fn grammar() -> Value {
    serde_json::from_str(GRAMMAR).expect("JSON")
}

#[test]
fn the_grammar_knows_every_word() {
    let mut patterns = Vec::new();
    collect(&grammar(), &mut patterns);
    // Words between brackets and bars: enough to find what is missing.
    let known: Vec<&str> =
        patterns.iter().flat_map(|p| p.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')).collect();
    let units = words::DURATIONS.iter().chain(words::SIZES).map(|(u, _)| *u);
    let all =
        words::names(words::ITEMS).chain(words::names(words::CLAUSES)).chain(Type::names()).chain(units);
    let missing: Vec<&str> = all.filter(|w| !known.contains(w)).collect();
    assert!(missing.is_empty(), "the grammar lacks {missing:?}");
}

fn collect(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::Object(all) => all.iter().for_each(|(key, v)| match v.as_str() {
            Some(text) if key == "match" => out.push(text.to_owned()),
            _ => collect(v, out),
        }),
        Value::Array(all) => all.iter().for_each(|v| collect(v, out)),
        _ => {}
    }
}

/// A pattern of the grammar, includes resolved.
struct Pattern {
    start: Regex,
    name: Option<String>,
    /// The scopes of the groups of a `match`.
    captures: Vec<(usize, String)>,
    /// Of a `begin`: where it ends, and what is looked for inside.
    inside: Option<(Regex, Vec<Pattern>)>,
}

fn patterns(grammar: &Value, list: &Value) -> Vec<Pattern> {
    let mut out = Vec::new();
    for p in list.as_array().expect("a list of patterns") {
        if let Some(include) = p["include"].as_str() {
            let part = &grammar["repository"][&include[1..]];
            assert!(part.is_object(), "there is no {include}");
            out.extend(patterns(grammar, &part["patterns"]));
            continue;
        }
        let regex = |key: &str| p[key].as_str().map(|r| Regex::new(r).expect("a regular expression"));
        let captures = p["captures"].as_object().into_iter().flatten();
        let captures = captures.map(|(n, c)| {
            (n.parse().expect("a group's number"), c["name"].as_str().expect("a scope").to_owned())
        });
        out.push(Pattern {
            start: regex("match").or(regex("begin")).expect("a pattern has a `match` or a `begin`"),
            name: p["name"].as_str().map(str::to_owned),
            captures: captures.collect(),
            inside: regex("end").map(|end| (end, patterns(grammar, &p["patterns"]))),
        });
    }
    out
}

/// The scope of each byte of a line, as an editor finds it: of the patterns, the one that starts
/// first, and of those the first. No text of the language goes on in the next line.
fn scopes(all: &[Pattern], line: &str, from: usize, to: usize, out: &mut [String]) {
    let mut at = from;
    while at < to {
        let starts = all.iter().filter_map(|p| {
            let found = p.start.captures_from_pos(&line[..to], at).expect("it can be matched")?;
            Some((found.get(0).expect("the whole").start(), p, found))
        });
        let Some((start, p, found)) = starts.min_by_key(|(start, ..)| *start) else { return };
        let mut end = found.get(0).expect("the whole").end();
        if let Some((close, inner)) = &p.inside {
            let mut next = end;
            // Inside, what matches first hides an end behind it, such as an escaped quote.
            loop {
                let stop =
                    close.find_from_pos(&line[..to], next).expect("it can be matched").expect("an end");
                let hides = |i: &Pattern| i.start.find_from_pos(&line[..to], next).ok().flatten();
                match inner
                    .iter()
                    .filter_map(hides)
                    .filter(|m| m.start() < stop.start())
                    .min_by_key(|m| m.start())
                {
                    Some(m) => next = m.end(),
                    None => {
                        end = stop.end();
                        break;
                    }
                }
            }
            scopes(inner, line, start + 1, end.saturating_sub(1).max(start + 1), out);
        }
        let mut paint = |s: usize, e: usize, name: &str| {
            out[s..e].iter_mut().filter(|o| o.is_empty()).for_each(|o| *o = name.to_owned());
        };
        for (group, name) in &p.captures {
            if let Some(m) = found.get(*group) {
                paint(m.start(), m.end(), name);
            }
        }
        if let Some(name) = &p.name {
            paint(start, end, name);
        }
        assert!(end > at, "a pattern matches nothing at {at} of {line}");
        at = end;
    }
}

/// The scope of the first place of a word in a line.
fn scope(line: &str, word: &str) -> String {
    let grammar = grammar();
    let mut out = vec![String::new(); line.len()];
    scopes(&patterns(&grammar, &grammar["patterns"]), line, 0, line.len(), &mut out);
    out[line.find(word).expect("the word is in the line")].clone()
}

#[test]
fn lines_are_coloured() {
    let stage =
        "stage said: Responses = probe(p, prompts: q) for p in pllm when not go { memory: 2GiB } // why";
    for (word, wanted) in [
        ("stage", "keyword.declaration.pllm"),
        ("said", "entity.name.function.pllm"),
        ("Responses", "support.type.pllm"),
        ("probe", "support.function.pllm"),
        ("prompts", "variable.parameter.pllm"),
        ("for", "keyword.control.pllm"),
        (" in ", ""),
        ("when", "keyword.control.pllm"),
        ("not", "keyword.operator.word.pllm"),
        ("2", "constant.numeric.pllm"),
        ("GiB", "keyword.other.unit.pllm"),
        ("// why", "comment.line.double-slash.pllm"),
    ] {
        assert_eq!(scope(stage, word), wanted, "{word}");
    }
    assert_eq!(scope("private dataset d = jsonl(\"a\")", "private"), "storage.modifier.pllm");
    assert_eq!(scope("/// It is so.", "It"), "comment.line.documentation.pllm");
    assert_eq!(scope("//// It is not.", "It"), "comment.line.double-slash.pllm");
    let text = "output o = x[\"a \\\" // b\"] or true";
    assert_eq!(scope(text, "// b"), "string.quoted.double.pllm", "no comment starts in a text");
    assert_eq!(scope(text, "\\\""), "constant.character.escape.pllm");
    assert_eq!(scope(text, "true"), "constant.language.pllm", "the text has ended");
    assert_eq!(scope("output model = model", "= model"), "keyword.operator.pllm");
    assert_eq!(scope("import \"./x.pllm\" as x", " as").as_str(), "");
    assert_eq!(scope("import \"./x.pllm\" as x", "as").as_str(), "keyword.control.pllm");
}

#[test]
fn shipped_pipelines_are_coloured() {
    let grammar = grammar();
    let all = patterns(&grammar, &grammar["patterns"]);
    for line in include_str!("files/design.pllm").lines() {
        let mut out = vec![String::new(); line.len()];
        scopes(&all, line, 0, line.len(), &mut out);
        let invalid: Vec<&String> = out.iter().filter(|s| s.starts_with("invalid")).collect();
        assert!(invalid.is_empty(), "{line}");
        let head = line.split(' ').next().unwrap_or_default();
        if words::find(words::ITEMS, head).is_some() {
            assert!(out[0].starts_with("keyword.declaration") || out[0].starts_with("storage"), "{line}");
        }
    }
}
