//! The statistics that stages share: means and quantiles, seeded resampling, intervals, rank correlation.
//!
//! Everything random is seeded and independent of the number of threads.

mod resample;
mod summary;

pub use resample::{
    Draws, bootstrap, bootstrap_interval, bootstrap_ratio, derived_seed, interval_of, resample,
};
pub use summary::{kendall, mean, median, quantile, wilson};

/// Draws of the bootstrap unless said otherwise.
pub const DRAWS: usize = 400;
