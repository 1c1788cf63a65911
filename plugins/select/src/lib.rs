//! Stage kind select: the nearest personalized model, or a mix, or none.
//!
//! The user's texts, as a divergence in the catalog's space, are compared with every pLLM's vector
//! in one pass over a matrix; no weights are downloaded for that. Then, where the user's rows are
//! given, the few nearest pLLMs and the mix are asked how probable those rows are, and that decides.
//!
//! # Layout
//! - [`nearest`]: distances to all pLLMs in matrix form, and the ranking.
//! - [`mix`]: non-negative weights over several pLLMs, kept only if they predict held-out rows.
//! - [`decide`]: from a user to a choice: ranking, confidence, mix, abstention.
//! - [`scorer`]: models' likelihood of the user's rows, and what asking costs.
//! - [`strategy`]: which pLLMs are asked: the shortlist, or what the usual searches ask;
//!   [`process`] is the Gaussian process behind one of them.
//! - `search`: the comparison of the shortlist and of the mix, on no more rows than it takes; `merged`
//!   makes the mix an adapter that can be asked; [`verify`]: what the likelihood says.
//! - [`forecast`]: what the choice should save.
//! - [`stage`]: the stage; [`outcome`]: its artifact; [`sentence`]: the choice in a sentence.

pub mod decide;
pub mod forecast;
mod merged;
mod mix;
mod nearest;
mod outcome;
mod place;
mod process;
mod scorer;
mod search;
mod sentence;
mod stage;
mod strategy;
mod verify;

use std::sync::Arc;

use headstart_lm::Backend;
use headstart_protocol::Stage;

pub use nearest::{Distance, Query, Ranked};

/// The stages of this crate, computing with `backend`.
pub fn stages(backend: Arc<dyn Backend>) -> Vec<Box<dyn Stage>> {
    vec![Box::new(stage::Select { backend })]
}
