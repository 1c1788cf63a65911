//! Any text is checked, as a file that is run and as one that is imported, and its diagnostics are
//! rendered; a plan comes exactly where no error does; every place lies in its text; what an
//! earlier analysis leaves changes nothing.
#![no_main]

use headstart_dsl::{MemoryLoader, Trees, analyze_again, check, render};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let files = |text: &str| {
        MemoryLoader::new().with("main.pllm", text).with("catalog/a/x", "").with("catalog/b/x", "")
    };
    let sets = Default::default();
    let checked = check("main.pllm", &files(text), &sets);
    assert_eq!(checked.plan.is_none(), checked.has_errors());
    render(&checked.diagnostics, &checked.sources, false);
    let half = (0..=text.len() / 2).rev().find(|n| text.is_char_boundary(*n)).unwrap_or(0);
    let mut trees = Trees::default();
    analyze_again("main.pllm", &files(&text[half..]), &sets, &mut trees);
    let (again, _) = analyze_again("main.pllm", &files(text), &sets, &mut trees);
    let (fresh, index) = analyze_again("main.pllm", &files(text), &sets, &mut Trees::default());
    assert_eq!(again.diagnostics, fresh.diagnostics);
    for mark in &index.marks {
        assert!(fresh.sources.file(mark.span.file).text.get(mark.span.range()).is_some());
    }
    for fix in fresh.diagnostics.iter().filter_map(|d| d.fix.as_ref()) {
        assert!(fresh.sources.file(fix.span.file).text.get(fix.span.range()).is_some());
    }
});
