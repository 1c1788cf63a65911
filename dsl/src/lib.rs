//! Headstart's pipeline language: text to a checked, typed [`Plan`].
//!
//! Does no I/O: files come through a [`FileLoader`].
//!
//! ```
//! use headstart_dsl::{MemoryLoader, check, render};
//!
//! let files = MemoryLoader::new().with("p.pllm", "model base = local(\"tiny\")\noutput o = bsae\n");
//! let checked = check("p.pllm", &files, &Default::default());
//! assert!(checked.plan.is_none());
//! let text = render(&checked.diagnostics, &checked.sources, false);
//! assert!(text.contains("error[E0101]: cannot find `bsae` in this file"));
//! assert!(text.contains("did you mean `base`?"));
//! ```
//!
//! # Layout
//! - `grammar.pest`: the grammar, which is the specification of the syntax.
//! - [`parse`] (`syntax`): text to the spanned tree of [`ast`]; the only module that sees the
//!   grammar's rules. It also words what the grammar does not accept; `literal` reads numbers.
//! - [`check()`]: trees to a [`Plan`]: names, types, fan-out, mixes, settings, residency, schedules.
//! - [`plan`]: the plan, as the engine takes it. [`graph()`]: the plan as a graph.
//! - [`Diagnostic`], [`Code`]: errors and their places, with stable codes that have a page each in `codes/`.
//! - [`render()`], [`to_json`]: diagnostics for people and for tools.
//! - [`format()`]: the one style.
//! - [`analyze`], [`symbols`]: every name and where it is used, for editors; [`analyze_again`] after
//!   a change.
//! - [`sets_from_json`]: values of parameters from a file.
//! - [`words`]: keywords, settings and other fixed words, with their meaning.
//! - [`Span`], [`FileLoader`], `names`: places, files, similar names.

pub mod ast;
mod check;
mod codes;
mod diagnostic;
mod format;
mod graph;
mod literal;
mod loader;
mod names;
pub mod plan;
mod render;
mod span;
pub mod symbols;
mod syntax;
mod values;
pub mod words;

pub use check::{Checked, Trees, analyze, analyze_again, check, check_module};
pub use codes::{Code, Severity, codes, explain, similar_code};
pub use diagnostic::{Diagnostic, Fix, Label};
pub use format::format;
pub use graph::graph;
pub use loader::{FileLoader, Listing, MemoryLoader, ProgramError};
pub use plan::Plan;
pub use render::{render, to_json};
pub use span::{FileId, Sources, Span};
pub use syntax::{MAX_DEPTH, parse};
pub use values::{ValuesError, sets_from_json};
