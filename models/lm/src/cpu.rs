//! [`Backend`] on the CPU, on the kernels of this project.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use headstart_kernels::team::Team;
use headstart_kernels::{instruction_set, isa};
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::api::{Backend, ComputeFacts, Decoder, Encoder, Watch};
use crate::block::Batch;
use crate::config::DecoderConfig;
use crate::decoder::{Passes, TextDecoder};
use crate::encoder::load_encoder;
use crate::error::LmError;
use crate::generate::{Sampling, generate};
use crate::limits::Limits;
use crate::lora::Adapter;
use crate::model::{Model, Precision};
use crate::net::Net;
use crate::rows::{Example, pack};

/// Models on the CPU, computed by its own thread pool.
pub struct CpuBackend {
    precision: Precision,
    pool: Arc<ThreadPool>,
    team: Arc<Team>,
}

impl CpuBackend {
    /// With so many threads; 0 takes one a core. Results do not depend on the number.
    pub fn new(threads: usize) -> Self {
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("lm-{i}"))
            .build()
            .expect("the system can start threads");
        let team = Team::new(pool.current_num_threads());
        Self { precision: Precision::F32, pool: Arc::new(pool), team: Arc::new(team) }
    }

    /// With a precision.
    ///
    /// # Errors
    /// [`LmError::Unsupported`] where this processor has no instructions for it, or none that the
    /// environment forces.
    pub fn with_precision(self, precision: Precision) -> Result<Self, LmError> {
        isa::check().map_err(|e| LmError::Unsupported(e.to_string()))?;
        if precision == Precision::Bf16 && !isa::bf16() {
            let why =
                "this processor has no products of bf16 (AVX-512 BF16); compute in f32 (`--backend cpu`)";
            return Err(LmError::Unsupported(why.into()));
        }
        Ok(Self { precision, ..self })
    }

    /// Its precision.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Runs some work on its threads.
    pub fn install<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.pool.install(work)
    }
}

impl Backend for CpuBackend {
    fn name(&self) -> String {
        "cpu".into()
    }

    fn compute(&self) -> ComputeFacts {
        ComputeFacts {
            backend: "cpu".into(),
            precision: self.precision.name().into(),
            instruction_set: match self.precision {
                Precision::F32 => instruction_set().into(),
                Precision::Bf16 => "avx512_bf16".into(),
            },
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
        let load = || CpuPasses::load(self, model, adapter, memory);
        Ok(Box::new(TextDecoder::new(model, load)?))
    }

    fn encoder(&self, model: &Path) -> Result<Box<dyn Encoder>, LmError> {
        load_encoder(model, self.pool.current_num_threads())
    }
}

/// A model, an adapter over it, and the threads that compute them.
struct CpuPasses {
    model: Model,
    adapter: Option<Adapter>,
    limits: Limits,
    pool: Arc<ThreadPool>,
    /// For the small products of generation.
    team: Arc<Team>,
}

impl CpuPasses {
    fn load(
        backend: &CpuBackend,
        model: &Path,
        adapter: Option<&Path>,
        memory: Option<u64>,
    ) -> Result<Self, LmError> {
        let (pool, team) = (backend.pool.clone(), backend.team.clone());
        let model = pool.install(|| Model::load_in(model, backend.precision))?;
        let adapter = adapter.map(|folder| Adapter::load(folder, &model.config)).transpose()?;
        let limits = Limits::fit(&model, memory)?;
        Ok(Self { model, adapter, limits, pool, team })
    }

    fn net(&self) -> Net<'_> {
        let net = match &self.adapter {
            Some(adapter) => Net::adapted(&self.model, adapter),
            None => Net::new(&self.model),
        };
        Net { limits: self.limits, ..net }
    }
}

impl Passes for CpuPasses {
    fn config(&self) -> &DecoderConfig {
        &self.model.config
    }

    fn at_once(&self) -> usize {
        self.limits.tokens
    }

    fn fits(&self, tokens: usize) -> Result<(), LmError> {
        self.limits.check(&self.model, tokens)
    }

    fn states(&self, sequences: &[&[u32]], rows: &[Range<usize>]) -> Result<Vec<Vec<f32>>, LmError> {
        self.pool.install(|| {
            let (net, batch) = (self.net(), Batch::pack(sequences.iter().copied()));
            let hidden = net.hidden(&batch, |_, _| {});
            let normed = |(s, rows): (&Range<usize>, &Range<usize>)| {
                let rows: Vec<usize> = rows.clone().map(|row| s.start + row).collect();
                net.normed(&hidden, &rows).to_vec()
            };
            Ok(batch.sequences.iter().zip(rows).map(normed).collect())
        })
    }

    fn logits(&self, normed: &[f32]) -> Result<Vec<f32>, LmError> {
        Ok(self.pool.install(|| self.net().logits(normed)))
    }

    fn losses(&self, examples: &[&Example]) -> Result<Vec<f32>, LmError> {
        let (batch, targets) = pack(examples.iter().copied());
        Ok(self.pool.install(|| self.net().losses(&batch, &targets)))
    }

    fn generate(
        &self,
        prompts: &[Vec<u32>],
        sampling: &Sampling,
        watch: &dyn Watch,
    ) -> Result<Vec<Vec<u32>>, LmError> {
        self.pool.install(|| self.team.lead(|| generate(&self.net(), prompts, sampling, watch)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_facts_name_what_the_kernels_use() {
        let facts = CpuBackend::new(1).compute();
        assert_eq!((facts.backend.as_str(), facts.precision.as_str()), ("cpu", "f32"));
        let name = facts.instruction_set.trim_end_matches("_forced");
        assert!(["avx512", "avx2", "neon", "baseline"].contains(&name), "{name}");
        assert_eq!(facts, CpuBackend::new(3).compute(), "threads do not change a bit");
        match CpuBackend::new(1).with_precision(Precision::Bf16) {
            Ok(bf16) => {
                let facts = bf16.compute();
                assert_eq!(
                    (facts.precision.as_str(), facts.instruction_set.as_str()),
                    ("bf16", "avx512_bf16")
                );
            }
            Err(e) => assert!(!isa::bf16() && e.to_string().contains("AVX-512 BF16"), "{e}"),
        }
    }
}
