//! Decoders on a GPU through candle: the [`Backend`](headstart_lm::Backend) of `headstart-lm` in
//! candle's own operations, which run on every device that candle knows.
//!
//! The features `cuda` and `metal` build candle's support in. Config, weights, text and adapters are
//! those of `headstart-lm`, the loop of a training and its optimizer those of `headstart-train`; the
//! forward passes and their gradients are candle's. Run on candle's CPU device it is held against the
//! same fixtures as the kernels (`tests/device.rs`); `docs/gpu.md` says what that shows and what only a
//! GPU can.
//!
//! # Layout
//! - `backend`: the backend traits on a device.
//! - `ops`, `block`, `net`: a decoder's weights on a device and its forward passes.
//! - `generate`: the cache of keys and values that answers are made with.
//! - `train`: losses and gradients of an adapter or of all weights.

mod backend;
mod block;
mod generate;
mod net;
mod ops;
mod train;

use std::fmt;
use std::str::FromStr;

use candle_core::{Device, DeviceLocation};

use headstart_lm::LmError;

pub use backend::DeviceBackend;
pub use train::DeviceGradients;

/// A GPU by name: `cuda`, which is `cuda:0`, `cuda:1` and so on, or `metal`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gpu {
    /// An NVIDIA GPU, by CUDA's number.
    Cuda(usize),
    /// The GPU of an Apple device.
    Metal,
}

impl Gpu {
    /// The one that this program was built for, if any.
    pub fn built() -> Option<Self> {
        match (cfg!(feature = "cuda"), cfg!(feature = "metal")) {
            (true, _) => Some(Self::Cuda(0)),
            (false, true) => Some(Self::Metal),
            (false, false) => None,
        }
    }

    /// Whether this program was built with support for it.
    pub fn is_built(self) -> bool {
        match self {
            Self::Cuda(_) => cfg!(feature = "cuda"),
            Self::Metal => cfg!(feature = "metal"),
        }
    }

    /// The device.
    ///
    /// # Errors
    /// [`LmError::Unsupported`] where this program was built without it, or this machine has none.
    pub fn open(self) -> Result<Device, LmError> {
        let feature = match self {
            Self::Cuda(_) => "cuda",
            Self::Metal => "metal",
        };
        if !self.is_built() {
            return Err(LmError::Unsupported(format!(
                "{self}: this program was built without support for it; choose `cpu`, or \
                 build it with --features {feature} (docs/gpu.md)"
            )));
        }
        // candle takes the last of no Metal devices where there is none, and panics.
        let opened = std::panic::catch_unwind(|| match self {
            Self::Cuda(number) => Device::new_cuda(number),
            Self::Metal => Device::new_metal(0),
        });
        let why = match opened {
            Ok(Ok(device)) => return Ok(device),
            Ok(Err(e)) => e.to_string(),
            Err(_) => "the system has no such device".into(),
        };
        Err(LmError::Unsupported(format!(
            "{self}: this machine's device cannot be used: {why}. Choose `cpu`, or check that \
             the device and its driver are there (docs/gpu.md)"
        )))
    }
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Cuda(0) => f.write_str("cuda"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
            Self::Metal => f.write_str("metal"),
        }
    }
}

impl FromStr for Gpu {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let number = |n: &str| n.parse().map(Self::Cuda);
        match (name, name.strip_prefix("cuda:").map(number)) {
            ("cuda", _) => Ok(Self::Cuda(0)),
            ("metal", _) => Ok(Self::Metal),
            (_, Some(Ok(cuda))) => Ok(cuda),
            _ => Err(format!("there is no device {name:?}; there are cuda, cuda:1 and so on, and metal")),
        }
    }
}

/// A backend's name on a device.
fn name(device: &Device) -> String {
    match device.location() {
        DeviceLocation::Cpu => "candle-composed-cpu".into(),
        DeviceLocation::Cuda { gpu_id } => format!("candle-cuda:{gpu_id}"),
        DeviceLocation::Metal { .. } => "candle-metal".into(),
    }
}
