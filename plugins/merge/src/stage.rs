//! The stage: the mix's terms, their common base, the output.

use headstart_disk::files::OutFolder;
use headstart_kit::ContextWatch;
use headstart_lm::Watch;
use headstart_protocol::artifacts::{Artifact, Format, MergedModule, Metrics, Parent, Pllm};
use headstart_protocol::{
    Args, ArtifactRef, ArtifactType, Context, Failure, FailureClass, Manifest, MixTerm, Output, Stage, Type,
};

use crate::adapter::{AdapterTerm, CONFIG_FILE, ModuleReport, WEIGHTS_FILE, merge_adapters};
use crate::full::{FullTerm, INDEX_FILE, Method, average_scale, merge_full};

/// The stage kind `merge`.
///
/// A term that is the base itself adds nothing, whatever its weight: a mix is the base plus weighted
/// differences from it, and the base's is 0. (Only the method `linear`, a weighted average, counts
/// its weight.) Terms that are the same pLLM count as one, with the sum of their weights.
///
/// The metric `error` is the relative Frobenius error. The output uses `base` and, for every term,
/// `parent:NAME`.
pub struct Merge;

impl Stage for Merge {
    fn kind(&self) -> &'static str {
        "merge"
    }

    fn run(&self, args: &Args, ctx: &dyn Context) -> Result<Output, Failure> {
        let terms = args.mix("mix")?;
        let mix = Mix::resolve(terms, ctx)?;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(ctx.threads())
            .build()
            .map_err(|e| Failure::new(FailureClass::Transient, format!("cannot start threads: {e}")))?;
        let watch = ContextWatch::new(ctx);
        let output = pool.install(|| match mix.format {
            Format::Lora => mix.merge_lora(args, lineage(terms), ctx, &watch),
            Format::Full => mix.merge_full(args, lineage(terms), ctx, &watch),
        })?;
        Ok(with_parents(output, terms).uses("base", mix.base))
    }
}

fn described(format: Format) -> &'static str {
    match format {
        Format::Lora => "an adapter",
        Format::Full => "a full model",
    }
}

fn format_of(manifest: &Manifest) -> Result<Format, Failure> {
    Ok(Pllm::of(manifest)?.format)
}

/// A mix whose terms are known to go together.
struct Mix {
    base: ArtifactRef,
    /// Weight of the base as a separate term.
    base_weight: f64,
    format: Format,
    /// Different pLLMs, none of them the base, in the order of the mix.
    terms: Vec<MixTerm>,
}

/// A term with what its manifest says: without a base it is a base itself.
struct Known<'a> {
    term: &'a MixTerm,
    base: Option<ArtifactRef>,
    format: Format,
}

impl Mix {
    fn resolve(terms: &[MixTerm], ctx: &dyn Context) -> Result<Self, Failure> {
        let known = terms.iter().map(|t| know(t, ctx)).collect::<Result<Vec<_>, _>>()?;
        let base = common_base(&known)?;
        let format = common_format(&known)?;
        let mut merged: Vec<MixTerm> = Vec::new();
        let mut base_weight = 0.0;
        for k in &known {
            if k.base.is_none() {
                base_weight += k.term.weight;
            } else if let Some(same) = merged.iter_mut().find(|m| m.pllm.id == k.term.pllm.id) {
                same.weight += k.term.weight;
            } else {
                merged.push(k.term.clone());
            }
        }
        // Where everything cancels out, the first term stays, with weight 0: its A keeps the
        // adapter trainable, which an adapter of zeroes is not.
        let all_zero = merged.iter().all(|t| t.weight == 0.0);
        let mut first = true;
        merged.retain(|t| std::mem::take(&mut first) && all_zero || t.weight != 0.0);
        Ok(Self { base, base_weight, format, terms: merged })
    }

