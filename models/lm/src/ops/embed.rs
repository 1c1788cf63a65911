//! Rows of an embedding, looked up.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{numbers, tensor, with_numbers};
use crate::block::Batch;
use crate::kernels::simd;
use crate::kernels::{ROWS, Shared};

/// Looks tokens up in an embedding `[vocab, width]` that is trained.
pub struct EmbedOp {
    /// The tokens.
    pub batch: Arc<Batch>,
}

impl CustomOp1 for EmbedOp {
    fn name(&self) -> &'static str {
        "embed"
    }

    fn cpu_fwd(&self, table: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (table, (_, width)) = (numbers(table, layout)?, layout.shape().dims2()?);
        let mut out = vec![0.0; self.batch.tokens() * width];
        out.par_chunks_mut(width * ROWS).zip(self.batch.ids.par_chunks(ROWS)).for_each(|(rows, ids)| {
            for (row, id) in rows.chunks_exact_mut(width).zip(ids) {
                row.copy_from_slice(&table[*id as usize * width..(*id as usize + 1) * width]);
            }
        });
        Ok((CpuStorage::F32(out), Shape::from((self.batch.tokens(), width))))
    }

    fn bwd(&self, table: &Tensor, _: &Tensor, dy: &Tensor) -> Result<Option<Tensor>> {
        let (vocab, width) = table.dims2()?;
        let mut grad = vec![0.0; vocab * width];
        // Tokens of one id are added up in order; ids share nothing.
        let mut order: Vec<(u32, usize)> =
            self.batch.ids.iter().enumerate().map(|(at, id)| (*id, at)).collect();
        order.sort_unstable();
        let out = Shared::new(&mut grad);
        with_numbers(dy, |dy| {
            let runs: Vec<_> = order.chunk_by(|a, b| a.0 == b.0).collect();
            runs.par_iter().for_each(|run| {
                // SAFETY: each id has one run, so this task alone has its row.
                let row = unsafe { out.slice(run[0].0 as usize * width, width) };
                for (_, at) in *run {
                    simd::add(row, &dy[at * width..(at + 1) * width]);
                }
            });
            Ok(())
        })?;
        tensor(grad, &[vocab, width]).map(Some)
    }
}
