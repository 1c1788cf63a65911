//! A decoder's keys and values on MLX, while it answers.
//!
//! MLX may round the same sum differently in a batch of another shape: an answer depends on which
//! others are made with it in so far, and in nothing else.

use headstart_lm::LmError;
use headstart_lm::padded::{Caches, Padded, Rows};
use mlx_rs::error::Result;
use mlx_rs::{Array, ops, transforms};

use crate::net::{Cache, Net, Step, ids, numbers, padded_ids};
use crate::thread::fault;

/// Places by which a cache grows.
const GROWTH: i32 = 256;

/// Keys and values of a group of sequences.
pub(crate) struct MlxCaches<'a> {
    net: &'a Net,
    blocks: Vec<Cache>,
}

impl<'a> MlxCaches<'a> {
    /// Reads a group's prompts; the logits behind these rows of `[rows × length, hidden]`.
    pub(crate) fn read(net: &'a Net, group: &Padded, ends: &[u32]) -> Result<(Self, Vec<f32>)> {
        let (c, all) = (net.places.config(), &net.arrays);
        let mut blocks = Vec::with_capacity(c.layers);
        let hidden = net.places.run(all, &padded_ids(group), |_, keys, values| {
            blocks.push(Cache { keys, values });
            Ok(())
        })?;
        let hidden = hidden.reshape(&[-1, c.hidden as i32])?;
        let last = hidden.take_axis(ids(ends, &[ends.len() as i32]), 0)?;
        let caches = Self { net, blocks };
        let logits = caches.logits(&last)?;
        Ok((caches, logits))
    }

    /// Logits of hidden states before the final norm, computed together with the caches.
    fn logits(&self, hidden: &Array) -> Result<Vec<f32>> {
        let (places, all) = (&self.net.places, &self.net.arrays);
        let logits = places.logits(all, &places.normed(all, hidden)?)?;
        transforms::eval(self.blocks.iter().flat_map(|c| [&c.keys, &c.values]).chain([&logits]))?;
        numbers(&logits)
    }

    fn advance(&mut self, rows: &Rows) -> Result<Vec<f32>> {
        let (count, place) = (rows.count() as i32, rows.place() as i32);
        self.grow(place)?;
        let positions: Vec<i32> = rows.positions().into_iter().map(|p| p as i32).collect();
        let step = Step {
            positions: Array::from_slice(&positions, &[count]),
            mask: Array::from_slice(&rows.mask(), &[count, 1, 1, place + 1]),
            place,
        };
        let tokens = ids(&rows.tokens(), &[count, 1]);
        let hidden = self.net.places.step(&self.net.arrays, &tokens, &mut self.blocks, &step)?;
        self.logits(&hidden.reshape(&[count, -1])?)
    }

    /// Makes room for one more token.
    fn grow(&mut self, place: i32) -> Result<()> {
        for cache in &mut self.blocks {
            for array in [&mut cache.keys, &mut cache.values] {
                if array.dim(2) == place {
                    let room = ops::zeros::<f32>(&[array.dim(0), array.dim(1), GROWTH, array.dim(3)])?;
                    *array = ops::concatenate(&[&*array, &room], 2)?;
                }
            }
        }
        Ok(())
    }
}

impl Caches for MlxCaches<'_> {
    fn step(&mut self, rows: &Rows) -> std::result::Result<Vec<f32>, LmError> {
        self.advance(rows).map_err(fault)
    }

    fn keep(&mut self, rows: &[u32]) -> std::result::Result<(), LmError> {
        let rows = ids(rows, &[rows.len() as i32]);
        for cache in &mut self.blocks {
            cache.keys = cache.keys.take_axis(&rows, 0).map_err(fault)?;
            cache.values = cache.values.take_axis(&rows, 0).map_err(fault)?;
        }
        Ok(())
    }
}
