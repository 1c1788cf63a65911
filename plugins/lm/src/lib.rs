//! Language-model compute behind a small [`Backend`] trait; candle inside.
//!
//! # Layout
//! - [`api`]: the traits and plain structs that stages see. No candle type appears in them.
//! - [`error`]: what can be wrong with a model, an adapter or an input, naming file and tensor.
//! - [`kernels`]: the arithmetic, on plain slices.
//! - [`open`]: from artifacts to the folders that a backend loads.
//! - [`text`]: text to token ids and back, in a model's own prompt format.
//! - [`encoder`]: sentence encoders of type bert.
//! - [`init`]: new models: a trained tokenizer and seeded random weights.

pub mod api;
pub mod encoder;
pub mod error;
pub mod init;
pub mod kernels;
pub mod open;
pub mod text;

pub use api::{
    Backend, Decoder, Encoder, GenerateOptions, LoraSpec, Method, ModelInfo, NextToken, RowScore, TrainReport,
    TrainSpec, Watch,
};
pub use error::LmError;
