//! A choice as an artifact: what was chosen, why, what it cost, and what it should save.

use std::collections::BTreeMap;
use std::time::Instant;

use headstart_protocol::{ArtifactRef, Context, Failure, Output, Type};
use serde_json::{Value, json};

use crate::decide::{Choice, User};
use crate::forecast::{Forecast, left_by_distance, left_by_loss};
use crate::nearest::Ranked;
use crate::search::{Finalist, Verified};
use crate::sentence::sentence;
use crate::stage::Place;
use crate::strategy::Strategy;

/// Distances that a selection reports at most.
const REPORTED: usize = 10;

/// A choice that has been made.
pub(crate) struct Outcome<'a> {
    pub place: &'a Place<'a>,
    pub user: &'a User<'a>,
    /// Forward passes that it took to put the user into the space.
    pub embedding: u64,
    pub choice: &'a Choice,
    pub verified: Option<&'a Verified>,
    pub strategy: Strategy,
    pub start: Instant,
}

impl Outcome<'_> {
    /// What was chosen; none where the base is to be started from.
    fn chosen(&self) -> Option<Finalist> {
        let nearest = self.choice.close[0];
        let found = match self.verified {
            Some(v) => v.verdict.best.map(|at| match (&v.start, &v.finalists[at]) {
                (Some((start, _)), _) => Finalist::unasked(start.lead, &start.weights),
                (None, best) if v.judged_mix => Finalist::unasked(best.lead, &best.weights),
                (None, best) => self.by_distance(best.lead),
            }),
            None if self.choice.abstains => None,
            None => Some(self.by_distance(nearest)),
        };
        // Without a known base there is nothing to fall back to.
        let base = self.place.manifest.uses.get("base");
        found.or_else(|| base.is_none().then(|| self.by_distance(nearest)))
    }

    /// The mix that distance found, if the pLLM is in it, or else the pLLM.
    fn by_distance(&self, ranked: Ranked) -> Finalist {
        match self.choice.mix.iter().any(|m| m.0 == ranked.index) {
            true => Finalist::unasked(ranked, &self.choice.mix),
            false => Finalist::single(ranked),
        }
    }

    fn mix(&self, chosen: Option<&Finalist>) -> Result<BTreeMap<String, f64>, Failure> {
        let weights = chosen.into_iter().flat_map(|c| &c.weights);
        weights.map(|(i, w)| Ok((self.place.name(*i)?, rounded(*w)))).collect()
    }

    /// Distances of the nearest, by name.
    fn distances(&self) -> Result<BTreeMap<String, f64>, Failure> {
        let near = self.choice.close.iter().take(REPORTED);
        near.map(|r| Ok((self.place.name(r.index)?, rounded(r.distance)))).collect()
    }

    /// The selection as an artifact.
    pub fn output(&self, ctx: &dyn Context, seed: u64) -> Result<Output, Failure> {
        let (place, choice) = (self.place, self.choice);
        let finalist = self.chosen();
        let finalist = finalist.as_ref();
        let (mix, chosen) = (self.mix(finalist)?, finalist.map(|f| f.lead));
        let name = match chosen {
            Some(r) => place.name(r.index)?,
            None => "base".to_owned(),
        };
        let explanation = self.user.explain(chosen.map_or(0.0, |r| r.strength), seed);
        let mut named: Vec<(&str, f64)> = mix.iter().map(|(n, w)| (n.as_str(), *w)).collect();
        named.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(b.0)));
        let forecast = self.forecast(ctx, finalist, seed);
        let ending = forecast.as_ref().ok().and_then(Forecast::words);
        let mut value = json!({
            "pllm_name": name,
            "is_mix": finalist.is_some_and(Finalist::is_mix),
            "abstained": chosen.is_none(),
            "confidence": self.verified.map_or(choice.confidence, |v| v.verdict.confidence),
            "strength": chosen.map_or(0.0, |r| rounded(r.strength)),
            "strategy": format!("{:?}", self.strategy).to_lowercase(),
            "mix": mix,
            "distances": self.distances()?,
            "user": explanation,
            "sentence": sentence(place.catalog, &named, &explanation.words, ending.as_deref()),
            "forecast": match &forecast {
                Ok(f) => f.value(),
                Err(why) => json!({ "not_known": why }),
            },
            "n": self.user.whitened.rows,
        });
        if let Some(v) = self.verified {
            value["verified"] = self.verified_value(v)?;
        }
        value["cost"] = self.cost(ctx, finalist);
        Ok(self.refer(Output::new(Type::Selection, value), chosen, mix.keys()))
    }

    /// Losses and fitted shares of those that were compared to the end.
    fn verified_value(&self, v: &Verified) -> Result<Value, Failure> {
        let mut value = json!({
            "loss": {},
            "share": {},
            "base_loss": v.verdict.base_loss.map(rounded),
            "rows": v.rows,
            "held_back": v.split,
        });
        for (what, numbers) in [("loss", &v.verdict.losses), ("share", &v.verdict.shares)] {
            for (finalist, x) in v.finalists.iter().zip(numbers) {
                match finalist.is_mix() {
                    false => value[what][self.place.name(finalist.lead.index)?] = json!(rounded(*x)),
                    true => value[format!("mix_{what}")] = json!(rounded(*x)),
                }
            }
        }
        if let Some((_, loss)) = v.start {
            value["mix_loss"] = json!(rounded(loss));
        }
        Ok(value)
    }

    /// Adds what the selection refers to.
    fn refer<'n>(
        &self,
        mut output: Output,
        chosen: Option<Ranked>,
        mixed: impl Iterator<Item = &'n String>,
    ) -> Output {
        let uses = &self.place.manifest.uses;
        let pllm: Option<&ArtifactRef> = match chosen {
            // A catalog of people's texts has no pLLMs to refer to; the name is its answer.
            Some(r) => self.place.pllm(r.index).ok(),
            None => uses.get("base"),
        };
        if let Some(pllm) = pllm {
            output = output.uses("pllm", pllm.clone());
        }
        for name in mixed {
            let key = format!("pllm:{name}");
            if let Some(pllm) = uses.get(&key) {
                output = output.uses(key, pllm.clone());
            }
        }
        output
    }

    /// What is expected of the choice, or why that is not known.
    fn forecast(
        &self,
        ctx: &dyn Context,
        chosen: Option<&Finalist>,
        seed: u64,
    ) -> Result<Forecast, &'static str> {
        let chosen = chosen.ok_or("nothing was chosen, so nothing is saved")?;
        let pace = self
            .place
            .catalog
            .about
            .pace
            .as_ref()
            .ok_or("the catalog does not know how its pLLMs were trained")?;
        let left = match self.verified.and_then(|v| v.verdict.brought) {
            Some(brought) => left_by_loss(pace, brought),
            None => left_by_distance(self.user, chosen.lead.index, seed)
                .ok_or("the user's texts are too few to tell how far they are from the base")?,
        };
        let bytes: u64 = Self::needed(chosen).map(|i| self.size(ctx, i)).sum();
        let speed = self.verified.and_then(|v| v.asked.speed);
        Ok(Forecast::new(pace, left, speed, bytes, self.start.elapsed().as_secs_f64()))
    }

    /// The pLLMs whose weights the choice needs.
    fn needed(chosen: &Finalist) -> impl Iterator<Item = usize> {
        chosen.weights.iter().map(|m| m.0)
    }

    fn size(&self, ctx: &dyn Context, index: usize) -> u64 {
        self.place.pllm(index).and_then(|p| ctx.manifest(p)).map_or(0, |m| m.size())
    }

    /// What choosing has cost, in the same units for every strategy: sequences put through a model, to
    /// put the user into the space where the strategy looks there, and to ask for likelihoods; bytes that
    /// had to be here, which are the catalog, every pLLM that was asked and those that were chosen, but
    /// not the base, which is here anyway; and seconds in all.
    fn cost(&self, ctx: &dyn Context, chosen: Option<&Finalist>) -> Value {
        let base = self.place.manifest.uses.get("base").map(|b| b.id);
        let asked = self.verified.map(|v| &v.asked);
        let mut weights: u64 =
            asked.map_or(0, |a| a.sizes.iter().filter(|(id, _)| Some(**id) != base).map(|s| s.1).sum());
        for index in chosen.into_iter().flat_map(Self::needed) {
            let known =
                self.place.pllm(index).is_ok_and(|p| asked.is_some_and(|a| a.sizes.contains_key(&p.id)));
            if !known {
                weights += self.size(ctx, index);
            }
        }
        let catalog = self.place.manifest.size();
        let embedding = if self.strategy.looks_in_the_space() { self.embedding } else { 0 };
        json!({
            "forward_passes": embedding + asked.map_or(0, |a| a.forward_passes),
            "bytes": catalog + weights,
            "catalog_bytes": catalog,
            "seconds": rounded(self.start.elapsed().as_secs_f64()),
        })
    }
}

fn rounded(x: f64) -> f64 {
    (x * 1e4).round() / 1e4
}
