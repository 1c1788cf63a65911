//! BERT's forward pass (Devlin et al. 2019) over texts packed one behind another.

use std::path::Path;

use headstart_kernels::encoder::{Activation, add_norm, attention, linear, pool};

use super::SentencePass;
use super::config::Config;
use super::sentence::Pooling;
use super::weights::Named;
use crate::error::LmError;

/// The model's weights.
pub struct Bert {
    hidden: usize,
    /// `[vocab, hidden]`.
    words: Vec<f32>,
    /// What a token at each position gets beside its word: the position's row and the first type's.
    places: Vec<f32>,
    norm: Norm,
    blocks: Vec<Block>,
    heads: usize,
    epsilon: f32,
    activation: Activation,
    pooling: Pooling,
    normalize: bool,
}

struct Block {
    qkv: Dense,
    attended: Dense,
    attended_norm: Norm,
    up: Dense,
    down: Dense,
    norm: Norm,
}

/// A linear layer: weight `[out, in]` and bias `[out]`.
struct Dense {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

/// A layer norm.
struct Norm {
    gain: Vec<f32>,
    shift: Vec<f32>,
}

impl Dense {
    fn load(weights: &Named, name: &str, outer: usize, inner: usize) -> Result<Self, LmError> {
        Ok(Self {
            weight: tensor(weights, &format!("{name}.weight"), &[outer, inner])?,
            bias: tensor(weights, &format!("{name}.bias"), &[outer])?,
        })
    }

    fn apply(&self, x: &[f32], act: Option<Activation>) -> Vec<f32> {
        linear(x, &self.weight, &self.bias, act)
    }
}

impl Norm {
    fn load(weights: &Named, name: &str, hidden: usize) -> Result<Self, LmError> {
        let gain = tensor(weights, &format!("{name}.weight"), &[hidden])?;
        Ok(Self { gain, shift: tensor(weights, &format!("{name}.bias"), &[hidden])? })
    }

    /// The layer norm of x + residual.
    fn of(&self, mut x: Vec<f32>, residual: &[f32], epsilon: f32) -> Vec<f32> {
        add_norm(&mut x, residual, &self.gain, &self.shift, epsilon);
        x
    }
}

/// A tensor as f32.
fn tensor(weights: &Named, name: &str, shape: &[usize]) -> Result<Vec<f32>, LmError> {
    Ok(weights.get(name, shape)?.to_vec())
}

impl Block {
    fn load(weights: &Named, layer: usize, config: &Config) -> Result<Self, LmError> {
        let h = config.hidden;
        let name = |part: &str| format!("encoder.layer.{layer}.{part}");
        let one = |part: &str| Dense::load(weights, &name(&format!("attention.self.{part}")), h, h);
        let mut qkv = one("query")?;
        for part in [one("key")?, one("value")?] {
            qkv.weight.extend(part.weight);
            qkv.bias.extend(part.bias);
        }
        Ok(Self {
            qkv,
            attended: Dense::load(weights, &name("attention.output.dense"), h, h)?,
            attended_norm: Norm::load(weights, &name("attention.output.LayerNorm"), h)?,
            up: Dense::load(weights, &name("intermediate.dense"), config.intermediate, h)?,
            down: Dense::load(weights, &name("output.dense"), h, config.intermediate)?,
            norm: Norm::load(weights, &name("output.LayerNorm"), h)?,
        })
    }
}

impl Bert {
    /// Loads the weights and checks their shapes against the config.
    ///
    /// # Errors
    /// [`LmError::File`] where a tensor is missing or of another shape, with its name.
    pub fn load(folder: &Path, config: &Config) -> Result<Self, LmError> {
        let weights = Named::open(folder)?;
        let h = config.hidden;
        let mut places = tensor(&weights, "embeddings.position_embeddings.weight", &[config.positions, h])?;
        let types = tensor(&weights, "embeddings.token_type_embeddings.weight", &[config.types, h])?;
        for row in places.chunks_exact_mut(h) {
            row.iter_mut().zip(&types).for_each(|(place, kind)| *place += kind);
        }
        let blocks = (0..config.layers).map(|layer| Block::load(&weights, layer, config));
        Ok(Self {
            hidden: h,
            words: tensor(&weights, "embeddings.word_embeddings.weight", &[config.vocab, h])?,
            places,
            norm: Norm::load(&weights, "embeddings.LayerNorm", h)?,
            blocks: blocks.collect::<Result<_, _>>()?,
            heads: config.heads,
            epsilon: config.epsilon,
            activation: config.activation,
            pooling: config.sentence.pooling,
            normalize: config.sentence.normalize,
        })
    }
}

impl SentencePass for Bert {
    fn vectors(&self, windows: &[&[u32]]) -> Result<Vec<Vec<f32>>, LmError> {
        let lengths: Vec<usize> = windows.iter().map(|w| w.len()).collect();
        let row = |table: &[f32], i: usize| table[i * self.hidden..(i + 1) * self.hidden].to_vec();
        let words = windows.iter().flat_map(|w| w.iter().flat_map(|id| row(&self.words, *id as usize)));
        let places: Vec<f32> =
            lengths.iter().flat_map(|n| &self.places[..n * self.hidden]).copied().collect();
        let mut x = self.norm.of(words.collect(), &places, self.epsilon);
        for block in &self.blocks {
            let qkv = block.qkv.apply(&x, None);
            let attended = attention(&qkv, &lengths, self.hidden, self.heads);
            x = block.attended_norm.of(block.attended.apply(&attended, None), &x, self.epsilon);
            let inner = block.up.apply(&x, Some(self.activation));
            x = block.norm.of(block.down.apply(&inner, None), &x, self.epsilon);
        }
        if self.pooling == Pooling::Mean && self.normalize {
            return Ok(pool(&x, &lengths, self.hidden));
        }
        let mut left = x.as_slice();
        let vectors = lengths.iter().map(|n| {
            let (own, rest) = left.split_at(n * self.hidden);
            left = rest;
            let mut vector = self.pooling.pool(own, self.hidden);
            if self.normalize {
                // As torch does, so that a vector of zeros stays one.
                let norm = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt().max(1e-12);
                vector.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
            }
            vector
        });
        Ok(vectors.collect())
    }
}
