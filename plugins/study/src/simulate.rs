//! The stage kind `simulate`: how often simulated users are given the right pLLM.

use std::sync::Arc;

use headstart_explain::catalog::Catalog;
use headstart_explain::decompose::Settings;
use headstart_explain::divergence::Divergence;
use headstart_explain::math::Matrix;
use headstart_explain::words::Method;
use headstart_explain::{Lexicon, Space};
use headstart_lm::Backend;
use headstart_protocol::{Args, ArtifactRef, Context, Failure, Output, Progress, Stage};
use headstart_select::Distance;
use headstart_select::decide::{self, User};
use headstart_stats::wilson;
use rayon::prelude::*;

use crate::arguments::{counts, numbers};
use crate::table::{Cell, Table, TableExt, metrics};
use crate::world::{Split, World};

/// Simulates users and their selections.
///
/// The value holds `accuracy` over all users with its interval `low` and `high`, the count `n`, and
/// a table: for each number of texts, the share of users for whom the nearest pLLM is the right one,
/// the share that abstain, and the share that neither abstain nor are given a wrong one. Intervals
/// are Wilson's over users; users of a split share its probes, so the intervals are a little narrow.
pub struct Simulate {
    pub(crate) backend: Arc<dyn Backend>,
}

/// The settings of a simulation.
struct Plan {
    probes: usize,
    texts: Vec<usize>,
    shares: Vec<f64>,
    /// Whether the share is that of the style in the pLLM's answers rather than in the user's texts.
    of_pllm: bool,
    mixed: usize,
    users_each: usize,
    splits: usize,
    distance: Distance,
    method: Method,
    centre: bool,
    seed: u64,
}

/// Users of one number of texts and one share.
#[derive(Clone, Copy, Default)]
struct Tally {
    n: usize,
    /// The nearest is right, abstaining or not.
    nearest: usize,
    abstained: usize,
    /// Right, and did not abstain.
    right: usize,
    /// With mixed styles: users that were given a mix.
    mixes: usize,
    /// Users that were given a mix of their styles and no others.
    exact: usize,
}

impl Stage for Simulate {
    fn kind(&self) -> &'static str {
        "simulate"
    }

    fn run(&self, args: &Args, ctx: &dyn Context) -> Result<Output, Failure> {
        let plan = Plan::read(args)?;
        let world = self.world(args, ctx)?;
        if plan.mixed > world.names.len() {
            return Err(Failure::input(format!(
                "argument `mixed` is {}, but there are {} styles",
                plan.mixed,
                world.names.len()
            )));
        }
        let most = plan.texts.iter().copied().max().unwrap_or(0);
        // A split without enough questions is reported before anything is computed.
        world.split(0, plan.probes, most, plan.seed)?;
        let done = std::sync::atomic::AtomicU64::new(0);
        let tallies = |i: usize| -> Result<Vec<Tally>, Failure> {
            if ctx.cancelled() {
                return Err(Failure::new(headstart_protocol::FailureClass::Cancelled, "cancelled"));
            }
            let tallies = plan.run_split(&world, world.split(i, plan.probes, most, plan.seed)?)?;
            let done = 1 + done.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let total = Some(plan.splits as u64);
            ctx.progress(Progress { done, total, unit: "splits".into(), ..Progress::default() });
            Ok(tallies)
        };
        let splits: Vec<Vec<Tally>> =
            (0..plan.splits).into_par_iter().map(tallies).collect::<Result<_, _>>()?;
        let mut sum = vec![Tally::default(); plan.texts.len() * plan.shares.len()];
        splits.iter().for_each(|split| sum.iter_mut().zip(split).for_each(|(a, b)| a.add(*b)));
        let mut all = Tally::default();
        sum.iter().for_each(|t| all.add(*t));
        let (low, high) = wilson(all.right, all.n);
        let share = all.right as f64 / all.n.max(1) as f64;
        let numbers = [("accuracy", share), ("low", low), ("high", high), ("n", all.n as f64)];
        plan.table(&sum).output(ctx, metrics(&numbers))
    }
}

impl Plan {
    fn read(args: &Args) -> Result<Self, Failure> {
        Ok(Self {
            probes: args.positive("probes")?,
            texts: counts(args, "texts", &[5, 10, 50])?,
            shares: numbers(args, "shares", &[0.3, 0.5, 0.7, 0.9], 0.0, 1.0)?,
            of_pllm: args.text("similarity")? == "pllm",
            mixed: args.positive("mixed")?,
            users_each: args.positive("users_each")?,
            splits: args.positive("splits")?,
            distance: Distance::named(args.text("metric")?)?,
            method: Method::named(args.text("method")?)?,
            centre: args.bool("centre")?,
            seed: args.int("seed")?.cast_unsigned(),
        })
    }

