//! Which backend computes.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use headstart_lm::{Backend, LmError};

/// A backend by name, as `--backend` and `HEADSTART_BACKEND` spell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// candle, on the CPU of any machine.
    Candle,
    /// MLX, on Apple devices; in programs that were built with it.
    Mlx,
}

/// MLX on macOS where it is built in, else candle.
impl Default for Choice {
    fn default() -> Self {
        if cfg!(target_os = "macos") && headstart_mlx::BUILT { Self::Mlx } else { Self::Candle }
    }
}

impl Choice {
    /// The backend.
    ///
    /// # Errors
    /// [`LmError::Unsupported`] where this program was built without it.
    pub fn open(self) -> Result<Arc<dyn Backend>, LmError> {
        match self {
            Self::Candle => Ok(headstart_lm::default_backend()),
            Self::Mlx => headstart_mlx::backend(),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::Candle => "candle",
            Self::Mlx => "mlx",
        })
    }
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "candle" => Ok(Self::Candle),
            "mlx" => Ok(Self::Mlx),
            other => Err(format!("there is no backend {other:?}; there are candle and mlx")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_that_is_not_built_in_is_refused_with_what_to_do() {
        assert_eq!("candle".parse::<Choice>().unwrap().open().unwrap().name(), "candle-cpu");
        assert!("tpu".parse::<Choice>().unwrap_err().contains("candle and mlx"));
        match "mlx".parse::<Choice>().unwrap().open() {
            Ok(backend) => assert!(headstart_mlx::BUILT && backend.name().starts_with("mlx")),
            Err(e) => assert!(!headstart_mlx::BUILT && e.to_string().contains("--features mlx")),
        }
    }
}
