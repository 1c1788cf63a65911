//! What the values of catalogs, selections, pLLMs and metrics say. Absent fields stay absent.

use std::collections::BTreeMap;

use headstart_protocol::artifacts::{Accuracy, Coefficient, Explanation, Forecast, Share as Counted};

use crate::run::{OutputView, Sample};
use crate::text::{bytes, seconds};

/// A style word with its coefficient.
#[derive(Clone, Debug, PartialEq)]
pub struct Word {
    /// The word.
    pub word: String,
    /// How strongly; negative is the opposite.
    pub coefficient: f64,
    /// Its 95% interval.
    pub interval: Option<(f64, f64)>,
}

impl Word {
    /// The word as it is meant: `less formal` where the coefficient is negative.
    pub fn said(&self) -> String {
        if self.coefficient < 0.0 { format!("less {}", self.word) } else { self.word.clone() }
    }
}

/// A style in words, in the order of its source: the surest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Style {
    /// The words.
    pub words: Vec<Word>,
    /// Share of the style that the words explain, 0 to 1.
    pub explained: Option<f64>,
}

impl Style {
    fn of(style: &Explanation) -> Self {
        let word = |w: &Coefficient| Word {
            word: w.word.clone(),
            coefficient: w.coefficient,
            interval: Some((w.low, w.high)),
        };
        let words: Vec<Word> = style.words.iter().map(word).collect();
        let explained = (!words.is_empty()).then_some(style.explained);
        Self { words, explained }
    }

    /// The coefficient of a word; 0 where the style lacks it.
    pub fn coefficient(&self, word: &str) -> f64 {
        self.words.iter().find(|w| w.word == word).map_or(0.0, |w| w.coefficient)
    }
}

/// A catalog.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Catalog {
    /// Styles by pLLM, in order of name.
    pub pllms: Vec<(String, Style)>,
    /// Where each lies in the plane, if the catalog says so.
    pub coordinates: BTreeMap<String, (f64, f64)>,
    /// An answer in which each shows its style; the base's answer is the reference.
    pub samples: BTreeMap<String, Sample>,
}

impl Catalog {
    /// The catalog of an output; none of others.
    pub fn of(view: &OutputView) -> Option<Self> {
        let OutputView::Catalog { value, coordinates, samples } = view else { return None };
        Some(Self {
            pllms: value.pllms.iter().map(|(name, style)| (name.clone(), Style::of(style))).collect(),
            coordinates: coordinates.clone(),
            samples: samples.clone(),
        })
    }

    /// All words of all styles, those with the most weight in all first.
    pub fn words(&self) -> Vec<String> {
        let mut weights: BTreeMap<&str, f64> = BTreeMap::new();
        for w in self.pllms.iter().flat_map(|(_, s)| &s.words) {
            *weights.entry(&w.word).or_default() += w.coefficient.abs();
        }
        let mut words: Vec<_> = weights.into_iter().collect();
        words.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(b.0)));
        words.into_iter().map(|(w, _)| w.to_owned()).collect()
    }
}

/// A selection.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selection {
    /// The chosen pLLM's name.
    pub name: Option<String>,
    /// Whether several are to be merged, or one with the base.
    pub is_mix: bool,
    /// Whether none was found to help.
    pub abstained: bool,
    /// How often the choice stays the same under resampling, 0 to 1.
    pub confidence: Option<f64>,
    /// Weights over pLLMs, largest first.
    pub mix: Vec<(String, f64)>,
    /// Distances of the nearest pLLMs, nearest first.
    pub distances: Vec<(String, f64)>,
    /// Loss of the user's texts, nats a token, under the pLLMs that were verified by it.
    pub losses: BTreeMap<String, f64>,
    /// The same under the mix.
    pub mix_loss: Option<f64>,
    /// The same under the base.
    pub base_loss: Option<f64>,
    /// The user's style.
    pub user: Style,
    /// The choice in a sentence.
    pub sentence: Option<String>,
    /// What it should save, in a sentence.
    pub expected: Option<String>,
}

impl Selection {
    /// The selection of an output; none of others.
    pub fn of(view: &OutputView) -> Option<Self> {
        let OutputView::Selection { value: s } = view else { return None };
        let owned = |all: Vec<(&str, f64)>| all.into_iter().map(|(n, x)| (n.to_owned(), x)).collect();
        let verified = s.verified.as_ref();
        Some(Self {
            name: s.pllm_name.clone(),
            is_mix: s.is_mix,
            abstained: s.abstained,
            confidence: Some(s.confidence),
            mix: owned(s.heaviest_first()),
            distances: owned(s.nearest_first()),
            losses: verified.map(|v| v.loss.clone()).unwrap_or_default(),
            mix_loss: verified.and_then(|v| v.mix_loss),
            base_loss: verified.and_then(|v| v.base_loss),
            user: Style::of(&s.user),
            sentence: s.sentence.clone().filter(|text| !text.is_empty()),
            expected: expected(&s.forecast),
        })
    }

    /// Whether a pLLM is the choice, or part of it.
    pub fn chosen(&self, name: &str) -> bool {
        let mixed = self.is_mix && self.mix.iter().any(|(m, _)| m == name);
        !self.abstained && (mixed || self.name.as_deref() == Some(name))
    }

    /// What was chosen, in a few words.
    pub fn choice(&self) -> String {
        if self.abstained {
            return "none: the base itself".into();
        }
        if self.is_mix && !self.mix.is_empty() {
            let part = |(name, w): &(String, f64)| format!("{name} {w:.2}");
            return self.mix.iter().map(part).collect::<Vec<_>>().join(" + ");
        }
        self.name.clone().unwrap_or_else(|| "not released".into())
    }
}

