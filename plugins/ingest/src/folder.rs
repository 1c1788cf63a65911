//! A model's folder, checked: its files, its config, names and shapes of its tensors.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use headstart_disk::{Disk, OtherFile, read};
use headstart_lm::gguf::Gguf;
use headstart_lm::{DATE_FILE, DecoderConfig, TextCodec, Weights, encoder, gguf};
use headstart_protocol::artifacts::ModelFacts;
use headstart_protocol::{Failure, Output, Type};
use serde_json::Value;

/// Shapes by tensor name.
pub type Shapes = BTreeMap<String, Vec<usize>>;

/// Model types that Headstart reads.
const TYPES: [&str; 3] = ["llama", "qwen2", "bert"];

/// Files that belong to a model where they exist, beside config, tokenizer and weights.
const EXTRAS: [&str; 12] = [
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "modules.json",
    "1_Pooling/config.json",
    "vocab.txt",
    DATE_FILE,
];

const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";

/// A checked model folder.
#[derive(Debug)]
pub struct ModelFolder {
    /// Files of the model: name, and where it lies.
    pub files: Vec<(String, PathBuf)>,
    /// config.json.
    pub config: Value,
    /// `model_type` of the config.
    pub model_type: String,
    /// Shapes of all tensors, by name.
    pub shapes: Shapes,
}

impl ModelFolder {
    /// Reads and checks a folder in the published format. Weights are looked at only as far as
    /// names, shapes and file lengths.
    ///
    /// # Errors
    /// An input failure that names the file and what is wrong with it.
    pub fn read(folder: &Path) -> Result<Self, Failure> {
        Self::read_parts(folder, folder)
    }

    /// As [`Self::read`]; where the folder holds nothing but a GGUF file, its config and tokenizer are
    /// made of the file's metadata and written to `scratch`.
    ///
    /// # Errors
    /// As [`Self::read`], and if the metadata do not suffice or cannot be written.
    pub fn take_in(folder: &Path, disk: &dyn Disk, scratch: &Path) -> Result<Self, Failure> {
        match gguf::find(folder)? {
            Some(path) if !folder.join("config.json").exists() => {
                Gguf::open(&path)?.describe(disk, scratch)?;
                Self::read_parts(scratch, folder)
            }
            _ => Self::read(folder),
        }
    }

    /// `folder` holds config and tokenizer, `weights` the weights.
    fn read_parts(folder: &Path, weights: &Path) -> Result<Self, Failure> {
        if !folder.is_dir() {
            let found =
                if folder.exists() { "is a file, not a model folder" } else { "there is no such folder" };
            return Err(Failure::input(format!("{}: {found}", folder.display()))
                .help("name the folder that holds config.json, tokenizer.json and safetensors files"));
        }
        let path = folder.join("config.json");
        let config = read_json(&path)?.ok_or_else(|| {
            Failure::input(format!(
                "{}: there is no config.json, so this is no model folder",
                folder.display()
            ))
            .help("a model folder holds config.json, tokenizer.json and safetensors files")
        })?;
        let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or("(missing)").to_owned();
        if !TYPES.contains(&model_type.as_str()) {
            let known = TYPES.join(", ");
            return Err(Failure::input(format!(
                "{}: `model_type` is {model_type}, but only {known} are supported",
                path.display()
            )));
        }
        let mut files = vec![("config.json".to_owned(), path)];
        let tokenizer = folder.join("tokenizer.json");
        if !tokenizer.is_file() {
            return Err(Failure::input(format!("{}: there is no tokenizer.json", folder.display()))
                .help("save the tokenizer in the fast format: tokenizer.save_pretrained(folder)"));
        }
        files.push(("tokenizer.json".into(), tokenizer));
        for name in EXTRAS {
            let at = folder.join(name);
            if at.is_file() {
                files.push((name.into(), at));
            }
        }
        for name in encoder::module_files(folder)? {
            if !files.iter().any(|(known, _)| *known == name) {
                let at = folder.join(&name);
                files.push((name, at));
            }
        }
        let shapes = shapes(folder, weights, &mut files)?;
        let this = Self { files, config, model_type, shapes };
        this.check_shapes(folder)?;
        if this.model_type == "bert" {
            encoder::check(folder)?;
        } else {
            DecoderConfig::load(folder)?;
            TextCodec::load(folder)?;
        }
        Ok(this)
    }

    /// Numbers in all tensors.
    pub fn parameters(&self) -> u64 {
        self.shapes.values().map(|s| s.iter().product::<usize>() as u64).sum()
    }

    /// The folder as an artifact of type Model.
    ///
    /// # Errors
    /// None that a folder can cause.
    pub fn into_model(self) -> Result<Output, Failure> {
        let parameters = Some(self.parameters());
        let facts = ModelFacts { model_type: Some(self.model_type), parameters };
        let output = Output::of(Type::Model, &facts)?;
        Ok(self.files.into_iter().fold(output, |output, (name, at)| output.file(name, at)))
    }

    fn number(&self, key: &str) -> Option<usize> {
        self.config.get(key)?.as_u64().map(|n| n as usize)
    }

