//! Any text is checked and its findings are rendered; a plan comes exactly where no error does.
#![no_main]

use headstart_dsl::{MemoryLoader, analyze, render, svg};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let files = MemoryLoader::new().with("main.pllm", text).with("catalog/a/x", "").with("catalog/b/x", "");
    let (checked, index) = analyze("main.pllm", &files, &Default::default());
    assert_eq!(checked.plan.is_none(), checked.has_errors());
    render(&checked.diagnostics, &checked.sources, false);
    for mark in &index.marks {
        assert!(checked.sources.file(mark.span.file).text.get(mark.span.range()).is_some());
    }
    if let Some(plan) = checked.plan.filter(|p| p.items.len() < 100) {
        svg(&plan);
    }
});
