//! The server, spoken to through the protocol by a scripted editor: diagnostics, places, names, layout.

mod editor;

use std::time::{Duration, Instant};

use editor::{Editor, ITEMS, MAIN, files, labels};
use headstart_dsl::MemoryLoader;
use serde_json::{Value, json};

#[test]
fn diagnostics_while_typing() {
    let mut e = Editor::new(files());
    e.open("model base = local(\"m\")\noutput o = bsae\n");
    let found = e.found();
    assert_eq!(found.as_array().map(Vec::len), Some(1));
    assert_eq!(found[0]["code"], "E0101");
    assert_eq!(found[0]["severity"], 1);
    assert_eq!(found[0]["range"]["start"], json!({ "line": 1, "character": 11 }));
    let message = found[0]["message"].as_str().expect("a message");
    assert!(
        message.contains("cannot find `bsae` in this file") && message.contains("did you mean `base`?"),
        "{message}"
    );
    // The two letters change places, by an edit of the range.
    let range = json!({ "start": { "line": 1, "character": 12 }, "end": { "line": 1, "character": 14 } });
    e.change(2, json!([{ "range": range, "text": "as" }]));
    assert_eq!(e.found(), json!([]));
    // A whole text; the parameter has no value yet, which is no mistake here.
    e.change(3, json!([{ "text": "param x: Int\nmodel base = local(\"m\") { retry: x }\n" }]));
    let found = e.found();
    assert_eq!(found.as_array().map(Vec::len), Some(0), "{found}");
}

#[test]
fn diagnostics_of_imports_and_related_places() {
    let mut e = Editor::new(MemoryLoader::new().with("/project/lib.pllm", "output o = nothing\n"));
    e.open("import \"./lib.pllm\" as lib\nmodel a = local(\"m\")\nmodel a = local(\"n\")\noutput o = a\noutput p = lib.o\n");
    let found = e.found();
    let of =
        |code: &str| found.as_array().expect("a list").iter().find(|d| d["code"] == code).expect("found");
    let imported = of("E0101");
    assert_eq!(imported["range"]["start"], json!({ "line": 0, "character": 7 }));
    assert!(
        imported["message"].as_str().is_some_and(|m| m.starts_with("/project/lib.pllm:1:12")),
        "{imported}"
    );
    let twice = of("E0102");
    assert_eq!(twice["relatedInformation"][0]["location"]["range"]["start"]["line"], 1);
    assert_eq!(twice["relatedInformation"][0]["location"]["uri"], MAIN);
}

#[test]
fn hover_tells_type_docs_and_residency() {
    let hover = |text: &str| {
        let (mut e, place) = Editor::with(text);
        let answer = e.ask("textDocument/hover", place).expect("an answer");
        answer["contents"]["value"].as_str().unwrap_or_default().to_owned()
    };
    let of = |text: &str| hover(&format!("{ITEMS}{text}"));
    let text = of("stage x: Metrics = evaluate(base, data: mi|ne) { on: device(\"phone\") }\n");
    assert!(
        text.contains("dataset mine: Dataset = jsonl(…)") && text.contains("What the owner wrote."),
        "{text}"
    );
    assert!(text.contains("**Private to `phone`**: it never leaves."), "{text}");
    let text = of("stage x: Metrics = evaluate(p, data: questions) for p in pl|lm\n");
    assert!(text.contains("stage pllm: List<Pllm>") && text.contains("2 elements: `\"concise\"`"), "{text}");
    let text = of("stage x: Metrics = evaluate(|p, data: questions) for p in pllm\n");
    assert!(text.contains("for p: Pllm"), "{text}");
    let text = of("stage x: Metrics = eval|uate(base, data: questions)\n");
    assert!(text.contains("Measures a model on rows") && text.contains("`answers`: Int = 3"), "{text}");
    let text = of("stage x: Metrics = evaluate(base, da|ta: questions)\n");
    assert!(text.contains("Argument of `evaluate`."), "{text}");
    let text = of("stage x: Metrics = evaluate(base, data: questions) { ret|ry: 2 }\n");
    assert!(text.contains("Further attempts"), "{text}");
    let text = of("stage x: Met|rics = evaluate(base, data: questions)\n");
    assert!(text.contains("Made by `evaluate`, `accuracy`"), "{text}");
    let text = of("output o = pllm[\"formal\"].met|rics\n");
    assert!(text.contains("Pllm.metrics: Metrics"), "{text}");
    let text = of("output o = lib.al|l\n");
    assert!(text.contains("output all"), "{text}");
    let text = hover("param f: Path = \"x\" / \"y\"\n\n// wo|rd\n");
    assert_eq!(text, "", "nothing to say about a comment");
}

