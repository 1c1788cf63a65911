//! Properties over random and over damaged files.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use headstart_dsl::{
    FileId, MemoryLoader, Plan, Severity, Trees, analyze, analyze_again, check, format, parse, render,
};
use proptest::prelude::*;

/// The sources of the specification: a corpus of real files to damage.
fn corpus() -> &'static [String] {
    static CORPUS: OnceLock<Vec<String>> = OnceLock::new();
    CORPUS.get_or_init(read_corpus)
}

fn read_corpus() -> Vec<String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/spec");
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the folder of cases") {
        let text = std::fs::read_to_string(entry.expect("a file").path()).expect("its text");
        let fences = text.split("```pllm").skip(1).filter_map(|f| f.split_once('\n'));
        out.extend(fences.filter_map(|(_, rest)| rest.split("\n```").next()).map(|s| format!("{s}\n")));
    }
    out.sort();
    out
}

/// Words, texts, comments and single characters.
fn tokens(text: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let len = match rest.as_bytes()[0] {
            b'"' => rest[1..].find(['"', '\n']).map_or(rest.len(), |n| n + 2),
            b'/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            _ => word.max(rest.chars().next().map_or(1, char::len_utf8)),
        };
        out.push(&rest[..len]);
        at += len;
    }
    out
}

fn loader(text: &str) -> MemoryLoader {
    MemoryLoader::new().with("main.pllm", text).with("catalog/formal/a", "").with("catalog/concise/a", "")
}

fn plan(text: &str) -> Option<Plan> {
    let mut plan = check("main.pllm", &loader(text), &Default::default()).plan?;
    plan.items.iter_mut().for_each(|i| i.line = 0);
    Some(plan)
}

/// Everything that may be done with any text.
fn survives(text: &str) {
    let (checked, index) = analyze("main.pllm", &loader(text), &Default::default());
    assert_eq!(checked.plan.is_none(), checked.has_errors() || !checked.open.is_empty());
    let run = check("main.pllm", &loader(text), &Default::default());
    assert_eq!(run.plan.is_none(), run.has_errors());
    // What an earlier text leaves changes nothing.
    let half = text.char_indices().nth(text.chars().count() / 2).map_or(0, |(at, _)| at);
    let mut trees = Trees::default();
    analyze_again("main.pllm", &loader(&text[half..]), &Default::default(), &mut trees);
    let (again, _) = analyze_again("main.pllm", &loader(text), &Default::default(), &mut trees);
    assert_eq!(again.diagnostics, checked.diagnostics);
    for m in &index.marks {
        let file = checked.sources.file(m.span.file);
        assert!(file.text.get(m.span.range()).is_some(), "span outside its text: {m:?}");
    }
    for d in &checked.diagnostics {
        for l in &d.labels {
            let file = checked.sources.file(l.span.file);
            assert!(file.text.get(l.span.range()).is_some(), "span outside its text: {d:?}");
        }
    }
    render(&checked.diagnostics, &checked.sources, false);
    if let Ok(once) = format(text) {
        assert_eq!(format(&once).as_deref(), Ok(once.as_str()), "formatting is idempotent");
    }
}

/// A piece of text that a pipeline file may be made of.
fn piece() -> impl Strategy<Value = String> {
    let fixed = prop::sample::select(vec![
        "import ",
        "param ",
        "private ",
        "model ",
        "dataset ",
        "space ",
        "stage ",
        "schedule ",
        "output ",
        " for ",
        " in ",
        " when ",
        " on ",
        " or ",
        " not ",
        " as ",
        "\n",
        "\n\n",
        "  ",
        ":",
        "=",
        ",",
        ".",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "<",
        ">",
        "?",
        "+",
        "-",
        "*",
        "==",
        "\"a\"",
        "\"",
        "\\",
        "//",
        "// c\n",
        "/// d\n",
        "//! f\n",
        "a",
        "b",
        "x",
        "Pllm",
        "List<Path>",
        "local(\"m\")",
        "jsonl(\"q\")",
        "probe(a, prompts: b)",
        "glob(\"catalog/*\")",
        "merge(0.5 * a + 0.5 * b)",
        "release(a)",
        "device(\"p\")",
        "3",
        "0.5",
        "30m",
        "4GB",
        "1e999",
        "true",
        "é",
        "\u{feff}",
    ]);
    prop_oneof![9 => fixed.prop_map(str::to_owned), 1 => any::<char>().prop_map(String::from)]
}

