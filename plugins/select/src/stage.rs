//! The stage kind `select`.

use std::sync::Arc;
use std::time::Instant;

use headstart_explain::catalog::Catalog;
use headstart_explain::divergence::Divergence;
use headstart_explain::math::sample::derived_seed;
use headstart_lm::Backend;
use headstart_lm::open::read_rows;
use headstart_protocol::rows::Row;
use headstart_protocol::{Args, ArtifactRef, Context, Failure, Manifest, Output, Stage};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::decide::{Choice, Settings, User};
use crate::nearest::{Distance, Ranked};
use crate::outcome::{Outcome, Verified};
use crate::scorer::Scorer;
use crate::strategy::{Strategy, bayesian, hyperband};
use crate::verify::judge;

/// Rows below which the same ones choose and verify: halves of fewer would tell nothing.
const LEAST_SPLIT: usize = 6;

/// Chooses the nearest pLLM for a user, or a mix, or none.
pub struct Select {
    pub(crate) backend: Arc<dyn Backend>,
}

impl Stage for Select {
    fn kind(&self) -> &'static str {
        "select"
    }

    fn run(&self, args: &Args, ctx: &dyn Context) -> Result<Output, Failure> {
        let start = Instant::now();
        let manifest = ctx.manifest(args.artifact("catalog")?)?;
        let catalog = Catalog::open(ctx, args.artifact("catalog")?)?;
        let about = Divergence::open(ctx, args.artifact("user")?, "`user`")?;
        fits(&catalog, &about)?;
        let settings = Settings {
            distance: Distance::named(args.text("metric")?)?,
            max_mix: args.positive("max_mix")?,
            seed: args.int("seed")?.cast_unsigned(),
        };
        let (shortlist, budget) = (args.positive("shortlist")?, args.positive_opt("budget")?);
        let user = User::new(&catalog, &about.rows);
        let place = Place { catalog: &catalog, manifest: &manifest };
        let strategy = Strategy::named(args.text("strategy")?)?;
        let (choice, verified) = match args.artifact_opt("verify") {
            Some(dataset) => {
                let all = read_rows(ctx, dataset, "verify")?;
                let halves = Halves::of(&about, dataset, all, settings.seed);
                let chooser = match &halves.choosing {
                    Some(rows) => user.part(rows).choose(&settings),
                    None => user.choose(&settings),
                };
                let search = Search { place: &place, strategy, shortlist, budget, seed: settings.seed };
                let scorer = Scorer::new(ctx, &*self.backend, halves.verifying)?;
                let verified = search.run(scorer, &chooser, halves.choosing.is_some())?;
                (chooser, Some(verified))
            }
            None if strategy != Strategy::Nearest => {
                return Err(Failure::input(format!(
                    "strategy `{}` compares likelihoods, but `verify` was left out",
                    args.text("strategy")?
                ))
                .help("give the user's rows as `verify`, or use the strategy `nearest`"));
            }
            None => (user.choose(&settings), None),
        };
        let outcome = Outcome {
            place: &place,
            user: &user,
            choice: &choice,
            verified: verified.as_ref(),
            strategy,
            start,
        };
        outcome.output(ctx, settings.seed)
    }
}

fn fits(catalog: &Catalog, user: &Divergence) -> Result<(), Failure> {
    let (a, b) = (&catalog.about, &user.about);
    let why = if b.n == 0 {
        "`user` has no rows".to_owned()
    } else if catalog.pllms.is_empty() {
        "the catalog has no pLLMs".to_owned()
    } else if a.space != b.space {
        format!("the catalog is in space {}, `user` in {}", a.space.short(), b.space.short())
    } else if a.d != b.d || a.features != b.features {
        "the catalog and `user` have different components; one was made by another version".to_owned()
    } else {
        return Ok(());
    };
    Err(Failure::input(why).help("embed the user's texts in the catalog's space, with the same version"))
}

/// Rows that choose and rows that verify. Rows that did both would favour what they were chosen by,
/// so where `user` was made from the rows of `verify`, each half does one.
struct Halves {
    /// Rows of `user` that choose; all where none is needed to verify.
    choosing: Option<Vec<usize>>,
    verifying: Vec<Row>,
}

