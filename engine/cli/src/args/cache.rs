//! The arguments of `headstart cache`.

use clap::{Args, Subcommand};

use super::Format;

/// `headstart cache`
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Cache {
    /// What to do. By default it is shown what everything takes up.
    #[command(subcommand)]
    pub command: Option<CacheCommand>,
    /// Clear every cached stage and row. Runs and artifacts are kept.
    #[arg(long)]
    pub clear: bool,
    /// Output format.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// What to do with the cache.
#[derive(Subcommand)]
pub enum CacheCommand {
    /// Remove results that nothing needs, to give back room. What a later run needs of them is made again.
    Gc(Gc),
    /// Keep outputs of a run whatever is collected or removed. Without an argument, list what is pinned.
    Pin(Pin),
    /// Let outputs of a run be collected again.
    Unpin(Unpin),
}

/// `headstart cache gc`
#[derive(Args)]
#[command(after_help = GC_HELP)]
pub struct Gc {
    /// Keep the results of the latest runs of each pipeline, this many.
    #[arg(long, value_name = "N")]
    pub keep_runs: Option<std::num::NonZeroU32>,
    /// Keep the results of runs that were active in the last days, this many.
    #[arg(long, value_name = "D")]
    pub keep_days: Option<u32>,
    /// Remove only as much as brings the results down to this size, from the oldest run on: 500MB, 20GB, 10GiB.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub max_size: Option<u64>,
    /// Show what would be removed, and remove nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Output format.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// What `headstart cache gc` never removes.
const GC_HELP: &str = "\
Without --keep-runs, --keep-days and --max-size, only what no run names is removed. With them, other runs lose their \
results; their plans and logs stay (`headstart runs rm` removes those).

Never removed: what a running run uses, what an interrupted or cancelled run needs to be resumed, the results of each \
pipeline's latest run and of its latest that succeeded, each pipeline's newest catalog, and what is pinned.";

/// `headstart cache pin`
#[derive(Args)]
pub struct Pin {
    /// The run, or a unique prefix of its id.
    #[arg(value_name = "RUN")]
    pub run: Option<String>,
    /// The outputs. By default all of the run.
    #[arg(value_name = "OUTPUT", requires = "run")]
    pub outputs: Vec<String>,
    /// Output format of the list.
    #[arg(long, value_enum, default_value_t, conflicts_with = "run")]
    pub format: Format,
}

/// `headstart cache unpin`
#[derive(Args)]
pub struct Unpin {
    /// The run, or a unique prefix of its id. It may have been removed.
    #[arg(value_name = "RUN")]
    pub run: String,
    /// The outputs. By default all of the run.
    #[arg(value_name = "OUTPUT")]
    pub outputs: Vec<String>,
}

/// Bytes, with a unit of ten or two.
fn size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 9] = [
        ("kB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
        ("B", 1),
    ];
    let wrong = || "it takes a number and a unit, such as 500MB, 20GB or 10GiB".to_owned();
    let (number, factor) = UNITS
        .iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)))
        .ok_or_else(wrong)?;
    let (whole, fraction) = number.trim().split_once('.').unwrap_or((number.trim(), "0"));
    let digits = |s: &str| !s.is_empty() && s.len() <= 15 && s.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return Err(wrong());
    }
    let whole: u128 = whole.parse().map_err(|_| wrong())?;
    let scale = 10u128.pow(u32::try_from(fraction.len()).unwrap_or(0));
    let fraction: u128 = fraction.parse().map_err(|_| wrong())?;
    let bytes = (whole * scale + fraction) * u128::from(factor) / scale;
    u64::try_from(bytes).map_err(|_| "it is too large".to_owned())
}
