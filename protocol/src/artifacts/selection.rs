//! The outcome of `select`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Artifact, BASE, Explanation, Forecast};

/// What was chosen for a user, why, and what it took.
///
/// The *start* is where a training should begin: the mix where [`Selection::is_mix`] is true, else the
/// single pLLM of [`Selection::pllm_name`], else the base. The artifact uses `pllm`, which is the single
/// pLLM or the base, and `pllm:NAME` for every member of the mix.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selection {
    /// Name of the best single pLLM, which is the artifact's `pllm`; [`BASE`] where no single pLLM is
    /// better than the base. None where it was not released.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pllm_name: Option<String>,
    /// Name of the pLLM whose style the user's texts show most, be it the better start or not. None where
    /// they show none, and in what version 0.1 made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub style: Option<String>,
    /// Whether the start is a mix: of several pLLMs, or of one and the base.
    pub is_mix: bool,
    /// Whether the start is the base: neither a pLLM nor a mix was found to help.
    pub abstained: bool,
    /// Share of bootstrap draws over the user's rows in which the choice stays the same, 0 to 1.
    pub confidence: f64,
    /// How much of that style the user shows, 0 to 1; 0 where they show none.
    #[serde(default)]
    pub strength: f64,
    /// The strategy that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<String>,
    /// Weights of the start over pLLMs; empty where the selection abstained, or was released without.
    #[serde(default)]
    pub mix: BTreeMap<String, f64>,
    /// Distances of the nearest pLLMs.
    #[serde(default)]
    pub distances: BTreeMap<String, f64>,
    /// The user's style in words.
    #[serde(default)]
    pub user: Explanation,
    /// The choice in a sentence, for the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sentence: Option<String>,
    /// What the start is expected to save.
    #[serde(default)]
    pub forecast: Forecast,
    /// The user's texts that were embedded.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub n: usize,
    /// What likelihood said, where it was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<Verified>,
    /// What choosing took.
    #[serde(default)]
    pub cost: Cost,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(n: &usize) -> bool {
    *n == 0
}

impl Artifact for Selection {
    const WHAT: &'static str = "a selection";
}

impl Selection {
    /// The pLLM whose style was found. Where the selection does not say, that is the mix's heaviest member,
    /// or the single pLLM; none where it abstained.
    pub fn recognized(&self) -> Option<&str> {
        if let Some(style) = &self.style {
            return Some(style);
        }
        if self.abstained {
            return None;
        }
        if self.is_mix
            && let Some((name, _)) = self.mix.iter().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(a.0)))
        {
            return Some(name);
        }
        self.pllm_name.as_deref().filter(|name| *name != BASE)
    }

    /// Whether a pLLM is the start, or part of it.
    pub fn chosen(&self, name: &str) -> bool {
        match (self.abstained, self.is_mix) {
            (true, _) => false,
            (_, true) => self.mix.contains_key(name),
            _ => self.pllm_name.as_deref() == Some(name),
        }
    }

    /// Weights of the start, heaviest first; equally heavy ones by name.
    pub fn heaviest_first(&self) -> Vec<(&str, f64)> {
        let mut all: Vec<(&str, f64)> = self.mix.iter().map(|(n, w)| (n.as_str(), *w)).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(b.0)));
        all
    }

    /// Distances, nearest first; equally near ones by name.
    pub fn nearest_first(&self) -> Vec<(&str, f64)> {
        let mut all: Vec<(&str, f64)> = self.distances.iter().map(|(n, d)| (n.as_str(), *d)).collect();
        all.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(b.0)));
        all
    }
}

/// Losses, in nats a token, of those that were compared on all [`Verified::rows`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verified {
    /// Of single pLLMs, by name.
    #[serde(default)]
    pub loss: BTreeMap<String, f64>,
    /// Fitted share of the rows that are in each pLLM's style, 0 to 1, where the base is known.
    #[serde(default)]
    pub share: BTreeMap<String, f64>,
    /// Of the base, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_loss: Option<f64>,
    /// Of the best mix, where one was compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mix_loss: Option<f64>,
    /// Fitted share of the rows that are in the mix's style.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mix_share: Option<f64>,
    /// Rows that were compared.
    #[serde(default)]
    pub rows: usize,
    /// Whether other rows chose the shortlist than these.
    #[serde(default)]
    pub held_back: bool,
}

/// What choosing took, in the same units for every strategy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// Sequences put through a model.
    #[serde(default)]
    pub forward_passes: u64,
    /// Bytes that had to be here: the catalog, every pLLM that was asked and those that were chosen.
    #[serde(default)]
    pub bytes: u64,
    /// Bytes of the catalog among them.
    #[serde(default)]
    pub catalog_bytes: u64,
    /// Seconds in all.
    #[serde(default)]
    pub seconds: f64,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn chosen(pllm: &str, mix: &[(&str, f64)]) -> Selection {
        Selection {
            pllm_name: Some(pllm.to_owned()),
            is_mix: mix.len() > 1 || mix.iter().any(|m| m.1 != 1.0),
            abstained: mix.is_empty(),
            mix: mix.iter().map(|(n, w)| ((*n).to_owned(), *w)).collect(),
            ..Selection::default()
        }
    }

    #[test]
    fn the_style_is_that_of_the_start_where_nothing_else_is_said() {
        assert_eq!(chosen("a", &[("a", 1.0)]).recognized(), Some("a"));
        assert_eq!(chosen("base", &[("a", 0.25)]).recognized(), Some("a"));
        assert_eq!(chosen("b", &[("a", 0.7), ("b", 0.2)]).recognized(), Some("a"));
        assert_eq!(chosen("base", &[]).recognized(), None);
        let said = Selection { style: Some("a".into()), ..chosen("base", &[]) };
        assert_eq!((said.recognized(), said.chosen("a")), (Some("a"), false));
        let mix = chosen("c", &[("a", 0.7), ("b", 0.2)]);
        assert_eq!([mix.chosen("b"), mix.chosen("c")], [true, false]);
    }

    #[test]
    fn what_is_released_in_part_can_be_read() {
        let whole = json!({ "is_mix": false, "abstained": false, "confidence": 0.5 });
        let read = Selection::read(&whole).expect("the rest has defaults");
        assert_eq!((read.pllm_name.clone(), read.forecast.expected()), (None, None));
        for field in ["is_mix", "abstained", "confidence"] {
            let mut less = whole.clone();
            less.as_object_mut().expect("an object").remove(field);
            let e = Selection::read(&less).expect_err("a field is missing").to_string();
            assert!(e.contains(field), "{e}");
        }
        let more = json!({ "is_mix": false, "abstained": false, "confidence": 0.5, "shade": 1 });
        let e = Selection::read(&more).expect_err("a field is not known").to_string();
        assert!(e.contains("unknown field `shade`"), "{e}");
        let wrong = json!({ "is_mix": false, "abstained": false, "confidence": 1, "verified": { "loss": { "a": "x" } } });
        let e = Selection::read(&wrong).expect_err("a text is no loss").to_string();
        assert!(e.contains("verified.loss.a"), "{e}");
    }

    #[test]
    fn numbers_that_json_lacks_are_refused() {
        let mut s = chosen("a", &[("a", 1.0)]);
        s.distances.insert("b".into(), f64::NAN);
        let e = s.json().expect_err("NaN").to_string();
        assert_eq!(e, "cannot write the value of a selection: `distances.b` is not a finite number");
    }
}
