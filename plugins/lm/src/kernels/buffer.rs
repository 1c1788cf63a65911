//! Reused working memory: activations of every step would otherwise be allocated and cleared anew.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::Mutex;

/// Buffers at rest, by capacity.
static POOL: Mutex<Pool> = Mutex::new(Pool { free: BTreeMap::new(), bytes: 0 });
/// Bytes that may rest in the pool.
const AT_REST: usize = 1 << 29;
/// Smaller buffers are left to the allocator.
const POOLED: usize = 1 << 12;

struct Pool {
    free: BTreeMap<usize, Vec<Vec<f32>>>,
    bytes: usize,
}

/// Working memory with unspecified content (numbers of an earlier use); given back when dropped.
#[derive(Debug)]
pub struct Buffer {
    data: Vec<f32>,
    len: usize,
}

impl Buffer {
    /// `len` numbers of unspecified value: for results that are wholly overwritten.
    pub fn new(len: usize) -> Self {
        if len < POOLED {
            return Self { data: vec![0.0; len], len };
        }
        // Size classes an eighth apart, so that batches of slightly different size share.
        let step = (len.next_power_of_two() / 16).max(1);
        let class = len.next_multiple_of(step);
        if let Ok(mut pool) = POOL.lock()
            && let Some(data) = pool.free.get_mut(&class).and_then(Vec::pop)
        {
            pool.bytes -= class * 4;
            return Self { data, len };
        }
        Self { data: vec![0.0; class], len }
    }

    /// `len` zeros.
    pub fn zeros(len: usize) -> Self {
        let mut b = Self::new(len);
        b.fill(0.0);
        b
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.data.len() < POOLED {
            return;
        }
        if let Ok(mut pool) = POOL.lock()
            && pool.bytes + self.data.len() * 4 <= AT_REST
        {
            let data = std::mem::take(&mut self.data);
            pool.bytes += data.len() * 4;
            pool.free.entry(data.len()).or_default().push(data);
        }
    }
}

impl Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.data[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.data[..self.len]
    }
}

/// Gives all resting buffers back to the allocator.
pub fn clear() {
    if let Ok(mut pool) = POOL.lock() {
        pool.free.clear();
        pool.bytes = 0;
    }
}
