//! What is trained: an adapter or all weights; how it starts and how it is written.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Var};
use safetensors::Dtype;
use serde_json::json;

use crate::api::{Method, TrainSpec};
use crate::config::read_json;
use crate::error::LmError;
use crate::files;
use crate::lora::{Adapter, WriteAs, tensor_name};
use crate::model::{Layout, Model, Slot};
use crate::net::{Foreign, Net, Overlay};
use crate::ops::{tensor, with_numbers};

/// Makes what computes a training elsewhere: of an adapter over a model, or, where there is none, of
/// all its weights.
pub type Start<'a> = &'a dyn Fn(&Model, Option<&Adapter>) -> Result<Box<dyn Foreign>, LmError>;

/// What is trained.
pub struct Target {
    /// The model with the trained parameters over it.
    pub net: Net,
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
    /// `foreign` makes what computes losses and gradients, where they are not computed here.
    pub fn new(spec: &TrainSpec, model: Arc<Model>, foreign: Option<Start>) -> Result<Self, LmError> {
        let given = spec.adapter.as_deref().map(|a| Adapter::load(a, &model.config)).transpose()?;
        match &spec.method {
            Method::Lora(lora) => {
                let mut adapter = match given {
                    Some(a) => a,
                    None => Adapter::fresh(lora, &model.config, spec.seed)?,
                };
                adapter.config.dropout = spec.dropout;
                let overlay = adapter.overlay(&Device::Cpu)?;
                let mut net = Net::new(model, overlay);
                net.foreign = foreign.map(|start| start(&net.model, Some(&adapter))).transpose()?;
                Ok(Self { net, adapter: Some(adapter) })
            }
            Method::Full => {
                let mut overlay = Net::full_overlay(&model, &Device::Cpu)?;
                if let (Some(a), Overlay::Full { blocks, .. }) = (given, &mut overlay) {
                    for (i, block) in blocks.iter_mut().enumerate() {
                        let mut flat = block.values.to_vec1::<f32>()?;
                        a.merge_into(i, &block.layout, &mut flat);
                        let n = flat.len();
                        block.values = Var::from_vec(flat, n, &Device::Cpu)?;
                    }
                }
                let mut net = Net::new(model, overlay);
                net.foreign = foreign.map(|start| start(&net.model, None)).transpose()?;
                Ok(Self { net, adapter: None })
            }
        }
    }

    /// Whether all weights are trained.
    pub fn is_full(&self) -> bool {
        self.adapter.is_none()
    }

    /// Numbers that are trained.
    pub fn trainable(&self) -> u64 {
        self.net.parameters().iter().map(|(.., var)| var.elem_count() as u64).sum()
    }

    /// Copies the values of all parameters, in the order of [`Net::parameters`], into vectors of an
    /// earlier copy.
    pub fn copy_values(&self, into: &mut Vec<Vec<f32>>) -> Result<(), LmError> {
        let all = self.net.parameters();
        into.resize(all.len(), Vec::new());
        for ((.., var), copy) in all.iter().zip(into) {
            with_numbers(&var.flatten_all()?, |values| {
                copy.clear();
                copy.extend_from_slice(values);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Sets all parameters to values in the order of [`Net::parameters`].
    ///
    /// # Errors
    /// [`LmError::Internal`] where they are not of this target's shapes.
    pub fn put_values(&self, values: &[Vec<f32>]) -> Result<(), LmError> {
        let all = self.net.parameters();
        if all.len() != values.len() || all.iter().zip(values).any(|((.., v), n)| v.elem_count() != n.len()) {
            return Err(LmError::Internal("values of another training".into()));
        }
        for ((.., var), values) in all.iter().zip(values) {
            var.set(&tensor(values.clone(), var.dims())?)?;
        }
        Ok(())
    }

    /// The name of a trained tensor in the files.
    pub fn name(&self, block: usize, slot: Option<Slot>, var: &Var) -> String {
        match (slot, &self.net.overlay) {
            (Some(slot @ (Slot::LoraA(..) | Slot::LoraB(_))), _) => tensor_name(block, slot),
            (Some(slot), _) => format!("model.layers.{block}.{}", slot.name()),
            (None, Overlay::Full { embed, norm, .. }) => match var.id() {
                id if id == embed.id() => "model.embed_tokens.weight".into(),
                id if id == norm.id() => "model.norm.weight".into(),
                _ => "lm_head.weight".into(),
            },
            (None, _) => String::new(),
        }
    }

    /// Writes the result with these values: the adapter's folder, or the whole model's.
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
                adapter.save(&spec.out, WriteAs::F32)
            }
            None => self.write_model(&spec.model, &spec.out, &values),
        }
    }

    fn write_model(&self, from: &Path, out: &Path, values: &[Vec<f32>]) -> Result<(), LmError> {
        let mut tensors = Vec::new();
        for ((block, layout, var), values) in self.net.parameters().into_iter().zip(values) {
            let whole = || Layout::default();
            let layout = layout.map_or_else(whole, |l| (*l).clone());
            for s in &layout.segments {
                let bytes = files::bf16_bytes(&values[s.range.clone()]);
                tensors.push((self.name(block, Some(s.slot), &var), Dtype::BF16, s.shape.clone(), bytes));
            }
            if layout.is_empty() {
                let (name, bytes) = (self.name(block, None, &var), files::bf16_bytes(values));
                tensors.push((name, Dtype::BF16, var.dims().to_vec(), bytes));
            }
        }
        let mut config = read_json(&from.join("config.json"))?;
        // Newer files say `dtype`, older ones `torch_dtype`.
        let key = if config.get("torch_dtype").is_some() { "torch_dtype" } else { "dtype" };
        config[key] = json!("bfloat16");
        files::write_folder(out, |temporary| {
            files::write_json(&temporary.join("config.json"), &config)?;
            for name in COMPANIONS {
                let (source, copy) = (from.join(name), temporary.join(name));
                if source.exists() {
                    std::fs::copy(&source, &copy).map_err(|e| LmError::io(&source, e))?;
                }
            }
            files::write_safetensors(&temporary.join("model.safetensors"), tensors)
        })
    }
}
