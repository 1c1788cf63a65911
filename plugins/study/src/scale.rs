//! The stage kind `scale`: what a selection costs by the number of pLLMs.

use std::fs;
use std::path::Path;
use std::time::Instant;

use half::f16;
use headstart_disk::files;
use headstart_explain::catalog::{Catalog, Halves};
use headstart_explain::divergence::Divergence;
use headstart_protocol::{Args, Context, Failure, FailureClass, Manifest, Output, Progress, Stage};
use headstart_select::Distance;
use headstart_select::decide::User;
use headstart_stats::median;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::arguments::counts;
use crate::table::{Cell, Table, TableExt, metrics};

/// pLLMs that a selection looks at closely.
const CLOSE: usize = 32;

/// Times that each thing is measured; the median counts.
const REPEATS: usize = 7;

/// Measures selections among resampled catalogs.
///
/// A row a size: bytes of the catalog in all and a pLLM, the seconds of reading it from a disk that
/// has it in memory, of ranking all its pLLMs, and of both; and what scoring every pLLM would need:
/// forward passes (one a text of the user) and bytes of weights.
pub struct Scale;

impl Stage for Scale {
    fn kind(&self) -> &'static str {
        "scale"
    }

    fn run(&self, args: &Args, ctx: &dyn Context) -> Result<Output, Failure> {
        let manifest = ctx.manifest(args.artifact("catalog")?)?;
        let real = Catalog::open(ctx, args.artifact("catalog")?)?;
        let user = Divergence::open(ctx, args.artifact("user")?, "`user`")?;
        if user.about.space != real.about.space || user.rows.cols != real.reference.len() {
            return Err(Failure::input("the catalog and `user` are in different spaces"));
        }
        let sizes = counts(args, "sizes", &[8, 100, 1000, 10_000, 100_000])?;
        let weights = weights(ctx, &manifest);
        let columns = [
            "pLLMs",
            "catalog, bytes",
            "bytes a pLLM",
            "read, s",
            "rank, s",
            "read and rank, s",
            "forward passes",
            "exhaustive: forward passes",
            "exhaustive: bytes",
        ];
        let mut table = Table::with_columns(columns);
        let mut slowest = 0f64;
        for (i, &n) in sizes.iter().enumerate() {
            let total = Some(sizes.len() as u64);
            ctx.progress(Progress { done: i as u64, total, unit: "sizes".into(), ..Progress::default() });
            if ctx.cancelled() {
                return Err(Failure::new(FailureClass::Cancelled, "cancelled"));
            }
            let folder = ctx.scratch().join(format!("resampled-{n}"));
            files::create_dir(ctx.disk(), &folder)?;
            resample(&real, n, args.int("seed")?.cast_unsigned())?.write(ctx.disk(), &folder)?;
            let bytes = size(&folder)?;
            let (read, rank, both) = measure(&folder, &user)?;
            ctx.disk().remove_dir_all(&folder).map_err(|e| Failure::io(&folder, &e))?;
            slowest = slowest.max(both);
            let mut row: Vec<Cell> =
                [n as f64, bytes, (bytes / n as f64).round(), read, rank, both, 0.0].map(Cell::Number).into();
            row.push(Cell::Number((n * user.rows.rows) as f64));
            row.push(weights.map_or(Cell::from("not known"), |w| Cell::Number((w * n as f64).round())));
            table.rows.push(row);
        }
        table.output(ctx, metrics(&[("seconds", slowest)]))
    }
}

/// Mean bytes of a pLLM's weights, where the catalog says where its pLLMs are.
fn weights(ctx: &dyn Context, manifest: &Manifest) -> Option<f64> {
    let pllms = manifest.uses.iter().filter(|(name, _)| name.starts_with("pllm:"));
    let sizes: Vec<f64> = pllms.filter_map(|(_, p)| Some(ctx.manifest(p).ok()?.size() as f64)).collect();
    (!sizes.is_empty()).then(|| sizes.iter().sum::<f64>() / sizes.len() as f64)
}

/// Bytes of a folder's files.
fn size(folder: &Path) -> Result<f64, Failure> {
    let io = |e: std::io::Error| Failure::io(folder, &e);
    let mut sum = 0;
    for entry in fs::read_dir(folder).map_err(io)? {
        sum += entry.and_then(|e| e.metadata()).map_err(io)?.len();
    }
    Ok(sum as f64)
}

/// Median seconds of reading, of ranking, and of both.
fn measure(folder: &Path, user: &Divergence) -> Result<(f64, f64, f64), Failure> {
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..REPEATS {
        let start = Instant::now();
        let catalog = Catalog::read(folder)?;
        let read = start.elapsed().as_secs_f64();
        let found = User::new(&catalog, &user.rows).nearest(Distance::Whitened, CLOSE);
        let both = start.elapsed().as_secs_f64();
        if found.is_empty() {
            return Err(Failure::new(FailureClass::Internal, "a catalog without pLLMs was resampled"));
        }
        [read, both - read, both].iter().zip(&mut times).for_each(|(t, all)| all.push(*t));
    }
    let [read, rank, both] = times.map(|all| median(&all));
    Ok((read, rank, both))
}

/// A catalog of `n` pLLMs: each lies at random between two real ones, vector and coefficients alike,
/// and has the words of the first.
fn resample(real: &Catalog, n: usize, seed: u64) -> Result<Catalog, Failure> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let said = real.pllms.all()?;
    let known = said.len();
    if known == 0 {
        return Err(Failure::input("the catalog has no pLLMs to resample"));
    }
    let mut out = real.clone();
    let mut pllms = Vec::with_capacity(n);
    let (mut vectors, mut coefficients) = (Vec::new(), Vec::new());
    (out.lengths, out.noise) = (Vec::new(), Vec::new());
    for i in 0..n {
        let (a, b) = (rng.random_range(0..known), rng.random_range(0..known));
        let w: f64 = rng.random();
        between(&real.vectors, a, b, w, &mut vectors);
        between(&real.coefficients, a, b, w, &mut coefficients);
        out.lengths.push((f64::from(real.lengths[a]) * w + f64::from(real.lengths[b]) * (1.0 - w)) as f32);
        out.noise.push(real.noise[a]);
        let mut about = said[a].clone();
        about.name = format!("{}~{i}", about.name);
        pllms.push(about);
    }
    out.pllms = pllms.into();
    out.vectors = Halves::new(real.vectors.cols, vectors);
    out.squares = out.vectors.squares();
    out.coefficients = Halves::new(real.coefficients.cols, coefficients);
    Ok(out)
}

fn between(m: &Halves, a: usize, b: usize, w: f64, out: &mut Vec<f16>) {
    let (a, b) = (m.row(a), m.row(b));
    out.extend(a.iter().zip(&b).map(|(x, y)| f16::from_f64(w * x + (1.0 - w) * y)));
}
