//! [`Backend`] on candle, on the CPU.

use std::path::Path;
use std::sync::Arc;

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::api::{Backend, Decoder, Encoder, TrainReport, TrainSpec, Watch};
use crate::decoder::CandleDecoder;
use crate::encoder::load_encoder;
use crate::error::LmError;
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
}

/// The backend for this machine.
pub fn default_backend() -> Arc<dyn Backend> {
    Arc::new(CandleBackend::new(0))
}

impl Backend for CandleBackend {
    fn name(&self) -> String {
        "candle-cpu".into()
    }

    fn decoder(&self, model: &Path, adapter: Option<&Path>) -> Result<Box<dyn Decoder>, LmError> {
        Ok(Box::new(CandleDecoder::load(model, adapter, self.pool.clone())?))
    }

    fn encoder(&self, model: &Path) -> Result<Box<dyn Encoder>, LmError> {
        load_encoder(model, self.pool.current_num_threads())
    }

    fn train(&self, spec: &TrainSpec, watch: &dyn Watch) -> Result<TrainReport, LmError> {
        self.pool.install(|| train::train(spec, watch))
    }
}
