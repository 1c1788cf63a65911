//! Summaries and pictures of finished runs, and graphs of pipelines, for people.
//!
//! Pure: a [`RunReport`] or an [`OwnerReport`] goes in, text comes out. Values are those of artifacts, which may have
//! been released from a device only in part: what is absent is left out of the picture.
//!
//! # Layout
//! - [`run`]: what a report is made from.
//! - [`owner`]: what the page of a device's owner is made from.
//! - [`view`]: what the values of catalogs, selections, pLLMs and metrics say.
//! - [`compare`]: pairs of outputs that belong beside each other, such as `tuned` and `scratch`.
//! - [`project`]: a catalog's styles as points in the plane.
//! - [`graph`]: a pipeline's graph as SVG, Mermaid and Graphviz text.
//! - [`text`]: numbers, bars and lines of text.
//! - [`mod@terminal`]: the summary for a terminal.
//! - [`mod@html`]: the pages: self-contained files, no scripts, light and dark.

mod compare;
pub mod graph;
mod html;
mod owner;
mod project;
mod run;
mod terminal;
pub mod text;
mod view;

pub use html::{STYLE, catalog_section, html, numbers, owner_html, sections};
pub use owner::{Fate, OwnerReport, Sent};
pub use run::{FailureView, Output, OutputView, RunReport, Sample, StageBar, StageState};
pub use terminal::terminal;
pub use view::expected;
