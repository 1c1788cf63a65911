//! The language reference: its examples are what it says, its tables are current.
//!
//! A fence of `pllm` is a file without errors. With `more` it continues the fences before it in
//! its section; with a code, such as `E0501`, it must show that code and no other error; with
//! `file=NAME` it is a further file of its section; with `set=NAME=VALUE` a parameter is set.
//! `BLESS=1` rewrites the tables.

use std::collections::BTreeMap;
use std::fmt::Write;

use headstart_dsl::words::{self, Word};
use headstart_dsl::{MemoryLoader, Severity, check, codes, format, render};
use headstart_protocol::Type;
use headstart_protocol::kinds::{self, Accepts, Arg, DefaultValue, Kind, Role};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/language.md");

fn reference() -> String {
    std::fs::read_to_string(PATH).expect("the reference is there")
}

/// Files that the examples speak of.
fn files() -> MemoryLoader {
    let mut files = MemoryLoader::new();
    for key in ["friendly", "concise", "formal"] {
        files = files.with(&format!("catalog/{key}/adapter_config.json"), "{}");
    }
    for n in 0..4 {
        files = files.with(&format!("data/{n}.jsonl"), "{}");
    }
    files
}

#[test]
fn every_example_is_what_it_says() {
    let text = reference();
    let mut lines = text.lines().enumerate();
    let (mut more, mut others, mut count) = (String::new(), Vec::new(), 0);
    let mut wrong = String::new();
    while let Some((n, line)) = lines.next() {
        if line.starts_with("## ") {
            more.clear();
            others.clear();
        }
        let Some(info) = line.strip_prefix("```") else { continue };
        let body: Vec<&str> = lines.by_ref().map(|(_, l)| l).take_while(|l| *l != "```").collect();
        let body = body.join("\n") + "\n";
        let mut words = info.split_whitespace();
        // Files beside a pipeline are of any language.
        if words.next() != Some("pllm") && !info.contains(" file=") {
            continue;
        }
        let (mut code, mut sets, mut file, mut continued) = (None, BTreeMap::new(), None, false);
        for word in words {
            match word.split_once('=') {
                Some(("file", name)) => file = Some(name.to_owned()),
                Some(("set", pair)) => {
                    sets.extend(pair.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())))
                }
                _ if word == "more" => continued = true,
                _ => code = Some(word),
            }
        }
        count += 1;
        if let Some(name) = file {
            others.push((name, body));
            continue;
        }
        let source = if continued { format!("{more}{body}") } else { body.clone() };
        let loader = others.iter().fold(files(), |l, (name, text)| l.with(name, text));
        let checked = check("main.pllm", &loader.with("main.pllm", &source), &sets);
        let is_error = |s: Severity| s == Severity::Error;
        let found: Vec<&str> = checked
            .diagnostics
            .iter()
            .filter(|d| is_error(d.severity) || code == Some(d.code.as_str()))
            .map(|d| d.code.as_str())
            .collect();
        let wanted: Vec<&str> = code.into_iter().collect();
        if found != wanted {
            let shown = render(&checked.diagnostics, &checked.sources, false);
            let _ = writeln!(wrong, "line {}: wanted {wanted:?}, found {found:?}\n{shown}", n + 1);
        }
        if code.is_none() {
            if format(&body).as_deref() != Ok(body.as_str()) {
                let _ = writeln!(
                    wrong,
                    "line {}: formatted, it is\n{}",
                    n + 1,
                    format(&body).unwrap_or_default()
                );
            }
            more = source;
        }
    }
    assert!(count >= 40, "the examples are found: {count}");
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn tables_are_current() {
    let text = reference();
    let mut out = text.clone();
    for (name, table) in tables() {
        let (start, end) = (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->"));
        let from = out.find(&start).unwrap_or_else(|| panic!("{start} is missing")) + start.len();
        let to = from + out[from..].find(&end).unwrap_or_else(|| panic!("{end} is missing"));
        out.replace_range(from..to, &table);
    }
    if std::env::var_os("BLESS").is_some() && out != text {
        std::fs::write(PATH, &out).expect("the reference can be written");
        return;
    }
    assert!(
        out == text,
        "docs/language.md is not current: run `BLESS=1 cargo test -p headstart-dsl --test reference`"
    );
}

fn tables() -> Vec<(&'static str, String)> {
    vec![
        ("types", types()),
        ("fields", fields()),
        ("units", units()),
        ("settings", words_table("setting", words::SETTINGS)),
        ("conditions", words_table("condition", words::CONDITIONS)),
        ("entries", words_table("entry", words::ENTRIES)),
        ("overlap", words_table("`overlap`", words::OVERLAP)),
        ("catchup", words_table("`catchup`", words::CATCHUP)),
        ("kinds", all_kinds()),
        ("codes", all_codes()),
    ]
}

/// A table; `|` in cells is escaped.
fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut out = format!("| {} |\n|{}\n", head.join(" | "), " --- |".repeat(head.len()));
    for row in rows {
        let cells: Vec<String> = row.iter().map(|c| c.replace('|', "\\|")).collect();
        let _ = writeln!(out, "| {} |", cells.join(" | "));
    }
    out
}

