//! The stage that counts right selections.

use std::collections::BTreeMap;

use headstart_protocol::artifacts::{Accuracy as Counted, Artifact, BASE, Cost, MeanCost, Selection, Share};
use headstart_protocol::{Args, Context, Failure, Output, Stage, Type};
use headstart_stats::wilson;

/// The stage kind `accuracy`.
///
/// A selection's key is `RIGHT,GROUP,…`: the pLLM that it should have chosen, then whatever the
/// selections are grouped by. A selection is right if the style that it found ([`Selection::recognized`]) is
/// that of the pLLM; one that found none is right where `RIGHT` is `base`, and nowhere else. The metrics
/// are those of [`Counted::metrics`].
pub struct Accuracy;

impl Stage for Accuracy {
    fn kind(&self) -> &'static str {
        "accuracy"
    }

    fn run(&self, args: &Args, ctx: &dyn Context) -> Result<Output, Failure> {
        let mut all = Tally::default();
        let mut groups: BTreeMap<String, Tally> = BTreeMap::new();
        let mut costs = Costs::default();
        for (key, selection) in args.artifacts("selections")? {
            let mut parts = key.split(',').map(str::trim);
            // `split` gives at least one part.
            let right = parts.next().unwrap_or_default();
            let chosen = Selection::of(&ctx.manifest(selection)?)?;
            let verdict = Verdict::of(&chosen, right);
            costs.add(&chosen.cost);
            all.add(verdict);
            for group in parts {
                groups.entry(group.to_owned()).or_default().add(verdict);
            }
        }
        if all.n == 0 {
            return Err(Failure::input("there is no selection to count")
                .help("give a list of selections, keyed by the pLLM that each should choose"));
        }
        let counted = Counted {
            all: all.share(),
            abstained: Some(all.abstained),
            groups: groups.into_iter().map(|(group, tally)| (group, tally.share())).collect(),
            cost: costs.mean(),
        };
        Ok(Output::of(Type::Metrics, &counted.metrics())?)
    }
}

/// What selections cost, summed up over those that say so.
#[derive(Default)]
struct Costs {
    n: usize,
    sum: MeanCost,
}

impl Costs {
    fn add(&mut self, cost: &Cost) {
        if *cost == Cost::default() {
            return;
        }
        self.n += 1;
        self.sum.forward_passes += cost.forward_passes as f64;
        self.sum.bytes += cost.bytes as f64;
        self.sum.seconds += cost.seconds;
    }

    fn mean(&self) -> Option<MeanCost> {
        let n = self.n as f64;
        let MeanCost { forward_passes, bytes, seconds } = self.sum;
        (self.n > 0).then(|| MeanCost {
            forward_passes: forward_passes / n,
            bytes: bytes / n,
            seconds: seconds / n,
        })
    }
}

/// Facts of one selection.
#[derive(Clone, Copy)]
struct Verdict {
    right: bool,
    abstained: bool,
    /// Whether the right pLLM is among the two nearest, where distances are known.
    top2: Option<bool>,
}

impl Verdict {
    fn of(selection: &Selection, right: &str) -> Self {
        let abstained = selection.abstained;
        let found = selection.recognized().or(abstained.then_some(BASE));
        let distances = &selection.distances;
        Self {
            right: found == Some(right),
            abstained,
            top2: (!distances.is_empty()).then(|| among_nearest(distances, right, 2)),
        }
    }
}

/// Whether fewer than `k` others are nearer; one at the same distance is not nearer.
fn among_nearest(distances: &BTreeMap<String, f64>, right: &str, k: usize) -> bool {
    let Some(own) = distances.get(right) else { return false };
    distances.values().filter(|d| *d < own).count() < k
}

#[derive(Default)]
struct Tally {
    n: usize,
    right: usize,
    abstained: usize,
    ranked: usize,
    top2: usize,
}

impl Tally {
    fn add(&mut self, v: Verdict) {
        self.n += 1;
        self.right += usize::from(v.right);
        self.abstained += usize::from(v.abstained);
        self.ranked += usize::from(v.top2.is_some());
        self.top2 += usize::from(v.top2 == Some(true));
    }

    fn share(&self) -> Share {
        Share {
            accuracy: self.right as f64 / self.n as f64,
            interval: Some(wilson(self.right, self.n)),
            n: Some(self.n),
            top2: (self.ranked > 0).then(|| self.top2 as f64 / self.ranked as f64),
        }
    }
}
