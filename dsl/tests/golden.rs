//! What people see: every code's page example, and a file full of common mistakes, rendered.

use headstart_dsl::{MemoryLoader, check, codes, explain, render, to_json};

/// The body of the first fence whose info line starts with `info`, and the rest of that line.
fn fence<'p>(page: &'p str, info: &str) -> Option<(&'p str, String)> {
    let start = page.find(&format!("```{info}"))?;
    let (line, rest) = page[start + 3 + info.len()..].split_once('\n')?;
    Some((line.trim(), format!("{}\n", rest.split("\n```").next()?)))
}

#[test]
fn every_code_is_rendered() {
    for code in codes() {
        let page = explain(code.as_str()).expect("every code has a page");
        let (attrs, source) = fence(page, "pllm wrong").expect("a wrong example");
        let mut files = MemoryLoader::new().with("page.pllm", &source).with("catalog/friendly/a", "");
        let mut rest = page;
        while let Some(at) = rest.find(" file=") {
            let body = rest[at..].split_once('\n').and_then(|(_, b)| b.split_once("\n```"));
            let name = rest[at + 6..].lines().next().expect("a file has a name");
            files = files.with(name, &format!("{}\n", body.expect("a fence that ends").0));
            rest = &rest[at + 6..];
        }
        let set = attrs.strip_prefix("set=").and_then(|s| s.split_once('='));
        let sets = set.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        let checked = check("page.pllm", &files, &sets);
        insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!(code.as_str(), render(&checked.diagnostics, &checked.sources, false));
        });
    }
}

#[test]
fn a_file_full_of_common_mistakes() {
    let checked =
        check("mistakes.pllm", &MemoryLoader::new().with("mistakes.pllm", MISTAKES), &Default::default());
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("common_mistakes", render(&checked.diagnostics, &checked.sources, false));
    });
}

const MISTAKES: &str = r#"param rank Int = 32
stgae plain = embed(model: base)
model base = local('models/tiny')
dataset questions = jsonl("q.jsonl");
stage one: Responses = probe(base, prompts = questions)
stage two: Responses = probe(base, prompts: ) {
  memory = 4GiB
  timeout: 30min, retry 2
  wait: 2d only_when: idle
}
/* a comment */
stage three: Pllm = finetune(base, data: questions) when two && one
stage four: Pllm = finetune(base, data: questions) when !two || one
stage five Pllm = finetune(base, data: questions)
stage six: List<Path = finetune(base, data: questions)
stage seven: Pllm = finetune(base, data: questions) for x on questions
import "./lib.pllm" lib
output texts = "${base}
output: base
schedule nightly { cron: 0 3 * * * }
"#;

#[test]
fn several_files_and_json() {
    let files = MemoryLoader::new()
        .with("main.pllm", "import \"./lib.pllm\" as lib\noutput rows = lib.mine\n")
        .with("lib.pllm", "private dataset mine = jsonl(\"é.jsonl\") on device(\"phone\")\n");
    let checked = check("main.pllm", &files, &Default::default());
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("two_files", render(&checked.diagnostics, &checked.sources, false));
        let json = to_json(&checked.diagnostics, &checked.sources);
        insta::assert_snapshot!("json", serde_json::to_string_pretty(&json).expect("JSON"));
    });
    let colored = render(&checked.diagnostics, &checked.sources, true);
    assert!(colored.contains("\u{1b}["), "colour is asked for");
}