fn words_table(head: &str, all: &'static [Word]) -> String {
    let row = |w: &Word| vec![format!("`{}`", w.name), w.doc.to_owned(), format!("`{}`", w.example)];
    table(&[head, "meaning", "example"], all.iter().map(row))
}

fn type_doc(ty: &Type) -> &'static str {
    match ty {
        Type::Model => "a base language model, or an encoder: a folder in its published format",
        Type::Pllm => "a personalized language model: a base and a LoRA adapter, or full weights",
        Type::Dataset => "rows of prompt and response",
        Type::Responses => "what a model answered to the prompts of a dataset",
        Type::Divergence => "how answers differ from the base's answers, one vector a prompt",
        Type::Space => "how text becomes a vector",
        Type::Catalog => "lexicon, metric, and every pLLM's coefficients",
        Type::Selection => "which pLLM, or which mix of them, suits a user",
        Type::Mix => "weights over pLLMs: `0.6 * a + 0.4 * b`",
        Type::Metrics => "named numbers",
        Type::Path => "a file or folder: `\"data/me.jsonl\"`",
        Type::Text => "a text: `\"humorous\"`",
        Type::Int => "a whole number of 64 bits: `400`, `10_000`",
        Type::Float => "a number with a fraction: `0.5`, `1e-3`",
        Type::Bool => "`true` or `false`",
        Type::Duration => "a length of time: `30m`",
        Type::Bytes => "an amount of memory: `1GiB`",
        Type::Condition | Type::List(_) | Type::Optional(_) => "",
    }
}

fn types() -> String {
    let all: Vec<Type> = Type::names().filter_map(Type::from_name).collect();
    let release = |t: &Type| match (t.is_artifact() || *t == Type::Mix, t.releasable()) {
        (true, true) => "may be released",
        (true, false) => "never leaves",
        (false, _) => "",
    };
    let row = |t: &Type| vec![format!("`{t}`"), type_doc(t).to_owned(), release(t).to_owned()];
    let mut out = table(&["type", "a value of it is", "if private"], all.iter().map(row));
    out += "| `List<T>` | a keyed list of `T` | as `T` |\n| `T?` | a `T`, or nothing | as `T` |\n";
    out
}

fn fields() -> String {
    let all = Type::names().filter_map(Type::from_name);
    let rows = all.flat_map(|t| {
        let of = t.to_string();
        t.fields()
            .iter()
            .map(|(name, ty, doc)| {
                vec![format!("`{of}`"), format!("`.{name}`"), format!("`{ty}`"), (*doc).to_owned()]
            })
            .collect::<Vec<_>>()
    });
    let mut out = table(&["of", "field", "type", "meaning"], rows);
    out += "| `Metrics` | any name, such as `.loss` | `Float` | the number of that name |\n";
    out
}

fn units() -> String {
    let row = |what: &str, all: &[(&str, u64)], of: &str| {
        let names: Vec<String> = all.iter().map(|(n, _)| format!("`{n}`")).collect();
        let last = all.last().map_or(0, |(_, n)| *n);
        let name = all.last().map_or("", |(n, _)| n);
        vec![what.to_owned(), names.join(", "), format!("`1{name}` is {last} {of}")]
    };
    let rows = [row("time", words::DURATIONS, "milliseconds"), row("memory", words::SIZES, "bytes")];
    table(&["of", "units, small to large", "for instance"], rows.into_iter())
}

fn all_kinds() -> String {
    let mut out = String::new();
    for (role, title) in [
        (Role::Model, "Models"),
        (Role::Dataset, "Datasets"),
        (Role::Space, "Spaces"),
        (Role::Stage, "Stages"),
    ] {
        let _ = writeln!(out, "\n### {title}");
        kinds::all().filter(|k| k.role == role).for_each(|k| kind(&mut out, k));
    }
    out.push('\n');
    out
}

fn kind(out: &mut String, k: &Kind) {
    let place = if k.places.on_device() { "on the server and on devices" } else { "on the server only" };
    let _ = writeln!(out, "\n#### `{}` makes a `{}`\n\n{} Runs {place}.\n", k.name, k.returns, k.doc);
    let _ = writeln!(out, "```\n{}\n```\n", k.example);
    let row = |a: &Arg| vec![format!("`{}`", a.name), accepts(a), default(&a.default), a.doc.clone()];
    out.push_str(&table(&["argument", "takes", "left out", "meaning"], k.args.iter().map(row)));
}

fn accepts(arg: &Arg) -> String {
    let one = |a: &Accepts| match a {
        Accepts::Word(words) => words.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", "),
        Accepts::Condition => "a condition".to_owned(),
        Accepts::Count => "`Int`, at least 1".to_owned(),
        other => format!("`{}`", other.ty()),
    };
    arg.accepts.iter().map(one).collect::<Vec<_>>().join(" or ")
}

fn default(d: &DefaultValue) -> String {
    match d {
        DefaultValue::Required => "needed".to_owned(),
        DefaultValue::Absent => "absent".to_owned(),
        DefaultValue::Int(i) => format!("`{i}`"),
        DefaultValue::Float(x) => format!("`{x:?}`"),
        DefaultValue::Bool(b) => format!("`{b}`"),
        DefaultValue::Text(t) => format!("`{t}`"),
    }
}

fn all_codes() -> String {
    table(&["code", "stands for"], codes().map(|c| vec![format!("`{c}`"), c.title().to_owned()]))
}
