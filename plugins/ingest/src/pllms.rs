//! `ingest`: takes personalized models into the catalog, after checking that they fit their base.

use std::fs;
use std::path::{Path, PathBuf};

use headstart_protocol::artifact::ArtifactType;
use headstart_protocol::{Args, ArtifactRef, Context, Failure, Output, Stage, Type};
use serde_json::{Value, json};

use crate::folder::{ModelFolder, read_json};
use crate::header::{self, Shapes};

const ADAPTER_CONFIG: &str = "adapter_config.json";
const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";
/// What people say about a pLLM: `{"name": …, "about": …}`.
const ABOUT: &str = "headstart.json";

/// `ingest`: a LoRA adapter in PEFT's format, or a full model.
///
/// The pLLM's value is `{"format": "lora" | "full", "metrics": {}}`, with `about` where the folder
/// has a `headstart.json`; `uses.base` is the base.
pub struct Ingest;

impl Stage for Ingest {
    fn kind(&self) -> &'static str {
        "ingest"
    }

    fn run(&self, args: &Args, ctx: &dyn Context) -> Result<Output, Failure> {
        let base = args.artifact("base")?;
        let source = ctx.path(args.text("source")?);
        if !source.is_dir() {
            return Err(Failure::input(format!("{}: there is no such folder", source.display()))
                .help("name a folder with an adapter in PEFT's format, or with a full model"));
        }
        let shapes = base_shapes(ctx, base)?;
        let (format, files) = match read_json(&source.join(ADAPTER_CONFIG))? {
            Some(config) => ("lora", adapter(&source, &config, &shapes)?),
            None => ("full", full(&source, &shapes)?),
        };
        let mut value = json!({ "format": format, "metrics": {} });
        if let Some(about) = read_json(&source.join(ABOUT))? {
            value["about"] = about;
        }
        let output = Output::new(Type::Pllm, value).uses("base", base.clone());
        Ok(files.into_iter().fold(output, |output, (name, at)| output.file(name, at)))
    }
}

/// Names and shapes of the base's tensors.
fn base_shapes(ctx: &dyn Context, base: &ArtifactRef) -> Result<Shapes, Failure> {
    if base.ty == ArtifactType::Pllm && ctx.manifest(base)?.value["format"] == "lora" {
        return Err(Failure::input("the base is itself an adapter, and an adapter fits a whole model only")
            .help("give the adapter's own base, or merge the base's adapter into a full model first"));
    }
    Ok(ModelFolder::read(&ctx.open(base)?)?.shapes)
}

/// Checks an adapter against the base's shapes and returns its files.
fn adapter(folder: &Path, config: &Value, base: &Shapes) -> Result<Vec<(String, PathBuf)>, Failure> {
    let config_path = folder.join(ADAPTER_CONFIG);
    check_options(&config_path, config)?;
    let weights = folder.join(ADAPTER_WEIGHTS);
    if !weights.is_file() {
        let failure = Failure::input(format!("{}: there is no {ADAPTER_WEIGHTS}", folder.display()));
        let pickled = folder.join("adapter_model.bin").is_file();
        return Err(if pickled {
            failure.help("convert adapter_model.bin: load it with PEFT and save it with safe_serialization")
        } else {
            failure
        });
    }
    check_tensors(&weights, &header::shapes(&weights)?, base)?;
    Ok(vec![(ADAPTER_CONFIG.into(), config_path), (ADAPTER_WEIGHTS.into(), weights)])
}

