//! Which backend computes.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use headstart_gpu::{DeviceBackend, Gpu};
use headstart_lm::{Backend, CpuBackend, LmError, Precision};
use headstart_protocol::Numerics;
use headstart_train::{TrainingBackend, default_backend};

/// The CPU, on all its cores.
pub fn cpu() -> Arc<dyn TrainingBackend> {
    default_backend()
}

/// A backend by name, as `--backend` and `HEADSTART_BACKEND` spell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The CPU of any machine.
    Cpu,
    /// The CPU, with products of bf16 where weights are stored as bf16.
    CpuBf16,
    /// MLX, on Apple devices; in programs that were built with it.
    Mlx,
    /// candle on a GPU; in programs that were built for it.
    Gpu(Gpu),
}

/// MLX on macOS where it is built in, else the GPU that the program was built for, else the CPU. No
/// device is expected: a program that was built for one and does not find it says so.
impl Default for Choice {
    fn default() -> Self {
        match Gpu::built() {
            _ if cfg!(target_os = "macos") && headstart_mlx::BUILT => Self::Mlx,
            Some(gpu) => Self::Gpu(gpu),
            None => Self::Cpu,
        }
    }
}

impl Choice {
    /// The backend; the log says which.
    ///
    /// # Errors
    /// [`LmError::Unsupported`] where this program was built without it, or this machine lacks the
    /// device.
    pub fn open(self) -> Result<Arc<dyn TrainingBackend>, LmError> {
        let backend: Arc<dyn TrainingBackend> = match self {
            Self::Cpu => Arc::new(CpuBackend::new(0).with_precision(Precision::F32)?),
            Self::CpuBf16 => Arc::new(CpuBackend::new(0).with_precision(Precision::Bf16)?),
            Self::Mlx => headstart_mlx::backend()?,
            Self::Gpu(gpu) => Arc::new(DeviceBackend::new(gpu.open()?)),
        };
        tracing::info!("models run on {}", backend.name());
        Ok(backend)
    }
}

/// What a backend computes with, for cache keys.
pub fn numerics(backend: &dyn Backend) -> Numerics {
    let facts = backend.compute();
    Numerics::new(facts.backend, facts.precision).instruction_set(facts.instruction_set)
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::CpuBf16 => f.write_str("cpu:bf16"),
            Self::Mlx => f.write_str("mlx"),
            Self::Gpu(gpu) => gpu.fmt(f),
        }
    }
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "cpu" => Ok(Self::Cpu),
            "cpu:bf16" => Ok(Self::CpuBf16),
            "candle" => Err("the CPU backend is called `cpu`, not `candle`".into()),
            "mlx" => Ok(Self::Mlx),
            other => other.parse().map(Self::Gpu).map_err(|_| {
                format!(
                    "there is no backend {other:?}; there are cpu, cpu:bf16, mlx, cuda, cuda:1 and so on, and metal"
                )
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_that_is_not_built_in_is_refused_with_what_to_do() {
        assert_eq!("cpu".parse::<Choice>().unwrap().open().unwrap().name(), "cpu");
        assert!("candle".parse::<Choice>().unwrap_err().contains("called `cpu`"));
        assert!("tpu".parse::<Choice>().unwrap_err().contains("cpu, cpu:bf16, mlx"));
        assert_eq!("cpu:bf16".parse::<Choice>().unwrap().to_string(), "cpu:bf16");
        for name in ["mlx", "cuda", "cuda:1", "metal"] {
            let choice = name.parse::<Choice>().unwrap();
            assert_eq!(choice.to_string(), name);
            let built = match choice {
                Choice::Gpu(gpu) => gpu.is_built(),
                _ => headstart_mlx::BUILT,
            };
            if !built {
                let why = choice.open().err().unwrap().to_string();
                assert!(why.contains("built without") && why.contains("--features"), "{why}");
            }
        }
    }
}
