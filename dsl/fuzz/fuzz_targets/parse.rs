//! Any text is parsed: no panic, and every place lies in the text.
#![no_main]

use headstart_dsl::{FileId, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (tree, diagnostics) = parse(FileId(0), text);
    for item in &tree.items {
        assert!(text.get(item.span.range()).is_some());
    }
    for label in diagnostics.iter().flat_map(|d| &d.labels) {
        assert!(text.get(label.span.range()).is_some());
    }
});