fn cases() -> u32 {
    headstart_testkit::cases(300, 30_000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_survived(text in any::<String>()) {
        survives(&text);
    }

    #[test]
    fn any_tokens_are_survived(pieces in prop::collection::vec(piece(), 0..60)) {
        survives(&pieces.concat());
    }

    /// Real files with tokens removed, repeated, swapped.
    #[test]
    fn damaged_files_are_survived(
        which in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..3u8, piece()), 1..5),
    ) {
        let mut all: Vec<String> = tokens(which.get::<String>(corpus())).into_iter().map(str::to_owned).collect();
        for (at, what, new) in edits {
            let at = at.index(all.len());
            match what {
                0 => drop(all.remove(at)),
                1 => all.insert(at, new),
                _ => { let t = all[at].clone(); all.insert(at, t) }
            }
            if all.is_empty() { break; }
        }
        survives(&all.concat());
    }

    /// Line breaks, spaces and comments wherever the grammar allows them: formatting keeps the
    /// comments and the plan.
    #[test]
    fn comments_anywhere_are_kept(
        which in any::<prop::sample::Index>(),
        gaps in prop::collection::vec((any::<prop::sample::Index>(), 0..4u8), 1..6),
    ) {
        let source: &String = which.get(corpus());
        let mut all: Vec<String> = tokens(source).into_iter().map(str::to_owned).collect();
        for (n, (at, what)) in gaps.into_iter().enumerate() {
            let gap = match what {
                0 => "\n".to_owned(),
                1 => format!(" // c{n}\n"),
                2 => format!("\n// c{n}\n"),
                _ => "   ".to_owned(),
            };
            all.insert(at.index(all.len() + 1), gap);
        }
        let text = all.concat();
        let (_, diags) = parse(FileId(0), &text);
        if diags.iter().any(|d| d.severity == Severity::Error) {
            return Ok(());
        }
        let once = format(&text).unwrap_or_else(|d| panic!("it parses, so it formats: {d:?}\n{text}"));
        let count = |t: &str| (0..6).map(|n| t.matches(&format!("// c{n}")).count()).collect::<Vec<_>>();
        prop_assert_eq!(count(&text), count(&once));
        prop_assert_eq!(format(&once).expect("formatted files parse"), once.clone());
        prop_assert_eq!(plan(&text), plan(&once));
    }
}

#[test]
fn deep_nesting_is_an_error_and_no_crash() {
    for (open, close) in [
        ("(", ")"),
        ("[", "]"),
        ("f(", ")"),
        ("a[", "]"),
        ("not ", ""),
        ("-", ""),
        ("List<", ">"),
        ("a.", "b"),
    ] {
        let deep =
            format!("output o = {}a{}\nparam p: {0}Int{1}\n", open.repeat(20_000), close.repeat(20_000));
        let checked = check("main.pllm", &loader(&deep), &Default::default());
        assert!(checked.has_errors(), "{open}");
    }
}

#[test]
fn long_chains_are_flat() {
    let mut text =
        String::from("model base = local(\"m\")\nstage a: Pllm = ingest(base: base, source: \"a\")\n");
    text += &format!("stage m: Pllm = merge({})\noutput o = m\n", vec!["0.1 * a"; 5_000].join(" + "));
    assert!(plan(&text).is_some());
    assert!(format(&text).is_ok());
}

/// 2,000 stages and a fan-out of 100,000 in far less than what a person notices. The bounds are
/// several times what is measured without optimisation, so that only a change of complexity fails.
#[test]
fn large_files_are_planned() {
    let mut text = String::from(
        "model base = local(\"m\")\ndataset q = jsonl(\"q\")\nstage s0: Pllm = finetune(base, data: q)\n",
    );
    for n in 1..2_000 {
        let line = format!(
            "stage s{n}: Pllm = finetune(s{}, data: q, until: loss < 1.9) {{ retry: 2, memory: 1GiB }}\n",
            n - 1
        );
        text += &line;
    }
    text += "output o = s1999\n";
    let start = Instant::now();
    assert_eq!(plan(&text).expect("it is right").instances.len(), 2_002);
    let stages = start.elapsed();
    let many: Vec<String> = (0..100_000).map(|n| format!("\"d/k{n}\"")).collect();
    let text = format!(
        "model base = local(\"m\")\nparam xs: List<Path> = [{}]\nstage p: Pllm = ingest(base: base, source: x) for x in xs\noutput o = p\n",
        many.join(", ")
    );
    let start = Instant::now();
    assert_eq!(plan(&text).expect("it is right").instances.len(), 100_001);
    let fan_out = start.elapsed();
    headstart_testkit::assert_within("2,000 stages", stages, Duration::from_secs(3));
    headstart_testkit::assert_within("a fan-out of 100,000", fan_out, Duration::from_secs(10));
}
