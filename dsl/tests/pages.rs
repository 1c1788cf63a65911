//! Every diagnostic code has a page, and what the page shows as wrong and right is so.

use std::collections::BTreeMap;

use headstart_dsl::{MemoryLoader, Severity, check, codes, explain, render};

struct Fence {
    attrs: Vec<String>,
    body: String,
}

impl Fence {
    fn attr(&self, key: &str) -> Option<&str> {
        self.attrs.iter().find_map(|a| a.strip_prefix(key)?.strip_prefix('='))
    }
}

fn fences(page: &str) -> Vec<Fence> {
    let mut out = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(info) = line.strip_prefix("```") else { continue };
        let body: Vec<&str> = lines.by_ref().take_while(|l| *l != "```").collect();
        let attrs = info.split_whitespace().map(str::to_owned).collect();
        out.push(Fence { attrs, body: body.join("\n") + "\n" });
    }
    out
}

#[test]
fn every_page_shows_what_it_says() {
    for code in codes() {
        let page = explain(code.as_str()).expect("every code has a page");
        assert!(page.starts_with(&format!("# {code}: {}\n", code.title())), "title of {code}");
        let all = fences(page);
        let (mut wrong, mut right) = (0, 0);
        for f in &all {
            let is = |what: &str| f.attrs.iter().any(|a| a == what);
            if !is("wrong") && !is("right") {
                continue;
            }
            let mut files = MemoryLoader::new().with("page.pllm", &f.body).with("catalog/friendly/a", "");
            for other in &all {
                if let Some(name) = other.attr("file") {
                    files = files.with(name, &other.body);
                }
            }
            let set = f.attr("set").and_then(|s| s.split_once('='));
            let sets: BTreeMap<_, _> = set.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
            let checked = check("page.pllm", &files, &sets);
            let shown = render(&checked.diagnostics, &checked.sources, false);
            let has = checked.diagnostics.iter().any(|d| d.code == code);
            if is("wrong") {
                wrong += 1;
                assert!(has, "{code}: the wrong example does not show it:\n{shown}");
                let others =
                    checked.diagnostics.iter().filter(|d| d.severity == Severity::Error && d.code != code);
                assert_eq!(others.count(), 0, "{code}: the wrong example shows more than that:\n{shown}");
            } else {
                right += 1;
                assert!(!has && !checked.has_errors(), "{code}: the right example is not:\n{shown}");
            }
        }
        assert!(wrong > 0 && right > 0, "{code} needs a wrong and a right example");
    }
}

#[test]
fn pages_are_found_by_code_in_any_case() {
    assert!(explain("e0501").expect("known").contains("private"));
    assert!(explain("E9999").is_none());
}
