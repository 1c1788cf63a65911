//! A decoder's frozen weights, and the layout of the trained values over them.

use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};

use headstart_kernels::attention::Heads;
use headstart_kernels::{LinearRef, LoraRef, Matrix, Rope, STREAMED, Storage};

use crate::block::{BlockGrad, BlockRef, Dims};
use crate::config::DecoderConfig;
use crate::error::LmError;
use crate::proj::Proj;
use crate::weights::{Weight, Weights};

/// A frozen linear layer.
pub struct Linear {
    /// W, `[out, in]`.
    pub weight: Weight,
    /// Bias, of length `out`.
    pub bias: Option<Vec<f32>>,
}

/// A block's frozen weights.
pub struct Block {
    /// Weight of the norm before attention.
    pub norm1: Vec<f32>,
    /// Weight of the norm before the feed-forward layer.
    pub norm2: Vec<f32>,
    /// In the order of [`Proj::ALL`].
    pub linear: Vec<Linear>,
}

/// A decoder's frozen weights.
pub struct Model {
    /// Shape and constants.
    pub config: DecoderConfig,
    /// `[vocab, hidden]`.
    pub embed: Weight,
    /// The blocks.
    pub blocks: Vec<Arc<Block>>,
    /// Weight of the final norm.
    pub norm: Vec<f32>,
    /// The output layer, where it is not the embedding.
    pub head: Option<Weight>,
    rope: Mutex<Arc<Rope>>,
}

/// What products with weights that are stored as bf16 are made in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// f32.
    #[default]
    F32,
    /// bf16, with sums in f32 ([`Model::multiply_in_bf16`]).
    Bf16,
}

impl Precision {
    /// The name in settings and keys.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}

/// Models whose f32 weights take less than this are expanded to f32 when loaded; larger ones stay
/// mapped in their stored type and are decoded panel by panel.
const EXPANDED: u64 = 256 << 20;

impl Model {
    /// Loads a model's folder.
    ///
    /// # Errors
    /// [`LmError::File`] and [`LmError::Io`] with the file, key or tensor that is wrong.
    pub fn load(folder: &Path) -> Result<Self, LmError> {
        Self::load_in(folder, Precision::F32)
    }

    /// Loads a model's folder for products in a precision.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_in(folder: &Path, precision: Precision) -> Result<Self, LmError> {
        let config = DecoderConfig::load(folder)?;
        let weights = Weights::open_model(folder)?;
        weights.check_tied(config.tied)?;
        let expand = precision == Precision::F32 && config.parameters() * 4 <= EXPANDED;
        let need = |name: &str, shape: &[usize]| {
            let w = weights.need(name, shape)?;
            Ok::<_, LmError>(if expand { w.expanded() } else { w })
        };
        let (h, v) = (config.hidden, config.vocab);
        let block = |i: usize| {
            let name = |part: &str| format!("model.layers.{i}.{part}");
            let linear = Proj::ALL.map(|p| {
                let shape = p.shape(&config);
                let weight = need(&name(&format!("{}.weight", p.path())), &shape)?;
                let bias =
                    p.has_bias(&config).then(|| need(&name(&format!("{}.bias", p.path())), &shape[..1]));
                Ok::<_, LmError>(Linear { weight, bias: bias.transpose()?.map(|b| b.to_vec()) })
            });
            Ok::<_, LmError>(Arc::new(Block {
                norm1: need(&name("input_layernorm.weight"), &[h])?.to_vec(),
                norm2: need(&name("post_attention_layernorm.weight"), &[h])?.to_vec(),
                linear: linear.into_iter().collect::<Result<_, _>>()?,
            }))
        };
        let model = Self {
            embed: need("model.embed_tokens.weight", &[v, h])?,
            blocks: (0..config.layers).map(block).collect::<Result<_, _>>()?,
            norm: need("model.norm.weight", &[h])?.to_vec(),
            head: if config.tied { None } else { Some(need("lm_head.weight", &[v, h])?) },
            rope: Mutex::new(Arc::new(Rope::new(&config.rope_frequencies(), config.context.min(512)))),
            config,
        };
        model.multiply_in_bf16(precision == Precision::Bf16);
        Ok(model)
    }

