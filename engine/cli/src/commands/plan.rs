//! `headstart plan`: what a run would do, and why.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

use headstart_builtin::backend::Choice;
use headstart_console::color::{Ink, paint};
use headstart_console::{errln, outln, print};
use headstart_disk::{Disk, SystemDisk};
use headstart_driver::{Preview, preview};
use headstart_dsl::plan::{Declared, Place, Plan};
use headstart_protocol::Type;
use headstart_protocol::text::{bytes, plural, quoted};
use headstart_report::text::seconds;
use headstart_store::Workspace;

use crate::args::{Format, PlanArgs};
use crate::commands::run::isolated_stages;
use crate::exit::CommandError;
use crate::workspace::Location;
use crate::{hub_models, loader};

/// Instances that are named in a line at most.
const NAMED: usize = 3;

/// Runs the command.
///
/// # Errors
/// If the pipeline cannot be planned, or would fail as it is.
pub fn run(place: &Location<'_>, backend: Choice, args: &PlanArgs) -> Result<(), CommandError> {
    let mut plan = loader::only(loader::plan(&args.pipeline, loader::Notes::Shown)?, &args.only)?;
    hub_models::pin_only(&mut plan)?;
    let here = std::env::current_dir().map_err(CommandError::internal)?;
    let custom = Arc::new(headstart_host::Trusted::default());
    let temporary = Workspace::temporary()?;
    let _removed = Removed(temporary.dir().to_owned());
    let stages = isolated_stages(&temporary, backend, true)?;
    let previews = preview(&plan, &here, temporary, stages, custom, place.optional()?);
    let previews = previews.map_err(CommandError::input)?;
    match args.format {
        Format::Json => print_json(&plan, &previews, backend)?,
        Format::Text => print_text(&plan, &previews, backend)?,
    }
    let mut fails = false;
    for (inst, preview) in plan.instances.iter().zip(&previews) {
        if let Preview::Fails(f) = preview {
            fails = true;
            errln!("{}: {}: {}", paint(Ink::Error, "error"), inst.name, f.message);
            f.help.iter().for_each(|help| errln!("  {}: {help}", paint(Ink::Help, "help")));
        }
    }
    if fails { Err(CommandError::silent(crate::exit::INPUT)) } else { Ok(()) }
}

/// A folder that goes with the command: threads that still end would keep a temporary workspace.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        // What stays is in the system's temporary folder.
        let _ = SystemDisk.remove_dir_all(&self.0);
    }
}

/// The decision, and the rest of the sentence.
fn words(plan: &Plan, previews: &[Preview], preview: &Preview) -> (&'static str, String) {
    let names = |open: &[u32]| quoted(open.iter().map(|i| &plan.instances[*i as usize].name), NAMED);
    match preview {
        Preview::Read { bytes: n } => ("input", bytes(*n)),
        Preview::Cached { seconds: s } => ("cached", format!("saves {}", seconds(*s))),
        Preview::Run => ("will run", "no result for these inputs in the cache".into()),
        Preview::After(open) => {
            let failed: Vec<u32> = open.iter().copied().filter(|i| is_lost(previews, *i)).collect();
            if failed.is_empty() {
                ("may run", format!("inputs change: {}", names(open)))
            } else {
                ("blocked", format!("needs {}", names(&failed)))
            }
        }
        Preview::Skip => ("skipped", "its `when` is false".into()),
        Preview::OnDevice(d) => ("may run", format!("only {d} can tell: it reads data there")),
        Preview::Fails(f) => ("failed", f.message.clone()),
    }
}

/// Whether an instance fails, or needs one that does.
fn is_lost(previews: &[Preview], instance: u32) -> bool {
    match &previews[instance as usize] {
        Preview::Fails(_) => true,
        Preview::After(open) => open.iter().any(|i| is_lost(previews, *i)),
        _ => false,
    }
}

/// The word behind a count: only inputs have a plural.
fn listed(word: &str, n: usize) -> String {
    if word == "input" { plural(n as u64, word) } else { word.to_owned() }
}

/// Bytes and seconds of an item's instances, of all together.
#[derive(Default)]
struct Totals {
    bytes: u64,
    seconds: f64,
}

impl Totals {
    fn add(&mut self, preview: &Preview) {
        match preview {
            Preview::Read { bytes } => self.bytes += bytes,
            Preview::Cached { seconds } => self.seconds += seconds,
            _ => {}
        }
    }

    /// What the instances of this word come to, if it has a sum.
    fn of(&self, word: &str) -> Option<String> {
        match word {
            "input" => Some(bytes(self.bytes)),
            "cached" => Some(format!("saves {}", seconds(self.seconds))),
            _ => None,
        }
    }
}

fn print_text(plan: &Plan, previews: &[Preview], backend: Choice) -> Result<(), CommandError> {
    let mut out = String::new();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, item) in plan.items.iter().enumerate() {
        let mut groups: BTreeMap<&str, (usize, String)> = BTreeMap::new();
        let mut total = Totals::default();
        let mut place = String::new();
        for (i, inst) in plan.instances.iter().enumerate().filter(|(_, x)| x.item as usize == index) {
            let (word, rest) = words(plan, previews, &previews[i]);
            *counts.entry(word).or_default() += 1;
            groups.entry(word).or_insert((0, rest)).0 += 1;
            total.add(&previews[i]);
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
        let _ = writeln!(out, "{keyword:<8}{}{fan}: {} = {}{place}", item.name, item.ty, item.kind);
        for (word, (n, rest)) in &groups {
            let rest = total.of(word).unwrap_or_else(|| rest.clone());
            let count = if item.keyed { format!("{n} ") } else { String::new() };
            let _ = writeln!(out, "          {count}{}: {rest}", listed(word, *n));
        }
    }
    for output in &plan.outputs {
        let how = match (output.released, &output.ty) {
            (true, Type::Pllm) => "  LEAVES ITS DEVICE: WEIGHTS TRAINED ON PRIVATE DATA",
            (true, _) => "  leaves its device",
            (false, _) => "",
        };
        let _ = writeln!(out, "output  {}: {}{how}", output.name, output.ty);
    }
    let total: Vec<String> = counts.iter().map(|(w, n)| format!("{n} {}", listed(w, *n))).collect();
    let _ = writeln!(out, "\n{}; models run on {backend}", total.join(", "));
    Ok(print(&out)?)
}

fn print_json(plan: &Plan, previews: &[Preview], backend: Choice) -> Result<(), CommandError> {
    let instances: Vec<_> = plan
        .instances
        .iter()
        .zip(previews)
        .map(|(inst, preview)| {
            let (decision, why) = words(plan, previews, preview);
            serde_json::json!({
                "name": inst.name, "kind": inst.kind, "place": inst.place, "private_to": inst.private_to,
                "decision": decision.replace(' ', "_"), "why": why,
            })
        })
        .collect();
    let released: Vec<&str> = plan.outputs.iter().filter(|o| o.released).map(|o| o.name.as_str()).collect();
    let backend = backend.to_string();
    Ok(outln!("{}", serde_json::json!({"instances": instances, "released": released, "backend": backend}))?)
}
