//! The stage that counts right selections.

use std::collections::BTreeMap;

use headstart_protocol::{Args, Context, Failure, Output, Stage, Type};
use serde_json::{Map, Value, json};

use crate::stats::wilson;

/// The stage kind `accuracy`.
///
/// A selection's key is `RIGHT,GROUP,…`: the pLLM that it should have chosen, then whatever the
/// selections are grouped by. An abstention is right where that is `base`, and nowhere else. The value is a flat object of numbers:
/// `accuracy`, its 95% interval `low` and `high` (Wilson), the count `n`, the count `abstained`, and
/// `accuracy/GROUP`, `low/GROUP`, `high/GROUP`, `n/GROUP` for each value of the key's other parts.
/// Where selections hold distances, `top2` is the share of them in which the right pLLM was the
/// nearest or second nearest, likewise `top2/GROUP`. Where they say what choosing cost,
/// `forward_passes`, `bytes` and `seconds` are means over all.
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
            let chosen = ctx.manifest(selection)?.value;
            let verdict = Verdict::of(&chosen, right);
            costs.add(&chosen);
            all.add(verdict);
            for group in parts {
                groups.entry(group.to_owned()).or_default().add(verdict);
            }
        }
        if all.n == 0 {
            return Err(Failure::input("there is no selection to count")
                .help("give a list of selections, keyed by the pLLM that each should choose"));
        }
        let mut value = Map::new();
        value.insert("abstained".into(), json!(all.abstained));
        all.write("", &mut value);
        costs.write(&mut value);
        for (group, tally) in &groups {
            tally.write(&format!("/{group}"), &mut value);
        }
        Ok(Output::new(Type::Metrics, Value::Object(value)))
    }
}

/// What selections cost, in the units of their values.
#[derive(Default)]
struct Costs {
    n: usize,
    sums: [f64; 3],
}

const COSTS: [&str; 3] = ["forward_passes", "bytes", "seconds"];

impl Costs {
    fn add(&mut self, selection: &Value) {
        let Some(cost) = selection.get("cost") else { return };
        let of = |name: &str| cost.get(name).and_then(Value::as_f64);
        let [Some(a), Some(b), Some(c)] = COSTS.map(of) else { return };
        self.n += 1;
        self.sums.iter_mut().zip([a, b, c]).for_each(|(sum, x)| *sum += x);
    }

    fn write(&self, value: &mut Map<String, Value>) {
        for (name, sum) in COSTS.iter().zip(self.sums).filter(|_| self.n > 0) {
            value.insert((*name).to_owned(), json!(sum / self.n as f64));
        }
    }
}

/// The name of the choice to start from the base.
const BASE: &str = "base";

/// What is known of one selection.
#[derive(Clone, Copy)]
struct Verdict {
    right: bool,
    abstained: bool,
    /// Whether the right pLLM is among the two nearest, where distances are known.
    top2: Option<bool>,
}

impl Verdict {
    fn of(selection: &Value, right: &str) -> Self {
        let abstained = selection.get("abstained").and_then(Value::as_bool).unwrap_or(false);
        let chosen = selection.get("pllm_name").and_then(Value::as_str);
        let distances = selection.get("distances").and_then(Value::as_object);
        Self {
            right: chosen == Some(right) && (!abstained || right == BASE),
            abstained,
            top2: distances.map(|d| among_nearest(d, right, 2)),
        }
    }
}

/// Whether fewer than `k` others are nearer; one at the same distance is not nearer.
fn among_nearest(distances: &Map<String, Value>, right: &str, k: usize) -> bool {
    let Some(own) = distances.get(right).and_then(Value::as_f64) else {
        return false;
    };
    distances.values().filter_map(Value::as_f64).filter(|d| *d < own).count() < k
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

    fn write(&self, suffix: &str, value: &mut Map<String, Value>) {
        let (low, high) = wilson(self.right, self.n);
        let mut put = |name: &str, x: Value| value.insert(format!("{name}{suffix}"), x);
        put("accuracy", json!(self.right as f64 / self.n as f64));
        put("low", json!(low));
        put("high", json!(high));
        put("n", json!(self.n));
        if self.ranked > 0 {
            put("top2", json!(self.top2 as f64 / self.ranked as f64));
        }
    }
}
