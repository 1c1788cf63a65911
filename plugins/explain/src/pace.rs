//! How fast the catalog's own trainings went: what predictions for a user rest on.

use std::fmt;

use headstart_protocol::artifacts::Pllm;
use serde::{Deserialize, Serialize};

use crate::words::round;
use headstart_stats::quantile;

/// Shares of the loss still to be gained at which steps are kept.
pub const REMAINING_LOSS_FRACTIONS: [f64; 6] = [0.9, 0.75, 0.5, 0.25, 0.1, 0.05];

/// Trainings below which nothing is said.
const FEWEST: usize = 3;

/// What the trainings of a catalog's pLLMs have in common. Triples are the least, the median and the
/// greatest over the trainings; a further one lies between least and greatest with probability
/// (n − 1) / (n + 1), n being their number.
///
/// Steps are of one unit only where rate and rows a step are: of trainings that differ in them, those
/// are counted whose unit is the commonest. How a step of another unit compares is measured in
/// docs/adr/0014.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pace {
    /// Trainings that are known.
    pub trainings: usize,
    /// For each of [`REMAINING_LOSS_FRACTIONS`], steps until no more than that share of the gain in held-back loss was
    /// left to be made.
    pub steps: Vec<[f64; 3]>,
    /// The gain in held-back loss, nats a token.
    pub gain: [f64; 3],
    /// Tokens a step.
    pub tokens: f64,
    /// What a step is.
    pub unit: Unit,
}

/// What a step of a training is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Unit {
    /// The peak learning rate.
    pub learning_rate: f64,
    /// Rows a step.
    pub rows: f64,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rows a step at a learning rate of {}", self.rows, self.learning_rate)
    }
}

impl Pace {
    /// From the facts of the catalog's pLLMs. None where too few have a record of their training.
    pub fn of<'a>(pllms: impl IntoIterator<Item = &'a Pllm>) -> Option<Self> {
        let mut found: Vec<Training> = pllms.into_iter().filter_map(Training::of).collect();
        let alike = |t: &Training| found.iter().filter(|other| other.unit == t.unit).count();
        // The first of equals.
        let unit = found.iter().rev().max_by_key(|t| alike(t))?.unit;
        found.retain(|t| t.unit == unit);
        if found.len() < FEWEST {
            return None;
        }
        let over = |f: &dyn Fn(&Training) -> f64| -> [f64; 3] {
            let mut all: Vec<f64> = found.iter().map(f).collect();
            [0.0, 0.5, 1.0].map(|q| round(quantile(&mut all, q)))
        };
        Some(Self {
            trainings: found.len(),
            steps: REMAINING_LOSS_FRACTIONS.iter().map(|&left| over(&|t| t.until(left))).collect(),
            gain: over(&Training::gain),
            tokens: over(&|t| t.tokens)[1],
            unit,
        })
    }

    /// Steps until `left` of the gain is left to be made, in the `which`-th of each triple; on a
    /// straight line between the shares that are kept. Below the last of them, its steps.
    pub fn until(&self, left: f64, which: usize) -> f64 {
        let mut before = (1.0, 0.0);
        for (share, steps) in REMAINING_LOSS_FRACTIONS.iter().zip(&self.steps) {
            let here = (*share, steps[which]);
            if left >= here.0 {
                let part = (before.0 - left.min(1.0)) / (before.0 - here.0);
                return before.1 + part * (here.1 - before.1);
            }
            before = here;
        }
        before.1
    }
}

/// A training: its held-back loss by step, made to fall.
struct Training {
    curve: Vec<(f64, f64)>,
    tokens: f64,
    unit: Unit,
}

impl Training {
    fn of(pllm: &Pllm) -> Option<Self> {
        let mut best = f64::INFINITY;
        let point = |&(step, loss): &(f64, f64)| {
            best = best.min(loss);
            (step, best)
        };
        let curve: Vec<(f64, f64)> = pllm.curve.iter().map(point).collect();
        let reported = pllm.training().filter(|t| t.steps > 0.0)?;
        let tokens = reported.tokens? / reported.steps;
        let unit = Unit { learning_rate: reported.learning_rate?, rows: reported.batch? };
        let out = Self { curve, tokens, unit };
        (out.curve.len() > 1 && out.gain() > 0.0 && tokens.is_finite()).then_some(out)
    }

    fn gain(&self) -> f64 {
        self.curve[0].1 - self.curve[self.curve.len() - 1].1
    }

    fn until(&self, left: f64) -> f64 {
        let target = self.curve[self.curve.len() - 1].1 + left * self.gain();
        let at = self.curve.iter().position(|p| p.1 <= target).unwrap_or(self.curve.len() - 1);
        if at == 0 {
            return self.curve[0].0;
        }
        let ((a, high), (b, low)) = (self.curve[at - 1], self.curve[at]);
        a + (b - a) * (high - target) / (high - low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use headstart_protocol::artifacts::{Format, Metrics};

    fn training(half: f64) -> Pllm {
        let loss = |step: f64| 1.0 + 4.0 * 0.5f64.powf(step / half);
        let curve: Vec<(f64, f64)> = (0..=100).map(|s| (f64::from(s), loss(f64::from(s)))).collect();
        Pllm { curve, metrics: metrics(100, 0.004, 16), ..Pllm::new(Format::Lora) }
    }

    fn metrics(steps: usize, learning_rate: f64, batch: usize) -> Metrics {
        let m = Metrics::default().with("steps", steps).with("tokens", 200 * steps);
        m.with("learning_rate", learning_rate).with("batch", batch)
    }

    #[test]
    fn the_pace_is_that_of_the_trainings() {
        let all = [training(8.0), training(10.0), training(12.0)];
        let pace = Pace::of(&all).expect("three trainings");
        assert_eq!((pace.trainings, pace.tokens), (3, 200.0));
        assert_eq!(pace.unit.to_string(), "16 rows a step at a learning rate of 0.004");
        assert!(
            (pace.until(0.5, 1) - 10.0).abs() < 0.3 && (pace.until(0.25, 1) - 20.0).abs() < 0.3,
            "{pace:?}"
        );
        assert!(pace.until(0.25, 0) < pace.until(0.25, 1) && pace.until(0.25, 1) < pace.until(0.25, 2));
        assert_eq!(pace.until(1.0, 1), 0.0);
        assert_eq!(pace.until(0.0, 1), pace.until(0.05, 1));
    }

    #[test]
    fn steps_of_two_units_are_not_counted_together() {
        let other = |half: f64| {
            let mut slow = training(half);
            slow.metrics.put("learning_rate", 0.001);
            slow
        };
        let all = [other(90.0), training(8.0), training(10.0), other(70.0), training(12.0)];
        assert_eq!(Pace::of(&all), Pace::of([&all[1], &all[2], &all[4]]));
        assert_eq!(Pace::of([&all[0], &all[1], &all[2]]), None, "two of a unit are too few");
        let mut unknown = training(8.0);
        unknown.metrics.numbers.remove("batch");
        assert_eq!(Pace::of([&unknown, &unknown, &unknown]), None);
    }

    #[test]
    fn what_was_not_trained_here_says_nothing() {
        let ingested = Pllm::new(Format::Lora);
        assert_eq!(Pace::of([&training(8.0), &training(9.0), &ingested]), None);
        let curve = vec![(0.0, 1.0), (10.0, 2.0)];
        let flat = Pllm { curve, metrics: metrics(10, 0.1, 1), ..Pllm::new(Format::Lora) };
        assert_eq!(Pace::of([&flat, &flat, &flat]), None);
    }
}
