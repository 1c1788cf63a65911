//! The numbers that each stage kind may report, and how much of each may leave a device.

use super::behind::{RowBound, rows_of_kind, rows_of_number};

/// Significant digits of a number that leaves, unless it says otherwise.
pub(super) const DIGITS: u8 = 2;

/// A number that a stage may report, as far as it may leave a device.
#[derive(Clone, Debug, PartialEq)]
pub struct Number {
    /// Its name.
    pub name: String,
    /// The smallest and the largest value that leave; beyond them, these do. A number without bounds never
    /// leaves.
    pub bounds: Option<(f64, f64)>,
    /// Significant digits that leave.
    pub digits: u8,
    /// Whether it leaves only if the owner of the device allows details: counts, and what follows from
    /// other numbers.
    pub detail: bool,
    /// What bounds the different rows behind it, beside those of the inputs.
    pub rows: Vec<RowBound>,
}

impl Number {
    /// A number within bounds.
    pub fn new(name: impl Into<String>, low: f64, high: f64) -> Self {
        Self { bounds: Some((low, high)), ..Self::unbounded(name) }
    }

    /// A number that never leaves.
    pub fn unbounded(name: impl Into<String>) -> Self {
        Self { name: name.into(), bounds: None, digits: DIGITS, detail: false, rows: Vec::new() }
    }

    /// As much of a value as leaves.
    pub fn leaving(&self, x: f64) -> Option<f64> {
        let (low, high) = self.bounds?;
        x.is_finite().then(|| rounded(x.clamp(low, high), self.digits))
    }
}

/// Rounds to significant digits.
pub(super) fn rounded(x: f64, digits: u8) -> f64 {
    format!("{x:.*e}", usize::from(digits.max(1)) - 1).parse().unwrap_or(0.0)
}

/// The name, the bounds, and whether it is a detail.
type Row = (&'static str, f64, f64, bool);

const MAIN: bool = false;
const DETAIL: bool = true;
/// No count is larger.
const MANY: f64 = 1e12;

/// What a training reports.
const TRAINING: &[Row] = &[
    ("loss", 0.0, 100.0, MAIN),
    ("start_loss", 0.0, 100.0, MAIN),
    ("train_loss", 0.0, 100.0, DETAIL),
    ("steps", 0.0, MANY, MAIN),
    ("seconds", 0.0, MANY, DETAIL),
    ("tokens", 0.0, MANY, DETAIL),
    ("reached", 0.0, 1.0, DETAIL),
    ("trainable", 0.0, MANY, DETAIL),
    ("learning_rate", 0.0, 1000.0, DETAIL),
    ("batch", 0.0, MANY, DETAIL),
    ("rows", 0.0, MANY, DETAIL),
    ("eval_rows", 0.0, MANY, DETAIL),
];

const MERGE: &[Row] = &[
    ("error", 0.0, 1e6, MAIN),
    ("rank", 0.0, MANY, DETAIL),
    ("modules", 0.0, MANY, DETAIL),
    ("tensors", 0.0, MANY, DETAIL),
    ("parameters", 0.0, MANY, DETAIL),
    ("terms", 0.0, MANY, DETAIL),
];

const EVALUATE: &[Row] = &[
    ("loss", 0.0, 100.0, MAIN),
    ("loss_low", 0.0, 100.0, DETAIL),
    ("loss_high", 0.0, 100.0, DETAIL),
    ("perplexity", 1.0, 1e9, DETAIL),
    ("bits_per_byte", 0.0, 100.0, MAIN),
    ("rows", 0.0, MANY, DETAIL),
    ("tokens", 0.0, MANY, DETAIL),
    ("answers", 0.0, MANY, DETAIL),
    ("bleu", 0.0, 100.0, MAIN),
    ("rouge1", 0.0, 100.0, DETAIL),
    ("rouge2", 0.0, 100.0, DETAIL),
    ("rougeL", 0.0, 100.0, MAIN),
];

const ACCURACY: &[Row] = &[
    ("accuracy", 0.0, 1.0, MAIN),
    ("low", 0.0, 1.0, DETAIL),
    ("high", 0.0, 1.0, DETAIL),
    ("n", 0.0, MANY, DETAIL),
    ("top2", 0.0, 1.0, MAIN),
    ("abstained", 0.0, 1.0, MAIN),
    ("forward_passes", 0.0, MANY, DETAIL),
    ("bytes", 0.0, MANY, DETAIL),
    ("seconds", 0.0, MANY, DETAIL),
];

const SIMULATE: &[Row] = &[
    ("accuracy", 0.0, 1.0, MAIN),
    ("low", 0.0, 1.0, DETAIL),
    ("high", 0.0, 1.0, DETAIL),
    ("n", 0.0, MANY, DETAIL),
];

const SCALE: &[Row] = &[("seconds", 0.0, MANY, DETAIL)];

const LEVELS: &[Row] = &[("monotone", 0.0, 1.0, MAIN), ("distance_tau", -1.0, 1.0, MAIN)];

const SAVINGS: &[Row] = &[
    ("n", 0.0, MANY, DETAIL),
    ("steps_scratch", 0.0, MANY, MAIN),
    ("steps_tuned", 0.0, MANY, MAIN),
    ("not_reached", 0.0, MANY, DETAIL),
    ("saved", -1000.0, 1.0, MAIN),
    ("saved_low", -1000.0, 1.0, DETAIL),
    ("saved_high", -1000.0, 1.0, DETAIL),
    ("saved_mean", -1000.0, 1.0, MAIN),
    ("saved_mean_low", -1000.0, 1.0, DETAIL),
    ("saved_mean_high", -1000.0, 1.0, DETAIL),
];

/// The numbers that the output of a built-in kind may hold.
pub fn of_kind(kind: &str) -> Vec<Number> {
    let rows = match kind {
        "ingest" | "finetune" => TRAINING,
        "merge" => MERGE,
        "evaluate" => EVALUATE,
        "accuracy" => ACCURACY,
        "simulate" => SIMULATE,
        "scale" => SCALE,
        "levels" => LEVELS,
        "savings" => SAVINGS,
        _ => &[],
    };
    let number = |(name, low, high, detail): &Row| Number {
        detail: *detail,
        rows: [rows_of_kind(kind), rows_of_number(kind, name)].concat(),
        ..Number::new(*name, *low, *high)
    };
    rows.iter().map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_much_of_a_number_leaves_as_its_bounds_and_digits_say() {
        let loss = Number::new("loss", 0.0, 100.0);
        let cases = [
            (1.2345, 1.2),
            (0.000_123_45, 0.000_12),
            (99.96, 100.0),
            (1e300, 100.0),
            (-3.0, 0.0),
            (0.0, 0.0),
            (41.907, 42.0),
        ];
        for (x, left) in cases {
            assert_eq!(loss.leaving(x), Some(left), "{x}");
        }
        assert_eq!(Number { digits: 4, ..loss.clone() }.leaving(41.907), Some(41.91));
        assert_eq!([f64::NAN, f64::INFINITY].map(|x| loss.leaving(x)), [None, None]);
        assert_eq!(Number::unbounded("loss").leaving(1.0), None);
    }
}
