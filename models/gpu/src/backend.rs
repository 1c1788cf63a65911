//! [`Backend`] on a candle device.

use std::ops::Range;
use std::path::Path;

use candle_core::{Device, DeviceLocation};
use headstart_lm::padded::{answers, states};
use headstart_lm::{
    Adapter, Backend, ComputeFacts, CpuBackend, Decoder, DecoderConfig, Encoder, Example, LmError, Model,
    Passes, Sampling, TextDecoder, Watch, pack,
};
use headstart_train::{GradientBackend, TrainReport, TrainSpec, TrainingBackend, train_on};

use super::generate::DeviceCaches;
use super::net::Net;
use super::train::{DeviceGradients, losses};

/// Tokens that go through the model at once, padding included.
const TOKENS: usize = 8192;

/// Decoders on a candle device. Sentence encoders, and what a training does beside its passes, run
/// on the host.
pub struct DeviceBackend {
    device: Device,
    host: CpuBackend,
}

impl DeviceBackend {
    /// On this device. On [`Device::Cpu`] it computes what it would on a GPU, slowly: for tests.
    pub fn new(device: Device) -> Self {
        Self { device, host: CpuBackend::new(0) }
    }

    /// A model with an adapter over it, or without.
    ///
    /// # Errors
    /// Those of reading the folders, and [`LmError::Memory`] where the device has no room.
    pub fn passes(&self, model: &Path, adapter: Option<&Path>) -> Result<impl Passes + use<>, LmError> {
        let model = self.host.install(|| Model::load(model))?;
        let adapter = adapter.map(|folder| Adapter::load(folder, &model.config)).transpose()?;
        Ok(DevicePasses { net: Net::frozen(&model, adapter.as_ref(), &self.device)? })
    }
}

impl Backend for DeviceBackend {
    fn name(&self) -> String {
        super::name(&self.device)
    }

    fn compute(&self) -> ComputeFacts {
        // Encoders and the optimizer of a training run on the host.
        let host = self.host.compute().instruction_set;
        let set = match self.device.location() {
            DeviceLocation::Cpu => host,
            DeviceLocation::Cuda { .. } => format!("cuda+{host}"),
            DeviceLocation::Metal { .. } => format!("metal+{host}"),
        };
        ComputeFacts { backend: "candle".into(), precision: "mixed".into(), instruction_set: set }
    }

    fn decoder(&self, model: &Path, adapter: Option<&Path>) -> Result<Box<dyn Decoder>, LmError> {
        Ok(Box::new(TextDecoder::new(model, || self.passes(model, adapter))?))
    }

    fn encoder(&self, model: &Path) -> Result<Box<dyn Encoder>, LmError> {
        self.host.encoder(model)
    }
}

impl TrainingBackend for DeviceBackend {
    fn train(&self, spec: &TrainSpec, watch: &dyn Watch) -> Result<TrainReport, LmError> {
        let make = |model: &std::sync::Arc<Model>, adapter: Option<&Adapter>| {
            let gradients = DeviceGradients::new(model, adapter, &self.device)?;
            Ok(Box::new(gradients) as Box<dyn GradientBackend>)
        };
        self.host.install(|| train_on(&make, spec, watch))
    }
}

/// A decoder on a device.
struct DevicePasses {
    net: Net,
}

impl Passes for DevicePasses {
    fn config(&self) -> &DecoderConfig {
        &self.net.config
    }

    fn at_once(&self) -> usize {
        TOKENS
    }

    fn states(&self, sequences: &[&[u32]], rows: &[Range<usize>]) -> Result<Vec<Vec<f32>>, LmError> {
        states(sequences, rows, TOKENS, self.net.config.hidden, |group, picked| {
            let hidden = self.net.hidden(&group.ids, group.rows(), |_, _| Ok(()))?;
            let states = self.net.normed(&hidden.index_select(&self.net.ids(picked)?, 0)?)?;
            Ok(states.flatten_all()?.to_vec1()?)
        })
    }

    fn logits(&self, normed: &[f32]) -> Result<Vec<f32>, LmError> {
        let width = self.net.config.hidden;
        let rows = candle_core::Tensor::from_slice(normed, (normed.len() / width, width), &self.net.device)?;
        Ok(self.net.logits(&rows)?.flatten_all()?.to_vec1()?)
    }

    fn losses(&self, examples: &[&Example]) -> Result<Vec<f32>, LmError> {
        let (batch, targets) = pack(examples.iter().copied());
        Ok(losses(&self.net, &batch, &targets, TOKENS)?)
    }

    fn generate(
        &self,
        prompts: &[Vec<u32>],
        sampling: &Sampling,
        watch: &dyn Watch,
    ) -> Result<Vec<Vec<u32>>, LmError> {
        answers(&self.net.config, prompts, sampling, watch, |group, ends| {
            Ok(DeviceCaches::read(&self.net, group, ends)?)
        })
    }
}