    fn merge_lora(
        &self,
        args: &Args,
        lineage: Vec<Parent>,
        ctx: &dyn Context,
        watch: &dyn Watch,
    ) -> Result<Output, Failure> {
        let rank = args.positive_opt("rank")?;
        let scale = self.adapter_scale(args)?;
        let open = |t: &MixTerm| {
            Ok(AdapterTerm { name: t.name.clone(), weight: t.weight * scale, folder: ctx.open(&t.pllm)? })
        };
        let terms = self.terms.iter().map(open).collect::<Result<Vec<_>, Failure>>()?;
        let report = merge_adapters(
            &terms,
            rank,
            ctx.memory(),
            OutFolder { disk: ctx.disk(), path: ctx.scratch() },
            watch,
        )?;
        let module = |(name, m): (&String, &ModuleReport)| {
            (name.clone(), MergedModule { rank: m.rank, error: m.error })
        };
        let metrics = Metrics::default()
            .with("error", report.error)
            .with("rank", report.modules.values().map(|m| m.rank).max().unwrap_or(0))
            .with("modules", report.modules.len())
            .with("parameters", report.parameters)
            .with("terms", terms.len());
        let modules = report.modules.iter().map(module).collect();
        let facts = Pllm { metrics, modules, lineage, ..Pllm::new(Format::Lora) };
        Ok(Output::of(Type::Pllm, &facts)?
            .file(CONFIG_FILE, ctx.scratch().join(CONFIG_FILE))
            .file(WEIGHTS_FILE, ctx.scratch().join(WEIGHTS_FILE)))
    }

    /// What every weight of a mix of adapters is multiplied by.
    fn adapter_scale(&self, args: &Args) -> Result<f64, Failure> {
        match method(args)? {
            Method::TaskArithmetic => Ok(1.0),
            Method::Linear => Ok(average_scale(self.terms.iter().map(|t| t.weight), self.base_weight)?),
            other => Err(Failure::input(format!(
                "method `{}` is for full models, but this is a mix of adapters",
                other.name()
            ))
            .help("leave `method` out, or write `method: linear` for a weighted average")),
        }
    }

    fn merge_full(
        &self,
        args: &Args,
        lineage: Vec<Parent>,
        ctx: &dyn Context,
        watch: &dyn Watch,
    ) -> Result<Output, Failure> {
        if args.get("rank").is_some() {
            return Err(Failure::input(
                "argument `rank` has no effect: it is for adapters, but this is a mix of full models",
            )
            .help("leave `rank` out"));
        }
        let method = method(args)?;
        let base_manifest = ctx.manifest(&self.base)?;
        if self.base.ty == ArtifactType::Pllm && format_of(&base_manifest)? == Format::Lora {
            return Err(Failure::input("full models are merged over a full base, but theirs is an adapter"));
        }
        let base = ctx.open(&self.base)?;
        let open = |t: &MixTerm| {
            // The first eight bytes of the identity: the same model, the same choices.
            let stream = u64::from_le_bytes(t.pllm.id.0[..8].try_into().expect("eight bytes"));
            Ok(FullTerm { name: t.name.clone(), weight: t.weight, folder: ctx.open(&t.pllm)?, stream })
        };
        let terms = self.terms.iter().map(open).collect::<Result<Vec<_>, Failure>>()?;
        let out = OutFolder { disk: ctx.disk(), path: ctx.scratch() };
        let report = merge_full(&base, self.base_weight, &terms, method, ctx.memory(), out, watch)?;
        let metrics = Metrics::default()
            .with("error", 0.0)
            .with("tensors", report.tensors)
            .with("parameters", report.parameters)
            .with("terms", terms.len());
        let facts = Pllm { metrics, lineage, ..Pllm::new(Format::Full) };
        let mut output = Output::of(Type::Pllm, &facts)?;
        for name in &report.files {
            output = output.file(name.clone(), ctx.scratch().join(name));
        }
        // Shards keep their names, so the base's index fits; configuration and tokenizer do anyway.
        for name in base_manifest.files.keys().filter(|n| !is_weights(n)) {
            output = output.file(name.clone(), base.join(name));
        }
        Ok(output)
    }
}

fn know<'a>(term: &'a MixTerm, ctx: &dyn Context) -> Result<Known<'a>, Failure> {
    if !term.weight.is_finite() {
        return Err(Failure::input(format!("the weight of `{}` is {}", term.name, term.weight)));
    }
    if term.pllm.ty == ArtifactType::Model {
        return Ok(Known { term, base: None, format: Format::Full });
    }
    let manifest = ctx.manifest(&term.pllm)?;
    let base = manifest.uses.get("base").cloned().ok_or_else(|| {
        Failure::input(format!(
            "pLLM `{}` ({}) does not say what its base is",
            term.name,
            term.pllm.id.short()
        ))
        .help("ingest it again: a pLLM that was ingested or trained here names its base")
    })?;
    Ok(Known { term, base: Some(base), format: format_of(&manifest)? })
}

