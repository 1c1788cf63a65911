//! The little dense linear algebra that explanations need, in f64 and in a fixed order of
//! summation, so that results do not depend on the number of threads.
//!
//! # Layout
//! - [`matrix`]: a row-major matrix with products, Cholesky factor and inverse of a triangle.
//! - [`eigen`]: principal directions.
//! - [`fit`]: least squares with bounds, and ridge, on normal equations.

pub(crate) mod eigen;
pub mod fit;
pub(crate) mod matrix;

pub use matrix::{Matrix, axpy, dot, norm};
