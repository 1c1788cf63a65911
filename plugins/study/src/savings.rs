//! The stage kind `savings`: what a head start saves until a target loss.

use std::collections::BTreeMap;

use headstart_protocol::artifacts::{Artifact, Metrics, Pllm, Selection};
use headstart_protocol::{Args, ArtifactRef, Context, Failure, Output, Stage};
use headstart_stats::{derived_seed, mean, median};

use crate::table::{Cell, Table, TableExt, interval, metrics};

/// Forward passes that a training step of an adapter takes for each of its rows: one forward, and as
/// much again for the gradients of what flows through the frozen weights. The adapter's own gradients
/// are not counted, so that a selection seems dearer rather than cheaper than it is.
const PASSES_A_ROW: f64 = 2.0;

/// Compares trainings with a head start with trainings from the base.
///
/// The target is the loss at which the training from the base has made the share `share` of all its
/// progress on the held-back rows. Both need as many steps as their curves take to reach it; a
/// training that does not reach it counts with all its steps, and as not reached. A selection's
/// forward passes are turned into steps: [`PASSES_A_ROW`] a row of a step.
///
/// The value holds the medians over users, `steps_scratch`, `steps_tuned`, `saved` (share of steps,
/// selection included) with `saved_low` and `saved_high`, `saved_mean`, `n` and `not_reached`; the
/// table has a row for all users and one for each value of the keys' parts behind the first comma.
pub struct Savings;

/// What was measured of a user.
#[derive(Clone, Debug, PartialEq)]
struct Case {
    scratch: f64,
    tuned: f64,
    /// The selection, in steps.
    selection: f64,
    /// Seconds a step, as measured in both trainings.
    seconds: f64,
    reached: bool,
}

impl Case {
    fn saved(&self) -> f64 {
        1.0 - (self.tuned + self.selection) / self.scratch
    }
}

impl Stage for Savings {
    fn kind(&self) -> &'static str {
        "savings"
    }

    fn run(&self, args: &Args, ctx: &dyn Context) -> Result<Output, Failure> {
        let share = args.float("share")?;
        if !(share > 0.0 && share <= 1.0) {
            return Err(Failure::input(format!(
                "argument `share` is {share}, but must be above 0, and 1 at most"
            )));
        }
        let batch = args.positive("batch")? as f64;
        let scratch: BTreeMap<&str, &ArtifactRef> = args.artifacts("scratch")?.into_iter().collect();
        let selections: Option<BTreeMap<&str, &ArtifactRef>> = match args.get("selections") {
            Some(_) => Some(args.artifacts("selections")?.into_iter().collect()),
            None => None,
        };
        let mut groups: Vec<(String, Vec<Case>)> = vec![("all".to_owned(), Vec::new())];
        for (key, tuned) in args.artifacts("tuned")? {
            let missing = |list: &str| {
                Failure::input(format!("`{list}` has no element {key:?}"))
                    .help("both lists must have the same keys")
            };
            let from_base = scratch.get(key).ok_or_else(|| missing("scratch"))?;
            let passes = match &selections {
                Some(all) => {
                    let selection = all.get(key).ok_or_else(|| missing("selections"))?;
                    Selection::of(&ctx.manifest(selection)?)?.cost.forward_passes as f64
                }
                None => 0.0,
            };
            let trained = |a: &ArtifactRef| -> Result<Pllm, Failure> { Ok(Pllm::of(&ctx.manifest(a)?)?) };
            let case = case(key, &trained(tuned)?, &trained(from_base)?, share)?;
            let case = Case { selection: passes / (batch * PASSES_A_ROW), ..case };
            for group in ["all"].into_iter().chain(key.split(',').skip(1).map(str::trim)) {
                match groups.iter_mut().find(|g| g.0 == group) {
                    Some(g) => g.1.push(case.clone()),
                    None => groups.push((group.to_owned(), vec![case.clone()])),
                }
            }
        }
        if groups[0].1.is_empty() {
            return Err(Failure::input("`tuned` is empty: there is nothing to compare"));
        }
        let seed = args.int("seed")?.cast_unsigned();
        let all = Summary::of(&groups[0].1, batch, derived_seed(seed, "all"));
        let mut table = Table::with_columns(COLUMNS);
        for (name, cases) in &groups {
            table.rows.push(Summary::of(cases, batch, derived_seed(seed, name)).row(name));
        }
        table.output(ctx, all.numbers())
    }
}

const COLUMNS: [&str; 10] = [
    "",
    "users",
    "steps from the base",
    "steps with a head start",
    "selection, in steps",
    "saved",
    "saved, mean",
    "seconds saved",
    "rows saved",
    "not reached",
];

struct Summary {
    n: f64,
    scratch: f64,
    tuned: f64,
    selection: f64,
    saved: Cell,
    mean: Cell,
    seconds: Cell,
    rows: f64,
    not_reached: f64,
}

