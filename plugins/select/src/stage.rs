//! The stage kind `select`.

use std::sync::Arc;
use std::time::Instant;

use headstart_explain::catalog::Catalog;
use headstart_explain::divergence::Divergence;
use headstart_kit::{count_rows, read_rows};
use headstart_lm::Backend;
use headstart_protocol::release::CHOOSING_ROWS;
use headstart_protocol::rows::Row;
use headstart_protocol::{Args, ArtifactRef, Context, Failure, Output, Stage};
use headstart_stats::derived_seed;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::decide::{Settings, User};
use crate::nearest::Distance;
use crate::outcome::Outcome;
use crate::place::Place;
use crate::scorer::Scorer;
use crate::search::Search;
use crate::strategy::Strategy;

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
                let part = halves.choosing.as_ref().map(|rows| user.part(rows));
                let user = part.as_ref().unwrap_or(&user);
                let choice = user.choose(&settings);
                count_rows(ctx, CHOOSING_ROWS, || user.different());
                let search = Search {
                    place: &place,
                    user,
                    distance: settings.distance,
                    strategy,
                    shortlist,
                    budget,
                    mixing: settings.max_mix > 1,
                    seed: settings.seed,
                };
                let scorer = Scorer::new(ctx, &*self.backend, halves.verifying, halves.others)?;
                let verified = search.run(scorer, ctx, &choice, halves.split)?;
                (choice, Some(verified))
            }
            None if strategy != Strategy::Nearest => {
                return Err(Failure::input(format!(
                    "strategy `{}` compares likelihoods, but `verify` was left out",
                    args.text("strategy")?
                ))
                .help("give the user's rows as `verify`, or use the strategy `nearest`"));
            }
            None => {
                count_rows(ctx, CHOOSING_ROWS, || user.different());
                (user.choose(&settings), None)
            }
        };
        let outcome = Outcome {
            place: &place,
            user: &user,
            embedding: about.about.forward_passes,
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

/// Rows that choose and rows that verify, the latter in any order but the dataset's, as the first of
/// them may be enough. Rows that did both would favour what they were chosen by.
struct Halves {
    /// Rows of `user` that choose; all where none is needed to verify.
    choosing: Option<Vec<usize>>,
    verifying: Vec<Row>,
    /// The other rows: those that choose.
    others: Vec<Row>,
    /// Whether other rows choose than verify, as far as is known.
    split: bool,
}

impl Halves {
    /// Where `user` was made from a part of the rows of `verify`, the others verify; where from all of
    /// them, each half does one.
    fn of(user: &Divergence, dataset: &ArtifactRef, all: Vec<Row>, seed: u64) -> Self {
        let same = user.about.source == Some(dataset.id);
        let mut order: Vec<usize> = (0..all.len()).collect();
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(derived_seed(seed, "halves")));
        let (choosing, others, split) = match &user.about.picked {
            Some(picked) if same => {
                let (others, verifying) = order.into_iter().partition(|i| picked.contains(i));
                order = verifying;
                (None, others, true)
            }
            _ if same && all.len() == user.rows.rows && all.len() >= LEAST_SPLIT => {
                let verifying = order.split_off(all.len().div_ceil(2));
                let choosing = std::mem::replace(&mut order, verifying);
                (Some(choosing.clone()), choosing, true)
            }
            _ => (None, Vec::new(), false),
        };
        let rows = |places: Vec<usize>| places.into_iter().map(|i| all[i].clone()).collect();
        Self { choosing, verifying: rows(order), others: rows(others), split }
    }
}
