//! What a test does depends on who runs it: `make test` takes a fixed sample and holds nothing to the clock,
//! `make soak` takes the full counts, `make bench-timings` holds times to their bounds.

/// Whether the full counts are asked for (`HEADSTART_SOAK=1`).
pub fn soak() -> bool {
    std::env::var_os("HEADSTART_SOAK").is_some_and(|on| on == "1")
}

/// `sample` cases in `make test`, `full` in `make soak`.
pub fn cases(sample: u32, full: u32) -> u32 {
    if soak() { full } else { sample }
}

/// Prints what was measured, and holds it to `bound` only where times are asked for (`HEADSTART_TIMINGS=1`, in
/// `make bench-timings`): on a machine with other work a bound on the clock says nothing about the code.
///
/// # Panics
/// If times are asked for and `took` is over `bound`.
#[track_caller]
pub fn assert_within(what: &str, took: std::time::Duration, bound: std::time::Duration) {
    println!("{what}: {took:.2?} (bound {bound:?})");
    let asked = std::env::var_os("HEADSTART_TIMINGS").is_some_and(|on| on == "1");
    assert!(!asked || took <= bound, "{what} took {took:?}, over {bound:?}");
}
