//! Stage kinds probe, embed and decompose: a model's style in words and numbers.
//!
//! A pLLM is asked the same questions as its base. How its answers differ, embedded in a space, is
//! its divergence: one vector a prompt. The divergence is written in the words of a lexicon, each
//! coefficient with an interval, and the catalog keeps that for every pLLM in about two kilobytes.
//!
//! # Layout
//! - [`probe`]: the stage that asks.
//! - [`embed`]: the stage that compares answers with the base's.
//! - [`decompose`]: the stage that finds words and publishes the catalog.
//! - [`space`]: how two answers become a vector; [`summarizer`] for the published method's question.
//! - [`stylometry`]: plain counts beside the encoder.
//! - [`lexicon`]: the style words and their examples; [`lens`]: what of a difference counts for words.
//! - [`judge`]: whether words are right, by a rule written down beforehand.
//! - [`metric`]: the whitened metric; [`words`]: from a vector to words.
//! - [`chance`]: how near to some pLLM those are who write in no style.
//! - [`pace`]: how fast the catalog's own trainings went.
//! - [`catalog`], [`divergence`]: the files.
//! - [`math`]: the linear algebra and the statistics that they share.

mod atoms;
pub mod catalog;
mod chance;
mod contrast;
pub mod decompose;
pub mod divergence;
mod embed;
pub mod judge;
mod lens;
mod lexicon;
pub mod math;
pub mod metric;
pub mod pace;
mod probe;
mod space;
pub mod stylometry;
mod summarizer;
pub mod words;

use std::sync::Arc;

use headstart_lm::Backend;
use headstart_protocol::Stage;

pub use atoms::{Atoms, Average, Examples};
pub use chance::Chance;
pub use lens::Lens;
pub use lexicon::{Lexicon, Pair, Pole, Word};
pub use space::{Embedded, Space};

/// The stages of this crate, computing with `backend`.
pub fn stages(backend: Arc<dyn Backend>) -> Vec<Box<dyn Stage>> {
    vec![
        Box::new(probe::Probe { backend: Arc::clone(&backend) }),
        Box::new(embed::Embed { backend: Arc::clone(&backend) }),
        Box::new(decompose::Decompose { backend }),
    ]
}
