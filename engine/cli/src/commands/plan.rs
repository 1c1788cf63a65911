//! `headstart plan`: what a run would do, and why.

use std::collections::BTreeMap;

use headstart_builtin::backend::Choice;
use headstart_driver::preview::Preview;
use headstart_dsl::plan::{Declared, Place, Plan};
use headstart_protocol::Type;
use headstart_store::Workspace;

use crate::args::{Format, PlanArgs};
use crate::commands::run::open_engine;
use crate::exit::CommandError;
use crate::loader;

/// Runs the command.
pub fn run(ws: Workspace, backend: Choice, args: &PlanArgs) -> Result<(), CommandError> {
    let plan = loader::plan(&args.pipeline)?;
    let engine = open_engine(ws, backend)?;
    let here = std::env::current_dir().map_err(CommandError::internal)?;
    let previews = engine.preview(&plan, &here).map_err(CommandError::input)?;
    match args.format {
        Format::Json => print_json(&plan, &previews, backend),
        Format::Text => print_text(&plan, &previews, backend),
    }
    if previews.iter().any(|p| matches!(p, Preview::Fails(_))) {
        return Err(CommandError::silent(crate::exit::INPUT));
    }
    Ok(())
}

/// One word, and the rest of the sentence.
fn words(plan: &Plan, preview: &Preview) -> (&'static str, String) {
    match preview {
        Preview::Read { bytes } => ("read", format!("{:.1} MiB", *bytes as f64 / (1 << 20) as f64)),
        Preview::Cached { seconds } => ("cached", format!("saves {seconds:.1} s")),
        Preview::Run => ("run", "this combination of inputs is new".into()),
        Preview::After(open) => {
            let names: Vec<&str> =
                open.iter().take(3).map(|i| plan.instances[*i as usize].name.as_str()).collect();
            let more = if open.len() > 3 { format!(" and {} more", open.len() - 3) } else { String::new() };
            ("after", format!("depends on {}{more}", names.join(", ")))
        }
        Preview::Skip => ("skip", "its `when` is false".into()),
        Preview::OnDevice(d) => ("device", format!("only {d} can tell: it reads data there")),
        Preview::Fails(f) => ("fails", f.message.clone()),
    }
}

fn print_text(plan: &Plan, previews: &[Preview], backend: Choice) {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, item) in plan.items.iter().enumerate() {
        let mut groups: BTreeMap<&str, (usize, String)> = BTreeMap::new();
        let mut place = String::new();
        for (i, inst) in plan.instances.iter().enumerate().filter(|(_, x)| x.item as usize == index) {
            let (word, rest) = words(plan, &previews[i]);
            *counts.entry(word).or_default() += 1;
            groups.entry(word).or_insert((0, rest)).0 += 1;
            if let Place::Device(d) = &inst.place {
                place = format!(" on {d}");
            }
            if inst.private_to.is_some() {
                place.push_str(if place.ends_with("private") { "" } else { ", private" });
            }
        }
        let keyword = match item.declared {
            Declared::Model => "model",
            Declared::Dataset => "dataset",
            Declared::Space => "space",
            Declared::Stage => "stage",
        };
        let count: usize = groups.values().map(|(n, _)| n).sum();
        let fan = if item.keyed { format!(" ×{count}") } else { String::new() };
        println!("{keyword:<8}{}{fan}: {} = {}{place}", item.name, item.ty, item.kind);
        for (word, (n, rest)) in &groups {
            let n = if item.keyed { format!("{n} ") } else { String::new() };
            println!("          {n}{word}: {rest}");
        }
    }
    for output in &plan.outputs {
        let how = match (output.released, &output.ty) {
            (true, Type::Pllm) => "  LEAVES ITS DEVICE: WEIGHTS TRAINED ON PRIVATE DATA",
            (true, _) => "  leaves its device",
            (false, _) => "",
        };
        println!("output  {}: {}{how}", output.name, output.ty);
    }
    let total: Vec<String> = counts.iter().map(|(w, n)| format!("{n} {w}")).collect();
    println!("\n{}; models run on {backend}", total.join(", "));
}

fn print_json(plan: &Plan, previews: &[Preview], backend: Choice) {
    let instances: Vec<_> = plan
        .instances
        .iter()
        .zip(previews)
        .map(|(inst, preview)| {
            let (decision, why) = words(plan, preview);
            serde_json::json!({
                "name": inst.name, "kind": inst.kind, "place": inst.place, "private_to": inst.private_to,
                "decision": decision, "why": why,
            })
        })
        .collect();
    let released: Vec<&str> = plan.outputs.iter().filter(|o| o.released).map(|o| o.name.as_str()).collect();
    let backend = backend.to_string();
    println!("{}", serde_json::json!({"instances": instances, "released": released, "backend": backend}));
}