/// The base of all terms; a term without one is itself the base.
fn common_base(known: &[Known<'_>]) -> Result<ArtifactRef, Failure> {
    let base = |k: &Known<'_>| k.base.clone().unwrap_or_else(|| k.term.pllm.clone());
    let Some(first) = known.iter().find(|k| k.base.is_some()) else {
        return Err(Failure::input("the mix has no pLLM in it: the base alone, or nothing, is not a merge")
            .help("use the base itself where nothing is to be merged"));
    };
    let expected = base(first);
    match known.iter().find(|k| base(k).id != expected.id) {
        None => Ok(expected),
        Some(other) => {
            let is = |k: &Known<'_>| if k.base.is_some() { "is over base" } else { "is itself base" };
            Err(Failure::input(format!(
                "a mix is over one base, but `{}` {} {} and `{}` {} {}",
                first.term.name,
                is(first),
                expected.id.short(),
                other.term.name,
                is(other),
                base(other).id.short()
            ))
            .help("merge only pLLMs that personalize the same model"))
        }
    }
}

fn common_format(known: &[Known<'_>]) -> Result<Format, Failure> {
    let mut terms = known.iter().filter(|k| k.base.is_some());
    let first = terms.next().expect("common_base has found a term that is no base");
    match terms.find(|k| k.format != first.format) {
        None => Ok(first.format),
        Some(other) => Err(Failure::input(format!(
            "`{}` is {} and `{}` is {}: adapters and full models cannot be merged with each other yet",
            first.term.name,
            described(first.format),
            other.term.name,
            described(other.format)
        ))
        .help("merge the adapters among themselves, and the full models among themselves")),
    }
}

/// The method, with its options. Options that it does not have are refused.
fn method(args: &Args) -> Result<Method, Failure> {
    let name = args.text_opt("method").unwrap_or("task_arithmetic");
    let density = args.float_opt("density");
    let kept = || match density.unwrap_or(0.5) {
        d if d > 0.0 && d <= 1.0 => Ok(d),
        d => Err(Failure::input(format!("argument `density` is {d}, but is a share above 0 and up to 1"))),
    };
    let found = match name {
        "task_arithmetic" => Method::TaskArithmetic,
        "linear" => Method::Linear,
        "ties" => Method::Ties { density: kept()? },
        "dare" => Method::Dare { density: kept()?, seed: args.int_opt("seed").unwrap_or(0).cast_unsigned() },
        other => return Err(Failure::input(format!("`{other}` is no method of merging"))),
    };
    let has_density = matches!(found, Method::Ties { .. } | Method::Dare { .. });
    let has_seed = matches!(found, Method::Dare { .. });
    for (option, given, has) in
        [("density", density.is_some(), has_density), ("seed", args.get("seed").is_some(), has_seed)]
    {
        if given && !has {
            return Err(Failure::input(format!("argument `{option}` has no effect with method `{name}`"))
                .help(format!("leave `{option}` out")));
        }
    }
    Ok(found)
}

/// Whether a file of the base holds weights, in whatever format.
fn is_weights(name: &str) -> bool {
    let ends = [".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx"];
    ends.iter().any(|e| name.ends_with(e)) || (name.ends_with(".index.json") && name != INDEX_FILE)
}

fn lineage(terms: &[MixTerm]) -> Vec<Parent> {
    terms.iter().map(|t| Parent { name: t.name.clone(), weight: t.weight, id: t.pllm.id }).collect()
}

fn with_parents(mut output: Output, terms: &[MixTerm]) -> Output {
    for t in terms {
        let mut name = format!("parent:{}", t.name);
        let mut again = 2;
        while output.uses.get(&name).is_some_and(|a| a.id != t.pllm.id) {
            name = format!("parent:{}#{again}", t.name);
            again += 1;
        }
        output = output.uses(name, t.pllm.clone());
    }
    output
}
