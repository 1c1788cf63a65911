//! [`Backend`] on MLX.

use std::ops::Range;
use std::path::Path;

use headstart_lm::encoder::TextEncoder;
use headstart_lm::padded::{answers, states};
use headstart_lm::{
    Adapter, Backend, ComputeFacts, CpuBackend, Decoder, DecoderConfig, Encoder, Example, LmError, Model,
    Passes, Sampling, TextDecoder, Watch, pack,
};
use headstart_train::{TrainReport, TrainSpec, TrainingBackend};

use mlx_rs::{Array, Device, DeviceType};

use crate::bert::Bert;
use crate::generate::MlxCaches;
use crate::net::{Net, ids, numbers, padded_ids};
use crate::thread::{Pinned, fault, on_mlx};
use crate::train;

/// Tokens that go through the model at once, padding included.
const TOKENS: usize = 5120;

/// Models on MLX: on the GPU of an Apple device, on the CPU where there is none.
pub struct MlxBackend {
    name: &'static str,
}

impl MlxBackend {
    /// On MLX's default device.
    ///
    /// # Errors
    /// [`LmError::Internal`] with what MLX says where it has no device.
    pub fn new() -> Result<Self, LmError> {
        let kind = on_mlx(|| Device::try_default()?.get_type()).map_err(fault)?;
        let name = match kind {
            DeviceType::Gpu => "mlx-gpu",
            DeviceType::Cpu => "mlx-cpu",
        };
        Ok(Self { name })
    }
}

impl Backend for MlxBackend {
    fn name(&self) -> String {
        self.name.into()
    }

    fn compute(&self) -> ComputeFacts {
        // The optimizer of a training runs on the host.
        let host = CpuBackend::new(1).compute().instruction_set;
        let set = if self.name == "mlx-gpu" { format!("metal+{host}") } else { host };
        ComputeFacts { backend: "mlx".into(), precision: "mixed".into(), instruction_set: set }
    }

    fn decoder(&self, model: &Path, adapter: Option<&Path>) -> Result<Box<dyn Decoder>, LmError> {
        Ok(Box::new(TextDecoder::new(model, || MlxPasses::load(model, adapter))?))
    }

    fn encoder(&self, model: &Path) -> Result<Box<dyn Encoder>, LmError> {
        Ok(Box::new(TextEncoder::new(model, 1, |config| Bert::load(model, config))?))
    }
}

impl TrainingBackend for MlxBackend {
    fn train(&self, spec: &TrainSpec, watch: &dyn Watch) -> Result<TrainReport, LmError> {
        train::train(spec, watch)
    }
}

/// A decoder on MLX's thread.
pub struct MlxPasses {
    config: DecoderConfig,
    net: Pinned<Net>,
}

impl MlxPasses {
    /// Loads a model's folder with an adapter over it.
    ///
    /// # Errors
    /// Those of reading the folders, and what MLX says.
    pub fn load(model: &Path, adapter: Option<&Path>) -> Result<Self, LmError> {
        let model = Model::load(model)?;
        let adapter = adapter.map(|folder| Adapter::load(folder, &model.config)).transpose()?;
        let net = Pinned::new(|| Net::new(&model, adapter.as_ref()).map_err(fault))?;
        Ok(Self { config: model.config, net })
    }
}

impl Passes for MlxPasses {
    fn config(&self) -> &DecoderConfig {
        &self.config
    }

    fn states(&self, sequences: &[&[u32]], rows: &[Range<usize>]) -> Result<Vec<Vec<f32>>, LmError> {
        self.net.with(|net| {
            states(sequences, rows, TOKENS, self.config.hidden, |group, picked| {
                net.states(&padded_ids(group), picked).map_err(fault)
            })
        })
    }

    fn logits(&self, normed: &[f32]) -> Result<Vec<f32>, LmError> {
        self.net.with(|net| {
            let width = self.config.hidden;
            let rows = Array::from_slice(normed, &[(normed.len() / width) as i32, width as i32]);
            let logits = net.places.logits(&net.arrays, &rows).map_err(fault)?;
            numbers(&logits).map_err(fault)
        })
    }

    fn losses(&self, examples: &[&Example]) -> Result<Vec<f32>, LmError> {
        let (batch, targets) = pack(examples.iter().copied());
        self.net.with(|net| train::losses(net, &batch, &targets, TOKENS))
    }

    fn generate(
        &self,
        prompts: &[Vec<u32>],
        sampling: &Sampling,
        watch: &dyn Watch,
    ) -> Result<Vec<Vec<u32>>, LmError> {
        self.net.with(|net| {
            let net: &Net = net;
            answers(&self.config, prompts, sampling, watch, |group, ends| {
                MlxCaches::read(net, group, ends).map_err(fault)
            })
        })
    }
}

impl Net {
    /// Hidden states after the final norm of these rows of `[batch × length, hidden]`.
    fn states(&self, batch: &Array, rows: &[u32]) -> mlx_rs::error::Result<Vec<f32>> {
        let (all, width) = (&self.arrays, self.places.config().hidden as i32);
        let hidden = self.places.hidden(all, batch)?.reshape(&[-1, width])?;
        let picked = hidden.take_axis(ids(rows, &[rows.len() as i32]), 0)?;
        numbers(&self.places.normed(all, &picked)?)
    }
}
