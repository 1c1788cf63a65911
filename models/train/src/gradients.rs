//! What computes the losses of a training and their gradients.

use std::sync::Arc;

use headstart_lm::{Adapter, Batch, LmError, Model, Targets};

/// Computes the losses of a training and their gradients: on the CPU ([`crate::CpuGradients`]), by
/// another library, or on another device. Everything else of a training, from the rows to the
/// optimizer and the files, is the same code for all of them.
///
/// Trained values go in and gradients come out as one vector for each parameter, in the order of
/// [`crate::TrainableParams`].
pub trait GradientBackend: Send + Sync {
    /// Name of what computes, part of the fingerprint by which an interrupted training finds its
    /// progress: the steps of two backends differ in their last bits.
    fn name(&self) -> String;

    /// Negative log-likelihood of each target, in nats.
    ///
    /// # Errors
    /// [`LmError`] where the library or the device fails.
    fn losses(&self, values: &[Vec<f32>], batch: &Batch, targets: &Targets) -> Result<Vec<f32>, LmError>;

    /// The loss Σ nll × `scale`, and its gradients.
    ///
    /// # Errors
    /// [`LmError`] where the library or the device fails.
    fn gradients(
        &self,
        values: &[Vec<f32>],
        batch: &Batch,
        targets: &Targets,
        pass: &Pass,
    ) -> Result<(f32, Vec<Vec<f32>>), LmError>;

    /// Whether it computes dropout.
    fn supports_dropout(&self) -> bool {
        false
    }

    /// Whether it reads frozen weights from their file as they are needed, so that they need not be in
    /// memory.
    fn supports_streaming(&self) -> bool {
        false
    }

    /// The memory that it takes for steps of this shape.
    fn memory(&self, step: &StepShape) -> Memory;
}

/// Makes the gradient backend of a training: of an adapter over a model or, where there is none, of
/// all its weights.
pub type MakeGradients<'a> =
    &'a dyn Fn(&Arc<Model>, Option<&Adapter>) -> Result<Box<dyn GradientBackend>, LmError>;

/// How a pass with gradients is run.
#[derive(Clone, Copy, Debug)]
pub struct Pass<'a> {
    /// Factor of the loss, usually 1 / number of targets of the step.
    pub scale: f32,
    /// What blocks keep for the backward pass.
    pub keep: Keep,
    /// Dropout of adapters.
    pub dropout: Option<&'a Dropout>,
}

impl Pass<'_> {
    /// Without dropout.
    pub fn plain(scale: f32, keep: Keep) -> Self {
        Self { scale, keep, dropout: None }
    }
}

/// What a forward pass keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// All that the backward pass needs.
    Activations,
    /// Nothing: the backward pass runs each block forward again (activation checkpointing).
    Input,
}

/// Dropout of adapters in one micro-batch.
#[derive(Clone, Debug)]
pub struct Dropout {
    /// Share of an adapter's inputs that are set to zero.
    pub share: f32,
    /// A key of each token of the batch.
    pub tokens: Vec<u64>,
}

/// What decides about the memory of a step.
#[derive(Clone, Copy, Debug)]
pub struct StepShape {
    /// Tokens at once.
    pub tokens: usize,
    /// Tokens of the longest row.
    pub longest: usize,
    /// What blocks keep.
    pub keep: Keep,
    /// Whether adapters have dropout.
    pub dropout: bool,
}

/// Bytes that a gradient backend takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// For copies of the model and the trained values, whatever the step.
    pub held: u64,
    /// For the activations of a step.
    pub activations: u64,
}
