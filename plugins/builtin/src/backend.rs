//! Which backend computes.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use headstart_lm::device::{DeviceBackend, Gpu};
use headstart_lm::{Backend, LmError};

/// A backend by name, as `--backend` and `HEADSTART_BACKEND` spell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// candle, on the CPU of any machine.
    Candle,
    /// MLX, on Apple devices; in programs that were built with it.
    Mlx,
    /// candle on a GPU; in programs that were built for it.
    Gpu(Gpu),
}

/// MLX on macOS where it is built in, else the GPU that the program was built for, else candle. No
/// device is looked for: a program that was built for one and does not find it says so.
impl Default for Choice {
    fn default() -> Self {
        match Gpu::built() {
            _ if cfg!(target_os = "macos") && headstart_mlx::BUILT => Self::Mlx,
            Some(gpu) => Self::Gpu(gpu),
            None => Self::Candle,
        }
    }
}

impl Choice {
    /// The backend; the log says which.
    ///
    /// # Errors
    /// [`LmError::Unsupported`] where this program was built without it, or this machine lacks the
    /// device.
    pub fn open(self) -> Result<Arc<dyn Backend>, LmError> {
        let backend: Arc<dyn Backend> = match self {
            Self::Candle => headstart_lm::default_backend(),
            Self::Mlx => headstart_mlx::backend()?,
            Self::Gpu(gpu) => Arc::new(DeviceBackend::new(gpu.open()?)),
        };
        tracing::info!("models run on {}", backend.name());
        Ok(backend)
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Candle => f.write_str("candle"),
            Self::Mlx => f.write_str("mlx"),
            Self::Gpu(gpu) => gpu.fmt(f),
        }
    }
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "candle" => Ok(Self::Candle),
            "mlx" => Ok(Self::Mlx),
            other => other.parse().map(Self::Gpu).map_err(|_| {
                format!(
                    "there is no backend {other:?}; there are candle, mlx, cuda, cuda:1 and so on, and metal"
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
        assert_eq!("candle".parse::<Choice>().unwrap().open().unwrap().name(), "candle-cpu");
        assert!("tpu".parse::<Choice>().unwrap_err().contains("candle, mlx"));
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
