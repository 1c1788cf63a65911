//! Losses of rows on a device, and their gradients.
//!
//! The trained values, the optimizer's moments and the best checkpoint stay on the host:
//! values go to the device before each pass and gradients come back, so a step, its checkpoint and
//! its resumption are the same code as on the CPU. Gradients are candle's, taken block by block: the
//! hidden states between blocks are leaves, so a block's graph is gone as soon as its gradients are
//! there, and under [`Keep::Input`] it is made only then.

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Result, Tensor, Var};
use headstart_lm::padded::{Group, groups};
use headstart_lm::{Adapter, Batch, Layout, LmError, Model, Saved, Targets};
use headstart_train::{GradientBackend, Keep, Memory, Pass, StepShape};

use super::block::{Dropped, Places};
use super::net::{Ends, Net, Over};

/// Kernels, handles and what an allocator rounds up.
const BASE: u64 = 256 << 20;

/// A model with its trained values, on a device.
pub struct DeviceGradients {
    net: Net,
    /// The trained values of each block; empty for a frozen one.
    blocks: Vec<Vec<Var>>,
    /// The embedding, the final norm and, where it is not tied, the output layer of full training.
    ends: Vec<Var>,
    weights: u64,
}

/// A pass that keeps what its gradients need.
struct GroupPass<'a> {
    group: &'a Group,
    places: Places,
    /// Dropout's share and the keys of the tokens, padding included.
    dropout: Option<(f32, Vec<u64>)>,
}

/// A block's input and, where it was kept, its result with the graph behind it.
struct Passed {
    block: usize,
    x: Tensor,
    y: Option<Tensor>,
}

impl DeviceGradients {
    /// For the training of an adapter, or of all weights where none is given.
    ///
    /// # Errors
    /// [`LmError::Memory`] where the device has no room, or what candle says.
    pub fn new(
        model: &Model,
        adapter: Option<&Adapter>,
        device: &Device,
    ) -> std::result::Result<Self, LmError> {
        Ok(Self::on(model, adapter, device)?)
    }

    fn on(model: &Model, adapter: Option<&Adapter>, device: &Device) -> Result<Self> {
        let full = Layout::full(&model.config);
        let layout = |i: usize| adapter.map_or(&full, |a| &a.layouts[i]);
        let var = |shape: &[usize]| Var::zeros(shape, DType::F32, device);
        let (mut over, mut blocks) = (Vec::new(), Vec::new());
        for i in 0..model.blocks.len() {
            let vars = layout(i).segments.iter().map(|s| var(&s.shape));
            let vars = vars.collect::<Result<Vec<_>>>()?;
            let slots = layout(i).segments.iter().map(|s| s.slot);
            over.push(slots.zip(&vars).map(|(slot, v)| (slot, v.as_tensor().clone())).collect::<Over>());
            blocks.push(vars);
        }
        let ends = match adapter {
            Some(_) => Vec::new(),
            None => {
                let shapes = [model.embed.shape.clone(), vec![model.norm.len()]];
                let shapes = shapes.into_iter().chain(model.head.as_ref().map(|h| h.shape.clone()));
                shapes.map(|s| var(&s)).collect::<Result<Vec<_>>>()?
            }
        };
        let of = |i: usize| ends.get(i).map(|v: &Var| v.as_tensor().clone());
        let laid = of(0).zip(of(1)).map(|(embed, norm)| Ends { embed, norm, head: of(2) });
        let net = Net::new(model, over, laid, device)?;
        let weights = if adapter.is_some() { model.footprint() } else { 0 };
        Ok(Self { net, blocks, ends, weights })
    }

    /// The variables of each parameter, in the order of [`headstart_train::TrainableParams`].
    fn parameters(&self) -> impl Iterator<Item = &[Var]> {
        let blocks = self.blocks.iter().map(Vec::as_slice).filter(|vars| !vars.is_empty());
        blocks.chain(self.ends.chunks(1))
    }

    fn put(&self, values: &[Vec<f32>]) -> Result<()> {
        for (vars, flat) in self.parameters().zip(values) {
            let mut at = 0;
            for var in vars {
                let part = &flat[at..at + var.elem_count()];
                var.set(&Tensor::from_slice(part, var.shape(), &self.net.device)?)?;
                at += var.elem_count();
            }
        }
        Ok(())
    }

    /// Gradients as one vector a parameter; zeros where none was made.
    fn flat(&self, grads: &GradStore) -> Result<Vec<Vec<f32>>> {
        let flat = |vars: &[Var]| {
            let mut flat = Vec::with_capacity(vars.iter().map(|v| v.elem_count()).sum());
            for var in vars {
                match grads.get(var) {
                    Some(grad) => flat.extend(grad.flatten_all()?.to_vec1::<f32>()?),
                    None => flat.resize(flat.len() + var.elem_count(), 0.0),
                }
            }
            Ok(flat)
        };
        self.parameters().map(flat).collect()
    }

