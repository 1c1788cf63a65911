//! `headstart catalog`: the pLLMs of a run, in words and numbers.

use headstart_core::state::Status;
use headstart_protocol::artifact::ArtifactType;
use headstart_store::Workspace;
use serde_json::Value;

use crate::args::{Catalog, Format};
use crate::commands::runs::{self, Recorded};
use crate::exit::CommandError;

/// Runs the command.
pub fn run(ws: &Workspace, args: &Catalog) -> Result<(), CommandError> {
    let catalog = find(ws, args.run.as_deref())?;
    let pllms = catalog.get("pllms").and_then(Value::as_object).cloned().unwrap_or_default();
    if let Some(name) = &args.name {
        let pllm = pllms.get(name).ok_or_else(|| {
            let names: Vec<&str> = pllms.keys().map(String::as_str).collect();
            CommandError::input(format!("the catalog has no pLLM `{name}`"))
                .help(format!("it has {}", names.join(", ")))
        })?;
        return show(name, pllm, args.format);
    }
    if args.format == Format::Json {
        println!("{}", Value::Object(pllms));
        return Ok(());
    }
    for (name, pllm) in &pllms {
        let words: Vec<String> =
            words(pllm).iter().map(|w| format!("{} {:.2}", w.word, w.coefficient)).collect();
        println!("{name:<36} {}", words.join(", "));
    }
    Ok(())
}

/// The value of the catalog in the given run, or of the latest run that has one.
fn find(ws: &Workspace, prefix: Option<&str>) -> Result<Value, CommandError> {
    let ids: Vec<String> = match prefix {
        Some(p) => vec![runs::find(ws, Some(p))?.id],
        None => ws.runs().into_iter().rev().map(|r| r.id).collect(),
    };
    for id in ids {
        let run = runs::read(ws, &id)?;
        if let Some(value) = catalog_of(ws, &run)? {
            return Ok(value);
        }
    }
    Err(CommandError::input("there is no run with a public catalog").help("headstart run FILE makes one"))
}

fn catalog_of(ws: &Workspace, run: &Recorded) -> Result<Option<Value>, CommandError> {
    for (_, status) in run.state.statuses() {
        if let Status::Done(done) = status
            && done.output.ty == ArtifactType::Catalog
            && done.output.private_to.is_none()
            && let Some(manifest) = ws.artifacts().manifest(&done.output.id)?
        {
            return Ok(Some(manifest.value));
        }
    }
    Ok(None)
}

struct Word<'a> {
    word: &'a str,
    coefficient: f64,
    low: f64,
    high: f64,
}

fn words(pllm: &Value) -> Vec<Word<'_>> {
    let number = |w: &Value, key: &str| w.get(key).and_then(Value::as_f64).unwrap_or(f64::NAN);
    let list = pllm.get("words").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    list.iter()
        .map(|w| Word {
            word: w.get("word").and_then(Value::as_str).unwrap_or("?"),
            coefficient: number(w, "coefficient"),
            low: number(w, "low"),
            high: number(w, "high"),
        })
        .collect()
}

fn show(name: &str, pllm: &Value, format: Format) -> Result<(), CommandError> {
    if format == Format::Json {
        println!("{pllm}");
        return Ok(());
    }
    println!("{name}");
    let words = words(pllm);
    let longest = words.iter().map(|w| w.coefficient.abs()).fold(f64::MIN_POSITIVE, f64::max);
    for w in &words {
        let bar = "█".repeat((w.coefficient.abs() / longest * 24.0).round() as usize);
        println!("  {:<16} {:>6.2}  [{:.2}, {:.2}]  {bar}", w.word, w.coefficient, w.low, w.high);
    }
    if let Some(explained) = pllm.get("explained").and_then(Value::as_f64) {
        println!("  explained {:.0} %, unexplained {:.0} %", explained * 100.0, (1.0 - explained) * 100.0);
    }
    Ok(())
}