/// Refuses options of PEFT under which the two matrices are not the whole adapter.
fn check_options(path: &Path, config: &Value) -> Result<(), Failure> {
    let refuse = |what: String| {
        Err(Failure::input(format!("{}: {what} is not supported", path.display()))
            .help("plain LoRA and rsLoRA adapters of linear layers are"))
    };
    match config.get("peft_type").and_then(Value::as_str) {
        Some("LORA") => {}
        other => return refuse(format!("`peft_type` {}", other.unwrap_or("(missing)"))),
    }
    // Absent, null, false, "none" and empty all mean that an option is off.
    let off = |v: &Value| match v {
        Value::Null | Value::Bool(false) => true,
        Value::String(s) => s.is_empty() || s == "none",
        Value::Array(items) => items.is_empty(),
        Value::Object(items) => items.is_empty(),
        _ => false,
    };
    for key in [
        "use_dora",
        "use_qalora",
        "lora_bias",
        "bias",
        "fan_in_fan_out",
        "modules_to_save",
        "trainable_token_indices",
        "target_parameters",
        "layer_replication",
        "alora_invocation_tokens",
    ] {
        if let Some(value) = config.get(key).filter(|v| !off(v)) {
            return refuse(format!("`{key}` {value}"));
        }
    }
    // These start from a changed base, which the adapter alone does not carry.
    if let Some(init) = config.get("init_lora_weights").and_then(Value::as_str) {
        let changes_base =
            ["pissa", "olora", "loftq", "corda"].iter().any(|m| init.to_lowercase().starts_with(m));
        if changes_base {
            return refuse(format!("`init_lora_weights` {init} (it changes the base)"));
        }
    }
    match config.get("r").and_then(Value::as_u64) {
        Some(r) if r > 0 => Ok(()),
        _ => {
            Err(Failure::input(format!("{}: `r` is missing or not a positive whole number", path.display())))
        }
    }
}

/// Every tensor is half of a pair, and every pair fits a matrix of the base.
fn check_tensors(path: &Path, tensors: &Shapes, base: &Shapes) -> Result<(), Failure> {
    let bad = |why: String| Failure::input(format!("{}: {why}", path.display()));
    if tensors.is_empty() {
        return Err(bad("it holds no tensors".into()));
    }
    for (name, shape) in tensors {
        let stem = name.strip_prefix("base_model.model.");
        let split = |half: &str| stem.and_then(|s| s.strip_suffix(&format!(".{half}.weight")));
        let (module, is_a) = match (split("lora_A"), split("lora_B")) {
            (Some(module), _) => (module, true),
            (_, Some(module)) => (module, false),
            _ => return Err(bad(format!("tensor `{name}` is no part of a plain LoRA adapter"))),
        };
        let other = name
            .replace(if is_a { ".lora_A." } else { ".lora_B." }, if is_a { ".lora_B." } else { ".lora_A." });
        let Some(partner) = tensors.get(&other) else {
            return Err(bad(format!("tensor `{name}` is there, but not its partner `{other}`")));
        };
        let weight = format!("{module}.weight");
        let Some(fits) = base.get(&weight) else {
            return Err(bad(format!("tensor `{name}` changes `{weight}`, which the base does not have"))
                .help("the adapter was trained on another base"));
        };
        let (a, b) = if is_a { (shape, partner) } else { (partner, shape) };
        let ok = a.len() == 2 && b.len() == 2 && a[0] == b[1] && a[0] > 0 && fits[..] == [b[0], a[1]];
        if !ok {
            return Err(bad(format!(
                "the adapter of `{weight}` has shapes A {a:?} and B {b:?}, but the base's matrix is {fits:?}"
            ))
            .help("the adapter was trained on another base"));
        }
    }
    Ok(())
}

/// Checks a full model against the base's shapes and returns its files.
fn full(folder: &Path, base: &Shapes) -> Result<Vec<(String, PathBuf)>, Failure> {
    let has_config = fs::exists(folder.join("config.json")).unwrap_or(false);
    if !has_config {
        return Err(Failure::input(format!(
            "{}: neither {ADAPTER_CONFIG} nor config.json is in it",
            folder.display()
        ))
        .help("a pLLM is a LoRA adapter in PEFT's format or a full model folder"));
    }
    let model = ModelFolder::read(folder)?;
    // A tied output layer may or may not be written out.
    let counts = |name: &&String| name.as_str() != "lm_head.weight";
    for name in base.keys().chain(model.shapes.keys()).filter(counts) {
        let (here, there) = (model.shapes.get(name), base.get(name));
        if here != there {
            let shape = |s: Option<&Vec<usize>>| s.map_or("missing".to_owned(), |s| format!("{s:?}"));
            return Err(Failure::input(format!(
                "{}: tensor `{name}` is {} here and {} in the base",
                folder.display(),
                shape(here),
                shape(there)
            ))
            .help("the model was not fine-tuned from this base"));
        }
    }
    Ok(model.files)
}