    /// Users of all styles in one split: a tally for each number of texts and each share.
    fn run_split(&self, world: &World, mut split: Split) -> Result<Vec<Tally>, Failure> {
        let settings = |share: f64| {
            let settings =
                Settings { method: self.method, seed: self.seed, centre: self.centre, ..Settings::default() };
            world.catalog(&split.probes, share, &settings)
        };
        let catalogs: Vec<Catalog> = if self.of_pllm {
            self.shares.iter().map(|&s| settings(s)).collect::<Result<_, _>>()?
        } else {
            vec![settings(1.0)?]
        };
        let mut tallies = vec![Tally::default(); self.texts.len() * self.shares.len()];
        for style in 0..world.names.len() {
            for u in 0..self.users_each {
                for (i, &n) in self.texts.iter().enumerate() {
                    for (j, &share) in self.shares.iter().enumerate() {
                        let own = self.styles_of(style, u, world.names.len());
                        let part = if self.of_pllm { 1.0 } else { share } / own.len() as f64;
                        let shares: Vec<(usize, f64)> = own.iter().map(|&s| (s, part)).collect();
                        let rows = world.user(&shares, n, &mut split);
                        let catalog = &catalogs[if self.of_pllm { j } else { 0 }];
                        tallies[i * self.shares.len() + j].add(self.choose(catalog, &rows, &own));
                    }
                }
            }
        }
        Ok(tallies)
    }

    /// The styles that the `u`-th user of a style mixes: that one, and others in turn.
    fn styles_of(&self, style: usize, u: usize, all: usize) -> Vec<usize> {
        let other = |k: usize| (style + k * (1 + u % (all - 1).max(1))) % all;
        let mut own = vec![style];
        for k in 1..all {
            if own.len() == self.mixed {
                break;
            }
            if !own.contains(&other(k)) {
                own.push(other(k));
            }
        }
        let rest = (0..all).filter(|s| !own.contains(s)).collect::<Vec<_>>();
        let missing = self.mixed - own.len();
        own.into_iter().chain(rest.into_iter().take(missing)).collect()
    }

    fn choose(&self, catalog: &Catalog, rows: &Matrix, own: &[usize]) -> Tally {
        let user = User::new(catalog, rows);
        if self.mixed == 1 {
            let close = user.nearest(self.distance, 1);
            let nearest = close.first().is_some_and(|r| own.contains(&r.index));
            let abstains = self.distance == Distance::Whitened && user.is_chance(&close);
            return Tally::of(nearest, abstains);
        }
        let settings = decide::Settings { distance: self.distance, max_mix: self.mixed, seed: self.seed };
        let choice = user.choose(&settings);
        let nearest = choice.close.first().is_some_and(|r| own.contains(&r.index));
        let mut found: Vec<usize> = choice.mix.iter().map(|m| m.0).collect();
        let mut wanted = own.to_vec();
        found.sort_unstable();
        wanted.sort_unstable();
        Tally {
            mixes: usize::from(found.len() > 1),
            exact: usize::from(found == wanted),
            ..Tally::of(nearest, choice.abstains)
        }
    }

    fn table(&self, tallies: &[Tally]) -> Table {
        let shares = self.shares.iter().map(|s| format!("s = {s}"));
        let mut table =
            Table::with_columns(["texts".to_owned(), "share of users".to_owned()].into_iter().chain(shares));
        type Count = fn(&Tally) -> usize;
        let mut measures: Vec<(&str, Count)> = if self.mixed == 1 {
            vec![("nearest is right", |t| t.nearest)]
        } else {
            vec![
                ("nearest is one of them", |t| t.nearest),
                ("given a mix", |t| t.mixes),
                ("of exactly these", |t| t.exact),
            ]
        };
        if self.distance == Distance::Whitened {
            measures.push(("abstains", |t| t.abstained));
            measures.push(("right and does not abstain", |t| t.right));
        }
        for (n, row) in self.texts.iter().zip(tallies.chunks(self.shares.len())) {
            for (name, count) in &measures {
                let cell = |t: &Tally| Cell::estimate(count(t) as f64 / t.n as f64, wilson(count(t), t.n));
                let head = [Cell::Number(*n as f64), Cell::from(*name)];
                table.rows.push(head.into_iter().chain(row.iter().map(cell)).collect());
            }
        }
        table
    }
}

