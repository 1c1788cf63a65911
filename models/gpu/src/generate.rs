//! A decoder's keys and values on a device, while it answers.

use candle_core::{DType, Result, Tensor};
use headstart_lm::LmError;
use headstart_lm::padded::{Caches, Padded, Rows};

use super::net::{Net, attention};

/// Places by which a cache grows.
const GROWTH: usize = 256;

/// Keys and values of one block, `[rows, heads, places, width]` each; places that are not taken yet
/// hold zeros.
struct Cache {
    keys: Tensor,
    values: Tensor,
}

/// Keys and values of a group of sequences.
pub(super) struct DeviceCaches<'a> {
    net: &'a Net,
    blocks: Vec<Cache>,
}

impl<'a> DeviceCaches<'a> {
    /// Reads a group's prompts; the logits behind these rows of `[rows × length, hidden]`.
    ///
    /// # Errors
    /// If the device fails.
    pub fn read(net: &'a Net, group: &Padded, ends: &[u32]) -> Result<(Self, Vec<f32>)> {
        let mut blocks = Vec::with_capacity(net.blocks.len());
        let hidden = net.hidden(&group.ids, group.rows(), |keys, values| {
            blocks.push(Cache { keys: roomier(&keys)?, values: roomier(&values)? });
            Ok(())
        })?;
        let logits = logits(net, &hidden.index_select(&net.ids(ends)?, 0)?)?;
        Ok((Self { net, blocks }, logits))
    }

    fn advance(&mut self, rows: &Rows) -> Result<Vec<f32>> {
        let (net, place) = (self.net, rows.place());
        let mask = Tensor::from_vec(rows.mask(), (rows.count(), 1, 1, place + 1), &net.device)?;
        let places = net.single(&rows.positions(), mask)?;
        let mut x = net.embedded(&net.ids(&rows.tokens())?)?;
        for (block, cache) in net.blocks.iter().zip(&mut self.blocks) {
            let (q, k, v) = block.project(&net.dims, &x, rows.count(), &places, None)?;
            cache.put(place, &k, &v)?;
            let seen = |t: &Tensor| t.narrow(2, 0, place + 1);
            let (keys, values) = (seen(&cache.keys)?, seen(&cache.values)?);
            let attended = attention(&net.dims.heads, &q, &keys, &values, &places.masks[0])?;
            x = block.finish(&net.dims, &x, &attended, None)?;
        }
        logits(net, &x)
    }
}

impl Caches for DeviceCaches<'_> {
    fn step(&mut self, rows: &Rows) -> std::result::Result<Vec<f32>, LmError> {
        Ok(self.advance(rows)?)
    }

    fn keep(&mut self, rows: &[u32]) -> std::result::Result<(), LmError> {
        let rows = self.net.ids(rows)?;
        for cache in &mut self.blocks {
            cache.keys = cache.keys.index_select(&rows, 0)?;
            cache.values = cache.values.index_select(&rows, 0)?;
        }
        Ok(())
    }
}

impl Cache {
    /// Puts one token's keys and values of each row at a place.
    fn put(&mut self, place: usize, keys: &Tensor, values: &Tensor) -> Result<()> {
        if self.keys.dim(2)? == place {
            *self = Self { keys: roomier(&self.keys)?, values: roomier(&self.values)? };
        }
        self.keys.slice_set(keys, 2, place)?;
        self.values.slice_set(values, 2, place)
    }
}

/// Keys or values with room for more places.
fn roomier(old: &Tensor) -> Result<Tensor> {
    let (rows, heads, places, width) = old.dims4()?;
    let new = Tensor::zeros((rows, heads, places + GROWTH, width), DType::F32, old.device())?;
    new.slice_set(&old.contiguous()?, 2, 0)?;
    Ok(new)
}

/// Logits of hidden states before the final norm, on the host.
fn logits(net: &Net, hidden: &Tensor) -> Result<Vec<f32>> {
    net.logits(&net.normed(hidden)?)?.flatten_all()?.to_vec1()
}