impl Summary {
    fn of(cases: &[Case], batch: f64, seed: u64) -> Self {
        let over = |f: &dyn Fn(&Case) -> f64| -> Vec<f64> { cases.iter().map(f).collect() };
        let cell = |all: &[f64], statistic: &dyn Fn(&[f64]) -> f64| {
            Cell::estimate(statistic(all), interval(all, statistic, seed))
        };
        let saved = over(&Case::saved);
        let steps = over(&|c| c.scratch - c.tuned - c.selection);
        let seconds: Vec<f64> = steps.iter().zip(cases).map(|(s, c)| s * c.seconds).collect();
        Self {
            n: cases.len() as f64,
            scratch: median(&over(&|c| c.scratch)),
            tuned: median(&over(&|c| c.tuned)),
            selection: median(&over(&|c| c.selection)),
            saved: cell(&saved, &median),
            mean: cell(&saved, &mean),
            seconds: cell(&seconds, &median),
            rows: batch * median(&over(&|c| c.scratch - c.tuned)),
            not_reached: cases.iter().filter(|c| !c.reached).count() as f64,
        }
    }

    fn row(self, name: &str) -> Vec<Cell> {
        let n = Cell::Number;
        vec![
            Cell::from(name),
            n(self.n),
            n(self.scratch),
            n(self.tuned),
            n(self.selection),
            self.saved,
            self.mean,
            self.seconds,
            n(self.rows),
            n(self.not_reached),
        ]
    }

    fn numbers(&self) -> Metrics {
        let mut out = metrics(&[
            ("n", self.n),
            ("steps_scratch", self.scratch),
            ("steps_tuned", self.tuned),
            ("not_reached", self.not_reached),
        ]);
        for (name, cell) in [("saved", &self.saved), ("saved_mean", &self.mean)] {
            if let Cell::Estimate { value, low, high } = cell {
                for (end, x) in [("", value), ("_low", low), ("_high", high)] {
                    out.put(format!("{name}{end}"), *x);
                }
            }
        }
        out
    }
}

/// Steps of both until the target that `share` of scratch's progress gives.
fn case(key: &str, tuned: &Pllm, scratch: &Pllm, share: f64) -> Result<Case, Failure> {
    for (pllm, list) in [(scratch, "scratch"), (tuned, "tuned")] {
        if pllm.curve.is_empty() {
            return Err(Failure::input(format!("`{list}`: {key:?} has no learning curve"))
                .help("give what `finetune` returned; an ingested pLLM does not know how it was trained"));
        }
    }
    let (from_base, ours) = (&scratch.curve, &tuned.curve);
    let start = from_base[0].1;
    let best = from_base.iter().map(|p| p.1).fold(f64::INFINITY, f64::min);
    let target = start - share * (start - best);
    let last = |c: &[(f64, f64)]| c.last().map_or(0.0, |p| p.0);
    let found = reach(ours, target);
    Ok(Case {
        scratch: reach(from_base, target).unwrap_or(last(from_base)).max(1.0),
        tuned: found.unwrap_or(last(ours)),
        selection: 0.0,
        seconds: pace(&[tuned, scratch]),
        reached: found.is_some(),
    })
}

/// The first step at which the curve is at or below the target, interpolated between evaluations.
fn reach(curve: &[(f64, f64)], target: f64) -> Option<f64> {
    let at = curve.iter().position(|p| p.1 <= target)?;
    if at == 0 {
        return Some(curve[0].0);
    }
    let ((a, high), (b, low)) = (curve[at - 1], curve[at]);
    let part = if high > low { (high - target) / (high - low) } else { 1.0 };
    Some(a + (b - a) * part)
}

/// Seconds a step over several trainings.
fn pace(trainings: &[&Pllm]) -> f64 {
    let reported: Vec<_> = trainings.iter().filter_map(|p| p.training()).collect();
    let steps: f64 = reported.iter().map(|t| t.steps).sum();
    let seconds: f64 = reported.iter().filter_map(|t| t.seconds).sum();
    if steps > 0.0 { seconds / steps } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use headstart_protocol::artifacts::Format;

    fn training(curve: &[(f64, f64)]) -> Pllm {
        let steps = curve.last().map_or(0.0, |p| p.0);
        let metrics = metrics(&[("steps", steps), ("seconds", steps / 2.0)]);
        Pllm { curve: curve.to_vec(), metrics, ..Pllm::new(Format::Lora) }
    }

    #[test]
    fn steps_until_a_share_of_scratchs_progress() {
        let scratch = training(&[(0.0, 5.0), (10.0, 3.0), (20.0, 2.0), (30.0, 1.0), (40.0, 1.5)]);
        let tuned = training(&[(0.0, 2.5), (10.0, 1.5), (20.0, 0.5)]);
        // Three quarters of the way from 5 to 1 is 2.
        let case = case("u", &tuned, &scratch, 0.75).expect("curves");
        assert_eq!((case.scratch, case.tuned, case.reached), (20.0, 5.0, true));
        assert!((case.saved() - 0.75).abs() < 1e-12 && case.seconds == 0.5);
        assert!((Case { selection: 5.0, ..case }.saved() - 0.5).abs() < 1e-12, "selection is paid for");
    }

    #[test]
    fn a_head_start_that_does_not_reach_the_target_counts_with_all_its_steps() {
        let scratch = training(&[(0.0, 5.0), (10.0, 1.0)]);
        let case = case("u", &training(&[(0.0, 4.0), (10.0, 3.0)]), &scratch, 0.9).expect("curves");
        assert!(!case.reached && case.tuned == 10.0 && case.saved() < 0.0, "{case:?}");
    }

    #[test]
    fn a_pllm_without_a_curve_is_told() {
        let why = case("u", &Pllm::new(Format::Lora), &training(&[(0.0, 1.0)]), 0.9).expect_err("no curve");
        assert!(why.message.contains("learning curve") && why.help.is_some(), "{why:?}");
    }
}