#[test]
fn a_program_of_ones_own_is_known() {
    let declared = r#"{ "program": "tools.py", "protocol": 1, "stages": [
        { "name": "ease", "version": 1, "doc": "How easy answers are to read.", "makes": "Metrics",
          "args": [{ "name": "answers", "takes": ["Responses", "Dataset"], "doc": "the answers" },
                   { "name": "hard", "takes": ["Float"], "default": 50 }] }] }"#;
    let project = || files().with("/project/tools.py", "").with("/project/tools.stages.json", declared);
    let ask = |what: &str, text: &str| {
        let mut e = Editor::new(project());
        let place = e.open(&format!("{ITEMS}program tools = \"tools.py\"\n{text}"));
        e.ask(what, place).expect("an answer")
    };
    let hover = |text: &str| ask("textDocument/hover", text)["contents"]["value"].to_string();
    let text = hover("stage x: Metrics = tools.ea|se(questions)\n");
    assert!(
        text.contains("How easy answers are to read.") && text.contains("`hard`: Float = 50.0"),
        "{text}"
    );
    let text = hover("stage x: Metrics = tools.ease(questions, ha|rd: 3)\n");
    assert!(text.contains("Argument of `tools.ease`."), "{text}");
    let text = hover("stage x: Metrics = too|ls.ease(questions)\n");
    assert!(text.contains("program tools = \\\"tools.py\\\""), "{text}");
    let offered = |text: &str| labels(&ask("textDocument/completion", text));
    assert!(offered("stage x: Metrics = |\n").contains(&"tools.ease".to_owned()));
    assert_eq!(offered("stage x: Metrics = tools.|\n"), ["ease"]);
    assert_eq!(offered("stage x: Metrics = tools.ease(questions, |)\n"), ["hard"]);
    let found = ask("textDocument/definition", "stage x: Metrics = too|ls.ease(questions)\n");
    assert_eq!(found["range"]["start"]["line"], 8, "{found}");

    let mut e = Editor::new(project().with("/project/tools.stages.json", "{"));
    e.open("program tools = \"tools.py\"\nstage x: Metrics = tools.ease()\noutput x = x\n");
    let found = e.found();
    let first = &found[0]["range"]["start"]["line"];
    assert_eq!((found.as_array().map(Vec::len), first), (Some(1), &json!(0)), "{found}");
}

#[test]
fn definitions_lead_through_imports() {
    let at = |text: &str| {
        let (mut e, place) = Editor::with(&format!("{ITEMS}{text}"));
        let l = e.ask("textDocument/definition", place).expect("an answer");
        let start = &l["range"]["start"];
        format!("{} {}:{}", l["uri"].as_str().unwrap_or("none"), start["line"], start["character"])
    };
    assert_eq!(at("output o = ba|se\n"), format!("{MAIN} 0:6"));
    assert_eq!(at("output o = lib.ro|ws\n"), "file:///project/lib/x.pllm 4:8");
    assert_eq!(at("import \"./lib/x.p|llm\" as other\n"), "file:///project/lib/x.pllm 0:0");
    assert_eq!(at("import \"./lib/x.pllm\" as other { fi|le: \"y\" }\n"), "file:///project/lib/x.pllm 1:6");
    assert_eq!(
        at("stage x: Metrics = evaluate(|p, data: questions) for p in pllm\n"),
        format!("{MAIN} 8:52")
    );
    assert_eq!(at("stage x: Met|rics = evaluate(base, data: questions)\n"), "none null:null");
}

