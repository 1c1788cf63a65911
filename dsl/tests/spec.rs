//! Runs the literate specification in `tests/spec/*.md`.
//!
//! A case is a heading `### name` with a fence of `pllm`, the file that is checked, and after it:
//! - `pllm file=NAME`: a further file that can be imported;
//! - `diagnostics`: every diagnostic as `LINE CODE`; without it, the file must have no errors;
//! - `plan`: lines that the plan, one instance a line, must have;
//! - `format`: the file as it is formatted;
//! - `fixed`: the file after all fixes that diagnostics offer as edits, again and again; it may then
//!   have errors.
//!
//! `pllm set=a=1;b=2` sets parameters; `pllm module` checks the file as one that is imported. The files `catalog/friendly`, `catalog/concise` and
//! `catalog/formal` exist. Every case without errors is also formatted: twice gives the same, and
//! the plan stays equal.

use std::collections::BTreeMap;
use std::fmt::Write;

use headstart_dsl::plan::{Instance, Place, Policy};
use headstart_dsl::{Checked, MemoryLoader, Plan, Severity, check, check_module, format, parse, render};
use headstart_protocol::{Expr, Value};
use libtest_mimic::{Arguments, Failed, Trial};

#[derive(Default)]
struct Case {
    source: String,
    sets: BTreeMap<String, String>,
    module: bool,
    files: Vec<(String, String)>,
    diagnostics: Option<String>,
    plan: Option<String>,
    format: Option<String>,
    fixed: Option<String>,
}

fn main() {
    let args = Arguments::from_args();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/spec");
    let mut trials = Vec::new();
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).expect("the folder of cases").collect::<Result<_, _>>().expect("its files");
    paths.sort_by_key(|p| p.path());
    for path in paths {
        let text = std::fs::read_to_string(path.path()).expect("a case file");
        let stem = path.path().file_stem().expect("a name").to_string_lossy().into_owned();
        for (name, case) in cases(&text) {
            trials.push(Trial::test(format!("{stem}: {name}"), move || run(&case)));
        }
    }
    libtest_mimic::run(&args, trials).exit();
}

fn cases(text: &str) -> Vec<(String, Case)> {
    let mut out: Vec<(String, Case)> = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix("### ") {
            out.push((name.to_owned(), Case::default()));
        }
        let Some(info) = line.strip_prefix("```") else { continue };
        let body: Vec<&str> = lines.by_ref().take_while(|l| *l != "```").collect();
        let body = body.join("\n") + "\n";
        let case = &mut out.last_mut().expect("a fence follows a heading").1;
        match info.split_once(' ').unwrap_or((info, "")) {
            (_, file) if file.starts_with("file=") => case.files.push((file[5..].to_owned(), body)),
            ("pllm", attr) => {
                case.source = body;
                case.module = attr == "module";
                let sets = attr.strip_prefix("set=").into_iter().flat_map(|s| s.split(';'));
                case.sets =
                    sets.filter_map(|s| s.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect();
            }
            ("diagnostics", _) => case.diagnostics = Some(body),
            ("plan", _) => case.plan = Some(body),
            ("format", _) => case.format = Some(body),
            ("fixed", _) => case.fixed = Some(body),
            (other, _) => panic!("unknown fence `{other}`"),
        }
    }
    out
}

fn checked(case: &Case, source: &str) -> Checked {
    let mut files = MemoryLoader::new().with("main.pllm", source);
    for key in ["friendly", "concise", "formal"] {
        files = files.with(&format!("catalog/{key}/adapter_config.json"), "{}");
    }
    for (name, text) in &case.files {
        files = files.with(name, text);
    }
    let check = if case.module { check_module } else { check };
    check("main.pllm", &files, &case.sets)
}

