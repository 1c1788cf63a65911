//! [`Backend`] on candle, on the CPU.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::api::{Backend, ComputeFacts, Decoder, Encoder, TrainReport, TrainSpec, Watch};
use crate::block::Batch;
use crate::config::DecoderConfig;
use crate::decoder::{Passes, TextDecoder};
use crate::encoder::load_encoder;
use crate::error::LmError;
use crate::generate::{Sampling, generate};
use crate::kernels::instruction_set;
use crate::limits::Limits;
use crate::lora::Adapter;
use crate::model::Model;
use crate::net::{Net, Overlay};
use crate::rows::{Example, pack};
use crate::train;

/// Models on candle, computed by a pool of threads of its own.
pub struct CandleBackend {
    pool: Arc<ThreadPool>,
}

impl CandleBackend {
    /// With so many threads; 0 takes one a core. Results do not depend on the number.
    pub fn new(threads: usize) -> Self {
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("lm-{i}"))
            .build()
            .expect("the system can start threads");
        Self { pool: Arc::new(pool) }
    }

    /// Runs this on its threads.
    pub(crate) fn install<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.pool.install(work)
    }
}

/// The backend for this machine.
pub fn default_backend() -> Arc<dyn Backend> {
    Arc::new(CandleBackend::new(0))
}

impl Backend for CandleBackend {
    fn name(&self) -> String {
        "candle-cpu".into()
    }

    fn compute(&self) -> ComputeFacts {
        ComputeFacts {
            backend: "cpu".into(),
            precision: "f32".into(),
            instruction_set: instruction_set().into(),
        }
    }

    fn decoder(&self, model: &Path, adapter: Option<&Path>) -> Result<Box<dyn Decoder>, LmError> {
        self.decoder_within(model, adapter, None)
    }

    fn decoder_within(
        &self,
        model: &Path,
        adapter: Option<&Path>,
        memory: Option<u64>,
    ) -> Result<Box<dyn Decoder>, LmError> {
        let load = || CandlePasses::load(model, adapter, memory, self.pool.clone());
        Ok(Box::new(TextDecoder::new(model, load)?))
    }

    fn encoder(&self, model: &Path) -> Result<Box<dyn Encoder>, LmError> {
        load_encoder(model, self.pool.current_num_threads())
    }

    fn train(&self, spec: &TrainSpec, watch: &dyn Watch) -> Result<TrainReport, LmError> {
        self.pool.install(|| train::train(spec, watch))
    }
}

/// A net and the threads that compute it.
struct CandlePasses {
    net: Net,
    pool: Arc<ThreadPool>,
}

impl CandlePasses {
    fn load(
        model: &Path,
        adapter: Option<&Path>,
        memory: Option<u64>,
        pool: Arc<ThreadPool>,
    ) -> Result<Self, LmError> {
        let base = Arc::new(pool.install(|| Model::load(model))?);
        let overlay = match adapter {
            Some(folder) => Adapter::load(folder, &base.config)?.overlay(&Device::Cpu)?,
            None => Overlay::None,
        };
        let limits = Limits::fit(&base, memory)?;
        let mut net = Net::new(base, overlay);
        net.limits = limits;
        Ok(Self { net, pool })
    }
}

impl Passes for CandlePasses {
    fn config(&self) -> &DecoderConfig {
        &self.net.model.config
    }

    fn at_once(&self) -> usize {
        self.net.limits.tokens
    }

    fn fits(&self, tokens: usize) -> Result<(), LmError> {
        self.net.limits.check(&self.net.model, tokens)
    }

    fn states(&self, sequences: &[&[u32]], rows: &[Range<usize>]) -> Result<Vec<Vec<f32>>, LmError> {
        self.pool.install(|| {
            let batch = Arc::new(Batch::pack(sequences.iter().copied()));
            let hidden = self.net.hidden(&batch, |_, _| {})?;
            let normed = |(s, rows): (&Range<usize>, &Range<usize>)| {
                let rows: Vec<usize> = rows.clone().map(|row| s.start + row).collect();
                self.net.normed(&hidden, &rows)
            };
            batch.sequences.iter().zip(rows).map(normed).collect()
        })
    }

    fn logits(&self, normed: &[f32]) -> Result<Vec<f32>, LmError> {
        self.pool.install(|| self.net.logits(normed))
    }

    fn losses(&self, examples: &[&Example]) -> Result<Vec<f32>, LmError> {
        let (batch, targets) = pack(examples.iter().copied());
        self.pool.install(|| self.net.losses(&batch, &targets))
    }

    fn generate(
        &self,
        prompts: &[Vec<u32>],
        sampling: &Sampling,
        watch: &dyn Watch,
    ) -> Result<Vec<Vec<u32>>, LmError> {
        self.pool.install(|| generate(&self.net, prompts, sampling, watch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_facts_name_what_the_kernels_use() {
        let facts = CandleBackend::new(1).compute();
        assert_eq!((facts.backend.as_str(), facts.precision.as_str()), ("cpu", "f32"));
        #[cfg(target_arch = "x86_64")]
        assert_eq!(facts.instruction_set == "avx512", crate::kernels::wide::available());
        assert_eq!(facts, CandleBackend::new(3).compute(), "threads do not change a bit");
    }
}
