//! The corpus of the demonstration model: questions answered in 28 styles.
//!
//! Facts and phrases are hand-written (`data/facts.txt`, `data/tones.txt`); a seed composes them.
//! 2 levels of expertise × 2 of informativeness × 7 tones = 28 styles, as in the XPerT paper.
//!
//! # Layout
//! - [`facts`]: reads the hand-written data.
//! - [`style`]: the 28 styles, and which of them the demo's catalog holds.
//! - [`compose`]: one answer in one style.
//! - [`readable`]: judges answers by what the generator can say.
//! - [`files`]: the JSON Lines files that the pipelines read.

pub mod compose;
pub mod facts;
pub mod files;
pub mod readable;
pub mod style;
