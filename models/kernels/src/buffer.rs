//! Reused working memory: activations of every step would otherwise be allocated and cleared again.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::Mutex;

/// Buffers in use and at rest.
static POOL: Mutex<Pool> = Mutex::new(Pool { free: BTreeMap::new(), resting: 0, used: 0, limit: LIMIT });
/// Bytes in use and at rest together, above which resting ones are given up, where nothing else
/// is said.
const LIMIT: usize = 1 << 29;
/// Smaller buffers are left to the allocator.
const POOLED: usize = 1 << 12;

struct Pool {
    /// By capacity.
    free: BTreeMap<usize, Vec<Vec<f32>>>,
    resting: usize,
    used: usize,
    limit: usize,
}

impl Pool {
    /// A resting buffer of at least `class` numbers and at most a half more.
    fn take(&mut self, class: usize) -> Option<Vec<f32>> {
        let (size, list) = self.free.range_mut(class..=class + class / 2).next()?;
        let (size, data) = (*size, list.pop());
        if list.is_empty() {
            self.free.remove(&size);
        }
        self.resting -= size * 4;
        data
    }

    /// Gives up resting buffers, largest first, until `more` bytes fit.
    fn make_room(&mut self, more: usize) {
        while self.resting > 0 && self.used + self.resting + more > self.limit {
            let Some(mut last) = self.free.last_entry() else { break };
            let freed = last.get_mut().pop().map_or(0, |v| v.len() * 4);
            self.resting -= freed;
            if last.get().is_empty() {
                last.remove();
            }
        }
    }
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
        let reused = POOL.lock().ok().and_then(|mut pool| {
            let data = pool.take(class);
            let size = data.as_ref().map_or(class, Vec::len) * 4;
            if data.is_none() {
                pool.make_room(size);
            }
            pool.used += size;
            data
        });
        Self { data: reused.unwrap_or_else(|| vec![0.0; class]), len }
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
        if let Ok(mut pool) = POOL.lock() {
            let data = std::mem::take(&mut self.data);
            let bytes = data.len() * 4;
            pool.used = pool.used.saturating_sub(bytes);
            if pool.used + pool.resting + bytes <= pool.limit {
                pool.resting += bytes;
                pool.free.entry(data.len()).or_default().push(data);
            }
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

/// Sets how many bytes may be in use and at rest together before resting buffers are freed, until the
/// guard is dropped; then all resting ones are freed and the limit is the default again.
pub fn limit_pool(bytes: u64) -> impl Drop {
    if let Ok(mut pool) = POOL.lock() {
        pool.limit = usize::try_from(bytes).unwrap_or(usize::MAX);
    }
    Limited
}

struct Limited;

impl Drop for Limited {
    fn drop(&mut self) {
        if let Ok(mut pool) = POOL.lock() {
            pool.free.clear();
            pool.resting = 0;
            pool.limit = LIMIT;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resting_buffers_give_way() {
        let mut pool = Pool { free: BTreeMap::new(), resting: 0, used: 0, limit: 1000 };
        for n in [100, 50, 50] {
            pool.free.entry(n).or_default().push(vec![0.0; n]);
            pool.resting += n * 4;
        }
        assert_eq!(pool.take(40).map(|v| v.len()), Some(50), "a little larger will do");
        assert!(pool.take(60).is_none(), "much larger will not");
        pool.make_room(500);
        assert_eq!((pool.resting, pool.free.len()), (200, 1), "the largest went");
    }
}