#[test]
fn references_and_rename() {
    let text = format!(
        "{ITEMS}stage x: Metrics = evaluate(p, data: questions) for p in pl|lm\noutput o = pllm[\"formal\"]\n"
    );
    let (mut e, mut place) = Editor::with(&text);
    place["context"] = json!({ "includeDeclaration": true });
    let all = e.ask("textDocument/references", place.clone()).expect("an answer");
    let lines: Vec<u64> =
        all.as_array().expect("a list").iter().filter_map(|l| l["range"]["start"]["line"].as_u64()).collect();
    assert_eq!(lines, [6, 8, 9]);
    place["context"] = json!({ "includeDeclaration": false });
    let uses = e.ask("textDocument/references", place.clone()).expect("an answer");
    assert_eq!(uses.as_array().map(Vec::len), Some(2));

    assert_eq!(
        e.ask("textDocument/prepareRename", place.clone()).expect("an answer")["end"]["character"],
        61
    );
    place["newName"] = json!("personal");
    let edit = e.ask("textDocument/rename", place.clone()).expect("it can be renamed");
    let edits = edit["changes"][MAIN].as_array().expect("edits of the file").clone();
    assert_eq!(edits.len(), 3);
    assert!(edits.iter().all(|e| e["newText"] == "personal"));
    place["newName"] = json!("style");
    assert_eq!(
        e.ask("textDocument/rename", place.clone()),
        Err("the name `style` is taken in line 2".to_owned())
    );
    place["newName"] = json!("two words");
    assert!(e.ask("textDocument/rename", place).is_err_and(|m| m.starts_with("`two words` is no name")));
}

#[test]
fn a_rename_reaches_the_module() {
    let (mut e, mut place) = Editor::with(&format!("{ITEMS}output o = lib.ro|ws\n"));
    place["newName"] = json!("lines");
    let edit = e.ask("textDocument/rename", place).expect("it can be renamed");
    assert_eq!(edit["changes"][MAIN].as_array().map(Vec::len), Some(1));
    assert_eq!(edit["changes"]["file:///project/lib/x.pllm"].as_array().map(Vec::len), Some(2));
}

#[test]
fn formatting_and_symbols() {
    let (mut e, place) = Editor::with("|model base=local(\"m\")\noutput o=base // why\n");
    let format =
        json!({ "textDocument": place["textDocument"], "options": { "tabSize": 2, "insertSpaces": true } });
    let edits = e.ask("textDocument/formatting", format.clone()).expect("an answer");
    assert_eq!(edits[0]["newText"], "model base = local(\"m\")\noutput o = base  // why\n");
    assert_eq!(edits[0]["range"]["end"], json!({ "line": 2, "character": 0 }));
    e.change(2, json!([{ "text": "model base = = x\n" }]));
    assert_eq!(e.ask("textDocument/formatting", format), Ok(Value::Null), "a broken file stays as it is");

    let (mut e, place) = Editor::with(&format!("{ITEMS}|"));
    let all = e
        .ask("textDocument/documentSymbol", json!({ "textDocument": place["textDocument"] }))
        .expect("an answer");
    let shown: Vec<String> = all
        .as_array()
        .expect("a list")
        .iter()
        .map(|s| {
            format!("{} {}", s["name"].as_str().unwrap_or_default(), s["detail"].as_str().unwrap_or_default())
        })
        .collect();
    assert_eq!(shown.len(), 7);
    assert_eq!(shown[3], "mine dataset: Dataset");
    assert_eq!(shown[5], "pllm stage: List<Pllm>");
    assert_eq!(all[5]["range"]["end"]["character"], 75);
}

#[test]
fn folding_and_highlights() {
    let text = "// a\n// b\nmodel base = local(\"m\")\n\ndataset q = jsonl(\n  \"q\",\n)\nstage x: Responses = probe(ba|se, prompts: q)\noutput x = x\n";
    let (mut e, place) = Editor::with(text);
    let folds = e.ask("textDocument/foldingRange", json!({ "textDocument": place["textDocument"] }));
    let folds = folds.expect("an answer");
    let lines: Vec<_> = folds
        .as_array()
        .expect("a list")
        .iter()
        .map(|f| (f["startLine"].as_u64(), f["endLine"].as_u64()))
        .collect();
    assert_eq!(lines, [(Some(0), Some(1)), (Some(4), Some(6))]);
    let places = e.ask("textDocument/documentHighlight", place).expect("an answer");
    let kinds: Vec<_> = places.as_array().expect("a list").iter().map(|h| h["kind"].as_u64()).collect();
    assert_eq!(kinds, [Some(3), Some(2)], "written where it is declared, then read");
}