    /// A first look: embeddings and the last block are there and of the config's width.
    fn check_shapes(&self, folder: &Path) -> Result<(), Failure> {
        let bad = |why: String| Err(Failure::input(format!("{}: {why}", folder.display())));
        for key in ["hidden_size", "num_hidden_layers", "vocab_size"] {
            if self.number(key).is_none() {
                return bad(format!("config.json lacks `{key}`"));
            }
        }
        let (hidden, layers) = (self.number("hidden_size"), self.number("num_hidden_layers").unwrap_or(0));
        let last = layers.saturating_sub(1);
        let (embedding, block) = match self.model_type.as_str() {
            "bert" => {
                let bare = self.shapes.contains_key("embeddings.word_embeddings.weight");
                let prefix = if bare { "" } else { "bert." };
                (
                    format!("{prefix}embeddings.word_embeddings.weight"),
                    format!("{prefix}encoder.layer.{last}.output.dense.weight"),
                )
            }
            _ => {
                ("model.embed_tokens.weight".to_owned(), format!("model.layers.{last}.mlp.down_proj.weight"))
            }
        };
        let Some(shape) = self.shapes.get(&embedding) else {
            let own = embedding.rsplit_once("embed").map_or(embedding.as_str(), |(_, own)| own);
            if let Some(found) = self.shapes.keys().find(|name| name.ends_with(own)) {
                return Err(Failure::input(format!(
                    "{}: tensor `{found}` is named with another prefix than `{embedding}`",
                    folder.display()
                ))
                .help(
                    "save the model with transformers' save_pretrained, as a causal model without wrappers",
                ));
            }
            return bad(format!("the weights have no tensor `{embedding}`"));
        };
        let expected = [self.number("vocab_size"), hidden];
        if shape.iter().map(|n| Some(*n)).ne(expected) {
            let [vocab, hidden] = expected.map(Option::unwrap_or_default);
            return bad(format!(
                "tensor `{embedding}` has shape {shape:?}, but config.json asks for [{vocab}, {hidden}]"
            ));
        }
        match self.shapes.get(&block) {
            Some(shape) if shape.first() == hidden.as_ref() => Ok(()),
            Some(shape) => {
                bad(format!("tensor `{block}` has shape {shape:?}, but `hidden_size` is {hidden:?}"))
            }
            None => {
                bad(format!("config.json says {layers} blocks, but the weights have no tensor `{block}`"))
            }
        }
    }
}

/// Adds the weights files and returns the shapes of all tensors in them.
fn shapes(config: &Path, folder: &Path, files: &mut Vec<(String, PathBuf)>) -> Result<Shapes, Failure> {
    let single = folder.join(SINGLE);
    let index = folder.join(INDEX);
    if single.is_file() {
        files.push((SINGLE.into(), single));
    } else if let Some(json) = read_json(&index)? {
        let map = json.get("weight_map").and_then(Value::as_object).into_iter().flatten();
        let shards: BTreeSet<&str> = map.filter_map(|(_, shard)| shard.as_str()).collect();
        if let Some(gone) = shards.iter().find(|shard| !folder.join(shard).is_file()) {
            let why = format!("{}: names the shard `{gone}`, which is not in the folder", index.display());
            return Err(Failure::input(why).help("copy or download all shards of the model"));
        }
        files.push((INDEX.into(), index));
        files.extend(shards.into_iter().map(|shard| (shard.to_owned(), folder.join(shard))));
    } else if let Some(path) = gguf::find(folder)? {
        files.push(("model.gguf".into(), path));
    } else {
        return Err(no_weights(folder));
    }
    let weights = Weights::open_model(folder)?;
    weights.check_types()?;
    if let Ok(DecoderConfig { tied, .. }) = DecoderConfig::load(config) {
        weights.check_tied(tied)?;
    }
    Ok(weights.iter().map(|(name, weight)| (name.to_owned(), weight.shape.clone())).collect())
}

fn no_weights(folder: &Path) -> Failure {
    let failure = Failure::input(format!("{}: there are no safetensors weights", folder.display()));
    let pickled = folder.join("pytorch_model.bin").is_file() || folder.join("adapter_model.bin").is_file();
    if pickled {
        return failure
            .help("convert the .bin file: load it with transformers and save it with safe_serialization");
    }
    if folder.join("adapter_config.json").is_file() {
        return failure.help("this is an adapter: take it in with ingest(base: …, source: …)");
    }
    failure.help("the weights are expected in model.safetensors, or in shards with an index")
}

/// Reads a JSON file; `None` where there is none.
pub(crate) fn read_json(path: &Path) -> Result<Option<Value>, Failure> {
    match read::whole(path, read::SETTINGS) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| match OtherFile::of(&bytes) {
            Some(other) => {
                Failure::input(format!("{}: is {}, not JSON", path.display(), other.what)).help(other.help)
            }
            None => Failure::input(format!("{}: malformed JSON: {e}", path.display())),
        }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Failure::io(path, &e)),
    }
}
