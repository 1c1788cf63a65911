//! What the values of catalogs, selections, pLLMs and metrics say. Absent fields stay absent.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::run::Sample;
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
    fn read(v: &Value) -> Self {
        let word = |w: &Value| {
            let interval = number(w, "low").zip(number(w, "high"));
            Some(Word { word: text(w, "word")?, coefficient: number(w, "coefficient")?, interval })
        };
        let words = v.get("words").and_then(Value::as_array).into_iter().flatten().filter_map(word).collect();
        Self { words, explained: number(v, "explained") }
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
    /// Reads a catalog's value.
    pub fn read(v: &Value) -> Self {
        let pllms = object(v, "pllms").map(|(name, p)| (name.clone(), Style::read(p))).collect();
        let point =
            |(name, p): (&String, &Value)| Some((name.clone(), (p.get(0)?.as_f64()?, p.get(1)?.as_f64()?)));
        let sample = |(name, s): (&String, &Value)| {
            let sample = Sample {
                prompt: text(s, "prompt")?,
                answer: text(s, "answer")?,
                reference: text(s, "base")?,
            };
            Some((name.clone(), sample))
        };
        Self {
            pllms,
            coordinates: object(v, "coordinates").filter_map(point).collect(),
            samples: object(v, "samples").filter_map(sample).collect(),
        }
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
    /// Reads a selection's value.
    pub fn read(v: &Value) -> Self {
        let verified = v.get("verified");
        let mut mix: Vec<(String, f64)> = numbers_of(v, "mix").collect();
        mix.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let mut distances: Vec<(String, f64)> = numbers_of(v, "distances").collect();
        distances.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
        Self {
            name: text(v, "pllm_name"),
            is_mix: flag(v, "is_mix"),
            abstained: flag(v, "abstained"),
            confidence: number(v, "confidence"),
            mix,
            distances,
            losses: verified.map(|v| numbers_of(v, "loss").collect()).unwrap_or_default(),
            mix_loss: verified.and_then(|v| number(v, "mix_loss")),
            base_loss: verified.and_then(|v| number(v, "base_loss")),
            user: v.get("user").map(Style::read).unwrap_or_default(),
            sentence: text(v, "sentence"),
            expected: v.get("forecast").and_then(expected),
        }
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

/// A selection's `forecast` in a sentence: what the choice should save, and when it is worth its download.
pub fn expected(forecast: &Value) -> Option<String> {
    let x = |name| number(forecast, name);
    if let Some(why) = text(forecast, "not_known") {
        return Some(format!("expected savings are not known yet: {why}"));
    }
    let share = |name| x(name).map(|share| share * 100.0);
    let (saved, low, high) = (share("share_saved")?, share("share_saved_low")?, share("share_saved_high")?);
    let (steps, of) = (x("steps_saved")?, x("steps_scratch")?);
    let (rows, rate) = (x("rows_a_step")?, x("learning_rate")?);
    let seconds = x("seconds_saved").map(|s| format!(", about {} less", seconds(s))).unwrap_or_default();
    let download = x("bytes").map(|b| format!("; downloads {}", bytes(b as u64))).unwrap_or_default();
    let link = x("break_even_bytes_per_second").map(|s| (s / 1e3).max(1.0));
    let link = link.map(|s| format!("; worth it on links faster than {s:.0} kB/s")).unwrap_or_default();
    Some(format!(
        "expected: {saved:.0} % fewer steps than from the base (95 %: {low:.0}–{high:.0}), {steps:.0} of {of:.0} \
         as the catalog's pLLMs were trained ({rows} rows per step, learning rate {rate}){seconds}{download}{link}"
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
    /// Reads a pLLM's or metrics' value: numbers at the top and, where there, below `metrics`.
    pub fn read(v: &Value) -> Self {
        let mut all = BTreeMap::new();
        for source in [Some(v), v.get("metrics")].into_iter().flatten() {
            for (name, x) in source.as_object().into_iter().flatten() {
                if let Some(x) = x.as_f64().or_else(|| x.as_bool().map(|b| f64::from(u8::from(b)))) {
                    all.insert(name.clone(), x);
                }
            }
        }
        let curve = v.get("curve").or_else(|| v.get("metrics")?.get("curve"));
        let point = |p: &Value| Some((p.get(0)?.as_f64()?, p.get(1)?.as_f64()?));
        let curve = curve.and_then(Value::as_array).into_iter().flatten().filter_map(point).collect();
        Self { all, curve }
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

/// The shares in the value of an `accuracy` stage, all first; empty of other metrics.
pub fn shares(numbers: &Numbers) -> Vec<Share> {
    let share = |group: &str| {
        let suffix = if group.is_empty() { String::new() } else { format!("/{group}") };
        let get = |name: &str| numbers.get(&format!("{name}{suffix}"));
        Some(Share {
            group: group.to_owned(),
            share: get("accuracy")?,
            interval: get("low").zip(get("high")),
            n: get("n"),
            top2: get("top2"),
        })
    };
    let groups = numbers.all.keys().filter_map(|k| k.strip_prefix("accuracy/"));
    std::iter::once("").chain(groups).filter_map(share).collect()
}

fn object<'a>(v: &'a Value, key: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    v.get(key).and_then(Value::as_object).into_iter().flatten()
}

fn numbers_of(v: &Value, key: &str) -> impl Iterator<Item = (String, f64)> {
    object(v, key).filter_map(|(k, x)| Some((k.clone(), x.as_f64()?)))
}

fn number(v: &Value, key: &str) -> Option<f64> {
    v.get(key)?.as_f64()
}

fn flag(v: &Value, key: &str) -> bool {
    v.get(key).and_then(Value::as_bool).unwrap_or(false)
}

fn text(v: &Value, key: &str) -> Option<String> {
    v.get(key)?.as_str().filter(|t| !t.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn absent_fields_stay_absent() {
        for v in [json!(null), json!({}), json!({"pllms": 3, "user": [], "mix": "x", "curve": [[1], "a"]})] {
            assert!(Catalog::read(&v).pllms.is_empty());
            assert_eq!(Selection::read(&v).choice(), "not released");
            assert!(Numbers::read(&v).curve.is_empty());
        }
    }

    #[test]
    fn words_keep_their_order_and_say_their_sign() {
        let v = json!({"words": [
            {"word": "warm", "coefficient": 0.2},
            {"word": "formal", "coefficient": -0.7, "low": -0.9, "high": -0.5},
            {"word": "broken"},
        ]});
        let style = Style::read(&v);
        assert_eq!(style.words.iter().map(Word::said).collect::<Vec<_>>(), ["warm", "less formal"]);
        assert_eq!((style.coefficient("formal"), style.coefficient("poetic")), (-0.7, 0.0));
    }

    #[test]
    fn shares_of_an_accuracy() {
        let v = json!({"accuracy": 0.5, "n": 4, "accuracy/0.3": 0.25, "low/0.3": 0.1, "high/0.3": 0.6});
        let shares = shares(&Numbers::read(&v));
        assert_eq!(shares.iter().map(|s| s.group.as_str()).collect::<Vec<_>>(), ["", "0.3"]);
        assert_eq!((shares[0].n, shares[1].interval), (Some(4.0), Some((0.1, 0.6))));
    }
}
