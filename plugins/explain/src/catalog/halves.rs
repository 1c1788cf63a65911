//! A matrix in f16, in memory or in a file that is mapped into it.

use std::ops::Range;
use std::sync::Arc;

use half::f16;
use half::slice::HalfFloatSliceExt;
use memmap2::Mmap;

use crate::math::Matrix;

/// A matrix in f16, row by row.
#[derive(Clone, Debug)]
pub struct Halves {
    /// Number of columns.
    pub cols: usize,
    data: Data,
}

#[derive(Clone, Debug)]
enum Data {
    Own(Vec<f16>),
    /// Bytes of a file, two a number, at an even address.
    Mapped(Arc<Mmap>, Range<usize>),
}

impl Default for Halves {
    fn default() -> Self {
        Self::new(0, Vec::new())
    }
}

impl Halves {
    /// A matrix of these numbers.
    pub fn new(cols: usize, data: Vec<f16>) -> Self {
        Self { cols, data: Data::Own(data) }
    }

    /// Rounds a matrix.
    pub fn of(m: &Matrix) -> Self {
        Self::new(m.cols, m.data.iter().map(|x| f16::from_f64(*x)).collect())
    }

    /// Numbers in a file, little-endian. Copied where this machine could not read them in place.
    pub(super) fn mapped(cols: usize, map: &Arc<Mmap>, at: Range<usize>) -> Self {
        let bytes = &map[at.clone()];
        if cfg!(target_endian = "little") && bytemuck::try_cast_slice::<u8, f16>(bytes).is_ok() {
            return Self { cols, data: Data::Mapped(Arc::clone(map), at) };
        }
        Self::new(cols, bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]])).collect())
    }

    /// The numbers, row by row.
    pub fn data(&self) -> &[f16] {
        match &self.data {
            Data::Own(all) => all,
            // The cast was tried when the matrix was made; it depends on address and length alone.
            Data::Mapped(map, at) => bytemuck::try_cast_slice(&map[at.clone()]).unwrap_or_default(),
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.data().len() / self.cols.max(1)
    }

    /// Row `i`, widened.
    pub fn row(&self, i: usize) -> Vec<f64> {
        self.data()[i * self.cols..(i + 1) * self.cols].iter().map(|x| x.to_f64()).collect()
    }

    /// Writes row `i` as f32, which is exact.
    pub fn row_into(&self, i: usize, out: &mut [f32]) {
        self.data()[i * self.cols..(i + 1) * self.cols].convert_to_f32_slice(out);
    }

    /// The squared length of every row.
    pub fn squares(&self) -> Vec<f32> {
        let square = |i: usize| self.row(i).iter().map(|x| x * x).sum::<f64>() as f32;
        (0..self.rows()).map(square).collect()
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.data().iter().flat_map(|x| x.to_le_bytes()).collect()
    }
}