#[test]
fn a_module_is_no_mistake_and_is_renamed_in_open_files() {
    let lib = "file:///project/lib/m.pllm";
    let text = "param base: Model\nparam pllms: List<Pllm>\nparam data: Dataset\nstage said: Responses = probe(p, prompts: data) for p in pllms\nstage plain: Responses = probe(base, prompts: data)\nstage bad: Responses = probe(data, prompts: pllms[\"a\"])\noutput one = said[\"formal\"]\n";
    let mut e = Editor::new(files());
    let d = json!({ "uri": lib, "languageId": "pllm", "version": 1, "text": text });
    e.tell("textDocument/didOpen", json!({ "textDocument": d }));
    let found = e.found();
    let codes: Vec<&str> =
        found.as_array().expect("a list").iter().filter_map(|d| d["code"].as_str()).collect();
    assert_eq!(codes, ["E0201", "E0201"], "types are checked though no value is known: {found}");
    e.open(&format!("{ITEMS}import \"./lib/m.pllm\" as m {{ base: base, pllms: pllm, data: questions }}\noutput o = m.plain\n"));
    let place = json!({ "textDocument": { "uri": lib }, "position": { "line": 4, "character": 8 }, "newName": "bare" });
    let edit = e.ask("textDocument/rename", place.clone()).expect("it can be renamed");
    assert_eq!(edit["changes"][lib].as_array().map(Vec::len), Some(1), "{edit}");
    assert_eq!(edit["changes"][MAIN][0]["range"]["start"]["character"], 13, "{edit}");
    let mut place = place;
    place["context"] = json!({ "includeDeclaration": false });
    let uses = e.ask("textDocument/references", place).expect("an answer");
    assert_eq!(uses[0]["uri"], MAIN);
}

#[test]
fn what_is_not_known_is_answered() {
    let (mut e, place) = Editor::with("|output o = x\n");
    assert!(e.ask("textDocument/fold", place).is_err_and(|m| m.contains("does not know")));
    let other =
        json!({ "textDocument": { "uri": "file:///other.pllm" }, "position": { "line": 0, "character": 0 } });
    assert_eq!(e.ask("textDocument/hover", other), Ok(Value::Null), "a file that is not open");
    assert!(e.ask("textDocument/hover", json!({})).is_err_and(|m| m.contains("not understood")));
}

/// A file of 1,000 lines: every answer, the first one after a change included.
#[test]
fn a_thousand_lines_are_answered_at_once() {
    let mut text = String::from(
        "model base = local(\"m\")\ndataset q = jsonl(\"q\")\nstage s0: Pllm = finetune(base, data: q)\n",
    );
    for n in 1..997 {
        text +=
            &format!("stage s{n}: Pllm = finetune(s{}, data: q, until: loss < 1.9) {{ retry: 2 }}\n", n - 1);
    }
    let (mut e, _) = Editor::with(&text);
    e.found();
    let place = |line: u32, character: u32| json!({ "textDocument": { "uri": MAIN }, "position": { "line": line, "character": character } });
    let mut times = [Vec::new(), Vec::new()];
    for n in 0..9 {
        let end = json!({ "line": 999, "character": 0 });
        e.change(n + 2, json!([{ "range": { "start": end, "end": end }, "text": "// more\n" }]));
        let methods =
            ["hover", "completion", "definition", "documentSymbol", "references", "rename", "foldingRange"];
        for (at, method) in methods.into_iter().enumerate() {
            // The dataset that nearly every line names.
            let everywhere = matches!(method, "references" | "rename");
            let mut params = place(500, if everywhere { 40 } else { 30 });
            params["context"] = json!({ "triggerKind": 1, "includeDeclaration": true });
            params["newName"] = json!("other");
            let start = Instant::now();
            let answer = e.ask(&format!("textDocument/{method}"), params).expect("an answer");
            assert!(!answer.is_null(), "{method}");
            assert!(method != "references" || answer.as_array().is_some_and(|a| a.len() > 990), "{answer}");
            times[usize::from(at > 0)].push(start.elapsed());
        }
    }
    times.iter_mut().for_each(|t| t.sort());
    let median = |t: &[Duration]| t[t.len() / 2];
    // Without optimisation, a bound that only a change of complexity breaks.
    let bound = Duration::from_millis(if cfg!(debug_assertions) { 400 } else { 40 });
    let [changed, other] = &times;
    headstart_testkit::assert_within("an answer right after a change, 1,000 lines", median(changed), bound);
    headstart_testkit::assert_within("an answer otherwise", median(other), bound / 2);
}
