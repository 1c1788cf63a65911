//! Headstart's pipeline language: text to a checked, typed [`plan::Plan`].
pub mod plan;
