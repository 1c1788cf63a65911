//! The seven projections of a block.

use crate::config::DecoderConfig;

/// The linear layers of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the seven projections")]
pub enum Proj {
    Q,
    K,
    V,
    O,
    Gate,
    Up,
    Down,
}

impl Proj {
    /// All, in the order in which a block uses them.
    pub const ALL: [Self; 7] = [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down];

    /// Its name inside a block.
    pub fn path(self) -> &'static str {
        match self {
            Self::Q => "self_attn.q_proj",
            Self::K => "self_attn.k_proj",
            Self::V => "self_attn.v_proj",
            Self::O => "self_attn.o_proj",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::Down => "mlp.down_proj",
        }
    }

    /// The last part of its name, as adapters name their targets.
    pub fn name(self) -> &'static str {
        self.path().rsplit('.').next().unwrap_or_default()
    }

    /// `[out, in]`.
    pub fn shape(self, c: &DecoderConfig) -> [usize; 2] {
        match self {
            Self::Q => [c.q_dim(), c.hidden],
            Self::K | Self::V => [c.kv_dim(), c.hidden],
            Self::O => [c.hidden, c.q_dim()],
            Self::Gate | Self::Up => [c.ffn, c.hidden],
            Self::Down => [c.hidden, c.ffn],
        }
    }

    /// Whether it has a bias.
    pub fn has_bias(self, c: &DecoderConfig) -> bool {
        match self {
            Self::Q | Self::K | Self::V => c.qkv_bias,
            Self::O => c.o_bias,
            Self::Gate | Self::Up | Self::Down => c.mlp_bias,
        }
    }
}
