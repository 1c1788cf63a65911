//! BERT's forward pass (Devlin et al. 2019) over texts packed one behind another.

use std::path::Path;

use candle_core::{Device, Tensor};

use super::SentencePass;
use super::config::{Activation, Config};
use super::ops::{add_norm, attention, linear, pool};
use super::weights::Named;
use crate::error::LmError;

/// The model's weights, on candle.
pub struct Bert {
    words: Tensor,
    /// What a token at each position gets beside its word: the position's row and the first type's.
    places: Tensor,
    norm: Tensor,
    blocks: Vec<Block>,
    heads: usize,
    epsilon: f32,
    activation: Activation,
}

struct Block {
    qkv: Dense,
    attended: Dense,
    attended_norm: Tensor,
    up: Dense,
    down: Dense,
    norm: Tensor,
}

struct Dense {
    weight: Tensor,
    bias: Tensor,
}

impl Dense {
    fn load(weights: &Named, name: &str, outer: usize, inner: usize) -> Result<Self, LmError> {
        Ok(Self {
            weight: tensor(weights, &format!("{name}.weight"), &[outer, inner])?,
            bias: tensor(weights, &format!("{name}.bias"), &[outer])?,
        })
    }

    fn apply(&self, x: &Tensor, act: Option<Activation>) -> candle_core::Result<Tensor> {
        linear(x, &self.weight, &self.bias, act)
    }
}

/// A tensor as f32.
fn tensor(weights: &Named, name: &str, shape: &[usize]) -> Result<Tensor, LmError> {
    Ok(Tensor::from_vec(weights.get(name, shape)?.to_vec(), shape, &Device::Cpu)?)
}

/// Gain and shift of a layer norm, stacked.
fn affine(weights: &Named, name: &str, hidden: usize) -> Result<Tensor, LmError> {
    let gain = tensor(weights, &format!("{name}.weight"), &[hidden])?;
    let shift = tensor(weights, &format!("{name}.bias"), &[hidden])?;
    Ok(Tensor::stack(&[gain, shift], 0)?)
}

impl Block {
    fn load(weights: &Named, layer: usize, config: &Config) -> Result<Self, LmError> {
        let h = config.hidden;
        let name = |part: &str| format!("encoder.layer.{layer}.{part}");
        let one = |part: &str| Dense::load(weights, &name(&format!("attention.self.{part}")), h, h);
        let three = [one("query")?, one("key")?, one("value")?];
        let qkv = Dense {
            weight: Tensor::cat(&three.each_ref().map(|d| &d.weight), 0)?,
            bias: Tensor::cat(&three.each_ref().map(|d| &d.bias), 0)?,
        };
        Ok(Self {
            qkv,
            attended: Dense::load(weights, &name("attention.output.dense"), h, h)?,
            attended_norm: affine(weights, &name("attention.output.LayerNorm"), h)?,
            up: Dense::load(weights, &name("intermediate.dense"), config.intermediate, h)?,
            down: Dense::load(weights, &name("output.dense"), h, config.intermediate)?,
            norm: affine(weights, &name("output.LayerNorm"), h)?,
        })
    }
}

impl Bert {
    /// Loads the weights and checks their shapes against the config.
    pub fn load(folder: &Path, config: &Config) -> Result<Self, LmError> {
        let weights = Named::open(folder)?;
        let h = config.hidden;
        let positions = tensor(&weights, "embeddings.position_embeddings.weight", &[config.positions, h])?;
        let types = tensor(&weights, "embeddings.token_type_embeddings.weight", &[config.types, h])?;
        let blocks = (0..config.layers).map(|layer| Block::load(&weights, layer, config));
        Ok(Self {
            words: tensor(&weights, "embeddings.word_embeddings.weight", &[config.vocab, h])?,
            places: positions.broadcast_add(&types.narrow(0, 0, 1)?)?,
            norm: affine(&weights, "embeddings.LayerNorm", h)?,
            blocks: blocks.collect::<Result<_, _>>()?,
            heads: config.heads,
            epsilon: config.epsilon,
            activation: config.activation,
        })
    }
}

impl SentencePass for Bert {
    fn vectors(&self, windows: &[&[u32]]) -> Result<Vec<Vec<f32>>, LmError> {
        let lengths: Vec<usize> = windows.iter().map(|w| w.len()).collect();
        let ids: Vec<u32> = windows.iter().flat_map(|w| w.iter().copied()).collect();
        let places: Vec<u32> = lengths.iter().flat_map(|&n| 0..n as u32).collect();
        let tokens = ids.len();
        let words = self.words.index_select(&Tensor::from_vec(ids, tokens, &Device::Cpu)?, 0)?;
        let places = self.places.index_select(&Tensor::from_vec(places, tokens, &Device::Cpu)?, 0)?;
        let mut x = add_norm(&words, &places, &self.norm, self.epsilon)?;
        for block in &self.blocks {
            let attended = attention(&block.qkv.apply(&x, None)?, &lengths, self.heads)?;
            x = add_norm(&block.attended.apply(&attended, None)?, &x, &block.attended_norm, self.epsilon)?;
            let inner = block.up.apply(&x, Some(self.activation))?;
            x = add_norm(&block.down.apply(&inner, None)?, &x, &block.norm, self.epsilon)?;
        }
        Ok(pool(&x, &lengths)?.to_vec2()?)
    }
}