    /// The output layer.
    pub fn output(&self) -> &Weight {
        self.head.as_ref().unwrap_or(&self.embed)
    }

    /// Shape of its blocks.
    pub fn dims(&self) -> Dims {
        let c = &self.config;
        let heads = Heads { queries: c.heads, keys: c.kv_heads, dim: c.head_dim };
        Dims { hidden: c.hidden, ffn: c.ffn, heads, eps: c.norm_eps }
    }

    /// Rotary tables for positions `0..len` at least.
    pub fn rope(&self, len: usize) -> Arc<Rope> {
        let mut rope = self.rope.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if rope.len() < len {
            *rope = Arc::new(Rope::new(&self.config.rope_frequencies(), len.next_power_of_two()));
        }
        rope.clone()
    }

    /// Its matrices.
    fn matrices(&self) -> impl Iterator<Item = &Weight> {
        let blocks = self.blocks.iter().flat_map(|b| b.linear.iter().map(|l| &l.weight));
        std::iter::once(&self.embed).chain(&self.head).chain(blocks)
    }

    /// Bytes that its weights take: as f32 where they are expanded, else as mapped.
    pub fn footprint(&self) -> u64 {
        self.matrices().map(Weight::footprint).sum()
    }

    /// Bytes that its weights take where it is streamed, or none where streaming saves nothing.
    pub fn streamed_footprint(&self) -> Option<u64> {
        let (mapped, owned): (Vec<_>, Vec<_>) = self.matrices().partition(|w| w.is_mapped());
        let owned: u64 = owned.into_iter().map(Weight::footprint).sum();
        let most = owned + 2 * STREAMED as u64;
        (!mapped.is_empty() && most < self.footprint()).then_some(most)
    }

    /// Has the pages of mapped weights given back as soon as they have been used, or kept. The same
    /// results, a little slower; memory holds a few megabytes of weights at a time.
    pub fn stream(&self, streamed: bool) {
        self.matrices().for_each(|w| w.stream(streamed));
    }

    /// Has products with weights that are stored as bf16 made in bf16: what they are multiplied with is
    /// rounded to bf16, sums stay f32. Weights that [`Self::load`] has expanded to f32, and quantized ones,
    /// are multiplied as before.
    pub fn multiply_in_bf16(&self, bf16: bool) {
        self.matrices().for_each(|w| w.multiply_in_bf16(bf16));
    }
}

/// What a trained tensor is inside its block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Slot {
    /// Weight of the norm before attention.
    Norm1,
    /// Weight of the norm before the feed-forward layer.
    Norm2,
    /// W of a linear layer.
    Weight(Proj),
    /// Its bias.
    Bias(Proj),
    /// A of a LoRA pair; its rank and scale.
    LoraA(Proj, usize, f32),
    /// B of a LoRA pair.
    LoraB(Proj),
}

impl Slot {
    /// The tensor's name inside its block, as files spell it.
    pub fn name(&self) -> String {
        match self {
            Self::Norm1 => "input_layernorm.weight".into(),
            Self::Norm2 => "post_attention_layernorm.weight".into(),
            Self::Weight(p) => format!("{}.weight", p.path()),
            Self::Bias(p) => format!("{}.bias", p.path()),
            Self::LoraA(p, ..) => format!("{}.lora_A.weight", p.path()),
            Self::LoraB(p) => format!("{}.lora_B.weight", p.path()),
        }
    }
}

/// One trained tensor inside a block's flat vector of parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Segment {
    /// What it is.
    pub slot: Slot,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Where its numbers are.
    pub range: Range<usize>,
}

