//! The order in which rows are trained on.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// The order in which rows are trained on: in every epoch another permutation, from the seed.
pub struct Order {
    rows: usize,
    seed: u64,
    epoch: Option<(u64, Vec<usize>)>,
}

impl Order {
    /// Over `rows` rows.
    pub fn new(rows: usize, seed: u64) -> Self {
        Self { rows, seed, epoch: None }
    }

    /// The row at a position of the endless sequence of epochs.
    pub fn at(&mut self, position: u64) -> usize {
        let (epoch, within) = (position / self.rows as u64, (position % self.rows as u64) as usize);
        match &self.epoch {
            Some((e, order)) if *e == epoch => order[within],
            _ => {
                let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
                // Streams of their own, apart from those of a new adapter's values.
                rng.set_stream(1 << 32 | epoch);
                let mut order: Vec<usize> = (0..self.rows).collect();
                order.shuffle(&mut rng);
                let row = order[within];
                self.epoch = Some((epoch, order));
                row
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_epoch_takes_each_row_once() {
        let mut order = Order::new(7, 1);
        let epochs: Vec<Vec<usize>> = (0..3).map(|e| (0..7).map(|i| order.at(e * 7 + i)).collect()).collect();
        for e in &epochs {
            let mut sorted = e.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..7).collect::<Vec<_>>());
        }
        assert_ne!(epochs[0], epochs[1]);
        assert_eq!(Order::new(7, 1).at(9), epochs[1][2], "a position needs no history");
    }
}
