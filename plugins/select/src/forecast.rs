//! What a head start is expected to save, before any weights are fetched.
//!
//! The catalog knows how fast its own pLLMs were trained ([`Pace`]). A user for whom the share ρ of
//! the way is left starts where such a training was when ρ of its gain was left to be made; the steps
//! until there are what is saved. ρ is read off the likelihood where it was asked for: the part of a
//! usual gain that the chosen pLLM does not bring. Else it is read off the space: the squared distance
//! that is left over the user's own, both without what chance adds to them.
//!
//! Steps, and the seconds that are made of them, are those of the catalog's trainings; a user's own
//! training may take other steps. The share of steps that is saved does not depend on them as long as
//! both curves are the same but for their steps (docs/adr/0014).

use headstart_explain::catalog::Catalog;
use headstart_explain::math::{axpy, dot};
use headstart_explain::pace::{Pace, REMAINING_LOSS_FRACTIONS, Unit};
use headstart_protocol::artifacts::Expected;
use headstart_stats::{bootstrap, derived_seed, interval_of};

use crate::decide::User;

/// Draws over the user's rows.
const DRAWS: usize = 200;

/// A step of training costs as much as this many forward passes of its tokens: forward once, and
/// backward once or twice that, three times where blocks are run again to save memory.
const FORWARDS_A_STEP: [f64; 3] = [2.0, 3.0, 4.0];

/// Low, middle, high.
pub type Range = [f64; 3];

/// The forecast for a choice.
#[derive(Clone, Debug, PartialEq)]
pub struct Forecast {
    /// Share of the way that is left.
    pub left: Range,
    /// What a step is.
    pub unit: Unit,
    /// Steps that training from the base would take, until a twentieth of its gain is left.
    pub scratch: Range,
    /// Steps that are saved.
    pub saved: Range,
    /// The share of all steps that these are.
    pub share: Range,
    /// Seconds that are saved, where this device's speed is known.
    pub seconds: Option<Range>,
    /// Bytes of the chosen weights.
    pub bytes: u64,
    /// Seconds that choosing took.
    pub selection: f64,
}

impl Forecast {
    /// Expects what `left` of the way and the catalog's pace say. `speed` is this device's, in tokens
    /// a second through a model forward.
    pub fn new(pace: &Pace, left: Range, speed: Option<f64>, bytes: u64, selection: f64) -> Self {
        let end = REMAINING_LOSS_FRACTIONS[REMAINING_LOSS_FRACTIONS.len() - 1];
        let saved = [pace.until(left[2], 0), pace.until(left[1], 1), pace.until(left[0], 2)];
        let seconds = speed.filter(|s| *s > 0.0).map(|s| {
            let step = |forwards: f64| forwards * pace.tokens / s;
            [0, 1, 2].map(|i| saved[i] * step(FORWARDS_A_STEP[i]))
        });
        let scratch = [0, 1, 2].map(|i| pace.until(end, i));
        let share = [0, 1, 2].map(|i| if scratch[i] > 0.0 { saved[i] / scratch[i] } else { 0.0 });
        Self { left, unit: pace.unit, scratch, saved, share, seconds, bytes, selection }
    }

    /// Speed of the link, in bytes a second, above which fetching the weights and choosing take less
    /// time than is expected to be saved. None where it is not known, or where nothing is saved.
    pub fn break_even(&self) -> Option<f64> {
        let left = self.seconds?[1] - self.selection;
        (left > 0.0).then(|| self.bytes as f64 / left)
    }

    /// The forecast as a selection holds it, rounded.
    pub fn expected(&self) -> Expected {
        let rounded = |x: f64| (x * 1e3).round() / 1e3;
        let [left_low, left, left_high] = self.left.map(rounded);
        let [share_saved_low, share_saved, share_saved_high] = self.share.map(rounded);
        let [steps_scratch_low, steps_scratch, steps_scratch_high] = self.scratch.map(rounded);
        let [steps_saved_low, steps_saved, steps_saved_high] = self.saved.map(rounded);
        let seconds = self.seconds.map(|s| s.map(rounded));
        Expected {
            left,
            left_low,
            left_high,
            share_saved,
            share_saved_low,
            share_saved_high,
            steps_scratch,
            steps_scratch_low,
            steps_scratch_high,
            steps_saved,
            steps_saved_low,
            steps_saved_high,
            seconds_saved: seconds.map(|s| s[1]),
            seconds_saved_low: seconds.map(|s| s[0]),
            seconds_saved_high: seconds.map(|s| s[2]),
            learning_rate: self.unit.learning_rate,
            rows_a_step: self.unit.rows,
            bytes: self.bytes,
            break_even_bytes_per_second: self.break_even().map(f64::round),
        }
    }

