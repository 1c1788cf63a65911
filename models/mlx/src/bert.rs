//! Sentence encoders of type bert (Devlin et al. 2019). Inference only.

use std::path::Path;

use headstart_lm::LmError;
use headstart_lm::encoder::{Activation, Config, Named, Pooling, SentencePass};
use headstart_lm::padded::{Padded, padded};
use mlx_rs::error::Result;
use mlx_rs::fast;
use mlx_rs::{Array, ops};

use crate::net::{array, ids, numbers, padded_ids};
use crate::thread::{Pinned, fault};

/// Tokens that go through the model at once, padding included.
const TOKENS: usize = 8192;

/// An encoder on MLX's thread.
pub(crate) struct Bert(Pinned<Weights>);

struct Weights {
    words: Array,
    positions: Array,
    /// What every token gets of the first token type.
    kind: Array,
    norm: Norm,
    blocks: Vec<Block>,
    heads: i32,
    epsilon: f32,
    activation: Activation,
}

struct Block {
    query: Dense,
    key: Dense,
    value: Dense,
    attended: Dense,
    attended_norm: Norm,
    up: Dense,
    down: Dense,
    norm: Norm,
}

struct Dense {
    /// Wᵀ, `[in, out]`.
    weight: Array,
    bias: Array,
}

struct Norm {
    gain: Array,
    shift: Array,
}

/// Reads tensors by name.
struct Reader<'a> {
    named: &'a Named,
    config: &'a Config,
}

impl Reader<'_> {
    fn get(&self, name: &str, shape: &[usize]) -> std::result::Result<Array, LmError> {
        array(&self.named.get(name, shape)?.expanded()).map_err(fault)
    }

    fn dense(&self, name: &str, outer: usize, inner: usize) -> std::result::Result<Dense, LmError> {
        let weight = self.get(&format!("{name}.weight"), &[outer, inner])?;
        let bias = self.get(&format!("{name}.bias"), &[outer])?;
        Ok(Dense { weight: weight.transpose().map_err(fault)?, bias })
    }

    fn norm(&self, name: &str) -> std::result::Result<Norm, LmError> {
        let h = self.config.hidden;
        let gain = self.get(&format!("{name}.weight"), &[h])?;
        Ok(Norm { gain, shift: self.get(&format!("{name}.bias"), &[h])? })
    }

    fn block(&self, layer: usize) -> std::result::Result<Block, LmError> {
        let (h, inner) = (self.config.hidden, self.config.intermediate);
        let name = |part: &str| format!("encoder.layer.{layer}.{part}");
        Ok(Block {
            query: self.dense(&name("attention.self.query"), h, h)?,
            key: self.dense(&name("attention.self.key"), h, h)?,
            value: self.dense(&name("attention.self.value"), h, h)?,
            attended: self.dense(&name("attention.output.dense"), h, h)?,
            attended_norm: self.norm(&name("attention.output.LayerNorm"))?,
            up: self.dense(&name("intermediate.dense"), inner, h)?,
            down: self.dense(&name("output.dense"), h, inner)?,
            norm: self.norm(&name("output.LayerNorm"))?,
        })
    }

    fn all(&self) -> std::result::Result<Weights, LmError> {
        let c = self.config;
        let of = |what: &str, rows: usize| {
            self.get(&format!("embeddings.{what}_embeddings.weight"), &[rows, c.hidden])
        };
        let kinds = of("token_type", c.types)?;
        Ok(Weights {
            words: of("word", c.vocab)?,
            positions: of("position", c.positions)?,
            kind: kinds.take_axis(ids(&[0], &[1]), 0).map_err(fault)?,
            norm: self.norm("embeddings.LayerNorm")?,
            blocks: (0..c.layers).map(|layer| self.block(layer)).collect::<std::result::Result<_, _>>()?,
            heads: c.heads as i32,
            epsilon: c.epsilon,
            activation: c.activation,
        })
    }
}

impl Bert {
    /// Loads the weights and checks their shapes against the config.
    pub(crate) fn load(folder: &Path, config: &Config) -> std::result::Result<Self, LmError> {
        if config.sentence.pooling != Pooling::Mean || !config.sentence.normalize {
            return Err(LmError::Unsupported(format!(
                "{}: a pooling other than the normalized mean of tokens is not supported by MLX; the CPU has it",
                folder.display()
            )));
        }
        let named = Named::open(folder)?;
        Ok(Self(Pinned::new(|| Reader { named: &named, config }.all())?))
    }
}

