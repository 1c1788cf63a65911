//! Language models: decoders and sentence encoders from their published files, behind a small
//! [`Backend`] trait.
//!
//! Knows no stage and no engine. Of `headstart-protocol` it takes the rows of a dataset and the class
//! of a failure ([`LmError`] converts into one, so that a stage can use `?`).
//!
//! # Layout, from the bottom up
//! - `config`, `weights`, [`gguf`]: a model's folder, checked and mapped into memory.
//! - `text`: text to token ids and back, in a model's own prompt format; `rows`: rows as tokens.
//! - `block`, `model`: a decoder's weights; one transformer block over `headstart-kernels`.
//! - [`lora`]: adapters in PEFT's format and mlx-lm's, in and out.
//! - `net`, `limits`, `generate`: forward passes, inside a memory limit, and answers.
//! - [`encoder`]: sentence encoders of type bert.
//! - [`padded`]: what backends share that pad their batches, as GPUs and MLX do.
//! - `api`, `decoder`, `cpu`: the traits, texts in and out over any backend's passes, the CPU backend.
//! - [`init`]: new models: a trained tokenizer and seeded random weights. [`files`]: folders that appear
//!   only when they are complete.

mod api;
mod block;
mod choose;
mod config;
mod cpu;
mod decoder;
pub mod encoder;
mod error;
pub mod files;
mod generate;
pub mod gguf;
mod init;
mod limits;
pub mod lora;
mod model;
mod net;
mod open_model;
pub mod padded;
mod proj;
mod rows;
mod text;
mod weights;

pub use api::{
    Backend, ComputeFacts, Decoder, Encoder, GenerateOptions, LoraSpec, ModelInfo, NextToken, RowScore,
    Unwatched, Watch,
};
pub use block::{Batch, BlockGrad, BlockRef, Dims, Saved};
pub use config::{DecoderConfig, read_json};
pub use cpu::CpuBackend;
pub use decoder::{Passes, TextDecoder};
pub use error::LmError;
pub use generate::{Sampling, generate};
pub use init::{init_model, train_tokenizer};
pub use limits::Limits;
pub use lora::Adapter;
pub use model::{Block, Layout, Linear, Model, Precision, Segment, Slot};
pub use net::{BlockParams, EndParams, Net, gather};
pub use proj::Proj;
pub use rows::{Example, Targets, pack, parts};
#[doc(hidden)]
pub use text::treats_alike;
pub use text::{AnswerTokens, DATE_FILE, RowTokens, TextCodec};
pub use weights::{StoredType, Weight, Weights};
