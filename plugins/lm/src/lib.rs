//! Language-model compute behind a small [`Backend`] trait; candle inside.
//!
//! # Layout
//! - [`api`]: the traits and plain structs that stages see. No candle type appears in them.
//! - [`error`]: what can be wrong with a model, an adapter or an input, naming file and tensor.
//! - [`open`]: from artifacts to the folders that a backend loads.
//! - [`text`]: text to token ids and back, in a model's own prompt format.
//! - [`encoder`]: sentence encoders of type bert.
//! - [`init`]: new models: a trained tokenizer and seeded random weights.

pub mod api;
pub mod block;
pub mod candle_backend;
pub mod config;
pub mod decoder;
pub mod encoder;
pub mod error;
mod files;
pub mod generate;
pub mod kernels;
pub mod init;
pub mod lora;
pub mod model;
pub mod net;
pub mod open;
pub mod ops;
pub mod optim;
pub mod rows;
pub mod text;
pub mod train;
pub mod weights;

pub use api::{
    Backend, Decoder, Encoder, GenerateOptions, LoraSpec, Method, ModelInfo, NextToken, RowScore, TrainReport,
    TrainSpec, Watch,
};
pub use candle_backend::{CandleBackend, default_backend};
pub use error::LmError;
