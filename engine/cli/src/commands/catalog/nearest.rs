//! `headstart catalog nearest`: the pLLMs nearest to a pLLM, or to a person's texts.

use std::collections::BTreeMap;
use std::path::Path;

use headstart_console::{OutputError, outln, suggest};
use headstart_disk::files;
use headstart_disk::read::{LINE, Lines, ROWS};
use headstart_explain::divergence::Divergence;
use headstart_explain::words::Explanation;
use headstart_protocol::Context;
use headstart_protocol::expr::Value;
use headstart_protocol::rows::{ROWS_FILE, Row, from_lines, to_jsonl};
use headstart_protocol::text::counted;
use headstart_protocol::{Args, ArtifactRef, Output, Type};
use headstart_runner::{Call, StageRegistry};
use headstart_select::Distance;
use headstart_select::decide::User;
use headstart_select::forecast::{Forecast, left_by_distance};
use headstart_store::Workspace;
use serde_json::json;

use super::ephemeral::EphemeralContext;
use super::found::Found;
use super::training::expected;
use crate::args::Format;
use crate::exit::CommandError;

/// Tokens of the base's answer to a prompt of the texts, as `embed` has it unless told otherwise.
const ANSWER_TOKENS: i64 = 128;

/// Shows the nearest pLLMs.
///
/// # Errors
/// If there is no catalog, the texts cannot be read or embedded, or the result cannot be written.
pub fn run(
    ws: &Workspace,
    found: &Found<'_>,
    what: &str,
    count: usize,
    format: Format,
) -> Result<(), CommandError> {
    if let Some(place) = found.place(what) {
        return Ok(to_pllm(found, place, count, format)?);
    }
    let path = Path::new(what);
    if !path.is_file() {
        let names = found.pllms.iter().map(|p| p.name.as_str());
        return Err(CommandError::input(format!("`{what}` is neither a pLLM of the catalog nor a file"))
            .help(suggest::help(what, "the catalog has", names)));
    }
    to_texts(ws, found, path, count, format)
}

fn to_pllm(found: &Found<'_>, place: usize, count: usize, format: Format) -> Result<(), OutputError> {
    let near: Vec<(usize, f64)> = found.catalog.neighbours(place).into_iter().take(count).collect();
    if format == Format::Json {
        let list: Vec<_> =
            near.iter().map(|&(i, d)| json!({ "name": found.about(i).name, "distance": d })).collect();
        return outln!("{}", json!({ "name": found.about(place).name, "nearest": list }));
    }
    outln!("{}  {}", found.about(place).name, super::in_a_line(&found.about(place).words))?;
    outln!("\n  Nearest, by distance in standard deviations:")?;
    for (i, distance) in near {
        outln!(
            "  {distance:>7.2}  {:<34}  {}",
            found.about(i).name,
            super::in_a_line(&found.about(i).words)
        )?;
    }
    Ok(())
}

/// Embeds the texts in the catalog's space and ranks the pLLMs.
fn to_texts(
    ws: &Workspace,
    found: &Found<'_>,
    path: &Path,
    count: usize,
    format: Format,
) -> Result<(), CommandError> {
    let rows = read(path)?;
    let divergence = embed(ws, found, &rows)?;
    if divergence.about.d != found.catalog.about.d
        || divergence.about.features != found.catalog.about.features
    {
        return Err(CommandError::input("the catalog was made by another version: its components differ")
            .help("run its pipeline again"));
    }
    let user = User::new(&found.catalog, &divergence.rows);
    let near = user.nearest(Distance::Whitened, count);
    let by_chance = user.is_chance(&near);
    let style = user.explain(if by_chance { 0.0 } else { near[0].strength }, 0);
    let chosen = near.first().filter(|_| !by_chance);
    let left = chosen.and_then(|r| Some((r.index, left_by_distance(&user, &[(r.index, 1.0)], 0)?)));
    let forecast = match left {
        Some((place, left)) => expected(ws, found, place, left)?,
        None => None,
    };
    if format == Format::Json {
        let one = |r: &headstart_select::Ranked| json!({ "name": found.about(r.index).name, "distance": r.distance, "strength": r.strength });
        let list: Vec<_> = near.iter().take(count).map(one).collect();
        outln!(
            "{}",
            json!({
                "texts": rows.len(), "style": style, "nearest": list, "by_chance": by_chance,
                "forecast": forecast.map(|f| f.expected()),
            })
        )?;
        return Ok(());
    }
    print(found, &rows, &style, &near[..near.len().min(count)], by_chance)?;
    if let Some(words) = forecast.as_ref().and_then(Forecast::words) {
        outln!("\n  Starting from {}: {words}.", found.about(near[0].index).name)?;
    }
    Ok(())
}

fn print(
    found: &Found<'_>,
    rows: &[Row],
    style: &Explanation,
    near: &[headstart_select::Ranked],
    by_chance: bool,
) -> Result<(), OutputError> {
    outln!("{}\n", counted(rows.len() as u64, "text"))?;
    super::print_words(&style.words, style.explained)?;
    outln!("\n  Nearest, by distance in standard deviations, and how much of its style the texts show:")?;
    for r in near {
        let about = found.about(r.index);
        outln!(
            "  {:>7.2}  {:>3.0} %  {:<34}  {}",
            r.distance,
            r.strength * 100.0,
            about.name,
            super::in_a_line(&about.words)
        )?;
    }
    if by_chance {
        outln!(
            "\n  None is nearer than chance would have it: these texts show none of the catalog's styles."
        )?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<Row>, CommandError> {
    let at = |e: &dyn std::fmt::Display| CommandError::input(format!("{}: {e}", path.display()));
    let lines = Lines::open(path, LINE, ROWS).map_err(|e| at(&headstart_disk::reason(&e)))?;
    let rows = from_lines(lines).map_err(|e| {
        at(&e).help("a line is {\"prompt\": \"a question\", \"response\": \"what was written\"}")
    })?;
    if rows.is_empty() { Err(at(&"there are no rows in it")) } else { Ok(rows) }
}

/// Runs the stage `embed` on the texts, against the catalog's base.
fn embed(ws: &Workspace, found: &Found<'_>, rows: &[Row]) -> Result<Divergence, CommandError> {
    let used = |name: &str| -> Result<ArtifactRef, CommandError> {
        found.manifest.uses.get(name).cloned().ok_or_else(|| {
            CommandError::input(format!("the catalog does not say which {name} it was made with"))
        })
    };
    let stages = StageRegistry::new(headstart_builtin::stages(headstart_builtin::backend::cpu()));
    let context = EphemeralContext::new(ws, stages.numerics("embed"))?;
    let at = context.scratch().join(ROWS_FILE);
    files::write(&**ws.disk(), &at, to_jsonl(rows).as_bytes())?;
    let texts = context.put(Output::new(Type::Dataset, json!({ "n": rows.len() })).file(ROWS_FILE, at))?;
    let args = BTreeMap::from([
        ("responses".to_owned(), Value::Artifact(texts)),
        ("against".to_owned(), Value::Artifact(used("base")?)),
        ("space".to_owned(), Value::Artifact(used("space")?)),
        ("max_tokens".to_owned(), Value::Int(ANSWER_TOKENS)),
    ]);
    let call = Call { kind: "embed", ty: &Type::Divergence, args: &Args(args) };
    let output = headstart_runner::run(stages.built_in("embed")?, call, &context)?;
    let divergence = context.put(output)?;
    Ok(Divergence::open(&context, &divergence, "the texts' divergence")?)
}