impl Tally {
    fn of(nearest: bool, abstained: bool) -> Self {
        Self {
            n: 1,
            nearest: nearest.into(),
            abstained: abstained.into(),
            right: (nearest && !abstained).into(),
            ..Self::default()
        }
    }

    fn add(&mut self, o: Self) {
        self.n += o.n;
        self.nearest += o.nearest;
        self.abstained += o.abstained;
        self.right += o.right;
        self.mixes += o.mixes;
        self.exact += o.exact;
    }
}

impl Simulate {
    fn world(&self, args: &Args, ctx: &dyn Context) -> Result<World, Failure> {
        let (names, styles) = list(args, ctx, "styles")?;
        let first = styles.first().ok_or_else(|| Failure::input("`styles` is empty"))?;
        let fits = |d: &Divergence, what: &str| first.same_space(&d.about, what);
        for (name, d) in names.iter().zip(&styles) {
            fits(d, &format!("{:?} and {name:?}", names[0]))?;
            if d.rows.rows != first.rows.rows {
                return Err(Failure::input(format!(
                    "{:?} answers {} questions, {name:?} {}",
                    names[0], first.rows.rows, d.rows.rows
                ))
                .help("all styles must answer the same questions, in the same order"));
            }
        }
        let one = |name: &str| -> Result<Option<Matrix>, Failure> {
            let Some(artifact) = args.artifact_opt(name) else { return Ok(None) };
            let d = Divergence::open(ctx, artifact, &format!("`{name}`"))?;
            fits(&d, &format!("`styles` and `{name}`"))?;
            Ok(Some(d.rows))
        };
        let users = match args.get("users") {
            Some(_) => Some(users(args, ctx, &names, first)?),
            None => None,
        };
        let plain = one("plain")?;
        if let (Some(plain), Some(users)) = (&plain, &users)
            && plain.rows != users[0].rows
        {
            let why = format!("`plain` has {} rows, `users` {}", plain.rows, users[0].rows);
            return Err(Failure::input(why).help("both must be about the same prompts, in the same order"));
        }
        let mut lexicon = Lexicon::built_in();
        if let Some(n) = args.positive_opt("words")? {
            lexicon = lexicon.limited(n);
        }
        let given = args.artifact_opt("space").cloned();
        let space_ref: ArtifactRef = first.space.clone().or(given).ok_or_else(|| {
            Failure::input("the divergences do not name their space").help("give it as the argument `space`")
        })?;
        let atoms = lexicon.atoms(&mut Space::open(ctx, &*self.backend, &space_ref)?)?;
        Ok(World {
            about: first.about.clone(),
            reference: one("reference")?,
            styles: styles.into_iter().map(|d| d.rows).collect(),
            names,
            users,
            plain,
            lexicon,
            atoms,
        })
    }
}

fn list(args: &Args, ctx: &dyn Context, name: &str) -> Result<(Vec<String>, Vec<Divergence>), Failure> {
    let open = |(key, artifact): (&str, &ArtifactRef)| {
        Ok((key.to_owned(), Divergence::open(ctx, artifact, &format!("`{name}`: {key:?}"))?))
    };
    args.artifacts(name)?
        .into_iter()
        .map(open)
        .collect::<Result<Vec<_>, _>>()
        .map(|all| all.into_iter().unzip())
}

/// What people write, in the order of the styles.
fn users(
    args: &Args,
    ctx: &dyn Context,
    names: &[String],
    first: &Divergence,
) -> Result<Vec<Matrix>, Failure> {
    let (keys, found) = list(args, ctx, "users")?;
    let mut all = Vec::new();
    for name in names {
        let at = keys.iter().position(|k| k == name).ok_or_else(|| {
            Failure::input(format!("`users` has no texts of the style {name:?}"))
                .help("`users` must have the keys of `styles`")
        })?;
        first.same_space(&found[at].about, &format!("`styles` and `users`: {name:?}"))?;
        all.push(found[at].rows.clone());
    }
    match all.iter().position(|m| m.rows != all[0].rows) {
        Some(i) => Err(Failure::input(format!(
            "`users`: {:?} has {} rows, {:?} {}",
            names[0], all[0].rows, names[i], all[i].rows
        ))),
        None => Ok(all),
    }
}
