//! Language models on MLX, for Apple devices: the [`Backend`](headstart_lm::Backend) of
//! `headstart-lm` in MLX's operations.
//!
//! Without the feature `mlx` this crate is only [`backend`], which says so. Config, weights, text and
//! adapters are those of `headstart-lm`, the loop of a training and its optimizer those of
//! `headstart-train`; the forward passes, their gradients and the memory are MLX's.
//! `docs/mlx.md` says how it is tested without an Apple device, and what only one can show.
//!
//! # Layout
//! - `backend`: the backend traits.
//! - `thread`: the one thread that MLX runs on.
//! - `net`: a decoder's arrays and its forward passes.
//! - `generate`: the cache of keys and values that answers are made with.
//! - `train`: losses, gradients and steps of an adapter.
//! - `memory`: what a training takes.
//! - `bert`: sentence encoders.

#[cfg(feature = "mlx")]
mod backend;
#[cfg(feature = "mlx")]
mod bert;
#[cfg(feature = "mlx")]
mod generate;
#[cfg(feature = "mlx")]
mod memory;
#[cfg(feature = "mlx")]
mod net;
#[cfg(feature = "mlx")]
mod thread;
#[cfg(feature = "mlx")]
mod train;

use std::sync::Arc;

use headstart_lm::LmError;
use headstart_train::TrainingBackend;

#[cfg(feature = "mlx")]
pub use backend::{MlxBackend, MlxPasses};
#[cfg(feature = "mlx")]
pub use train::MlxGradients;

/// Whether this program was built with MLX.
pub const BUILT: bool = cfg!(feature = "mlx");

/// The backend.
///
/// # Errors
/// [`LmError::Unsupported`] where this program was built without MLX.
#[cfg(feature = "mlx")]
pub fn backend() -> Result<Arc<dyn TrainingBackend>, LmError> {
    Ok(Arc::new(MlxBackend::new()?))
}

/// The backend.
///
/// # Errors
/// [`LmError::Unsupported`], always: this program was built without MLX.
#[cfg(not(feature = "mlx"))]
pub fn backend() -> Result<Arc<dyn TrainingBackend>, LmError> {
    let why = "this program was built without MLX, which is for Apple devices; choose `cpu`, or build it \
               with --features mlx";
    Err(LmError::Unsupported(why.into()))
}
