//! What the server does for somebody who is writing: completion, arguments, fixes.

mod editor;

use editor::{Editor, ITEMS, MAIN, labels};
use serde_json::json;

/// What is offered at `|`, behind a few items.
fn offered(text: &str) -> Vec<String> {
    let (mut e, place) = Editor::with(&format!("{ITEMS}{text}"));
    labels(&e.ask("textDocument/completion", place).expect("an answer"))
}

#[test]
fn completion_of_items_kinds_and_types() {
    let all = offered("st|");
    assert!(
        all.contains(&"stage".to_owned()) && all.contains(&"when".to_owned()),
        "an item may go on: {all:?}"
    );
    assert_eq!(
        offered("stage x: Metrics = |")[..2],
        ["accuracy", "evaluate"],
        "kinds that make the stated type come first"
    );
    assert_eq!(offered("dataset x = |"), ["blend", "concat", "jsonl"]);
    assert!(offered("stage x: Met|").contains(&"Metrics".to_owned()));
    assert!(offered("stage x: Metrics = evaluate(base, data: questions) wh|").contains(&"when".to_owned()));
    assert_eq!(offered("dataset x = jsonl(\"q|\")\n"), [""; 0], "nothing inside a text");
    assert_eq!(offered("// st|\n"), [""; 0], "nothing inside a comment");
}

#[test]
fn completion_of_arguments_and_values() {
    let all = offered("stage x: Metrics = evaluate(base, |)\n");
    assert_eq!(all[0], "data", "what is needed comes first");
    assert!(all.contains(&"max_tokens".to_owned()) && !all.contains(&"model".to_owned()), "{all:?}");
    let all = offered("stage x: Metrics = evaluate(base, data: |)\n");
    assert_eq!(all[..2], ["mine", "questions"], "what fits comes first: {all:?}");
    let all = offered("stage x: Metrics = evaluate(|) for p in pllm\n");
    assert!(all.contains(&"p".to_owned()) && all.contains(&"model".to_owned()), "{all:?}");
    let all = offered("stage x: Selection = select(c, user: me, metric: |)\n");
    assert_eq!(all[..3], ["cosine", "l1", "whitened"]);
    let all = offered("stage x: Metrics = evaluate(p, data: questions) for p in |\n");
    assert!(all.contains(&"pllm".to_owned()) && !all.contains(&"x".to_owned()), "{all:?}");
}

#[test]
fn completion_of_settings_fields_and_members() {
    let all = offered("stage x: Metrics = evaluate(base, data: questions) { | }\n");
    assert!(
        all.contains(&"timeout".to_owned()) && all.len() == headstart_dsl::words::SETTINGS.len(),
        "{all:?}"
    );
    let all = offered("stage x: Metrics = evaluate(base, data: questions) { on: | }\n");
    assert!(all.contains(&"device(\"phone\")".to_owned()), "{all:?}");
    assert_eq!(offered("schedule s { overlap: | }\n"), ["allow", "cancel_other", "queue", "skip"]);
    assert!(offered("schedule s { | }\n").contains(&"cron".to_owned()));
    assert_eq!(
        offered("import \"./lib/x.pllm\" as other {  }\nimport \"./lib/x.pllm\" as lib2 { | }\n"),
        ["file"]
    );
    assert_eq!(offered("output o = pllm[\"formal\"].|\n"), ["base", "metrics"]);
    assert_eq!(offered("stage x: Metrics = evaluate(p.|) for p in pllm\n"), ["base", "metrics"]);
    assert_eq!(offered("output o = lib.|\n"), ["all", "rows"]);
    let (mut e, place) = Editor::with(&format!("{ITEMS}stage x: Metrics = |"));
    let items = e.ask("textDocument/completion", place).expect("an answer");
    let evaluate =
        items.as_array().expect("a list").iter().find(|i| i["label"] == "evaluate").expect("offered").clone();
    assert_eq!(evaluate["insertText"], "evaluate(${1:model}, data: $2)$0");
}

#[test]
fn fixes_are_offered() {
    let (mut e, place) = Editor::with("model base = local(\"m\")\noutput o = bs|ae\n");
    let at = &place["position"];
    let ask = json!({ "textDocument": place["textDocument"], "range": { "start": at, "end": at }, "context": { "diagnostics": [] } });
    let all = e.ask("textDocument/codeAction", ask.clone()).expect("an answer");
    assert_eq!(all.as_array().map(Vec::len), Some(1), "{all}");
    assert_eq!(all[0]["title"], "Write `base`");
    assert_eq!(all[0]["diagnostics"][0]["code"], "E0101");
    let edit = &all[0]["edit"]["changes"][MAIN][0];
    assert_eq!(edit["newText"], "base");
    assert_eq!(edit["range"]["start"], json!({ "line": 1, "character": 11 }));
    // A slip of the syntax; behind characters of one, two and four bytes.
    e.change(
        2,
        json!([{ "text": "model base = local(\"m\")\ndataset q = concat(\"é𝄞\", datasets = [])\n" }]),
    );
    let ask = json!({ "textDocument": place["textDocument"], "range": { "start": { "line": 1, "character": 0 }, "end": { "line": 1, "character": 99 } }, "context": { "diagnostics": [] } });
    let all = e.ask("textDocument/codeAction", ask).expect("an answer");
    let colon =
        all.as_array().expect("a list").iter().find(|a| a["title"] == "Write `:`").expect("offered").clone();
    let edit = &colon["edit"]["changes"][MAIN][0];
    assert_eq!(edit["range"]["start"], json!({ "line": 1, "character": 34 }), "columns are UTF-16 units");
}

#[test]
fn the_call_that_is_written_shows_its_arguments() {
    let help = |text: &str| {
        let (mut e, place) = Editor::with(&format!("{ITEMS}{text}"));
        let found = e.ask("textDocument/signatureHelp", place).expect("an answer");
        let label = found["signatures"][0]["label"].as_str().unwrap_or_default().to_owned();
        (label, found["activeParameter"].as_u64())
    };
    let (label, active) = help("stage x: Responses = probe(|)\n");
    assert!(label.starts_with("probe(model: ") && label.ends_with("→ Responses"), "{label}");
    assert_eq!(active, Some(0));
    assert_eq!(help("stage x: Responses = probe(base, |)\n").1, Some(1));
    assert_eq!(help("stage x: Responses = probe(base, max_tokens: |)\n").1, Some(2));
    assert_eq!(help("stage x: Selection = select(catalog: c, user: [me, m|e])\n").1, Some(1));
    assert_eq!(help("output o = ba|se\n").0, "", "no call");
}
