//! Drives a run: folds events, looks up the cache, hands tasks to runners
