//! candle operations with their own backward passes.
//!
//! candle's fused operations drop gradients without a word and its matrix product makes gradients
//! of frozen weights; these do neither. They run on the CPU; [`crate::device`] says the same in
//! candle's own operations, for other devices.

pub mod adamw;
pub mod block;
pub mod embed;
pub mod loss;

use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{CpuStorage, Device, Layout, Result, Storage, Tensor};

/// The numbers of a contiguous f32 operand.
pub(crate) fn numbers<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("operand is not contiguous");
    };
    Ok(&storage.as_slice::<f32>()?[start..end])
}

/// Calls `f` with the numbers of a contiguous f32 CPU tensor.
pub(crate) fn with_numbers<T>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> Result<T>) -> Result<T> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(cpu) => f(numbers(cpu, layout)?),
        _ => candle_core::bail!("operand is not on the CPU"),
    }
}

/// A CPU tensor of these numbers.
pub(crate) fn tensor(numbers: Vec<f32>, shape: &[usize]) -> Result<Tensor> {
    Tensor::from_vec(numbers, shape, &Device::Cpu)
}

/// Locks; a panic elsewhere left nothing half-done that matters here.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