fn run(case: &Case) -> Result<(), Failed> {
    let result = checked(case, &case.source);
    let shown = render(&result.diagnostics, &result.sources, false);
    let mut found = String::new();
    for d in &result.diagnostics {
        let line = d.span().map_or(0, |s| result.sources.line(s));
        let _ = writeln!(found, "{line} {}", d.code);
    }
    match &case.diagnostics {
        Some(wanted) if *wanted != found => {
            return Err(format!("wanted:\n{wanted}\nfound:\n{found}\n{shown}").into());
        }
        None if result.has_errors() && case.fixed.is_none() => {
            return Err(format!("unexpected errors:\n{shown}").into());
        }
        _ => {}
    }
    if let Some(wanted) = &case.plan {
        let plan = result.plan.as_ref().ok_or_else(|| format!("there is no plan:\n{shown}"))?;
        let all = show(plan);
        for line in wanted.lines() {
            if !all.lines().any(|l| l == line) {
                return Err(format!("the plan has no line\n{line}\nit is\n{all}").into());
            }
        }
    }
    if let Some(wanted) = &case.fixed {
        let fixed = fixed(case);
        if *wanted != fixed {
            return Err(format!("wanted:\n{wanted}\nfixed:\n{fixed}").into());
        }
    }
    formats(case, &result)
}

/// The file after its fixes, one at a time, as someone in an editor would take them.
fn fixed(case: &Case) -> String {
    let mut text = case.source.clone();
    for _ in 0..40 {
        let result = checked(case, &text);
        let Some(fix) = result.diagnostics.into_iter().find_map(|d| d.fix) else { break };
        text.replace_range(fix.span.range(), &fix.text);
    }
    text
}

fn formats(case: &Case, before: &Checked) -> Result<(), Failed> {
    let broken = parse(Default::default(), &case.source).1.iter().any(|d| d.severity == Severity::Error);
    if broken {
        return Ok(());
    }
    let once = format(&case.source).map_err(|d| format!("cannot be formatted: {d:?}"))?;
    if let Some(wanted) = &case.format
        && *wanted != once
    {
        return Err(format!("wanted:\n{wanted}\nformatted:\n{once}").into());
    }
    let twice = format(&once).map_err(|d| format!("cannot be formatted again: {d:?}"))?;
    if twice != once {
        return Err(format!("once:\n{once}\ntwice:\n{twice}").into());
    }
    let after = checked(case, &once);
    if before.plan.clone().map(unlined) != after.plan.map(unlined) {
        return Err(format!("formatting changed the plan:\n{once}").into());
    }
    Ok(())
}

/// The plan without line numbers.
fn unlined(mut plan: Plan) -> Plan {
    plan.items.iter_mut().for_each(|i| i.line = 0);
    plan
}

