//! `headstart catalog show`: one pLLM's style, with examples and where it comes from.

use headstart_console::{OutputError, outln};
use headstart_explain::words::Method;
use headstart_protocol::artifacts::SpaceKind;
use headstart_protocol::expr::Value;
use headstart_protocol::{ArtifactRef, Digest};
use headstart_store::Workspace;
use serde_json::json;

use super::found::Found;
use super::samples::samples;
use super::training::Training;
use crate::args::Format;
use crate::exit::CommandError;
use crate::recorded::time;

/// Characters of an answer that are shown to people.
const SHOWN: usize = 420;

/// Samples that are shown.
const SAMPLES: usize = 2;

/// Shows a pLLM.
///
/// # Errors
/// If there is no such pLLM, its catalog cannot be read, or the result cannot be written.
pub fn run(ws: &Workspace, found: &Found<'_>, name: &str, format: Format) -> Result<(), CommandError> {
    let place = found.place(name).ok_or_else(|| found.unknown(name))?;
    let about = found.about(place);
    let embedded = found.made(&about.divergence);
    let samples = samples(ws, found, place, SAMPLES)?;
    let provenance = Provenance::read(ws, found, place, embedded);
    let training = Training::read(ws, found, place)?;
    if format == Format::Json {
        let samples: Vec<_> = samples
            .iter()
            .map(|s| json!({ "prompt": s.prompt, "answer": s.answer, "base": s.reference }))
            .collect();
        let (metrics, forecast) = training.json();
        outln!(
            "{}",
            json!({
                "name": name, "words": about.words, "explained": about.explained,
                "strength": about.strength, "samples": samples, "training": metrics, "forecast": forecast,
                "provenance": provenance.json(),
            })
        )?;
        return Ok(());
    }
    outln!("{name}")?;
    outln!("  {:.1} standard deviations from its base, over {} prompts\n", about.strength, about.n)?;
    super::print_words(&about.words, about.explained)?;
    if !samples.is_empty() {
        outln!("\n  Where it shows its style most, beside its base:")?;
    }
    for s in &samples {
        outln!("\n  {}", s.prompt.trim())?;
        outln!("    it    {}", indented(&s.answer))?;
        outln!("    base  {}", indented(&s.reference))?;
    }
    outln!()?;
    training.print()?;
    Ok(provenance.print()?)
}

/// A text as a block under its first line, cut where it is long.
fn indented(text: &str) -> String {
    let text = text.trim();
    let mut shown: String = text.chars().take(SHOWN).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    if shown.is_empty() { "(nothing)".to_owned() } else { shown.replace('\n', "\n          ") }
}

/// An artifact and the stage instance that it is from.
struct Origin {
    id: Option<Digest>,
    stage: Option<String>,
    path: Option<String>,
}

impl Origin {
    fn of(ws: &Workspace, found: &Found<'_>, id: Option<Digest>) -> Self {
        let made = id.and_then(|id| found.made(&id));
        let path = |i: u32| {
            let args = &found.run.plan.instances[i as usize].args;
            args.keys().find_map(|name| match found.arg(ws, i, name)? {
                Value::Path(p) => Some(p),
                _ => None,
            })
        };
        Self { stage: id.and_then(|id| found.name(&id)).map(str::to_owned), path: made.and_then(path), id }
    }

    fn json(&self) -> serde_json::Value {
        json!({ "artifact": self.id, "stage": self.stage, "path": self.path })
    }

    fn text(&self) -> String {
        let id = self.id.map(|id| id.short());
        let parts: Vec<String> = [self.stage.clone(), id, self.path.clone()].into_iter().flatten().collect();
        if parts.is_empty() { "not known".to_owned() } else { parts.join("  ") }
    }
}

/// What an explanation was made with.
struct Facts {
    /// Probes that the pLLM answered.
    probes: usize,
    kind: SpaceKind,
    components: usize,
    features: usize,
    words: usize,
    dimensions: usize,
    lexicon: Digest,
    method: Method,
    catalog_bytes: u64,
}

/// Where a pLLM and its explanation come from.
struct Provenance {
    base: Origin,
    pllm: Origin,
    probes: Origin,
    space: Origin,
    facts: Facts,
    run: String,
    made: String,
}

impl Provenance {
    fn read(ws: &Workspace, found: &Found<'_>, place: usize, embedded: Option<u32>) -> Self {
        let about = found.about(place);
        let origin = |id: Option<Digest>| Origin::of(ws, found, id);
        let used = |name: &str| found.manifest.uses.get(name).map(|a: &ArtifactRef| a.id);
        let responses = embedded.and_then(|i| found.artifact_arg(ws, i, "responses"));
        let probed = responses.and_then(|r| found.made(&r.id));
        let prompts = probed.and_then(|i| found.artifact_arg(ws, i, "prompts"));
        let head = &found.catalog.about;
        let mut dimensions: Vec<&str> = head.words.iter().map(|w| w.dimension.as_str()).collect();
        dimensions.sort_unstable();
        dimensions.dedup();
        Self {
            base: origin(used("base")),
            pllm: origin(about.pllm),
            probes: origin(prompts.map(|p| p.id)),
            space: origin(Some(head.space)),
            facts: Facts {
                probes: about.n,
                kind: head.kind,
                components: head.d,
                features: head.features.len(),
                words: head.words.len(),
                dimensions: dimensions.len(),
                lexicon: head.lexicon,
                method: head.method,
                catalog_bytes: found.manifest.size(),
            },
            run: found.run.id.clone(),
            made: match found.committed(found.instance) {
                Some(at) => time(at),
                None => format!("{}, from the cache", time(found.run.state.started_ms())),
            },
        }
    }

    fn json(&self) -> serde_json::Value {
        let mut probes = self.probes.json();
        let facts = &self.facts;
        probes["n"] = json!(facts.probes);
        let mut space = self.space.json();
        space["kind"] = json!(facts.kind);
        space["components"] = json!(facts.components);
        space["features"] = json!(facts.features);
        json!({
            "base": self.base.json(), "pllm": self.pllm.json(), "probes": probes, "space": space,
            "lexicon": {
                "version": facts.lexicon, "words": facts.words, "dimensions": facts.dimensions,
            },
            "method": facts.method, "catalog_bytes": facts.catalog_bytes,
            "run": self.run, "when": self.made,
        })
    }

    fn print(&self) -> Result<(), OutputError> {
        let facts = &self.facts;
        outln!("  base      {}", self.base.text())?;
        outln!("  pLLM      {}", self.pllm.text())?;
        outln!("  probes    {} prompts  {}", facts.probes, self.probes.text())?;
        outln!(
            "  space     {}, {} components and {} features  {}",
            facts.kind.name(),
            facts.components,
            facts.features,
            self.space.text()
        )?;
        outln!(
            "  lexicon   {} words in {} dimensions, version {}; method {}",
            facts.words,
            facts.dimensions,
            facts.lexicon.to_string().chars().take(12).collect::<String>(),
            facts.method.name()
        )?;
        outln!("  run       {}  {}", self.run, self.made)
    }
}