impl Halves {
    fn of(user: &Divergence, dataset: &ArtifactRef, all: Vec<Row>, seed: u64) -> Self {
        let same = user.about.source == Some(dataset.id) && all.len() == user.rows.rows;
        if !same || all.len() < LEAST_SPLIT {
            return Self { choosing: None, verifying: all };
        }
        let mut order: Vec<usize> = (0..all.len()).collect();
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(derived_seed(seed, "halves")));
        let verifying = order.split_off(all.len().div_ceil(2));
        Self { choosing: Some(order), verifying: verifying.into_iter().map(|i| all[i].clone()).collect() }
    }
}

/// A catalog and where its pLLMs are.
pub(crate) struct Place<'a> {
    pub catalog: &'a Catalog,
    pub manifest: &'a Manifest,
}

impl Place<'_> {
    pub fn name(&self, index: usize) -> Result<String, Failure> {
        Ok(self.catalog.pllms.get(index)?.name)
    }

    pub fn pllm(&self, index: usize) -> Result<&ArtifactRef, Failure> {
        let name = self.name(index)?;
        self.manifest.uses.get(&format!("pllm:{name}")).ok_or_else(|| {
            Failure::input(format!("the catalog does not say where the pLLM {name:?} is"))
                .help("decompose divergences of `probe`'s responses rather than of datasets")
        })
    }

    fn all(&self) -> Result<Vec<ArtifactRef>, Failure> {
        (0..self.catalog.pllms.len()).map(|i| self.pllm(i).cloned()).collect()
    }
}

/// A search by likelihood.
struct Search<'a> {
    place: &'a Place<'a>,
    strategy: Strategy,
    /// pLLMs that the nearest strategy compares.
    shortlist: usize,
    /// pLLMs that the Bayesian one asks; none is all.
    budget: Option<usize>,
    seed: u64,
}

impl Search<'_> {
    fn run(&self, mut scorer: Scorer<'_>, choice: &Choice, split: bool) -> Result<Verified, Failure> {
        let finalists = self.finalists(&mut scorer, choice)?;
        let models: Vec<&ArtifactRef> =
            finalists.iter().map(|r| self.place.pllm(r.index)).collect::<Result<_, _>>()?;
        let n = scorer.rows();
        let mut scores = Vec::with_capacity(models.len());
        for model in models {
            scores.push(scorer.score(model, n)?.to_vec());
        }
        let base = match self.place.manifest.uses.get("base") {
            Some(base) => Some(scorer.score(base, n)?.to_vec()),
            None => None,
        };
        let scores: Vec<_> = scores.iter().map(Vec::as_slice).collect();
        let verdict = judge(&scores, base.as_deref(), !choice.abstains, self.seed);
        Ok(Verified { finalists, verdict, split, rows: n, asked: Asked::of(&scorer) })
    }

    /// The pLLMs that are compared on all rows.
    fn finalists(&self, scorer: &mut Scorer<'_>, choice: &Choice) -> Result<Vec<Ranked>, Failure> {
        let places = match self.strategy {
            Strategy::Nearest => {
                return Ok(choice.close.iter().take(self.shortlist).copied().collect());
            }
            Strategy::Exhaustive => (0..self.place.catalog.pllms.len()).collect(),
            Strategy::Hyperband => hyperband(scorer, &self.place.all()?, self.seed)?,
            Strategy::Bayesian => {
                let all = self.place.all()?;
                let budget = self.budget.unwrap_or(all.len());
                bayesian(scorer, self.place.catalog, &all, budget, self.seed)?
            }
        };
        Ok(places.into_iter().map(|index| ranked(choice, index)).collect())
    }
}

/// What is known of a pLLM's distance; those that are far away are not measured again.
fn ranked(choice: &Choice, index: usize) -> Ranked {
    let known = choice.close.iter().find(|r| r.index == index).copied();
    known.unwrap_or(Ranked { index, distance: f64::NAN, strength: 1.0, gain: 0.0 })
}

/// What asking for likelihoods has cost.
pub(crate) struct Asked {
    pub forward_passes: u64,
    /// Tokens a second through a model forward.
    pub speed: Option<f64>,
    /// Models that were asked, with their bytes.
    pub sizes: std::collections::BTreeMap<headstart_protocol::Digest, u64>,
}

impl Asked {
    fn of(scorer: &Scorer<'_>) -> Self {
        Self {
            forward_passes: scorer.forward_passes,
            speed: (scorer.seconds > 0.0).then(|| scorer.tokens as f64 / scorer.seconds),
            sizes: scorer.sizes().clone(),
        }
    }
}