    /// The forecast as the end of a sentence: ` it should save about 12 minutes`.
    pub fn words(&self) -> Option<String> {
        let about = |x: f64, unit: &str| {
            let x = x.round().max(1.0);
            let plural = if x == 1.0 { "" } else { "s" };
            Some(format!("it should save about {x:.0} {unit}{plural}"))
        };
        match &self.seconds {
            Some(s) if s[1] >= 5400.0 => about(s[1] / 3600.0, "hour"),
            Some(s) if s[1] >= 90.0 => about(s[1] / 60.0, "minute"),
            Some(s) if s[1] >= 1.0 => about(s[1], "second"),
            _ if self.saved[1] >= 1.0 => {
                Some(format!("it should save about {:.0} % of the training steps", self.share[1] * 100.0))
            }
            _ => None,
        }
    }
}

/// The share of the way that is left from a start, by distance. `weights` are places in the catalog with
/// their weights. None where the user's own vector is no longer than chance makes it.
pub fn left_by_distance(user: &User<'_>, weights: &[(usize, f64)], seed: u64) -> Option<Range> {
    let catalog: &Catalog = user.catalog;
    let n = user.whitened.rows;
    let mut target = vec![0.0; user.whitened.cols];
    weights.iter().for_each(|(i, w)| axpy(&mut target, *w, &catalog.vectors.row(*i)));
    let noise: f64 = weights.iter().map(|(i, w)| w * w * f64::from(catalog.noise[*i])).sum();
    let own = user.noise();
    let share = |mean: &[f64]| {
        let mut rest = mean.to_vec();
        axpy(&mut rest, -1.0, &target);
        let whole = dot(mean, mean) - own;
        (whole > 0.0).then(|| ((dot(&rest, &rest) - own - noise) / whole).clamp(0.0, 1.0))
    };
    let middle = share(&user.whitened.mean())?;
    let draw = |times: Vec<u32>| {
        let weights: Vec<f64> = times.iter().map(|&t| f64::from(t) / n as f64).collect();
        share(&user.whitened.transpose_times(&weights))
    };
    let draws = bootstrap(n, DRAWS, derived_seed(seed, "forecast"));
    let (low, high) = interval_of(&mut draws.into_iter().filter_map(draw).collect::<Vec<_>>());
    Some([low.min(middle), middle, high.max(middle)])
}

/// The share of the way that is left, by likelihood: of a usual gain, what the pLLM does not bring.
pub fn left_by_loss(pace: &Pace, brought: Range) -> Range {
    let left =
        |gain: f64, brought: f64| if gain > 0.0 { (1.0 - brought / gain).clamp(0.0, 1.0) } else { 1.0 };
    [left(pace.gain[0], brought[2]), left(pace.gain[1], brought[1]), left(pace.gain[2], brought[0])]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace() -> Pace {
        let steps = [10.0, 20.0, 40.0, 80.0, 130.0, 170.0];
        Pace {
            trainings: 8,
            steps: steps.map(|s| [s / 2.0, s, s * 2.0]).into(),
            gain: [1.0, 2.0, 3.0],
            tokens: 1000.0,
            unit: Unit { learning_rate: 0.004, rows: 16.0 },
        }
    }

    #[test]
    fn who_is_nearer_saves_more_and_nobody_saves_more_than_all() {
        let of = |left: f64| Forecast::new(&pace(), [left; 3], Some(500.0), 1 << 20, 1.0);
        assert_eq!(of(1.0).saved, [0.0; 3]);
        assert_eq!(of(0.5).saved, [20.0, 40.0, 80.0]);
        assert_eq!((of(0.0).saved, of(0.0).share), (of(0.0).scratch, [1.0; 3]));
        assert_eq!(of(0.5).share.map(|s| (s * 17.0).round()), [4.0; 3], "40 of 170 steps, and so on");
        // 40 steps of 1000 tokens, three forwards each, at 500 tokens a second.
        assert_eq!(of(0.5).seconds.expect("a speed")[1], 240.0);
        assert_eq!(of(0.5).words().as_deref(), Some("it should save about 4 minutes"));
        assert!((of(0.5).break_even().expect("pays") - f64::from(1 << 20) / 239.0).abs() < 1e-6);
        assert_eq!((of(1.0).break_even(), of(1.0).words()), (None, None));
    }

    #[test]
    fn without_a_speed_only_steps_are_known() {
        let f = Forecast::new(&pace(), [0.2, 0.25, 0.5], None, 10, 0.0);
        assert_eq!(f.words().as_deref(), Some("it should save about 47 % of the training steps"));
        let expected = f.expected();
        assert_eq!((expected.seconds_saved, expected.steps_saved_low), (None, 20.0));
        assert_eq!((expected.rows_a_step, expected.learning_rate), (16.0, 0.004));
    }

    #[test]
    fn a_pllm_that_brings_a_usual_gain_leaves_nothing_to_do() {
        let left = left_by_loss(&pace(), [1.9, 2.0, 2.1]);
        assert_eq!(left[1], 0.0);
        assert!(left[0] == 0.0 && (left[2] - (1.0 - 1.9 / 3.0)).abs() < 1e-12, "{left:?}");
    }
}
