//! Language-model compute behind a small [`Backend`] trait; candle inside.
//!
//! # Layout
//! What stages see:
//! - [`api`]: the traits and plain structs that stages see. No candle type appears in them.
//! - [`error`]: what can be wrong with a model, an adapter or an input, naming file and tensor.
//! - [`open`]: from artifacts to folders and rows; [`watch`]: a stage's context as a [`Watch`].
//! - [`candle_backend`]: the backend for this machine; [`device`]: the same on a GPU.
//!
//! Models and text:
//! - [`config`], [`weights`], [`model`]: a decoder's folder, checked and mapped into memory.
//! - [`gguf`]: quantized weights, read from GGUF files and written to them.
//! - [`lora`]: adapters in PEFT's format, in and out.
//! - [`text`]: text to token ids and back, in a model's own prompt format.
//! - [`encoder`]: sentence encoders of type bert.
//! - [`init`]: new models: a trained tokenizer and seeded random weights.
//!
//! Computing:
//! - [`kernels`]: the arithmetic on slices, each operation forward and backward.
//! - [`block`]: a transformer block of them, forward and backward.
//! - [`ops`]: block, embedding, loss and AdamW as candle operations with their own gradients.
//! - [`net`]: the decoder as candle sees it: frozen weights, trained parameters, forward passes.
//! - [`generate`]: answers, batched, with a cache of keys and values.
//! - [`limits`]: how much is read and answered at once, inside a memory limit.
//! - [`decoder`]: texts in, texts and numbers out.
//! - [`rows`], [`padded`], [`optim`], [`train`]: rows as tokens, packed or padded, the optimizer, the
//!   training.

pub mod api;
pub mod block;
pub mod candle_backend;
pub mod config;
pub mod decoder;
pub mod device;
pub mod encoder;
pub mod error;
mod files;
pub mod generate;
pub mod gguf;
pub mod init;
pub mod kernels;
pub mod limits;
pub mod lora;
pub mod model;
pub mod net;
pub mod open;
pub mod ops;
pub mod optim;
pub mod padded;
pub mod rows;
pub mod text;
pub mod train;
pub mod watch;
pub mod weights;

pub use api::{
    Backend, ComputeFacts, Decoder, Encoder, GenerateOptions, LoraSpec, Method, ModelInfo, NextToken,
    RowScore, TrainReport, TrainSpec, Watch,
};
pub use candle_backend::{CandleBackend, default_backend};
pub use error::LmError;
pub use watch::ContextWatch;
