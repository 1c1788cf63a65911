//! The explicit list of built-in stages