    /// Adds a group's gradients of Σ nll × `scale` to `sums`; returns that loss.
    fn pass(&self, pass: &GroupPass, scale: f32, keep: Keep, sums: &mut GradStore) -> Result<f64> {
        let (net, ids) = (&self.net, self.net.ids(&pass.group.padded.ids)?);
        let mut x = net.embedded(&ids)?.detach();
        // Nothing before the first trained block needs a gradient.
        let (full, mut tracked) = (!self.ends.is_empty(), !self.ends.is_empty());
        let mut passed = Vec::new();
        for (block, trained) in self.blocks.iter().enumerate() {
            let leaf = if tracked { leaf(&x)? } else { x };
            tracked |= !trained.is_empty();
            let y = self.block(pass, block, &leaf)?;
            x = y.detach();
            if tracked {
                passed.push(Passed { block, x: leaf, y: (keep == Keep::Activations).then_some(y) });
            }
        }
        let (loss, mut dx) = self.loss(pass.group, &x, scale, sums)?;
        drop(x);
        while let Some(Passed { block, x, y }) = passed.pop() {
            let y = y.map_or_else(|| self.block(pass, block, &x), Ok)?;
            let mut grads = (y * &dx)?.sum_all()?.backward()?;
            self.blocks[block].iter().try_for_each(|var| add(sums, &mut grads, var))?;
            if x.is_variable() {
                dx = taken(&mut grads, &x)?;
            }
        }
        if full {
            let embed = &self.ends[0];
            // A tied embedding has a gradient from its other end already.
            sum_up(sums, embed, embed.zeros_like()?.index_add(&ids, &dx, 0)?)?;
        }
        Ok(loss)
    }

    fn block(&self, pass: &GroupPass, block: usize, x: &Tensor) -> Result<Tensor> {
        let drop = pass.dropout.as_ref().map(|(share, tokens)| Dropped { share: *share, tokens, block });
        Ok(self.net.block(block, x, pass.group.padded.rows(), &pass.places, drop.as_ref())?.0)
    }

    /// The loss of hidden states and its gradient; those of the final norm and the output layer go
    /// to `sums`.
    fn loss(
        &self,
        group: &Group,
        hidden: &Tensor,
        scale: f32,
        sums: &mut GradStore,
    ) -> Result<(f64, Tensor)> {
        let rows = self.net.ids(&group.rows)?;
        let seen = hidden.index_select(&rows, 0)?;
        let (mut loss, mut parts, at_once) = (0.0, Vec::new(), self.net.losses_at_once);
        for (i, ids) in group.ids.chunks(at_once).enumerate() {
            let part = leaf(&seen.narrow(0, i * at_once, ids.len())?)?;
            let own = (self.net.losses(&part, ids)?.sum_all()? * f64::from(scale))?;
            let mut grads = own.backward()?;
            loss += f64::from(own.to_scalar::<f32>()?);
            self.ends.iter().try_for_each(|var| add(sums, &mut grads, var))?;
            parts.push(taken(&mut grads, &part)?);
        }
        let dx = hidden.zeros_like()?.index_add(&rows, &Tensor::cat(&parts, 0)?, 0)?;
        Ok((loss, dx))
    }
}

/// A tensor that gradients are taken of.
fn leaf(x: &Tensor) -> Result<Tensor> {
    Ok(Var::from_tensor(x)?.into_inner())
}

/// A leaf's gradient. As candle made it, it would keep the whole graph behind it.
fn taken(grads: &mut GradStore, leaf: &Tensor) -> Result<Tensor> {
    let grad = grads.remove(leaf).map(|grad| grad.detach());
    grad.ok_or_else(|| candle_core::Error::Msg("no gradient reaches a hidden state".into()))
}

/// Adds a variable's gradient, where one was made, to the sum of all groups.
fn add(sums: &mut GradStore, grads: &mut GradStore, var: &Var) -> Result<()> {
    match grads.get(var) {
        Some(_) => sum_up(sums, var, taken(grads, var)?),
        None => Ok(()),
    }
}

fn sum_up(sums: &mut GradStore, of: &Tensor, grad: Tensor) -> Result<()> {
    let sum = match sums.remove(of) {
        Some(sum) => (sum + grad)?,
        None => grad,
    };
    sums.insert(of, sum);
    Ok(())
}

/// Keys of a group's tokens, padding included, of those of a packed batch.
fn keys(batch: &Batch, group: &Group, tokens: &[u64]) -> Vec<u64> {
    let padded = &group.padded;
    let mut keys = vec![0; padded.ids.len()];
    for (row, i) in keys.chunks_exact_mut(padded.length).zip(&padded.which) {
        let own = batch.sequences[*i].clone();
        row[..own.len()].copy_from_slice(&tokens[own]);
    }
    keys
}

