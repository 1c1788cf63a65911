//! Pairs of outputs that belong beside each other.

use crate::run::{Output, OutputView, RunReport, Sample};
use crate::view::Numbers;

/// Names of outputs that had a head start, and of their counterparts without one.
const WITH: &[&str] = &["tuned", "with", "personal", "personalised", "personalized", "headstart"];
const WITHOUT: &[&str] = &["scratch", "without", "from_base", "from_scratch"];
/// Names of measurements after personalisation, and before.
const AFTER: &[&str] = &["after", "tuned_metrics"];
const BEFORE: &[&str] = &["before", "base_metrics", "plain"];

/// Two outputs beside each other.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// Names of both.
    pub names: (String, String),
    /// The personalised one.
    pub with: Numbers,
    /// The other.
    pub without: Numbers,
    /// Answers of both, by prompt: (prompt, reference, before, after).
    pub samples: Vec<(String, String, String, String)>,
}

impl Pair {
    /// By how much less of `name` the first needed, as a share of the second; negative where more.
    pub fn saved(&self, name: &str) -> Option<f64> {
        let (with, without) = self.with.get(name).zip(self.without.get(name))?;
        (without > 0.0).then(|| 1.0 - with / without)
    }
}

/// Training with and without a head start.
pub fn head_start(report: &RunReport) -> Option<Pair> {
    pair(report, WITH, WITHOUT)
}

/// A measurement before and after personalisation.
pub fn before_after(report: &RunReport) -> Option<Pair> {
    pair(report, AFTER, BEFORE)
}

fn pair(report: &RunReport, with: &[&str], without: &[&str]) -> Option<Pair> {
    let find = |names: &[&str]| {
        let named = names.iter().find_map(|n| report.outputs.iter().find(|o| o.name == *n))?;
        Some((named, numbers(named)?))
    };
    let ((a, with), (b, without)) = (find(with)?, find(without)?);
    Some(Pair { names: (a.name.clone(), b.name.clone()), with, without, samples: joined(b, a) })
}

/// The numbers of a pLLM or of metrics.
pub fn numbers(output: &Output) -> Option<Numbers> {
    Numbers::of(&output.view)
}

fn samples(output: &Output) -> &[Sample] {
    match &output.view {
        OutputView::Metrics { samples, .. } => samples,
        _ => &[],
    }
}

fn joined(before: &Output, after: &Output) -> Vec<(String, String, String, String)> {
    let answer = |a: &Sample| {
        let b = samples(before).iter().find(|b| b.prompt == a.prompt)?;
        Some((a.prompt.clone(), a.reference.clone(), b.answer.clone(), a.answer.clone()))
    };
    samples(after).iter().filter_map(answer).collect()
}