/// A selection's forecast in a sentence: what the start should save, and when it is worth its download. None
/// where nothing was forecast.
pub fn expected(forecast: &Forecast) -> Option<String> {
    let e = match forecast {
        nothing if *nothing == Forecast::default() => return None,
        Forecast::NotKnown(why) => return Some(format!("expected savings are not known yet: {why}")),
        Forecast::Known(e) => e,
    };
    let seconds = e.seconds_saved.map(|s| format!(", about {} less", seconds(s))).unwrap_or_default();
    let link = e.break_even_bytes_per_second.map(|s| (s / 1e3).max(1.0));
    let link = link.map(|s| format!("; worth it on links faster than {s:.0} kB/s")).unwrap_or_default();
    // Of a released forecast only the main numbers are known.
    if e.rows_a_step == 0.0 {
        return Some(format!(
            "expected: {:.0} % fewer steps than from the base (95 %: {:.0}–{:.0}), {:.0} of {:.0} \
             as the catalog's pLLMs were trained",
            e.share_saved * 100.0,
            e.share_saved_low * 100.0,
            e.share_saved_high * 100.0,
            e.steps_saved,
            e.steps_scratch,
        ));
    }
    Some(format!(
        "expected: {:.0} % fewer steps than from the base (95 %: {:.0}–{:.0}), {:.0} of {:.0} \
         as the catalog's pLLMs were trained ({} rows per step, learning rate {}){seconds}; downloads {}{link}",
        e.share_saved * 100.0,
        e.share_saved_low * 100.0,
        e.share_saved_high * 100.0,
        e.steps_saved,
        e.steps_scratch,
        e.rows_a_step,
        e.learning_rate,
        bytes(e.bytes),
    ))
}

/// What is known of a training or a measurement.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Numbers {
    /// All numbers by name; truth values count as 0 and 1.
    pub all: BTreeMap<String, f64>,
    /// (step, held-back loss).
    pub curve: Vec<(f64, f64)>,
}

impl Numbers {
    /// The numbers of a pLLM or of metrics; none of other outputs.
    pub fn of(view: &OutputView) -> Option<Self> {
        let (metrics, curve) = match view {
            OutputView::Pllm { value } => (&value.metrics, value.curve.clone()),
            OutputView::Metrics { value, .. } => (value, Vec::new()),
            _ => return None,
        };
        Some(Self { all: metrics.all().map(|(name, x)| (name.to_owned(), x)).collect(), curve })
    }

    /// A number by name.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.all.get(name).copied()
    }
}

/// A share of right selections.
#[derive(Clone, Debug, PartialEq)]
pub struct Share {
    /// What it is of; empty for all.
    pub group: String,
    /// The share, 0 to 1.
    pub share: f64,
    /// Its 95% interval.
    pub interval: Option<(f64, f64)>,
    /// How many selections it is over.
    pub n: Option<f64>,
    /// Share in which the right one was among the two nearest.
    pub top2: Option<f64>,
}

/// The shares of the metrics of an `accuracy` stage, all first; empty of other outputs.
pub fn shares(view: &OutputView) -> Vec<Share> {
    let OutputView::Metrics { value, .. } = view else { return Vec::new() };
    let Some(accuracy) = Accuracy::of(value) else { return Vec::new() };
    let share = |group: &str, s: &Counted| Share {
        group: group.to_owned(),
        share: s.accuracy,
        interval: s.interval,
        n: s.n.map(|n| n as f64),
        top2: s.top2,
    };
    let groups = accuracy.groups.iter().map(|(group, s)| share(group, s));
    std::iter::once(share("", &accuracy.all)).chain(groups).collect()
}

#[cfg(test)]
mod tests {
    use headstart_protocol::Type;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_cannot_be_read_says_why() {
        for (ty, value) in
            [(Type::Selection, json!({})), (Type::Catalog, json!(null)), (Type::Metrics, json!({"a": "b"}))]
        {
            let OutputView::Text { value } = OutputView::of(&ty, &value) else { panic!("{ty}") };
            assert!(value.starts_with("cannot read the value of "), "{value}");
        }
    }

    #[test]
    fn words_keep_their_order_and_say_their_sign() {
        let word = |word: &str, coefficient: f64| Coefficient {
            word: word.into(),
            coefficient,
            low: coefficient - 0.2,
            high: coefficient + 0.2,
        };
        let style =
            Style::of(&Explanation { words: vec![word("warm", 0.2), word("formal", -0.7)], explained: 0.5 });
        assert_eq!(style.words.iter().map(Word::said).collect::<Vec<_>>(), ["warm", "less formal"]);
        assert_eq!((style.coefficient("formal"), style.coefficient("poetic")), (-0.7, 0.0));
    }

    #[test]
    fn shares_of_an_accuracy() {
        let v = json!({"accuracy": 0.5, "n": 4, "accuracy/0.3": 0.25, "low/0.3": 0.1, "high/0.3": 0.6});
        let shares = shares(&OutputView::of(&Type::Metrics, &v));
        assert_eq!(shares.iter().map(|s| s.group.as_str()).collect::<Vec<_>>(), ["", "0.3"]);
        assert_eq!((shares[0].n, shares[1].interval), (Some(4.0), Some((0.1, 0.6))));
    }
}