/// Negative log-likelihoods in nats of the targets, in order; at most so many tokens are computed
/// at once, padding included.
pub(super) fn losses(net: &Net, batch: &Batch, targets: &Targets, tokens: usize) -> Result<Vec<f32>> {
    let mut all = vec![0.0; targets.ids.len()];
    for group in groups(batch, targets, tokens) {
        let hidden = net.hidden(&group.padded.ids, group.padded.rows(), |_, _| Ok(()))?;
        let seen = hidden.index_select(&net.ids(&group.rows)?, 0)?;
        let at_once = net.losses_at_once;
        for (i, which) in group.which.chunks(at_once).enumerate() {
            let (start, n) = (i * at_once, which.len());
            let losses = net.losses(&seen.narrow(0, start, n)?, &group.ids[start..start + n])?;
            let losses = losses.to_vec1::<f32>()?;
            which.iter().zip(losses).for_each(|(target, loss)| all[*target] = loss);
        }
    }
    Ok(all)
}

impl GradientBackend for DeviceGradients {
    fn name(&self) -> String {
        super::name(&self.net.device)
    }

    fn losses(
        &self,
        values: &[Vec<f32>],
        batch: &Batch,
        targets: &Targets,
    ) -> std::result::Result<Vec<f32>, LmError> {
        self.put(values)?;
        Ok(losses(&self.net, batch, targets, batch.tokens())?)
    }

    fn gradients(
        &self,
        values: &[Vec<f32>],
        batch: &Batch,
        targets: &Targets,
        pass: &Pass,
    ) -> std::result::Result<(f32, Vec<Vec<f32>>), LmError> {
        self.put(values)?;
        let (mut loss, mut sums) = (0.0, GradStore::default());
        // A group's padding is within the budget that the rows themselves were cut by.
        for group in groups(batch, targets, batch.tokens()) {
            let dropout = pass.dropout.map(|d| (d.share, keys(batch, &group, &d.tokens)));
            let one = GroupPass { places: self.net.whole(group.padded.length)?, group: &group, dropout };
            loss += self.pass(&one, pass.scale, pass.keep, &mut sums)?;
        }
        Ok((loss as f32, self.flat(&sums)?))
    }

    fn supports_dropout(&self) -> bool {
        true
    }

    /// Weights, values and their gradients; then what blocks keep, and the graph of one of them while
    /// it is passed back: about twice what its forward pass makes, the attention's weights included.
    fn memory(&self, step: &StepShape) -> Memory {
        let StepShape { tokens, longest, keep, .. } = *step;
        let (c, d) = (&self.net.config, &self.net.dims);
        let vars = self.blocks.iter().flatten().chain(&self.ends);
        let trained: usize = vars.map(|v| v.elem_count()).sum();
        let held = BASE + self.weights + trained as u64 * 12;
        let block = 4 * Saved::per_token(d) + 5 * c.heads * longest;
        let blocks = if keep == Keep::Activations { c.layers + 2 } else { 3 };
        let logits = 5 * c.vocab * self.net.losses_at_once.min(tokens);
        let activations = ((tokens * (blocks * block + c.layers * c.hidden) + logits) * 4) as u64;
        Memory { held, activations }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use headstart_train::TrainableParams;

    use super::*;

    /// Losses in chunks, the last one short, have the gradients of losses at once.
    #[test]
    fn chunks_of_losses_change_nothing() {
        let folder =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../lm/tests/fixtures/parity/llama-tied/model");
        let model = Model::load(&folder).unwrap();
        let ids: Vec<u32> = (1..12).collect();
        let batch = Batch::pack([&ids[..], &ids[3..]]);
        let targets = Targets { rows: (0..9).collect(), ids: (20..29).collect() };
        let values = TrainableParams::full(&model).values;
        let [once, chunks] = [9, 4].map(|at_once| {
            let mut trainer = DeviceGradients::new(&model, None, &Device::Cpu).unwrap();
            trainer.net.losses_at_once = at_once;
            let losses = trainer.losses(&values, &batch, &targets).unwrap();
            let (loss, grads) =
                trainer.gradients(&values, &batch, &targets, &Pass::plain(0.1, Keep::Input)).unwrap();
            assert!((loss - 0.1 * losses.iter().sum::<f32>()).abs() < 1e-5);
            grads.concat()
        });
        assert!(once.iter().any(|g| g.abs() > 1e-3));
        assert!(once.iter().zip(&chunks).all(|(a, b)| (a - b).abs() < 1e-6));
    }
}
