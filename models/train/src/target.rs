//! The target of a training, an adapter or all weights: how it starts and how it is written.

use std::sync::Arc;

use headstart_lm::lora::WriteAs;
use headstart_lm::{Adapter, LmError, Model, files, read_json};
use safetensors::Dtype;
use serde_json::json;

use crate::gradients::{GradientBackend, MakeGradients};
use crate::params::{Place, TrainableParams};
use crate::spec::{Method, TrainSpec};

/// The target of a training, and the backend of its gradients.
pub struct Target {
    /// The frozen weights.
    pub model: Arc<Model>,
    /// The trained parameters.
    pub params: TrainableParams,
    /// Computes losses and gradients.
    pub backend: Box<dyn GradientBackend>,
    adapter: Option<Adapter>,
}

/// Files of a model's folder, weights aside, that belong to the model.
const COMPANIONS: [&str; 9] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "generation_config.json",
];

impl Target {
    /// As the training starts: a new or given adapter, or all weights with a given adapter merged
    /// into them.
    ///
    /// # Errors
    /// Those of reading the adapter and of `make`.
    pub fn new(spec: &TrainSpec, model: Arc<Model>, make: MakeGradients) -> Result<Self, LmError> {
        let given = spec.adapter.as_deref().map(|a| Adapter::load(a, &model.config)).transpose()?;
        match &spec.method {
            Method::Lora(lora) => {
                let mut adapter = match given {
                    Some(a) => a,
                    None => Adapter::fresh(lora, &model.config, spec.seed)?,
                };
                adapter.config.dropout = spec.dropout;
                let params = TrainableParams::adapter(&adapter);
                let backend = make(&model, Some(&adapter))?;
                Ok(Self { model, params, backend, adapter: Some(adapter) })
            }
            Method::Full => {
                let mut params = TrainableParams::full(&model);
                for (param, values) in params.params.iter().zip(&mut params.values) {
                    if let (Some(a), Place::Block(block, layout)) = (&given, &param.place) {
                        a.merge_into(*block, layout, values);
                    }
                }
                let backend = make(&model, None)?;
                Ok(Self { model, params, backend, adapter: None })
            }
        }
    }

    /// Whether all weights are trained.
    pub fn is_full(&self) -> bool {
        self.adapter.is_none()
    }

    /// Writes the result with these values: the adapter's folder, or the whole model's.
    ///
    /// # Errors
    /// [`LmError::Disk`] where a file cannot be written.
    pub fn write(&mut self, spec: &TrainSpec, values: Vec<Vec<f32>>) -> Result<(), LmError> {
        match &mut self.adapter {
            Some(adapter) => {
                let mut values = values.into_iter();
                for (layout, flat) in adapter.layouts.iter().zip(&mut adapter.values) {
                    if !layout.is_empty() {
                        *flat =
                            values.next().ok_or_else(|| LmError::Internal("values lack a block".into()))?;
                    }
                }
                adapter.save(&*spec.disk, &spec.out, WriteAs::F32)
            }
            None => self.write_model(spec, &values),
        }
    }

    fn write_model(&self, spec: &TrainSpec, values: &[Vec<f32>]) -> Result<(), LmError> {
        let (from, disk) = (&spec.model, &*spec.disk);
        let mut tensors = Vec::new();
        for (param, values) in self.params.params.iter().zip(values) {
            for (name, shape, range) in param.tensors() {
                tensors.push((name, Dtype::BF16, shape, files::bf16_bytes(&values[range])));
            }
        }
        let mut config = read_json(&from.join("config.json"))?;
        // Newer files say `dtype`, older ones `torch_dtype`.
        let key = if config.get("torch_dtype").is_some() { "torch_dtype" } else { "dtype" };
        config[key] = json!("bfloat16");
        files::write_folder(disk, &spec.out, |temporary| {
            files::write_json(disk, &temporary.join("config.json"), &config)?;
            for name in COMPANIONS {
                let (source, copy) = (from.join(name), temporary.join(name));
                if source.exists() {
                    headstart_disk::files::copy(disk, &source, &copy)?;
                }
            }
            files::write_safetensors(disk, &temporary.join("model.safetensors"), tensors)
        })
    }
}
