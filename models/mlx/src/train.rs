//! Losses of rows, and their gradients with respect to an adapter.

use std::sync::Arc;

use headstart_lm::padded::{Group, groups};
use headstart_lm::{Adapter, Batch, CpuBackend, Layout, LmError, Model, Targets, Watch};
use headstart_train::{
    GradientBackend, Memory, Method, Pass, StepShape, TrainReport, TrainSpec, TrainingBackend, train_on,
};
use mlx_rs::error::Result;
use mlx_rs::transforms::value_and_grad_with_argnums;
use mlx_rs::{Array, transforms};

use crate::memory;
use crate::net::{Net, dims, ids, numbers, padded_ids};
use crate::thread::{Pinned, fault};

/// Trains as `spec` says: an adapter here, all weights on the CPU.
pub(crate) fn train(spec: &TrainSpec, watch: &dyn Watch) -> std::result::Result<TrainReport, LmError> {
    match spec.method {
        Method::Lora(_) => train_on(&MlxGradients::make, spec, watch),
        Method::Full => {
            tracing::info!("all weights are trained on the CPU: the backend on MLX trains adapters");
            CpuBackend::new(0).train(spec, watch)
        }
    }
}

/// A group's rows and tokens that are predicted, `[targets]` each.
fn predicted(group: &Group) -> [Array; 2] {
    [&group.rows, &group.ids].map(|all| ids(all, &[all.len() as i32]))
}

/// Negative log-likelihoods in nats of the targets, in order; at most so many tokens are computed
/// at once, padding included.
pub(crate) fn losses(
    net: &Net,
    batch: &Batch,
    targets: &Targets,
    tokens: usize,
) -> std::result::Result<Vec<f32>, LmError> {
    let mut all = vec![0.0; targets.ids.len()];
    for group in groups(batch, targets, tokens) {
        let losses = net.losses(&group).map_err(fault)?;
        group.which.iter().zip(losses).for_each(|(target, loss)| all[*target] = loss);
    }
    Ok(all)
}

impl Net {
    fn losses(&self, group: &Group) -> Result<Vec<f32>> {
        let hidden = self.places.hidden(&self.arrays, &padded_ids(&group.padded))?;
        let [rows, ids] = predicted(group);
        numbers(&self.places.losses(&self.arrays, &hidden, &rows, &ids)?)
    }

    /// The loss Σ nll × `scale` of a group and its gradient with respect to each trained array.
    fn gradients(&self, group: &Group, scale: f32) -> Result<(f32, Vec<Array>)> {
        let mut all = self.arrays.clone();
        let own = all.len();
        all.push(padded_ids(&group.padded));
        all.extend(predicted(group));
        let loss = |all: &[Array]| -> Result<Vec<Array>> {
            let hidden = self.places.hidden(all, &all[own])?;
            let losses = self.places.losses(all, &hidden, &all[own + 1], &all[own + 2])?;
            Ok(vec![losses.sum(None)?.multiply(Array::from_f32(scale))?])
        };
        let trained: Vec<i32> = (0..self.trained as i32).collect();
        let (loss, grads) = value_and_grad_with_argnums(loss, trained.as_slice())(&all)?;
        transforms::eval(grads.iter().chain(&loss))?;
        Ok((numbers(&loss[0])?[0], grads))
    }
}

fn added(sum: &[Array], more: &[Array]) -> Result<Vec<Array>> {
    let sum: Vec<Array> = sum.iter().zip(more).map(|(a, b)| a.add(b)).collect::<Result<_>>()?;
    transforms::eval(&sum)?;
    Ok(sum)
}

/// A model with an adapter that is trained, on MLX's thread.
pub struct MlxGradients {
    net: Pinned<Net>,
    /// Of the blocks that have any, what their values mean.
    layouts: Vec<Layout>,
    model: memory::Held,
}

impl MlxGradients {
    /// With the adapter's values.
    ///
    /// # Errors
    /// What MLX says.
    pub fn new(model: &Model, adapter: &Adapter) -> std::result::Result<Self, LmError> {
        let net = Pinned::new(|| Net::new(model, Some(adapter)).map_err(fault))?;
        let layouts = adapter.layouts.iter().filter(|l| !l.is_empty()).cloned().collect();
        Ok(Self { net, layouts, model: memory::Held::new(model, adapter) })
    }

    /// As `headstart_train::MakeGradients`.
    fn make(
        model: &Arc<Model>,
        adapter: Option<&Adapter>,
    ) -> std::result::Result<Box<dyn GradientBackend>, LmError> {
        let adapter =
            adapter.ok_or_else(|| LmError::Internal("all weights are not trained on MLX".into()))?;
        Ok(Box::new(Self::new(model, adapter)?))
    }

    /// Changes the adapter's values.
    fn put(&self, net: &mut Net, values: &[Vec<f32>]) {
        let blocks = self.layouts.iter().zip(values);
        let parts = blocks.flat_map(|(l, flat)| l.segments.iter().map(move |s| (s, flat)));
        for (array, (s, flat)) in net.arrays.iter_mut().zip(parts) {
            *array = Array::from_slice(&flat[s.range.clone()], &dims(&s.shape));
        }
    }

    /// Arrays in the order of the layouts' tensors as one vector a block.
    fn flat(&self, arrays: &[Array]) -> Result<Vec<Vec<f32>>> {
        let mut left = arrays.iter();
        let flat = |layout: &Layout| -> Result<Vec<f32>> {
            let mut flat = Vec::with_capacity(layout.len());
            for array in left.by_ref().take(layout.segments.len()) {
                flat.extend(numbers(array)?);
            }
            Ok(flat)
        };
        self.layouts.iter().map(flat).collect()
    }
}

impl GradientBackend for MlxGradients {
    fn name(&self) -> String {
        "mlx".into()
    }

    fn losses(
        &self,
        values: &[Vec<f32>],
        batch: &Batch,
        targets: &Targets,
    ) -> std::result::Result<Vec<f32>, LmError> {
        self.net.with(|net| {
            self.put(net, values);
            losses(net, batch, targets, batch.tokens())
        })
    }

    fn gradients(
        &self,
        values: &[Vec<f32>],
        batch: &Batch,
        targets: &Targets,
        pass: &Pass,
    ) -> std::result::Result<(f32, Vec<Vec<f32>>), LmError> {
        self.net.with(|net| {
            self.put(net, values);
            let (mut loss, mut sum): (f64, Option<Vec<Array>>) = (0.0, None);
            // A group's padding is within the budget that the rows themselves were cut by.
            for group in groups(batch, targets, batch.tokens()) {
                let (own, grads) = net.gradients(&group, pass.scale).map_err(fault)?;
                loss += f64::from(own);
                sum = Some(match sum {
                    None => grads,
                    Some(sum) => added(&sum, &grads).map_err(fault)?,
                });
            }
            let sum = sum.ok_or_else(|| LmError::Internal("a step without targets".into()))?;
            Ok((loss as f32, self.flat(&sum).map_err(fault)?))
        })
    }

    fn memory(&self, step: &StepShape) -> Memory {
        Memory { held: self.model.bytes(), activations: self.model.step(step.tokens, step.longest) }
    }
}