impl SentencePass for Bert {
    fn vectors(&self, windows: &[&[u32]]) -> std::result::Result<Vec<Vec<f32>>, LmError> {
        self.0.with(|weights| {
            let mut out = vec![Vec::new(); windows.len()];
            for group in padded(windows, TOKENS, usize::MAX) {
                let lengths: Vec<usize> = group.which.iter().map(|i| windows[*i].len()).collect();
                let vectors = weights.forward(&group, &lengths).map_err(fault)?;
                let width = vectors.len() / lengths.len();
                for (i, vector) in group.which.iter().zip(vectors.chunks_exact(width)) {
                    out[*i] = vector.to_vec();
                }
            }
            Ok(out)
        })
    }
}

/// x (1 + y) / 2.
fn half(x: &Array, y: &Array) -> Result<Array> {
    x.multiply(y.add(Array::from_f32(1.0))?)?.multiply(Array::from_f32(0.5))
}

impl Dense {
    fn apply(&self, x: &Array) -> Result<Array> {
        ops::matmul(x, &self.weight)?.add(&self.bias)
    }
}

impl Weights {
    fn norm(&self, x: &Array, n: &Norm) -> Result<Array> {
        fast::layer_norm(x, &n.gain, &n.shift, self.epsilon)
    }

    /// The mean-pooled, L2-normalised vector of each row, one behind the other.
    fn forward(&self, group: &Padded, lengths: &[usize]) -> Result<Vec<f32>> {
        let (batch, length) = (lengths.len() as i32, group.length as i32);
        let within = |n: &usize| {
            let n = *n;
            (0..group.length).map(move |at| at < n)
        };
        let sees = |yes: bool| if yes { 0.0 } else { f32::NEG_INFINITY };
        let mask = Array::from_iter(lengths.iter().flat_map(within).map(sees), &[batch, 1, 1, length]);
        // Row i of the result is the sum of the tokens of text i, over their number.
        let share = lengths.iter().flat_map(|n| within(n).map(|yes| f32::from(u8::from(yes)) / *n as f32));
        let share = Array::from_iter(share, &[batch, 1, length]);
        let places: Vec<u32> = (0..group.length as u32).collect();
        let places = self.positions.take_axis(ids(&places, &[1, length]), 0)?.add(&self.kind)?;
        let words = self.words.take_axis(padded_ids(group), 0)?;
        let mut x = self.norm(&words.add(places)?, &self.norm)?;
        for block in &self.blocks {
            x = self.block(block, &x, &mask)?;
        }
        let mean = ops::matmul(share, x)?.reshape(&[batch, -1])?;
        let norm = mean.square()?.sum_axis(1, true)?.sqrt()?;
        numbers(&mean.divide(ops::maximum(norm, Array::from_f32(1e-12))?)?)
    }

    fn block(&self, block: &Block, x: &Array, mask: &Array) -> Result<Array> {
        let (batch, length, width) = (x.dim(0), x.dim(1), x.dim(2) / self.heads);
        let split = |dense: &Dense| {
            let y = dense.apply(x)?.reshape(&[batch, length, self.heads, width])?;
            y.transpose_axes(&[0, 2, 1, 3])
        };
        let (q, k, v) = (split(&block.query)?, split(&block.key)?, split(&block.value)?);
        let scale = 1.0 / (width as f32).sqrt();
        let attended = fast::scaled_dot_product_attention(q, k, v, scale, mask, None)?;
        let attended = attended.transpose_axes(&[0, 2, 1, 3])?.reshape(x.shape())?;
        let x = self.norm(&block.attended.apply(&attended)?.add(x)?, &block.attended_norm)?;
        let inner = block.up.apply(&x)?;
        let inner = match self.activation {
            Activation::Gelu => {
                let z = inner.multiply(Array::from_f32(std::f32::consts::FRAC_1_SQRT_2))?;
                half(&inner, &ops::erf(z)?)?
            }
            Activation::GeluTanh => {
                let cubed = inner.square()?.multiply(&inner)?.multiply(Array::from_f32(0.044_715))?;
                half(&inner, &ops::tanh(inner.add(cubed)?.multiply(Array::from_f32(0.797_884_6))?)?)?
            }
            Activation::Relu => ops::maximum(inner, Array::from_f32(0.0))?,
        };
        self.norm(&block.down.apply(&inner)?.add(&x)?, &block.norm)
    }
}