/// Where a block's trained tensors lie in its flat vector of parameters.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Layout {
    /// The tensors, one behind the other.
    pub segments: Vec<Segment>,
}

impl Layout {
    /// Numbers in all.
    pub fn len(&self) -> usize {
        self.segments.last().map_or(0, |s| s.range.end)
    }

    /// Whether nothing is trained.
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Adds a tensor at the end.
    pub fn push(&mut self, slot: Slot, shape: &[usize]) {
        let start = self.len();
        let range = start..start + shape.iter().product::<usize>();
        self.segments.push(Segment { slot, shape: shape.to_vec(), range });
    }

    /// All of a block's weights.
    pub fn full(c: &DecoderConfig) -> Self {
        let mut layout = Self::default();
        layout.push(Slot::Norm1, &[c.hidden]);
        layout.push(Slot::Norm2, &[c.hidden]);
        for p in Proj::ALL {
            let shape = p.shape(c);
            layout.push(Slot::Weight(p), &shape);
            if p.has_bias(c) {
                layout.push(Slot::Bias(p), &shape[..1]);
            }
        }
        layout
    }

    /// A block's frozen weights with `values` over them.
    pub fn view<'a>(&self, block: &'a Block, values: &'a [f32]) -> BlockRef<'a> {
        let mut view = block.view();
        for s in &self.segments {
            let part = &values[s.range.clone()];
            match s.slot {
                Slot::Norm1 => view.norm1 = part,
                Slot::Norm2 => view.norm2 = part,
                Slot::Weight(p) => {
                    view.linear[p as usize].weight = Matrix::new(s.shape[0], s.shape[1], Storage::F32(part));
                }
                Slot::Bias(p) => view.linear[p as usize].bias = Some(part),
                Slot::LoraA(p, rank, scale) => {
                    view.linear[p as usize].lora =
                        Some(LoraRef { a: part, b: &[], rank, scale, dropout: None });
                }
                Slot::LoraB(p) => {
                    let lora = view.linear[p as usize].lora.as_mut();
                    lora.expect("a layout has A before B").b = part;
                }
            }
        }
        view
    }

    /// The places that gradients are added to, in a flat vector like values.
    pub fn split<'a>(&self, mut grad: &'a mut [f32]) -> BlockGrad<'a> {
        let mut out = BlockGrad::default();
        for s in &self.segments {
            let (part, rest) = grad.split_at_mut(s.range.len());
            grad = rest;
            match s.slot {
                Slot::Norm1 => out.norm1 = Some(part),
                Slot::Norm2 => out.norm2 = Some(part),
                Slot::Weight(p) => out.linear[p as usize].weight = Some(part),
                Slot::Bias(p) => out.linear[p as usize].bias = Some(part),
                Slot::LoraA(p, ..) => out.linear[p as usize].a = Some(part),
                Slot::LoraB(p) => out.linear[p as usize].b = Some(part),
            }
        }
        out
    }
}

impl Block {
    /// Its weights as they are.
    pub fn view(&self) -> BlockRef<'_> {
        let linear = std::array::from_fn(|i| {
            let l = &self.linear[i];
            LinearRef { weight: l.weight.matrix(), bias: l.bias.as_deref(), lora: None }
        });
        BlockRef { norm1: &self.norm1, norm2: &self.norm2, linear, rounded: false }
    }

    /// The value of a tensor of a [`Layout::full`].
    pub fn value(&self, slot: Slot) -> Vec<f32> {
        match slot {
            Slot::Norm1 => self.norm1.clone(),
            Slot::Norm2 => self.norm2.clone(),
            Slot::Weight(p) => self.linear[p as usize].weight.to_vec(),
            Slot::Bias(p) => self.linear[p as usize].bias.clone().unwrap_or_default(),
            Slot::LoraA(..) | Slot::LoraB(_) => Vec::new(),
        }
    }
}