/// The plan, one instance, output or schedule a line. Arguments that have their defaults are shown
/// like all others.
fn show(plan: &Plan) -> String {
    let mut out = String::new();
    for i in &plan.instances {
        let item = &plan.items[i.item as usize];
        let _ = write!(out, "{}: {} = {}(", i.name, item.ty, i.kind);
        let given = i.args.iter().filter(|(n, e)| !is_default(i, n, e));
        let args: Vec<String> = given.map(|(n, e)| format!("{n}: {}", expr(plan, e))).collect();
        let _ = write!(out, "{})", args.join(", "));
        if let Some(when) = &i.when {
            let _ = write!(out, " when {}", expr(plan, when));
        }
        if let Place::Device(d) = &i.place {
            let _ = write!(out, " on {d}");
        }
        if let Some(d) = &i.private_to {
            let _ = write!(out, " private to {d}");
        }
        for path in &i.release {
            let _ = write!(out, " release [{}]", path.join("."));
        }
        let p = &i.policy;
        let numbers =
            [("memory", p.memory), ("backoff", p.backoff_ms), ("timeout", p.timeout_ms), ("wait", p.wait_ms)];
        for (name, value) in numbers {
            if let Some(v) = value {
                let _ = write!(out, " {name} {v}");
            }
        }
        if p.losses != Policy::default().losses {
            let _ = write!(out, " losses {}", p.losses);
        }
        if let Some(threads) = p.threads {
            let _ = write!(out, " threads {threads}");
        }
        if let Some(group) = &p.limit {
            let _ = write!(out, " at most {} of {}", group.size, group.name);
        }
        if p.retry > 0 {
            let _ = write!(out, " retry {}", p.retry);
        }
        if !p.only_when.is_empty() {
            let _ = write!(out, " only when {}", p.only_when.join("+"));
        }
        out.push('\n');
    }
    for o in &plan.outputs {
        let released = if o.released { " released" } else { "" };
        let _ = writeln!(out, "output {}: {} = {}{released}", o.name, o.ty, expr(plan, &o.value));
    }
    for s in &plan.schedules {
        let _ = write!(
            out,
            "schedule {} [{}] {} {} {} {}",
            s.name,
            s.run.join(" "),
            s.cron,
            s.timezone,
            s.overlap.word(),
            s.catchup.word()
        );
        let default = headstart_dsl::plan::Schedule::named(&s.name);
        if (s.catchup_window_ms, s.catchup_max) != (default.catchup_window_ms, default.catchup_max) {
            let _ = write!(out, " within {}ms at most {}", s.catchup_window_ms, s.catchup_max);
        }
        if s.jitter_ms > 0 {
            let _ = write!(out, " jitter {}ms", s.jitter_ms);
        }
        for (word, all) in [("when_changed", &s.when_changed), ("after", &s.after)] {
            if !all.is_empty() {
                let _ = write!(out, " {word} {}", all.join(" "));
            }
        }
        out.push('\n');
    }
    for (name, value) in &plan.params {
        let _ = writeln!(out, "param {name} = {value}");
    }
    for i in plan.items.iter().filter(|i| !i.doc.is_empty()) {
        let _ = writeln!(out, "doc {} = {}", i.name, i.doc.replace('\n', " | "));
    }
    if !plan.doc.is_empty() {
        let _ = writeln!(out, "doc = {}", plan.doc);
    }
    out
}

fn is_default(i: &Instance, name: &str, e: &Expr) -> bool {
    use headstart_protocol::kinds::{self, DefaultValue};
    let Expr::Value { value } = e else { return false };
    let spec = kinds::find(&i.kind).and_then(|k| k.args.iter().find(|a| a.name == name));
    match (spec.map(|s| &s.default), value) {
        (Some(DefaultValue::Int(d)), Value::Int(v)) => d == v,
        (Some(DefaultValue::Float(d)), Value::Float(v)) => d == v,
        (Some(DefaultValue::Bool(d)), Value::Bool(v)) => d == v,
        (Some(DefaultValue::Text(d)), Value::Text(v)) => d == v,
        _ => false,
    }
}

fn expr(plan: &Plan, e: &Expr) -> String {
    let show = |e: &Expr| expr(plan, e);
    match e {
        Expr::Value { value } => show_value(value),
        Expr::Output { instance } => plan.instances[*instance as usize].name.clone(),
        Expr::Field { of, name } => format!("{}.{name}", show(of)),
        Expr::Or { first, second } => format!("({} or {})", show(first), show(second)),
        Expr::Not { of } => format!("not {}", show(of)),
        Expr::Compare { op, left, right } => format!("{} {} {}", show(left), op.symbol(), show(right)),
        Expr::List { items } => {
            let items: Vec<String> = items.iter().map(|(k, e)| format!("{k}: {}", show(e))).collect();
            format!("[{}]", items.join(", "))
        }
        Expr::Mix { terms } => {
            let terms: Vec<String> = terms.iter().map(|(w, n, e)| format!("{w} {n} {}", show(e))).collect();
            format!("mix({})", terms.join(", "))
        }
    }
}

fn show_value(v: &Value) -> String {
    match v {
        Value::List(items) => {
            let items: Vec<String> = items.iter().map(|(k, v)| format!("{k}: {}", show_value(v))).collect();
            format!("[{}]", items.join(", "))
        }
        other => other.describe(),
    }
}
